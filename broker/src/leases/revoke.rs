//! Taking leases from their holders.

use std::collections::{BTreeSet, HashMap};

use jiff::Timestamp;
use neon_api::BranchId;

use super::{EndReason, Error, Lease, Leases, RequestId, Revoked, end, requests};
use crate::audit::{Action, Event};
use crate::names::{LeaseId, ServiceName};
use crate::state::{self, Draft, RoleKey, RoleStatus};

/// Which leases are taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// This one.
    Lease(LeaseId),
    /// All on a branch.
    Branch(BranchId),
    /// All of a service.
    Service(ServiceName),
}

/// What is asked for.
#[derive(Debug, Clone)]
pub struct RevokeRequest {
    /// Which leases.
    pub which: Which,
    /// By whom and why, for people.
    pub reason: String,
    /// The id of the request that asks.
    pub request_id: Option<RequestId>,
}

impl Which {
    fn has(&self, lease: &Lease) -> bool {
        match self {
            Which::Lease(id) => lease.id == *id,
            Which::Branch(branch) => lease.grant.branch == *branch,
            Which::Service(service) => lease.request.service == *service,
        }
    }
}

impl Leases {
    /// Takes leases from their holders, and returns once that is stored: from then on
    /// they are not renewed, and their roles are closed, whatever becomes of this
    /// broker. The same request takes the same ones. They as they are then.
    pub async fn revoke(&self, request: RevokeRequest) -> Result<Vec<Lease>, Error> {
        let now = self.now();
        let change = move |draft: &mut Draft<'_>| {
            let RevokeRequest {
                which,
                reason,
                request_id,
            } = &request;
            if let Some(before) = requests::repeated_all_in(draft, request_id.as_ref(), now)? {
                let still = before.iter().filter_map(|id| draft.lease(*id).cloned());
                return Ok(still.collect());
            }
            let fitting = draft.leases().filter(|lease| which.has(lease));
            let shown = fitting.filter(|lease| lease.lives(now) || lease.revoked.is_some());
            let mut leases: Vec<Lease> = shown.cloned().collect();
            if let (Which::Lease(id), true) = (which, leases.is_empty()) {
                return Err(Error::NotFound(*id));
            }
            for lease in leases.iter_mut().filter(|lease| lease.revoked.is_none()) {
                lease.revoked = Some(Revoked {
                    time: now,
                    reason: reason.clone(),
                });
                draft.audit(Event::of_lease(lease, Action::Revoked, now, reason.clone()));
                draft.lease_put(lease.clone());
                revoke_role(draft, lease.grant.role_key(), now);
            }
            // What they have left, and may still log in as, goes too: on whatever branch,
            // unless another lease of theirs lives on it.
            for key in left_by(draft, &leases, now) {
                revoke_role(draft, key, now);
            }
            let ids: Vec<LeaseId> = leases.iter().map(|lease| lease.id).collect();
            requests::remember_all(draft, request_id.as_ref(), &ids, now)?;
            Ok(leases)
        };
        self.state.change(change).await?
    }

    /// Roles that are to be closed now, of these leases' holders.
    pub fn roles_revoked(&self, leases: &[Lease]) -> BTreeSet<RoleKey> {
        let holders: BTreeSet<&str> = leases
            .iter()
            .map(|lease| lease.request.holder.as_str())
            .collect();
        self.state.read(|data| {
            let roles = data.roles.iter().filter(|(_, role)| {
                role.status == RoleStatus::Revoked && holders.contains(role.holder.as_str())
            });
            roles.map(|(key, _)| key.clone()).collect()
        })
    }

    /// Live leases that have a role which is to be closed: they are to be moved.
    pub fn stranded(&self) -> Vec<Lease> {
        let now = self.now();
        self.state.read(|data| {
            let leases = data.leases.values().filter(|lease| lease.lives(now));
            // Thousands of leases have some few roles.
            let mut usable: HashMap<(&BranchId, &str), bool> = HashMap::new();
            let stranded = leases.filter(|lease| {
                let grant = &lease.grant;
                let is_usable = usable.entry((&grant.branch, &grant.role));
                !*is_usable.or_insert_with(|| {
                    let role = data.roles.get(&grant.role_key());
                    role.is_some_and(|role| role.status.is_usable())
                })
            });
            stranded.cloned().collect()
        })
    }

    /// Notes that a role is closed: the revoked leases that had it end.
    pub async fn role_closed(&self, key: RoleKey) -> Result<(), state::Error> {
        let now = self.now();
        let change = move |draft: &mut Draft<'_>| {
            if let Some(mut role) = draft.role(&key).cloned() {
                role.status = RoleStatus::Closed;
                role.failures = 0;
                role.failure = String::new();
                role.update_time = now;
                draft.role_put(key.clone(), role);
            }
            let revoked = draft.leases();
            let revoked = revoked.filter(|lease| lease.revoked.is_some() && lease.has_role(&key));
            let revoked: Vec<Lease> = revoked.cloned().collect();
            for lease in revoked {
                end(draft, lease, EndReason::Revoked, now);
            }
        };
        self.state.change(change).await
    }

    /// Notes that closing a role has failed, and how. Says how often it has by now.
    /// `stuck_at`: with that many failures, the audit events tell of it.
    pub async fn role_not_closed(
        &self,
        key: RoleKey,
        failure: String,
        stuck_at: i32,
    ) -> Result<i32, state::Error> {
        let now = self.now();
        let change = move |draft: &mut Draft<'_>| {
            let Some(mut role) = draft.role(&key).cloned() else {
                return 0;
            };
            role.failures = role.failures.saturating_add(1);
            role.failure = failure.clone();
            role.update_time = now;
            let failures = role.failures;
            draft.role_put(key.clone(), role);
            let revoked = draft.leases();
            let revoked = revoked.filter(|lease| lease.revoked.is_some() && lease.has_role(&key));
            let revoked: Vec<Lease> = revoked.cloned().collect();
            for lease in revoked.iter().filter(|_| failures == stuck_at) {
                let message = format!("its role is not closed after {failures} tries: {failure}");
                draft.audit(Event::of_lease(lease, Action::Stuck, now, message));
            }
            failures
        };
        self.state.change(change).await
    }

    /// Begins to close a role that no lease has any more; false if one has it. For who
    /// works in the background.
    pub async fn role_closing(&self, key: RoleKey) -> Result<bool, state::Error> {
        let now = self.now();
        let change = move |draft: &mut Draft<'_>| closing(draft, &key, now);
        self.state.change_in_background(change).await
    }

    /// As [`Leases::role_closing`], for anybody.
    pub async fn role_closing_now(&self, key: RoleKey) -> Result<bool, state::Error> {
        let now = self.now();
        let change = move |draft: &mut Draft<'_>| closing(draft, &key, now);
        self.state.change(change).await
    }
}

