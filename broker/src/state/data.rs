//! What is kept in memory, and changes of it in the making.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use jiff::Timestamp;
use neon_api::BranchId;
use uuid::Uuid;

use super::ledgers::{Operation, OwnBranch};
use crate::audit::Event;
use crate::leases::{End, Lease};
use crate::names::{BindingName, BranchName, LeaseId};

/// How many audit events a broker without a database keeps.
const EVENTS_IN_MEMORY_MAX: usize = 10_000;

/// What is stored, as far as it is looked at all the time.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Data {
    /// Leases that have not ended.
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
}

/// A login role on a branch.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RoleKey {
    /// The branch.
    pub branch: BranchId,
    /// The role.
    pub role: String,
}

/// What is known of a login role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Role {
    /// The binding whose leases have it.
    pub binding: BindingName,
    /// Whether one logs in as it.
    pub status: RoleStatus,
    /// How often closing it was begun.
    pub closings: i64,
}

/// Whether one logs in as a role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoleStatus {
    /// One does: leases have it, or had it.
    Open,
    /// It is being closed: no lease has it.
    Closing,
    /// One does not, or it was left to end by itself.
    Closed,
}

impl RoleStatus {
    pub(super) const ALL: [RoleStatus; 3] =
        [RoleStatus::Open, RoleStatus::Closing, RoleStatus::Closed];

    /// As it is stored.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            RoleStatus::Open => "open",
            RoleStatus::Closing => "closing",
            RoleStatus::Closed => "closed",
        }
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

/// What a change sees, its own doings included, and how it does them. Nothing of
/// it is seen by others before it is stored.
#[derive(Debug)]
pub struct Draft<'a> {
    data: &'a Data,
    changes: &'a mut Changes,
}

/// What changes together.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) leases: BTreeMap<LeaseId, (Lease, Option<End>)>,
    pub(super) generations: BTreeMap<BindingName, Generation>,
    pub(super) roles: BTreeMap<RoleKey, Role>,
    pub(super) operations: BTreeMap<Uuid, Operation>,
    pub(super) branches: BTreeMap<BranchName, OwnBranch>,
    pub(super) requests: BTreeMap<RequestKey, Answered>,
    pub(super) events: Vec<Event>,
}

