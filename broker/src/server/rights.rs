//! What a caller may do here. Every method begins by asking; ReleaseLease asks only
//! who calls.

use std::time::Duration;

use rpc::caller::Caller;
use tokio::time::MissedTickBehavior;
use tonic::{Request, Status};

use super::{Broker, Error};
use crate::grants::{BranchOf, Grant};
use crate::leases::{self, Lease, Target};
use crate::names::{BindingName, LeaseId};
use crate::roles::Access;

/// How often to look whether the grants have changed, in milliseconds.
const RIGHTS_LOOK_MS: u64 = 2_000;
/// What one caller may do.
pub(super) struct Rights {
    caller: Caller,
    grants: Vec<Grant>,
}

impl Broker {
    /// What the caller of this request may do. Who has no grant at all is
    /// refused whatever is asked.
    pub(super) fn rights<T>(&self, request: &Request<T>) -> Result<Rights, Status> {
        Ok(self.rights_of(self.caller(request)?)?)
    }

    /// Who calls. Nobody is answered by a broker that does not know what is
    /// stored, or what time it is.
    pub(super) fn caller<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        let caller = Caller::of(request)?;
        self.state.check().map_err(Error::State)?;
        Ok(caller)
    }

    pub(super) fn rights_of(&self, caller: Caller) -> Result<Rights, Error> {
        let config = self.keeper.config();
        let grants = caller.name().map(|name| config.grants.of(name));
        let grants = grants.unwrap_or_default();
        let rights = Rights { caller, grants };
        match rights.is_local() || !rights.grants.is_empty() {
            true => Ok(rights),
            false => Err(rights.denied("call anything".to_owned())),
        }
    }

    /// A lease of that caller, as far as this broker has heard. Another's is as good as
    /// none.
    pub(super) fn lease_known(&self, caller: &Caller, id: LeaseId) -> Result<Lease, Error> {
        own(caller, self.leases.known(id)?)
    }

    /// A lease of that caller, though another broker may just have given it.
    pub(super) async fn lease_of(&self, caller: &Caller, id: LeaseId) -> Result<Lease, Error> {
        own(caller, self.leases.get(id).await?)
    }
}

/// Has watches look whether their callers still may, whenever that may have changed, for
/// ever: the grants, or that anybody is answered at all.
pub async fn tell_rights(broker: Broker) {
    let mut interval = tokio::time::interval(Duration::from_millis(RIGHTS_LOOK_MS));
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut grants = broker.keeper.config().grants.clone();
    loop {
        tokio::select! {
            _ = interval.tick() => {
                let config = broker.keeper.config();
                if config.grants != grants {
                    grants = config.grants.clone();
                    broker.watches.rights_changed();
                }
            }
            () = broker.state.is_shut() => {
                broker.watches.rights_changed();
                broker.state.is_open().await;
            }
        }
    }
}

fn own(caller: &Caller, lease: Lease) -> Result<Lease, Error> {
    let owner = lease.request.owner.as_deref();
    match caller.name() {
        None => Ok(lease),
        Some(name) if owner == Some(name) => Ok(lease),
        Some(_) => Err(leases::Error::NotFound(lease.id).into()),
    }
}

impl Rights {
    /// Whose they are.
    pub(super) fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Whether such a lease may be had.
    pub(super) fn may_lease(&self, binding: &BindingName, access: Access) -> Result<(), Error> {
        self.check(
            |grant| grant.may_lease(binding, access),
            || {
                let access = access.as_str();
                format!("lease {binding} {access}")
            },
        )
    }

    /// Whether any branch may be leased, or forked for a lease, by its own name.
    pub(super) fn may_lease_branches(&self) -> Result<(), Error> {
        self.check(Grant::has_branches, || {
            "lease branches: `lease` or `ephemeral`".to_owned()
        })
    }

    /// Whether such a lease on a branch may be had.
    pub(super) fn may_lease_branch(&self, of: BranchOf<'_>, access: Access) -> Result<(), Error> {
        self.check(
            |grant| grant.may_lease_branch(of, access),
            || {
                let (branch, service, access) = (of.branch, of.service, access.as_str());
                format!("lease the service {service} on the branch {branch} {access}")
            },
        )
    }

    /// How many branches of its own the caller may have, forked from that one; none:
    /// any number.
    pub(super) fn ephemeral_max(
        &self,
        parent: BranchOf<'_>,
        access: Access,
    ) -> Result<Option<u32>, Error> {
        if self.is_local() {
            return Ok(None);
        }
        let grants = self.grants.iter();
        let max = grants
            .filter_map(|grant| grant.ephemeral_max(parent, access))
            .max();
        max.map(Some).ok_or_else(|| {
            let (branch, service, access) = (parent.branch, parent.service, access.as_str());
            self.denied(format!(
                "have ephemeral branches of {branch} with the service {service} {access}: `ephemeral`"
            ))
        })
    }

    /// Whether a lease may be kept: such a lease may still be had. Of a branch its name
    /// is not asked for again.
    pub(super) fn may_keep(&self, lease: &Lease) -> Result<(), Error> {
        let leases::Request {
            target,
            service,
            access,
            ..
        } = &lease.request;
        match target {
            Target::Binding(binding) => self.may_lease(binding, *access),
            Target::Branch(_) | Target::Ephemeral { .. } => self.check(
                |grant| grant.may_keep(target.is_ephemeral(), service, *access),
                || format!("keep a lease on a branch of the service {service}"),
            ),
        }
    }

    /// Whether that binding may be looked at.
    pub(super) fn may_see(&self, binding: &BindingName) -> Result<(), Error> {
        self.check(
            |grant| grant.may_see(binding),
            || format!("see {binding}: `read`, or a lease on it"),
        )
    }

    /// Whether all bindings and branches may be looked at.
    pub(super) fn may_read(&self) -> Result<(), Error> {
        self.check(Grant::may_read, || "look at all of it: `read`".to_owned())
    }

    /// Whether the world may be changed.
    pub(super) fn may_administer(&self) -> Result<(), Error> {
        self.check(|grant| grant.admin, || "administer: `admin`".to_owned())
    }

    fn check(
        &self,
        allows: impl Fn(&Grant) -> bool,
        missing: impl FnOnce() -> String,
    ) -> Result<(), Error> {
        match self.is_local() || self.grants.iter().any(allows) {
            true => Ok(()),
            false => Err(self.denied(missing())),
        }
    }

    fn denied(&self, missing: String) -> Error {
        Error::Denied {
            caller: self.caller.to_string(),
            missing,
        }
    }

    fn is_local(&self) -> bool {
        matches!(self.caller, Caller::Local)
    }
}