fn closing(draft: &mut Draft<'_>, key: &RoleKey, now: Timestamp) -> bool {
    let Some(mut role) = draft.role(key).cloned() else {
        return false;
    };
    if role.status.is_usable() {
        if draft.is_used(key, now) || role.reserved_until > now {
            return false;
        }
        role.status = RoleStatus::Closing;
        role.update_time = now;
        draft.role_put(key.clone(), role);
    }
    true
}

fn revoke_role(draft: &mut Draft<'_>, key: RoleKey, now: Timestamp) {
    if let Some(mut role) = draft.role(&key).cloned()
        && role.status != RoleStatus::Closed
    {
        role.status = RoleStatus::Revoked;
        role.update_time = now;
        draft.role_put(key, role);
    }
}

/// Roles of the holders of those leases, for the same services, that no lease lives on.
fn left_by(draft: &Draft<'_>, leases: &[Lease], now: Timestamp) -> Vec<RoleKey> {
    let of: BTreeSet<(&str, &ServiceName)> = leases
        .iter()
        .map(|lease| (lease.request.holder.as_str(), &lease.request.service))
        .collect();
    let roles = draft.roles().filter(|(key, role)| {
        role.status.is_usable()
            && of.contains(&(role.holder.as_str(), &role.service))
            && !draft.is_used(key, now)
    });
    roles.map(|(key, _)| key.clone()).collect()
}
