//! Closes the roles of leases that have ended.
//!
//! What holds: a role that no live lease has is closed soon after its last lease
//! ended, while its branch is awake; a branch that is suspended is not woken for it,
//! and the role is closed when it is awake again. A role that was revoked is closed at
//! once, whatever that wakes. What fails is tried again, for as long as it takes, by
//! whichever broker works in the background then; a branch that does not answer holds
//! up its own roles and no others. What is not closed ends by itself: each role's
//! password has an end.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::{StreamExt as _, future};
use neon_api::BranchId;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior};

use crate::leases::{Lease, Leases};
use crate::leasing::Leasing;
use crate::names::LeaseId;
use crate::neon::Neon;
use crate::state::{RoleKey, RoleStatus, State};
use crate::text::one_line;
use crate::tries::Tries;

/// How often to look for roles that no lease has, in milliseconds.
const LOOK_MS: u64 = 250;
/// How often to look although nothing was written, in milliseconds: time goes on.
const LOOK_ALL_MS: u64 = 1_000;
/// How long to wait for a suspended branch before it is looked at again, in
/// milliseconds.
const ASLEEP_MS: u64 = 10_000;
/// How long it holds which branches are awake, and how long until Neon is asked again
/// that did not say, in milliseconds.
const AWAKE_MS: u64 = 1_000;
/// On how many branches at once there is work, and with how many roles or leases on
/// each before it is looked again which are due.
const BRANCHES_AT_ONCE_MAX: usize = 16;
const OF_BRANCH_MAX: usize = 16;

/// Closes roles.
#[derive(Debug)]
pub struct Closer {
    state: Arc<State>,
    leases: Arc<Leases>,
    leasing: Arc<Leasing>,
    neon: Neon,
    /// Asked to look which branches are awake.
    asked: Notify,
    awake: watch::Sender<Option<Awake>>,
}

/// Which branches have an endpoint, and whether it is awake.
#[derive(Debug)]
struct Awake {
    at: Instant,
    branches: HashMap<BranchId, bool>,
}

/// A role that is to be closed, and whether it was revoked: its pauses begin anew then.
type Due = (RoleKey, bool);

impl Closer {
    /// For the roles of these leases, in that project.
    pub fn new(
        state: Arc<State>,
        leases: Arc<Leases>,
        leasing: Arc<Leasing>,
        neon: Neon,
    ) -> Closer {
        Closer {
            state,
            leases,
            leasing,
            neon,
            asked: Notify::new(),
            awake: watch::Sender::new(None),
        }
    }

    /// Closes roles as their leases end, and moves leases whose role is closed, for
    /// ever.
    pub async fn run(&self) {
        future::join3(self.close_all(), self.move_all(), self.look_who_is_awake()).await;
    }

    async fn close_all(&self) {
        let mut looks = Looks::new();
        let mut awake = self.awake.subscribe();
        let mut tries = Tries::default();
        let mut closing = FuturesUnordered::new();
        let mut busy = BTreeSet::new();
        loop {
            tokio::select! {
                Some((branch, failed)) = closing.next(), if !closing.is_empty() => {
                    busy.remove(&branch);
                    let now = Instant::now();
                    for due in failed {
                        tries.failed(due, now);
                    }
                }
                () = looks.next(&self.state) => {}
                // Its sender is ours.
                _ = awake.changed() => {}
            }
            for (branch, roles) in self.due(&mut tries) {
                if closing.len() < BRANCHES_AT_ONCE_MAX && busy.insert(branch.clone()) {
                    closing.push(self.close_on(branch, roles));
                }
            }
        }
    }

    /// Roles that are to be closed now, by their branches. First come those that were
    /// revoked, and what failed least often.
    fn due(&self, tries: &mut Tries<Due>) -> Vec<(BranchId, Vec<Due>)> {
        let all = self.leases.roles_to_close().into_iter();
        let all = all.map(|(key, role)| (key, role.status == RoleStatus::Revoked));
        let all: Vec<Due> = all.collect();
        tries.retain(&all.iter().collect());
        let now = Instant::now();
        let mut branches: BTreeMap<BranchId, Vec<Due>> = BTreeMap::new();
        for due in all {
            if tries.is_due(&due, now) && !self.is_to_wait(&due, tries, now) {
                branches.entry(due.0.branch.clone()).or_default().push(due);
            }
        }
        let mut branches: Vec<_> = branches.into_iter().collect();
        let order = |due: &Due| (!due.1, tries.failures(due));
        for (_, roles) in &mut branches {
            roles.sort_by_key(order);
            roles.truncate(OF_BRANCH_MAX);
        }
        branches.sort_by_key(|(_, roles)| roles.first().map(order));
        branches
    }

