//! Audit: who got, kept and lost what, and why.
//!
//! An event is stored in the transaction of what it tells of: neither is there
//! without the other. Renewals are told once in a while and not each: a lease is
//! renewed every few minutes for as long as its holder runs, and what somebody
//! looks for is that it was, and until when. The event of a lease's end says how
//! often it was renewed.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use neon_api::BranchId;

use crate::leases::Lease;
use crate::names::{BindingName, LeaseId, ServiceName};

/// One thing that happened.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Later ones have higher numbers. 0 until it is stored.
    pub id: i64,
    /// When.
    pub time: Timestamp,
    /// What.
    pub action: Action,
    /// The service, if it is about one.
    pub service: Option<ServiceName>,
    /// The binding, if it is about one.
    pub binding: Option<BindingName>,
    /// The branch, if it is about one.
    pub branch: Option<BranchId>,
    /// The lease, if it is about one.
    pub lease: Option<LeaseId>,
    /// Whose lease it is, or who called.
    pub holder: String,
    /// What there is to say, for people.
    pub message: String,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// A lease was given.
    Acquired,
    /// A lease goes on.
    Renewed,
    /// A lease leads elsewhere, because its binding does, or to another role.
    Moved,
    /// Its holder gave a lease back.
    Released,
    /// A lease's time was up.
    Expired,
    /// A lease was taken from its holder.
    Revoked,
    /// The role of a revoked lease still cannot be closed.
    Stuck,
    /// The role of a revoked lease is closed.
    Closed,
    /// A binding's holders get other roles.
    Rotated,
    /// A binding leads elsewhere.
    Announced,
    /// A step of an apply was taken.
    Applied,
    /// A switch of a binding began, was given up, or is done.
    Switched,
    /// A version was retired.
    Retired,
}

/// Which events are asked for. What is not said does not filter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    /// Of bindings of this service.
    pub service: Option<ServiceName>,
    /// On this branch.
    pub branch: Option<BranchId>,
    /// Of this holder.
    pub holder: Option<String>,
    /// From then on.
    pub start: Option<Timestamp>,
    /// Before then.
    pub end: Option<Timestamp>,
    /// Those that came before the one of this number.
    pub before: Option<i64>,
    /// At most so many.
    pub limit: usize,
}

impl Query {
    /// Whether an event is asked for, apart from how many are.
    pub(crate) fn has(&self, event: &Event) -> bool {
        (self.service.is_none() || self.service == event.service)
            && (self.branch.is_none() || self.branch == event.branch)
            && self
                .holder
                .as_ref()
                .is_none_or(|holder| event.holder == *holder)
            && self.start.is_none_or(|start| event.time >= start)
            && self.end.is_none_or(|end| event.time < end)
            && self.before.is_none_or(|before| event.id < before)
    }
}

/// A word that is no action.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no audit action that this broker knows")]
pub struct UnknownAction(String);

impl Action {
    const ALL: [Action; 13] = [
        Action::Acquired,
        Action::Renewed,
        Action::Moved,
        Action::Released,
        Action::Expired,
        Action::Revoked,
        Action::Stuck,
        Action::Closed,
        Action::Rotated,
        Action::Announced,
        Action::Applied,
        Action::Switched,
        Action::Retired,
    ];

    /// As it is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Action::Acquired => "acquired",
            Action::Renewed => "renewed",
            Action::Moved => "moved",
            Action::Released => "released",
            Action::Expired => "expired",
            Action::Revoked => "revoked",
            Action::Stuck => "stuck",
            Action::Closed => "closed",
            Action::Rotated => "rotated",
            Action::Announced => "announced",
            Action::Applied => "applied",
            Action::Switched => "switched",
            Action::Retired => "retired",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Action {
    type Err = UnknownAction;

    fn from_str(text: &str) -> Result<Self, UnknownAction> {
        let found = Action::ALL.into_iter().find(|one| one.as_str() == text);
        found.ok_or_else(|| UnknownAction(text.to_owned()))
    }
}

impl Event {
    /// Something that happened to a lease.
    pub fn of_lease(lease: &Lease, action: Action, time: Timestamp, message: String) -> Event {
        Event {
            id: 0,
            time,
            action,
            service: Some(lease.request.service.clone()),
            binding: lease.request.target.binding().cloned(),
            branch: Some(lease.grant.branch.clone()),
            lease: Some(lease.id),
            holder: lease.request.holder.clone(),
            message,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn actions_come_back_as_they_went_in() {
        for action in Action::ALL {
            assert_eq!(action.to_string().parse::<Action>().unwrap(), action);
        }
        assert!("".parse::<Action>().is_err());
    }
}
