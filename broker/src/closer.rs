//! Closes the roles of leases that have ended.
//!
//! What holds: a role that no live lease has is closed soon after its last lease
//! ended, while its branch is awake; a branch that is suspended is not woken for it,
//! and the role is closed when it is awake again. A role that was revoked is closed at
//! once, whatever that wakes. What fails is tried again, for as long as it takes, by
//! whichever broker works in the background then; a branch that does not answer holds
//! up its own roles and no others. What is not closed ends by itself: each role's
//! password has an end.

mod errands;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future;
use neon_api::BranchId;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior};

use crate::leases::Leases;
use crate::leasing::Leasing;
use crate::names::LeaseId;
use crate::neon::Neon;
use crate::state::{RoleKey, RoleStatus, State};
use crate::text::one_line;
use errands::{Errand, May};

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
        let woken = async || {
            tokio::select! {
                () = looks.next(|| self.state.version()) => {}
                // Its sender is ours.
                _ = awake.changed() => {}
            }
        };
        let all = || {
            let all = self.leases.roles_to_close().into_iter();
            let all = all.map(|(key, role)| {
                let is_urgent = role.status == RoleStatus::Revoked;
                Errand {
                    branch: key.branch.clone(),
                    key: (key, is_urgent),
                    is_urgent,
                }
            });
            all.collect()
        };
        let work = async |(key, _): &Due| self.close(key).await;
        errands::run(woken, all, |due| self.may_begin(due), work).await;
    }

    /// Whether a role is left alone for now: its branch is suspended, or it is not known
    /// whether it is. One that was revoked never is.
    fn may_begin(&self, due: &Errand<Due>) -> May {
        if due.is_urgent {
            return May::Begin;
        }
        let awake = self.awake.borrow();
        let holds = |awake: &&Awake| awake.at.elapsed() < Duration::from_millis(AWAKE_MS);
        match awake.as_ref().filter(holds) {
            None => {
                self.asked.notify_one();
                May::NotYet
            }
            Some(awake) => match awake.branches.get(&due.branch) {
                Some(false) => May::NotBefore(Instant::now() + Duration::from_millis(ASLEEP_MS)),
                Some(true) | None => May::Begin,
            },
        }
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
        // Leases are stranded by what becomes of roles.
        let woken = async || looks.next(|| self.state.roles_version()).await;
        let all = || {
            let stranded = self.leases.stranded().into_iter();
            let stranded = stranded.map(|lease| Errand {
                branch: lease.grant.branch,
                key: lease.id,
                is_urgent: false,
            });
            stranded.collect()
        };
        let work = async |id: &LeaseId| match self.leases.known(*id) {
            Ok(lease) => Box::pin(self.leasing.move_stranded(lease)).await,
            // It has ended.
            Err(_) => true,
        };
        errands::run(woken, all, |_| May::Begin, work).await;
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

    /// Returns when the version is another, or time has gone on.
    async fn next(&mut self, version: impl Fn() -> i64) {
        loop {
            self.interval.tick().await;
            let version = version();
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
