//! What is kept in memory.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use jiff::Timestamp;
use neon_api::BranchId;
use uuid::Uuid;

use super::ledgers::{Operation, OwnBranch};
use super::moves::{Departure, Move, Watching};
use crate::audit::Event;
use crate::credentials::KeyId;
use crate::leases::Lease;
use crate::names::{BindingName, BranchName, LeaseId, ServiceName};
use crate::roles::Access;

/// How many audit events a broker without a database keeps.
const EVENTS_IN_MEMORY_MAX: usize = 10_000;

/// What is stored, as far as it is looked at all the time.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Data {
    /// Leases that have not ended, revoked ones included whose role is not closed.
    pub leases: BTreeMap<LeaseId, Lease>,
    /// The newest generation of each binding that ever had one.
    pub generations: BTreeMap<BindingName, Generation>,
    /// Login roles that leases had.
    pub roles: BTreeMap<RoleKey, Role>,
    /// Operations that go on, or ended not long ago.
    pub operations: BTreeMap<Uuid, Operation>,
    /// Those of them that go on.
    pub running: BTreeSet<Uuid>,
    /// The broker's own branches, by name.
    pub branches: BTreeMap<BranchName, OwnBranch>,
    /// Requests that may come again.
    pub requests: BTreeMap<RequestKey, Answered>,
    /// The newest move of each binding that ever had one.
    pub moves: BTreeMap<BindingName, Move>,
    /// Leases whose watch acknowledges, or did.
    pub watches: BTreeMap<LeaseId, Watching>,
    /// When brokers with such watches last said that they are there.
    pub brokers: BTreeMap<Uuid, Timestamp>,
    /// Without a database: the newest audit events, oldest first.
    pub events: VecDeque<Event>,
}

/// What a generation of a binding leads to. When that changes, the generation
/// goes up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generation {
    /// 1 or more.
    pub number: i64,
    /// The branch.
    pub branch: BranchId,
    /// Host, port and database, direct and pooled.
    pub address: String,
    /// The newest revision there, by its folder's name.
    pub revision: Option<String>,
    /// When the branch was last reset or restored.
    pub reset_at: Option<Timestamp>,
    /// Since when.
    pub since: Timestamp,
    /// Why it came to be, for people.
    pub reason: String,
    /// What the binding does otherwise than broker.toml declares.
    pub departure: Option<Departure>,
}

impl Generation {
    /// What the binding does otherwise than declared, while that branch is declared.
    pub fn departs(&self, declared: &BranchName) -> Option<&Departure> {
        let departure = self.departure.as_ref();
        departure.filter(|departure| departure.declared == *declared)
    }

    /// Whether the binding was retired, and leads nowhere since.
    pub fn is_retired(&self) -> bool {
        let departure = self.departure.as_ref();
        departure.is_some_and(|departure| departure.switched_to.is_none())
    }
}

/// A login role on a branch.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RoleKey {
    /// The branch.
    pub branch: BranchId,
    /// The role.
    pub role: String,
}

/// What is known of a login role: of one holder, service and access on a branch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Role {
    /// Whose tables it is for.
    pub service: ServiceName,
    /// The database that those are in.
    pub database: String,
    /// What it may do with them.
    pub access: Access,
    /// Whose leases have it.
    pub holder: String,
    /// Of roles of the same holder, service, access and branch the newest has the
    /// highest. It is in the role's name, and never given twice.
    pub generation: i64,
    /// The key that its password is derived from.
    pub key: KeyId,
    /// When its password ends by itself. None: it may not be made yet.
    pub valid_until: Option<Timestamp>,
    /// Until then it is being made for a lease that is not given yet.
    pub reserved_until: Timestamp,
    /// Whether one logs in as it.
    pub status: RoleStatus,
    /// How often closing it has failed.
    pub failures: i32,
    /// How, the last time.
    pub failure: String,
    /// When that was written down.
    pub update_time: Timestamp,
}

/// Whether one logs in as a role. It goes down this list and never up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoleStatus {
    /// It waits on a warm branch, and nobody knows its password.
    Reserved,
    /// One does, and its holder's next lease has it too.
    Open,
    /// One does, and its holder's next lease has another.
    Retired,
    /// It is being closed: no lease has it any more.
    Closing,
    /// It is to be closed now, whoever has it.
    Revoked,
    /// One does not: it is dropped, or can do nothing.
    Closed,
}

impl RoleStatus {
    pub(super) const ALL: [RoleStatus; 6] = [
        RoleStatus::Reserved,
        RoleStatus::Open,
        RoleStatus::Retired,
        RoleStatus::Closing,
        RoleStatus::Revoked,
        RoleStatus::Closed,
    ];

    /// As it is stored.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            RoleStatus::Reserved => "reserved",
            RoleStatus::Open => "open",
            RoleStatus::Retired => "retired",
            RoleStatus::Closing => "closing",
            RoleStatus::Revoked => "revoked",
            RoleStatus::Closed => "closed",
        }
    }

    /// Whether a lease may go on with such a role.
    pub fn is_usable(self) -> bool {
        matches!(self, RoleStatus::Open | RoleStatus::Retired)
    }
}

/// An id that a caller made for a request. Another caller's, and another
/// method's, may be the same.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestKey {
    /// Who called: empty for a caller without an identity.
    pub caller: String,
    /// Which method: `AcquireLease`.
    pub method: &'static str,
    /// The id.
    pub id: Uuid,
}

/// What a request was answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered {
    /// The hash of the request without its id.
    pub body: Vec<u8>,
    /// The name of the lease or operation that it was about.
    pub resource: String,
    /// Until when it is remembered.
    pub expire_time: Timestamp,
}

/// The roles of one branch among others: they are in order.
pub(super) fn roles_on<'a>(
    roles: &'a BTreeMap<RoleKey, Role>,
    branch: &BranchId,
) -> impl Iterator<Item = (&'a RoleKey, &'a Role)> {
    let first = RoleKey {
        branch: branch.clone(),
        role: String::new(),
    };
    let branch = branch.clone();
    roles
        .range(first..)
        .take_while(move |(key, _)| key.branch == branch)
}

impl Data {
    /// The login roles of a branch that leases have, or had.
    pub fn roles_on(&self, branch: &BranchId) -> impl Iterator<Item = (&RoleKey, &Role)> {
        roles_on(&self.roles, branch)
    }

    /// As [`Draft::is_held`](super::Draft::is_held), of what is stored.
    pub fn is_held(&self, branch: &BranchId) -> bool {
        let mut running = self.running();
        running.any(|(_, one)| one.holds(branch))
    }

    /// Operations that go on.
    pub fn running(&self) -> impl Iterator<Item = (Uuid, &Operation)> {
        let running = self.running.iter();
        running.filter_map(|id| Some((*id, self.operations.get(id)?)))
    }

    /// A lease on that branch that has not ended by then.
    pub fn lease_on(&self, branch: &BranchId, now: Timestamp) -> Option<LeaseId> {
        let mut leases = self.leases.values();
        let on = leases.find(|one| one.grant.branch == *branch && one.lives(now));
        on.map(|lease| lease.id)
    }

    /// Keeps events where there is no database for them.
    pub(super) fn events_keep(&mut self, events: &mut Vec<Event>) {
        for mut event in events.drain(..) {
            event.id = self.events.back().map_or(1, |last| last.id + 1);
            self.events.push_back(event);
        }
        let surplus = self.events.len().saturating_sub(EVENTS_IN_MEMORY_MAX);
        self.events.drain(..surplus);
    }
}
