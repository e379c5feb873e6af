//! LeaseService.

use std::pin::Pin;
use std::time::Instant;

use futures_util::Stream;
use proto::broker::v1 as pb;
use proto::broker::v1::acquire_lease_request::Target as AcquireTarget;
use proto::broker::v1::lease_service_server::LeaseService;
use rpc::filter::{Field, Filter, Kind, Value};
use rpc::status::FieldViolation;
use secrecy::{ExposeSecret as _, SecretString};
use tonic::{Code, Request, Response, Status, Streaming};

use super::branches::time;
use super::request::{self, Acquire, Page, Parent, Wished};
use super::rights::Rights;
use super::{Broker, Error, watch};
use crate::grants::BranchOf;
use crate::leases::{self, Lease, RequestId, RevokeRequest, Target, Which};
use crate::leasing::{self, Asked, Connected, STUCK_FAILURES};
use crate::metrics::On;
use crate::names::{BindingName, BranchResource, LeaseId, ServiceName};
use crate::roles::Access;

const LIST: &str = "broker.v1.LeaseService/ListLeases";
/// What a list can be narrowed by.
const FIELDS: [Field; 9] = [
    ("service", Kind::Text),
    ("binding", Kind::Text),
    ("branch", Kind::Text),
    ("holder", Kind::Text),
    ("access", Kind::Text),
    ("state", Kind::Text),
    ("ephemeral", Kind::Flag),
    ("create_time", Kind::Time),
    ("expire_time", Kind::Time),
];

#[tonic::async_trait]
impl LeaseService for Broker {
    type WatchBindingStream =
        Pin<Box<dyn Stream<Item = Result<pb::WatchBindingResponse, Status>> + Send>>;

