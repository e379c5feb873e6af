//! LeaseService.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use proto::broker::v1 as pb;
use proto::broker::v1::lease_service_server::LeaseService;
use secrecy::ExposeSecret as _;
use tonic::{Request, Response, Status, Streaming};

use super::branches::time;
use super::{Broker, Error, request, watch};
use crate::bindings::{Binding, Status as BindingStatus, Target};
use crate::leases::{self, Given, Lease};
use crate::logins::Login;
use crate::names::{BindingName, BranchResource, LeaseId};
use crate::roles::Access;
use crate::state::RoleKey;
use crate::text::one_line;

/// How often a role that was closed meanwhile is made again for a lease that is
/// given. While the lease lives nobody closes it, so once is enough.
const SETTLE_TRIES_MAX: u32 = 4;

#[tonic::async_trait]
impl LeaseService for Broker {
    type WatchBindingStream =
        Pin<Box<dyn Stream<Item = Result<pb::WatchBindingResponse, Status>> + Send>>;

    async fn acquire_lease(
        &self,
        request: Request<pb::AcquireLeaseRequest>,
    ) -> Result<Response<pb::AcquireLeaseResponse>, Status> {
        let rights = self.rights(&request)?;
        let request = request.into_inner();
        let id = request::id(&request, rights.caller());
        let (mut asked, ttl) = request::acquire(request)?;
        let id = id.map_err(Error::from)?;
        rights.may_lease(&asked.binding, asked.access)?;
        if let Some(name) = rights.caller().name() {
            asked.holder = name.to_owned();
            asked.owner = Some(name.to_owned());
        }
        let target = self.ready("binding", &asked.binding)?;
        // A repeated request is refused before a role is made.
        self.leases.repeated(id.as_ref()).map_err(Error::from)?;
        let login = self.login(&target, &asked).await?;
        let (grant, closings) = (login.grant.clone(), login.closings);
        let given = self.leases.acquire(asked, ttl, id, grant, closings).await;
        let given = given.map_err(Error::from)?;
        // A lease that this request was given before may be on what the binding led
        // to then: it goes where its holder is sent now.
        let (lease, login) = self.settled(&target, given, login).await?;
        let leases::Request {
            binding: name,
            holder,
            ..
        } = &lease.request;
        tracing::info!(lease = %lease.id, binding = %name, %holder, "lease acquired");
        Ok(Response::new(pb::AcquireLeaseResponse {
            connection: Some(connection(&target, &login, lease.request.pooled)),
            lease: Some(wire(&lease)),
        }))
    }

    async fn renew_lease(
        &self,
        request: Request<pb::RenewLeaseRequest>,
    ) -> Result<Response<pb::RenewLeaseResponse>, Status> {
        let rights = self.rights(&request)?;
        let request = request.into_inner();
        let mut violations = rpc::status::FieldViolations::new();
        let name = violations.take(request::name::<LeaseId>("name", &request.name));
        let ttl = violations.take(request::ttl(request.ttl));
        let id = violations.take(request::id(&request, rights.caller()));
        let (Some(name), Some(ttl), Some(id)) = (name, ttl, id) else {
            return Err(Error::from(violations).into());
        };
        let lease = self.lease_of(rights.caller(), name)?;
        rights.may_lease(&lease.request.binding, lease.request.access)?;
        let Some(binding) = self.bindings.get(&lease.request.binding) else {
            // broker.toml dropped the binding: nothing is left to renew.
            return Err(Error::from(leases::Error::NotFound(name)).into());
        };
        let renewed = self.leases.renew(name, ttl, id).await;
        let lease = renewed.map_err(Error::from)?;
        self.prolong(&binding, &lease);
        Ok(Response::new(pb::RenewLeaseResponse {
            lease: Some(wire(&lease)),
        }))
    }

    async fn release_lease(
        &self,
        request: Request<pb::ReleaseLeaseRequest>,
    ) -> Result<Response<pb::ReleaseLeaseResponse>, Status> {
        // Without a grant one can still give back what one has.
        let caller = self.caller(&request)?;
        let request = request.into_inner();
        let mut violations = rpc::status::FieldViolations::new();
        let name = violations.take(request::name::<LeaseId>("name", &request.name));
        let id = violations.take(request::id(&request, &caller));
        let (Some(name), Some(id)) = (name, id) else {
            return Err(Error::from(violations).into());
        };
        self.leases.repeated(id.as_ref()).map_err(Error::from)?;
        // Another's is as good as none, and that is no error.
        let is_callers = self.lease_of(&caller, name).is_ok();
        if is_callers && self.leases.release(name, id).await.map_err(Error::from)? {
            tracing::info!(lease = %name, "lease released");
        }
        Ok(Response::new(pb::ReleaseLeaseResponse {}))
    }

