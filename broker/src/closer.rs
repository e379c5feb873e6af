//! Closes the roles of leases that have ended.
//!
//! What holds: a role that no live lease has is closed soon after its last lease
//! ended, while its branch is awake; a branch that is suspended is not woken for it,
//! and the role is closed when it is awake again. A role that was revoked is closed at
//! once, whatever that wakes. What fails is tried again, for as long as it takes, by
//! whichever broker works in the background then. What is not closed ends by itself:
//! each role's password has an end.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use neon_api::BranchId;
use tokio::time::{Instant, MissedTickBehavior};

use crate::leases::Leases;
use crate::leasing::Leasing;
use crate::neon::Neon;
use crate::state::{RoleKey, RoleStatus, State};
use crate::text::one_line;

/// How often to look for roles that no lease has, in milliseconds.
const LOOK_MS: u64 = 250;
/// How often to look although nothing was written, in milliseconds: time goes on.
const LOOK_ALL_MS: u64 = 1_000;
/// Pauses between tries, in milliseconds, doubled each time.
const RETRY_MS_MIN: u64 = 500;
const RETRY_MS_MAX: u64 = 60_000;
/// How long to wait for a suspended branch before it is looked at again, in
/// milliseconds.
const ASLEEP_MS: u64 = 10_000;

/// Closes roles.
#[derive(Debug)]
pub struct Closer {
    state: Arc<State>,
    leases: Arc<Leases>,
    leasing: Arc<Leasing>,
    neon: Neon,
}

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
        }
    }

    /// Closes roles as their leases end, for ever.
    pub async fn run(&self) {
        let mut interval = tokio::time::interval(Duration::from_millis(LOOK_MS));
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut next: BTreeMap<RoleKey, Instant> = BTreeMap::new();
        let mut seen = None;
        loop {
            interval.tick().await;
            let version = self.state.version();
            let is_same = seen.is_some_and(|(last, at): (i64, Instant)| {
                last == version && at.elapsed() < Duration::from_millis(LOOK_ALL_MS)
            });
            if !is_same {
                seen = Some((version, Instant::now()));
                self.look(&mut next).await;
            }
        }
    }

    async fn look(&self, next: &mut BTreeMap<RoleKey, Instant>) {
        Box::pin(self.leasing.move_stranded()).await;
        let due = self.leases.roles_to_close();
        next.retain(|key, _| due.iter().any(|(due, _)| due == key));
        let now = Instant::now();
        let is_now = |key: &RoleKey| next.get(key).is_none_or(|at| *at <= now);
        let due: Vec<_> = due.into_iter().filter(|(key, _)| is_now(key)).collect();
        if due.is_empty() {
            return;
        }
        let may_wait = |status| status != RoleStatus::Revoked;
        let awake = match due.iter().any(|(_, role)| may_wait(role.status)) {
            true => self.awake().await,
            false => Some(HashMap::new()),
        };
        for (key, role) in due {
            let sleeps = match &awake {
                // Who does not know wakes nobody.
                None => true,
                Some(awake) => awake.get(&key.branch) == Some(&false),
            };
            let pause = match may_wait(role.status) && sleeps {
                true => Duration::from_millis(ASLEEP_MS),
                false => match self.close(&key).await {
                    true => continue,
                    false => backoff(role.failures),
                },
            };
            next.insert(key, Instant::now() + pause);
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

    /// Branches that have an endpoint, and whether it is awake.
    async fn awake(&self) -> Option<HashMap<BranchId, bool>> {
        match self.neon.endpoints_awake().await {
            Ok(awake) => Some(awake),
            Err(error) => {
                tracing::debug!(error = %one_line(&error), "look which branches are awake");
                None
            }
        }
    }
}

fn backoff(failures: i32) -> Duration {
    let doubled = RETRY_MS_MIN.saturating_mul(1 << failures.clamp(0, 16));
    Duration::from_millis(doubled.min(RETRY_MS_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_grows_and_has_an_end() {
        assert_eq!(backoff(0), Duration::from_millis(RETRY_MS_MIN));
        assert_eq!(backoff(3), Duration::from_millis(RETRY_MS_MIN * 8));
        assert_eq!(backoff(i32::MAX), Duration::from_millis(RETRY_MS_MAX));
    }
}