    async fn acquire_lease(
        &self,
        request: Request<pb::AcquireLeaseRequest>,
    ) -> Result<Response<pb::AcquireLeaseResponse>, Status> {
        let (on, begun) = (asked_on(request.get_ref()), Instant::now());
        let acquired = Box::pin(self.lease_acquire(request)).await;
        let code = acquired.as_ref().err().map_or(Code::Ok, Status::code);
        self.metrics.acquired(on, code, begun.elapsed());
        acquired.map(Response::new)
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
        let lease = self.lease_of(rights.caller(), name).await?;
        rights.may_keep(&lease)?;
        if let Some(binding) = lease.request.target.binding()
            && self.bindings.get(binding).is_none()
        {
            // broker.toml dropped the binding: nothing is left to renew.
            return Err(Error::from(leases::Error::NotFound(name)).into());
        }
        let renewed = self.leases.renew(name, ttl, id).await;
        let lease = renewed.map_err(Error::from)?;
        self.leasing.prolong(&lease, ttl);
        Ok(Response::new(pb::RenewLeaseResponse {
            lease: Some(self.wire(&lease)),
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
        match self.lease_of(&caller, name).await {
            Ok(_) => {}
            Err(Error::Lease(leases::Error::NotFound(_))) => {
                return Ok(Response::new(pb::ReleaseLeaseResponse {}));
            }
            Err(error) => return Err(error.into()),
        }
        if self.leases.release(name, id).await.map_err(Error::from)? {
            tracing::info!(lease = %name, "lease released");
        }
        Ok(Response::new(pb::ReleaseLeaseResponse {}))
    }

    async fn get_lease(
        &self,
        request: Request<pb::GetLeaseRequest>,
    ) -> Result<Response<pb::GetLeaseResponse>, Status> {
        let rights = self.rights(&request)?;
        let name: LeaseId =
            request::name("name", &request.into_inner().name).map_err(Error::from)?;
        let lease = match rights.may_read() {
            Ok(()) => self.leases.get(name).await.map_err(Error::from)?,
            Err(_) => self.lease_of(rights.caller(), name).await?,
        };
        Ok(Response::new(pb::GetLeaseResponse {
            lease: Some(self.wire(&lease)),
        }))
    }

    async fn list_leases(
        &self,
        request: Request<pb::ListLeasesRequest>,
    ) -> Result<Response<pb::ListLeasesResponse>, Status> {
        let rights = self.rights(&request)?;
        let request = request.into_inner();
        let filter = Filter::parse(&request.filter, &FIELDS).map_err(Error::from)?;
        let own = match rights.may_read() {
            Ok(()) => None,
            Err(_) => rights.caller().name().map(str::to_owned),
        };
        let page = Page::<LeaseId>::of(
            &self.page_tokens,
            LIST,
            format!("{}\n{}", own.as_deref().unwrap_or_default(), request.filter),
            request.page_size,
            &request.page_token,
        )?;
        let all = self.leases.list().into_iter();
        let fitting = all.filter(|lease| own.is_none() || lease.request.owner == own);
        let fitting = fitting.filter(|lease| filter.fits(|field| value(lease, field)));
        let (leases, next_page_token) = page.cut(&self.page_tokens, fitting, |lease| lease.id);
        Ok(Response::new(pb::ListLeasesResponse {
            leases: leases.iter().map(|lease| self.wire(lease)).collect(),
            next_page_token,
        }))
    }

    async fn revoke_leases(
        &self,
        request: Request<pb::RevokeLeasesRequest>,
    ) -> Result<Response<pb::RevokeLeasesResponse>, Status> {
        let rights = self.rights(&request)?;
        rights.may_administer()?;
        let request = request.into_inner();
        let request_id = request::id(&request, rights.caller());
        let (which, reason) = request::revoke(&request, rights.caller())?;
        let request_id = request_id.map_err(Error::from)?;
        if let Which::Service(name) = &which
            && self.keeper.config().service(name).is_none()
        {
            let (field, name) = ("service", name.clone());
            return Err(Error::from(leasing::Error::ServiceNotFound { field, name }).into());
        }
        let request = RevokeRequest {
            which,
            reason,
            request_id,
        };
        let revoked = Box::pin(self.leasing.revoke(request)).await;
        let revoked = revoked.map_err(Error::from)?;
        Ok(Response::new(pb::RevokeLeasesResponse {
            leases: revoked.iter().map(|lease| self.wire(lease)).collect(),
        }))
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
    async fn lease_acquire(
        &self,
        request: Request<pb::AcquireLeaseRequest>,
    ) -> Result<pb::AcquireLeaseResponse, Status> {
        let rights = self.rights(&request)?;
        let request = request.into_inner();
        let id = request::id(&request, rights.caller());
        let acquire = request::acquire(request)?;
        let id = id.map_err(Error::from)?;
        let asked = Box::pin(self.lease_asked(&rights, acquire, id)).await?;
        let connected = Box::pin(self.leasing.acquire(asked)).await;
        let connected = connected.map_err(Error::from)?;
        let lease = &connected.lease;
        let (service, holder) = (&lease.request.service, &lease.request.holder);
        tracing::info!(lease = %lease.id, %service, %holder, "lease acquired");
        Ok(pb::AcquireLeaseResponse {
            connection: Some(connection(&connected)),
            lease: Some(self.wire(lease)),
        })
    }

    /// The lease that a caller may have of what it asks for.
    async fn lease_asked(
        &self,
        rights: &Rights,
        acquire: Acquire,
        request_id: Option<RequestId>,
    ) -> Result<Asked, Error> {
        let access = acquire.access;
        let service = self.service_of(&acquire)?;
        let mut ephemeral_max = None;
        let mut point = None;
        let mut migrate = false;
        let target = match acquire.target {
            Wished::Binding(binding) => {
                rights.may_lease(&binding, access)?;
                Target::Binding(binding)
            }
            Wished::Branch(branch) => {
                let name = self.branch_name("branch", &branch, rights).await?;
                rights.may_lease_branch(of(&name, &service, &[]), access)?;
                Target::Branch(branch)
            }
            Wished::Ephemeral {
                parent,
                point: at,
                migrate: is_migrated,
            } => {
                (point, migrate) = (at, is_migrated);
                let (parent, name) = match parent {
                    Parent::Branch(branch) => {
                        let name = self
                            .branch_name("ephemeral.parent", &branch, rights)
                            .await?;
                        (branch, name)
                    }
                    Parent::Binding(binding) => {
                        rights.may_lease_branches()?;
                        let ready = self.leasing.ready("ephemeral.parent", &binding);
                        let target = ready.map_err(Error::from)?;
                        (target.branch.clone(), target.spec.branch.to_string())
                    }
                };
                let bindings = self.bindings_at(&parent, &service);
                ephemeral_max = rights.ephemeral_max(of(&name, &service, &bindings), access)?;
                Target::Ephemeral { parent }
            }
        };
        let caller = rights.caller().name().map(str::to_owned);
        let request = leases::Request {
            target,
            service,
            access,
            pooled: acquire.pooled,
            holder: caller.clone().unwrap_or(acquire.holder),
            owner: caller,
        };
        Ok(Asked {
            request,
            point,
            migrate,
            ttl: acquire.ttl,
            request_id,
            ephemeral_max,
        })
    }

    /// Whose tables a lease is for.
    fn service_of(&self, acquire: &Acquire) -> Result<ServiceName, Error> {
        let config = self.keeper.config();
        if let Some(name) = acquire.target.service() {
            return Ok(name.clone());
        }
        if let Some(name) = &acquire.service {
            return match config.service(name) {
                Some(_) => Ok(name.clone()),
                None => Err(leasing::Error::ServiceNotFound {
                    field: "service",
                    name: name.clone(),
                }
                .into()),
            };
        }
        let mut all = config.bindings.iter().map(|spec| &spec.service.name);
        match all.next() {
            Some(name) if all.all(|other| other == name) => Ok(name.clone()),
            _ => {
                let message = "must say whose tables: services/{service}";
                Err(FieldViolation::new("service", message).into())
            }
        }
    }

    /// The name of a branch, by which it is granted. Who may have nothing is not told
    /// which branches there are.
    async fn branch_name(
        &self,
        field: &'static str,
        branch: &neon_api::BranchId,
        rights: &Rights,
    ) -> Result<String, Error> {
        rights.may_lease_branches()?;
        let found = self.keeper.neon().branch(branch).await?;
        let found = found.ok_or_else(|| crate::branches::Error::NotFound {
            field,
            name: BranchResource(branch.clone()),
        })?;
        Ok(found.branch.name)
    }

    /// Bindings of a service that lead to a branch.
    fn bindings_at(&self, branch: &neon_api::BranchId, service: &ServiceName) -> Vec<BindingName> {
        let all = self.bindings.list().into_iter().filter(|binding| {
            let target = binding.target.as_deref();
            binding.spec.service.name == *service
                && target.is_some_and(|target| target.branch == *branch)
        });
        all.map(|binding| binding.spec.name.clone()).collect()
    }

    pub(super) fn wire(&self, lease: &Lease) -> pb::Lease {
        let (state, state_message) = match &lease.revoked {
            None => (pb::LeaseState::Active, String::new()),
            Some(revoked) => {
                let why = match self.leases.failure(lease) {
                    None if self.leases.role_database(&lease.grant.role_key()).is_none() => {
                        "its role is closed".to_owned()
                    }
                    None => "its role is being closed".to_owned(),
                    Some((failures, failure)) if failures >= STUCK_FAILURES => {
                        format!("stuck: its role is not closed after {failures} tries: {failure}")
                    }
                    Some((_, failure)) => format!("its role is not closed yet: {failure}"),
                };
                let message = format!("revoked {}; {why}", revoked.reason);
                (pb::LeaseState::Revoking, message)
            }
        };
        let request = &lease.request;
        let parent = match &request.target {
            Target::Ephemeral { parent } => BranchResource(parent.clone()).to_string(),
            Target::Binding(_) | Target::Branch(_) => String::new(),
        };
        pb::Lease {
            name: lease.id.to_string(),
            binding: request
                .target
                .binding()
                .map(ToString::to_string)
                .unwrap_or_default(),
            branch: BranchResource(lease.grant.branch.clone()).to_string(),
            access: access(request.access).into(),
            generation: lease.grant.generation,
            expire_time: Some(time(lease.expire_time)),
            holder: request.holder.clone(),
            pooled: request.pooled,
            service: format!("services/{}", request.service),
            parent,
            state: state.into(),
            state_message,
            create_time: Some(time(lease.create_time)),
            acknowledged_generation: self.watches.acked(lease.id),
            role: lease.grant.role.clone(),
            branch_expire_time: lease.branch_expire_time.map(time),
        }
    }
}

/// A connection on the wire: the one place where a password leaves.
pub(super) fn connection(connected: &Connected) -> pb::Connection {
    let Connected { lease, place, uris } = connected;
    let shown = |uri: &SecretString| uri.expose_secret().to_owned();
    pb::Connection {
        uri: shown(&uris.uri),
        database: place.service.database.clone(),
        schema: place.service.schema.clone(),
        role: lease.grant.role.clone(),
        connection_limit: i32::try_from(place.connections).unwrap_or(i32::MAX),
        pooled: lease.request.pooled,
        replica_uri: uris.replica.as_ref().map(shown).unwrap_or_default(),
    }
}

fn of<'a>(branch: &'a str, service: &'a ServiceName, bindings: &'a [BindingName]) -> BranchOf<'a> {
    BranchOf {
        branch,
        service,
        bindings,
    }
}

/// What a lease is asked for on. A request that does not say is taken to mean a
/// binding, as most do.
fn asked_on(request: &pb::AcquireLeaseRequest) -> On {
    match request.target {
        None | Some(AcquireTarget::Binding(_)) => On::Binding,
        Some(AcquireTarget::Branch(_)) => On::Branch,
        Some(AcquireTarget::Ephemeral(_)) => On::Ephemeral,
    }
}

fn access(access: Access) -> pb::Access {
    match access {
        Access::ReadOnly => pb::Access::ReadOnly,
        Access::ReadWrite => pb::Access::ReadWrite,
        Access::Ddl => pb::Access::Ddl,
    }
}

/// What a lease has in one of [`FIELDS`].
fn value(lease: &Lease, field: &str) -> Option<Value> {
    let request = &lease.request;
    match field {
        "service" => Some(Value::Text(request.service.to_string())),
        "binding" => {
            let binding = request.target.binding().map(ToString::to_string);
            Some(Value::Text(binding.unwrap_or_default()))
        }
        "branch" => {
            let branch = BranchResource(lease.grant.branch.clone());
            Some(Value::Text(branch.to_string()))
        }
        "holder" => Some(Value::Text(request.holder.clone())),
        "access" => {
            let name = access(request.access).as_str_name();
            Some(Value::Text(name.trim_start_matches("ACCESS_").to_owned()))
        }
        "state" => {
            let name = match lease.revoked {
                None => "ACTIVE",
                Some(_) => "REVOKING",
            };
            Some(Value::Text(name.to_owned()))
        }
        "ephemeral" => Some(Value::Flag(request.target.is_ephemeral())),
        "create_time" => Some(Value::Time(lease.create_time)),
        _ => Some(Value::Time(lease.expire_time)),
    }
}