impl<'a> Draft<'a> {
    pub(super) fn new(data: &'a Data, changes: &'a mut Changes) -> Draft<'a> {
        Draft { data, changes }
    }

    /// A lease that has not ended, though its time may be up.
    pub fn lease(&self, id: LeaseId) -> Option<&Lease> {
        match self.changes.leases.get(&id) {
            Some((lease, None)) => Some(lease),
            Some((_, Some(_))) => None,
            None => self.data.leases.get(&id),
        }
    }

    /// How many leases have not ended.
    pub fn leases_count(&self) -> usize {
        let mut count = self.data.leases.len();
        for (id, (_, end)) in &self.changes.leases {
            match (self.data.leases.contains_key(id), end) {
                (false, None) => count += 1,
                (true, Some(_)) => count -= 1,
                _ => {}
            }
        }
        count
    }

    /// Gives a lease, or changes one.
    pub fn lease_put(&mut self, lease: Lease) {
        self.changes.leases.insert(lease.id, (lease, None));
    }

    /// Ends a lease.
    pub fn lease_end(&mut self, lease: Lease, end: End) {
        self.changes.leases.insert(lease.id, (lease, Some(end)));
    }

    /// The newest generation of a binding.
    pub fn generation(&self, binding: &BindingName) -> Option<&Generation> {
        let changed = self.changes.generations.get(binding);
        changed.or_else(|| self.data.generations.get(binding))
    }

    /// Gives a binding a generation.
    pub fn generation_put(&mut self, binding: BindingName, generation: Generation) {
        self.changes.generations.insert(binding, generation);
    }

    /// Whether a lease that has not ended by then has that role.
    pub fn is_used(&self, key: &RoleKey, now: Timestamp) -> bool {
        let has = |lease: &Lease| lease.has_role(key) && lease.expire_time > now;
        let changed = self.changes.leases.values();
        let mut changed = changed.filter(|(_, end)| end.is_none());
        let as_it_was = |id: &LeaseId| !self.changes.leases.contains_key(id);
        let mut others = self.data.leases.iter().filter(|(id, _)| as_it_was(id));
        changed.any(|(lease, _)| has(lease)) || others.any(|(_, lease)| has(lease))
    }

    /// A login role, if a lease ever had it.
    pub fn role(&self, key: &RoleKey) -> Option<&Role> {
        let changed = self.changes.roles.get(key);
        changed.or_else(|| self.data.roles.get(key))
    }

    /// Notes what becomes of a login role.
    pub fn role_put(&mut self, key: RoleKey, role: Role) {
        self.changes.roles.insert(key, role);
    }

    /// An operation.
    pub fn operation(&self, id: Uuid) -> Option<&Operation> {
        let changed = self.changes.operations.get(&id);
        changed.or_else(|| self.data.operations.get(&id))
    }

    /// All operations that are kept.
    pub fn operations(&self) -> impl Iterator<Item = (Uuid, &Operation)> {
        let changed = &self.changes.operations;
        let others = self.data.operations.iter();
        let others = others.filter(|(id, _)| !changed.contains_key(id));
        changed.iter().chain(others).map(|(id, one)| (*id, one))
    }

    /// Those that go on.
    pub fn running(&self) -> impl Iterator<Item = (Uuid, &Operation)> {
        let changed = &self.changes.operations;
        let others = self.data.running.iter();
        let others = others.filter(|id| !changed.contains_key(id));
        let others = others.filter_map(|id| self.data.operations.get_key_value(id));
        let all = changed.iter().chain(others);
        all.filter(|(_, one)| !one.done).map(|(id, one)| (*id, one))
    }

    /// Whether an operation that goes on gives that branch other data or deletes
    /// it. Nobody gets a lease on it then.
    pub fn is_held(&self, branch: &BranchId) -> bool {
        self.running().any(|(_, one)| one.holds(branch))
    }

    /// A lease on that branch that has not ended by then.
    pub fn lease_on(&self, branch: &BranchId, now: Timestamp) -> Option<LeaseId> {
        let is_on = |lease: &Lease| lease.grant.branch == *branch && lease.expire_time > now;
        let changed = self.changes.leases.values();
        let changed = changed.filter(|(_, end)| end.is_none());
        let as_it_was = |id: &LeaseId| !self.changes.leases.contains_key(id);
        let others = self.data.leases.iter().filter(|(id, _)| as_it_was(id));
        let mut all = changed
            .map(|(lease, _)| lease)
            .chain(others.map(|(_, lease)| lease));
        all.find(|lease| is_on(lease)).map(|lease| lease.id)
    }

    /// Begins an operation, or says how far it is.
    pub fn operation_put(&mut self, id: Uuid, operation: Operation) {
        self.changes.operations.insert(id, operation);
    }

    /// All branches of the ledger.
    pub fn branches(&self) -> impl Iterator<Item = (&BranchName, &OwnBranch)> {
        let changed = &self.changes.branches;
        let others = self.data.branches.iter();
        let others = others.filter(|(name, _)| !changed.contains_key(*name));
        changed.iter().chain(others)
    }

    /// A branch of that name that is ours, or was.
    pub fn branch(&self, name: &BranchName) -> Option<&OwnBranch> {
        let changed = self.changes.branches.get(name);
        changed.or_else(|| self.data.branches.get(name))
    }

    /// Writes down what is about to be done with a branch, or was.
    pub fn branch_put(&mut self, name: BranchName, branch: OwnBranch) {
        self.changes.branches.insert(name, branch);
    }

    /// What a request was answered with.
    pub fn request(&self, key: &RequestKey) -> Option<&Answered> {
        let changed = self.changes.requests.get(key);
        changed.or_else(|| self.data.requests.get(key))
    }

    /// How many requests are remembered.
    pub fn requests_count(&self) -> usize {
        let known = |key: &&RequestKey| !self.data.requests.contains_key(*key);
        self.data.requests.len() + self.changes.requests.keys().filter(known).count()
    }

    /// Remembers what a request is answered with.
    pub fn request_put(&mut self, key: RequestKey, answered: Answered) {
        self.changes.requests.insert(key, answered);
    }

    /// Notes who got, kept or lost what.
    pub fn audit(&mut self, event: Event) {
        self.changes.events.push(event);
    }
}

impl Changes {
    /// Whether nothing changes.
    pub(super) fn is_empty(&self) -> bool {
        let Changes {
            leases,
            generations,
            roles,
            operations,
            branches,
            requests,
            events,
        } = self;
        leases.is_empty()
            && generations.is_empty()
            && roles.is_empty()
            && operations.is_empty()
            && branches.is_empty()
            && requests.is_empty()
            && events.is_empty()
    }

    /// Makes the changes. Says which leases have ended by them.
    pub(super) fn apply(self, data: &mut Data) -> Vec<LeaseId> {
        let mut ended = Vec::new();
        for (id, (lease, end)) in self.leases {
            match end {
                None => {
                    data.leases.insert(id, lease);
                }
                Some(_) => {
                    data.leases.remove(&id);
                    ended.push(id);
                }
            }
        }
        data.generations.extend(self.generations);
        data.roles.extend(self.roles);
        for (id, operation) in &self.operations {
            match operation.done {
                true => data.running.remove(id),
                false => data.running.insert(*id),
            };
        }
        data.operations.extend(self.operations);
        data.branches.extend(self.branches);
        data.requests.extend(self.requests);
        ended
    }
}

impl Data {
    /// As [`Draft::is_held`], of what is stored.
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
        let on = leases.find(|one| one.grant.branch == *branch && one.expire_time > now);
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
