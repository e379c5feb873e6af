//! Changes of what is kept, in the making.

use std::collections::BTreeMap;

use jiff::Timestamp;
use neon_api::BranchId;
use uuid::Uuid;

use super::data::{Answered, Data, Generation, RequestKey, Role, RoleKey, roles_on};
use super::endings::Turn;
use super::ledgers::{Operation, OwnBranch};
use super::moves::{Move, Watching};
use crate::audit::Event;
use crate::leases::{End, Lease};
use crate::names::{BindingName, BranchName, LeaseId};

/// What a change sees, its own doings included, and how it does them. Nothing of
/// it is seen by others before it is stored.
#[derive(Debug)]
pub struct Draft<'a> {
    data: &'a Data,
    changes: &'a mut Changes,
    version: i64,
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
    pub(super) moves: BTreeMap<BindingName, Move>,
    pub(super) watches: BTreeMap<LeaseId, Watching>,
    pub(super) brokers: BTreeMap<Uuid, Timestamp>,
    pub(super) events: Vec<Event>,
}

impl<'a> Draft<'a> {
    pub(super) fn new(data: &'a Data, changes: &'a mut Changes, version: i64) -> Draft<'a> {
        Draft {
            data,
            changes,
            version,
        }
    }

    /// The version that the change gets: no other ever has it.
    pub fn version(&self) -> i64 {
        self.version
    }

    /// Leases that have not ended, though their time may be up.
    pub fn leases(&self) -> impl Iterator<Item = &Lease> {
        let changed = self.changes.leases.values();
        let changed = changed.filter(|(_, end)| end.is_none());
        let as_it_was = |id: &LeaseId| !self.changes.leases.contains_key(id);
        let others = self.data.leases.iter();
        let others = others.filter(move |(id, _)| as_it_was(id));
        others
            .map(|(_, lease)| lease)
            .chain(changed.map(|(lease, _)| lease))
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

    /// The newest generation of each binding.
    pub fn generations(&self) -> impl Iterator<Item = (&BindingName, &Generation)> {
        overlaid(&self.changes.generations, &self.data.generations)
    }

    /// Gives a binding a generation.
    pub fn generation_put(&mut self, binding: BindingName, generation: Generation) {
        self.changes.generations.insert(binding, generation);
    }

    /// The newest move of a binding.
    pub fn last_move(&self, binding: &BindingName) -> Option<&Move> {
        let changed = self.changes.moves.get(binding);
        changed.or_else(|| self.data.moves.get(binding))
    }

    /// The newest move of each binding.
    pub fn moves(&self) -> impl Iterator<Item = (&BindingName, &Move)> {
        overlaid(&self.changes.moves, &self.data.moves)
    }

    /// Begins a move, or says how far it is.
    pub fn move_put(&mut self, binding: BindingName, one: Move) {
        self.changes.moves.insert(binding, one);
    }

    /// What the watch of a lease has said.
    pub fn watch(&self, lease: LeaseId) -> Option<&Watching> {
        let changed = self.changes.watches.get(&lease);
        changed.or_else(|| self.data.watches.get(&lease))
    }

    /// Notes what the watch of a lease says.
    pub fn watch_put(&mut self, lease: LeaseId, watching: Watching) {
        self.changes.watches.insert(lease, watching);
    }

    /// Notes that a broker is there.
    pub fn broker_put(&mut self, id: Uuid, seen: Timestamp) {
        self.changes.brokers.insert(id, seen);
    }

    /// Whether a lease that lives then has that role.
    pub fn is_used(&self, key: &RoleKey, now: Timestamp) -> bool {
        self.leases()
            .any(|lease| lease.has_role(key) && lease.lives(now))
    }

    /// The login roles of a branch that leases have, or had.
    pub fn roles_on(&self, branch: &BranchId) -> impl Iterator<Item = (&RoleKey, &Role)> {
        let as_it_was = |key: &RoleKey| !self.changes.roles.contains_key(key);
        let others = roles_on(&self.data.roles, branch);
        others
            .filter(move |(key, _)| as_it_was(key))
            .chain(roles_on(&self.changes.roles, branch))
    }

    /// All login roles that leases have, or had.
    pub fn roles(&self) -> impl Iterator<Item = (&RoleKey, &Role)> {
        let as_it_was = |key: &RoleKey| !self.changes.roles.contains_key(key);
        let others = self.data.roles.iter();
        others
            .filter(move |(key, _)| as_it_was(key))
            .chain(&self.changes.roles)
    }

    /// The broker's own branches, or what was.
    pub fn branches(&self) -> impl Iterator<Item = (&BranchName, &OwnBranch)> {
        let as_it_was = |name: &BranchName| !self.changes.branches.contains_key(name);
        let others = self.data.branches.iter();
        others
            .filter(move |(name, _)| as_it_was(name))
            .chain(&self.changes.branches)
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
        let mut all = self.leases();
        let on = all.find(|lease| lease.grant.branch == *branch && lease.lives(now));
        on.map(|lease| lease.id)
    }

    /// Begins an operation, or says how far it is.
    pub fn operation_put(&mut self, id: Uuid, operation: Operation) {
        self.changes.operations.insert(id, operation);
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
            moves,
            watches,
            brokers,
            events,
        } = self;
        leases.is_empty()
            && generations.is_empty()
            && roles.is_empty()
            && operations.is_empty()
            && branches.is_empty()
            && requests.is_empty()
            && moves.is_empty()
            && watches.is_empty()
            && brokers.is_empty()
            && events.is_empty()
    }

    /// Makes the changes. Says what became of leases by them, for who follows one.
    pub(super) fn apply(self, data: &mut Data) -> Vec<(LeaseId, Turn)> {
        let mut turns = Vec::new();
        for (id, (lease, end)) in self.leases {
            if end.is_some() || lease.revoked.is_some() {
                turns.push((id, Turn::Ended));
            } else if data
                .leases
                .get(&id)
                .is_some_and(|was| was.grant != lease.grant)
            {
                turns.push((id, Turn::Moved));
            }
            match end {
                None => {
                    data.leases.insert(id, lease);
                }
                Some(_) => {
                    data.leases.remove(&id);
                    data.watches.remove(&id);
                }
            }
        }
        for (id, watching) in self.watches {
            // It may have ended at the same time.
            if data.leases.contains_key(&id) {
                data.watches.insert(id, watching);
            }
        }
        data.moves.extend(self.moves);
        data.brokers.extend(self.brokers);
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
        turns
    }
}

/// What was there, with what has changed in its place.
fn overlaid<'a, K: Ord, V>(
    changed: &'a BTreeMap<K, V>,
    were: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (&'a K, &'a V)> {
    let others = were.iter();
    let others = others.filter(|(key, _)| !changed.contains_key(*key));
    changed.iter().chain(others)
}
