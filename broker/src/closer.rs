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
use futures_util::{StreamExt as _, future, stream};
use moka::future::Cache;
use neon_api::BranchId;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use crate::leases::Leases;
use crate::leasing::Leasing;
use crate::names::LeaseId;
use crate::neon::{self, Neon};
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
/// How long it holds which branches are awake, in milliseconds.
const AWAKE_MS: u64 = 1_000;
/// On how many branches roles are closed at once, and how many on each before it is
/// looked again which of them are due.
const BRANCHES_AT_ONCE_MAX: usize = 16;
const ROLES_AT_ONCE_MAX: usize = 16;
/// How many leases are moved at once.
const MOVED_AT_ONCE_MAX: usize = 8;

/// Closes roles.
#[derive(Debug)]
pub struct Closer {
    state: Arc<State>,
    leases: Arc<Leases>,
    leasing: Arc<Leasing>,
    neon: Neon,
    awake: Cache<(), Arc<HashMap<BranchId, bool>>>,
}

/// What came of a role that was to be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Closed {
    /// It is closed, or is not to be any more.
    Done,
    /// Its branch is suspended.
    Asleep,
    /// It is to be tried again.
    Failed,
}

impl Closer {
    /// For the roles of these leases, in that project.
    pub fn new(
        state: Arc<State>,
        leases: Arc<Leases>,
        leasing: Arc<Leasing>,
        neon: Neon,
    ) -> Closer {
        let awake = Cache::builder().time_to_live(Duration::from_millis(AWAKE_MS));
        Closer {
            state,
            leases,
            leasing,
            neon,
            awake: awake.build(),
        }
    }

    /// Closes roles as their leases end, and moves leases whose role is closed, for
    /// ever.
    pub async fn run(&self) {
        future::join(self.close_all(), self.move_all()).await;
    }

    async fn close_all(&self) {
        let mut looks = Looks::new();
        let mut tries = Tries::default();
        let mut closing = FuturesUnordered::new();
        let mut busy = BTreeSet::new();
        loop {
            tokio::select! {
                Some((branch, closed)) = closing.next(), if !closing.is_empty() => {
                    busy.remove(&branch);
                    let now = Instant::now();
                    for (key, closed) in closed {
                        match closed {
                            Closed::Done => {}
                            Closed::Asleep => tries.wait(key, now + Duration::from_millis(ASLEEP_MS)),
                            Closed::Failed => {
                                tries.failed(key, now);
                            }
                        }
                    }
                }
                () = looks.next(&self.state) => {
                    for (branch, roles) in self.due(&mut tries) {
                        if closing.len() < BRANCHES_AT_ONCE_MAX && busy.insert(branch.clone()) {
                            closing.push(self.close_on(branch, roles));
                        }
                    }
                }
            }
        }
    }

    /// Roles that are to be closed now, by their branches: those that were revoked
    /// first.
    fn due(&self, tries: &mut Tries<RoleKey>) -> BTreeMap<BranchId, Vec<(RoleKey, RoleStatus)>> {
        let all = self.leases.roles_to_close();
        tries.retain(|key| all.iter().any(|(due, _)| due == key));
        let mut due: BTreeMap<BranchId, Vec<(RoleKey, RoleStatus)>> = BTreeMap::new();
        let now = Instant::now();
        for (key, role) in all.into_iter().filter(|(key, _)| tries.is_due(key, now)) {
            let of_branch = due.entry(key.branch.clone()).or_default();
            of_branch.push((key, role.status));
        }
        for roles in due.values_mut() {
            roles.sort_by_key(|(_, status)| may_wait(*status));
            roles.truncate(ROLES_AT_ONCE_MAX);
        }
        due
    }

    async fn close_on(
        &self,
        branch: BranchId,
        roles: Vec<(RoleKey, RoleStatus)>,
    ) -> (BranchId, Vec<(RoleKey, Closed)>) {
        let mut all = Vec::new();
        for (key, status) in roles {
            let closed = match may_wait(status) && self.sleeps(&branch).await {
                true => Closed::Asleep,
                false => self.close(&key).await,
            };
            all.push((key, closed));
        }
        (branch, all)
    }

    /// Closes a role, unless a lease has it by now.
    async fn close(&self, key: &RoleKey) -> Closed {
        match self.leases.role_closing(key.clone()).await {
            Ok(true) => match Box::pin(self.leasing.close(key)).await {
                true => Closed::Done,
                false => Closed::Failed,
            },
            Ok(false) => Closed::Done,
            Err(error) => {
                let role = &key.role;
                tracing::debug!(%role, error = %one_line(&error), "close a lease role");
                Closed::Failed
            }
        }
    }

    /// Whether a branch has an endpoint that is suspended. Who does not know wakes
    /// nobody.
    async fn sleeps(&self, branch: &BranchId) -> bool {
        let looking = Box::pin(async {
            let awake = self.neon.endpoints_awake().await?;
            Ok::<_, neon::Error>(Arc::new(awake))
        });
        match self.awake.try_get_with((), looking).await {
            Ok(awake) => awake.get(branch) == Some(&false),
            Err(error) => {
                tracing::debug!(error = %one_line(&*error), "look which branches are awake");
                true
            }
        }
    }

    async fn move_all(&self) {
        let mut looks = Looks::new();
        let mut tries: Tries<LeaseId> = Tries::default();
        loop {
            looks.next(&self.state).await;
            let stranded = self.leases.stranded();
            tries.retain(|id| stranded.iter().any(|lease| lease.id == *id));
            let now = Instant::now();
            let due = stranded
                .into_iter()
                .filter(|lease| tries.is_due(&lease.id, now));
            let moving = due.map(|lease| async move {
                let id = lease.id;
                (id, Box::pin(self.leasing.move_stranded(lease)).await)
            });
            let moving: Vec<_> = moving.collect();
            let mut moving = stream::iter(moving).buffer_unordered(MOVED_AT_ONCE_MAX);
            while let Some((id, is_moved)) = moving.next().await {
                if !is_moved {
                    tries.failed(id, Instant::now());
                }
            }
        }
    }
}

fn may_wait(status: RoleStatus) -> bool {
    status != RoleStatus::Revoked
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