    /// Whether a role is left alone for now: its branch is suspended, or it is not known
    /// whether it is. One that was revoked never is.
    fn is_to_wait(&self, due: &Due, tries: &mut Tries<Due>, now: Instant) -> bool {
        let (key, is_revoked) = due;
        if *is_revoked {
            return false;
        }
        let awake = self.awake.borrow();
        let holds = |awake: &&Awake| now - awake.at < Duration::from_millis(AWAKE_MS);
        match awake.as_ref().filter(holds) {
            None => {
                self.asked.notify_one();
                true
            }
            Some(awake) => {
                let sleeps = awake.branches.get(&key.branch) == Some(&false);
                if sleeps {
                    tries.wait(due.clone(), now + Duration::from_millis(ASLEEP_MS));
                }
                sleeps
            }
        }
    }

    /// Those that are to be tried again: from the first that fails on, all, since it is
    /// most often the branch that does not answer.
    async fn close_on(&self, branch: BranchId, roles: Vec<Due>) -> (BranchId, Vec<Due>) {
        let mut roles = roles.into_iter();
        let mut failed = Vec::new();
        while failed.is_empty()
            && let Some(due) = roles.next()
        {
            if !self.close(&due.0).await {
                failed.push(due);
            }
        }
        failed.extend(roles);
        (branch, failed)
    }

    /// Closes a role, unless a lease has it by now. False: it is to be tried again.
    async fn close(&self, key: &RoleKey) -> bool {
        match self.leases.role_closing(key.clone()).await {
            Ok(true) => Box::pin(self.leasing.close(key)).await,
            Ok(false) => true,
            Err(error) => {
                let role = &key.role;
                tracing::debug!(%role, error = %one_line(&error), "close a lease role");
                false
            }
        }
    }

    /// Asks Neon which branches are awake, whenever somebody wants to know. Who does not
    /// know wakes nobody.
    async fn look_who_is_awake(&self) {
        loop {
            self.asked.notified().await;
            match self.neon.endpoints_awake().await {
                Ok(branches) => {
                    let at = Instant::now();
                    self.awake.send_replace(Some(Awake { at, branches }));
                }
                Err(error) => {
                    tracing::debug!(error = %one_line(&error), "look which branches are awake");
                    tokio::time::sleep(Duration::from_millis(AWAKE_MS)).await;
                }
            }
        }
    }

    async fn move_all(&self) {
        let mut looks = Looks::new();
        let mut tries: Tries<LeaseId> = Tries::default();
        let mut moving = FuturesUnordered::new();
        let mut busy = BTreeSet::new();
        loop {
            tokio::select! {
                Some((branch, failed)) = moving.next(), if !moving.is_empty() => {
                    busy.remove(&branch);
                    let now = Instant::now();
                    for id in failed {
                        tries.failed(id, now);
                    }
                }
                () = looks.next(&self.state) => {}
            }
            let stranded = self.leases.stranded();
            let ids: Vec<LeaseId> = stranded.iter().map(|lease| lease.id).collect();
            tries.retain(&ids.iter().collect());
            let now = Instant::now();
            let mut branches: BTreeMap<BranchId, Vec<Lease>> = BTreeMap::new();
            for lease in stranded {
                if tries.is_due(&lease.id, now) {
                    let of_branch = branches.entry(lease.grant.branch.clone()).or_default();
                    of_branch.push(lease);
                }
            }
            let mut branches: Vec<_> = branches.into_iter().collect();
            branches.sort_by_key(|(_, leases)| leases.first().map(|one| tries.failures(&one.id)));
            for (branch, mut leases) in branches {
                if moving.len() < BRANCHES_AT_ONCE_MAX && busy.insert(branch.clone()) {
                    leases.truncate(OF_BRANCH_MAX);
                    moving.push(self.move_from(branch, leases));
                }
            }
        }
    }

    /// As [`Closer::close_on`], for leases that are to have other roles.
    async fn move_from(&self, branch: BranchId, leases: Vec<Lease>) -> (BranchId, Vec<LeaseId>) {
        let mut leases = leases.into_iter();
        let mut failed = Vec::new();
        while failed.is_empty()
            && let Some(lease) = leases.next()
        {
            let id = lease.id;
            if !Box::pin(self.leasing.move_stranded(lease)).await {
                failed.push(id);
            }
        }
        failed.extend(leases.map(|lease| lease.id));
        (branch, failed)
    }
}

/// When to look what there is to do.
struct Looks {
    interval: Interval,
    last: Option<(i64, Instant)>,
}

impl Looks {
    fn new() -> Looks {
        let mut interval = tokio::time::interval(Duration::from_millis(LOOK_MS));
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Looks {
            interval,
            last: None,
        }
    }

    /// Returns when something was written, or time has gone on.
    async fn next(&mut self, state: &State) {
        loop {
            self.interval.tick().await;
            let version = state.version();
            let is_same = self.last.is_some_and(|(last, at)| {
                last == version && at.elapsed() < Duration::from_millis(LOOK_ALL_MS)
            });
            if !is_same {
                self.last = Some((version, Instant::now()));
                return;
            }
        }
    }
}