    async fn watch_binding(
        &self,
        request: Request<Streaming<pb::WatchBindingRequest>>,
    ) -> Result<Response<Self::WatchBindingStream>, Status> {
        let rights = self.rights(&request)?;
        let stream = watch::open(self.clone(), rights, request.into_inner()).await?;
        Ok(Response::new(Box::pin(stream)))
    }
}

impl Broker {
    /// What a declared binding leads to.
    fn ready(&self, field: &'static str, name: &BindingName) -> Result<Arc<Target>, Error> {
        let name = name.clone();
        let Some(binding) = self.bindings.get(&name) else {
            return Err(Error::BindingNotFound { field, name });
        };
        match (&binding.status, &binding.target) {
            // This broker or another is at work with the branch.
            (BindingStatus::Ready, Some(target))
                if self.state.read(|data| data.is_held(&target.branch)) =>
            {
                Err(Error::BindingNotReady {
                    name,
                    message: "its branch is being reset or restored".to_owned(),
                })
            }
            (BindingStatus::Ready, Some(target)) => Ok(Arc::clone(target)),
            (BindingStatus::Failed(message), _) => Err(Error::BindingFailed {
                name,
                message: message.clone(),
            }),
            (BindingStatus::Preparing(message), _) => Err(Error::BindingNotReady {
                name,
                message: message.clone(),
            }),
            (BindingStatus::Ready, None) => Err(Error::BindingNotReady {
                name,
                message: "its branch is being prepared".to_owned(),
            }),
        }
    }

    /// The lease on what its connection leads to, by a role that was not closed
    /// meanwhile.
    pub(super) async fn settled(
        &self,
        target: &Target,
        mut given: Given,
        mut login: Login,
    ) -> Result<(Lease, Login), Error> {
        for _ in 0..SETTLE_TRIES_MAX {
            if given.was_closed {
                login = self.login(target, &given.lease.request).await?;
            } else if given.lease.grant == login.grant {
                return Ok((given.lease, login));
            }
            let grant = login.grant.clone();
            let moved = self.leases.moved(given.lease.id, grant, login.closings);
            given = moved.await?;
        }
        Err(Error::RoleClosing {
            role: login.grant.role.clone(),
        })
    }

    /// The connection that such a lease gets.
    pub(super) async fn login(
        &self,
        target: &Target,
        asked: &leases::Request,
    ) -> Result<Login, Error> {
        let max_ttl = self.leases.max_ttl();
        let closings = |key: &RoleKey| self.leases.closings(key);
        self.logins
            .login(target, asked.access, asked.pooled, max_ttl, closings)
            .await
            .map_err(|source| Error::Login {
                binding: asked.binding.clone(),
                source,
            })
    }

    /// Sees to it that the role of a lease that was renewed outlives it. Not
    /// waited for: a branch that is away for a while ends no lease, and the next
    /// renewal comes before the role's time is up.
    fn prolong(&self, binding: &Binding, lease: &Lease) {
        let target = binding.target.as_ref();
        let Some(target) = target.filter(|target| target.branch == lease.grant.branch) else {
            return;
        };
        let (logins, target) = (Arc::clone(&self.logins), Arc::clone(target));
        let (access, max_ttl) = (lease.request.access, self.leases.max_ttl());
        tokio::spawn(async move {
            if let Err(error) = logins.prolong(&target, access, max_ttl).await {
                let binding = &target.spec.name;
                tracing::warn!(%binding, error = %one_line(&error), "prolong a lease role");
            }
        });
    }
}

/// A connection on the wire: the one place where a password leaves.
pub(super) fn connection(target: &Target, login: &Login, pooled: bool) -> pb::Connection {
    let spec = &target.spec;
    pb::Connection {
        uri: login.uri.expose_secret().to_owned(),
        database: spec.service.database.clone(),
        schema: spec.service.schema.clone(),
        role: login.grant.role.clone(),
        connection_limit: i32::try_from(spec.connections).unwrap_or(i32::MAX),
        pooled,
    }
}

fn wire(lease: &Lease) -> pb::Lease {
    let access = match lease.request.access {
        Access::ReadOnly => pb::Access::ReadOnly,
        Access::ReadWrite => pb::Access::ReadWrite,
    };
    pb::Lease {
        name: lease.id.to_string(),
        binding: lease.request.binding.to_string(),
        branch: BranchResource(lease.grant.branch.clone()).to_string(),
        access: access.into(),
        generation: lease.grant.generation,
        expire_time: Some(time(lease.expire_time)),
        holder: lease.request.holder.clone(),
        pooled: lease.request.pooled,
    }
}
