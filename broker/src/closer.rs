//! Closes the roles of leases that have ended.
//!
//! What holds: a role that no live lease has is closed, if its branch can be
//! reached, soon after its last lease ended; if it cannot, that is tried again,
//! some times. What was not closed, because the branch or the broker was away,
//! ends by itself: each role's password has an end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::bindings::Bindings;
use crate::leases::Leases;
use crate::logins::Logins;
use crate::state::Ended;
use crate::text::one_line;

/// How often to look for leases that have ended, in milliseconds.
const LOOK_MS: u64 = 250;
/// How often closing a role is tried.
const TRIES_MAX: u32 = 12;
/// Pauses between tries, in milliseconds, doubled each time.
const RETRY_MS_MIN: u64 = 500;
const RETRY_MS_MAX: u64 = 300_000;

/// Closes roles.
#[derive(Debug)]
pub struct Closer {
    bindings: Arc<Bindings>,
    leases: Arc<Leases>,
    logins: Arc<Logins>,
    /// Roles to close.
    open: BTreeMap<Ended, Try>,
}

/// When closing a role is tried next.
#[derive(Debug, Clone, Copy)]
struct Try {
    at: Instant,
    failed: u32,
}

impl Closer {
    /// For the roles of these leases.
    pub fn new(bindings: Arc<Bindings>, leases: Arc<Leases>, logins: Arc<Logins>) -> Closer {
        Closer {
            bindings,
            leases,
            logins,
            open: BTreeMap::new(),
        }
    }

    /// Closes roles as their leases end, for ever.
    pub async fn run(mut self) {
        let mut interval = tokio::time::interval(Duration::from_millis(LOOK_MS));
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            let now = Instant::now();
            for ended in self.leases.take_ended() {
                self.open.insert(ended, Try { at: now, failed: 0 });
            }
            let due = |_: &Ended, next: &mut Try| next.at <= now;
            let due: Vec<_> = self.open.extract_if(.., due).collect();
            for (ended, next) in due {
                if let Err(message) = self.close(&ended).await {
                    self.put_off(ended, next.failed + 1, &message);
                }
            }
        }
    }

    /// Closes a role unless a lease has it. The error says what is the matter.
    async fn close(&self, ended: &Ended) -> Result<(), String> {
        let Ended {
            binding,
            branch,
            role,
        } = ended;
        if self.leases.is_used(branch, role) {
            return Ok(());
        }
        let Some(declared) = self.bindings.get(binding) else {
            tracing::info!(%role, %branch, "the binding is declared no more; the role ends by itself");
            return Ok(());
        };
        let Some(target) = &declared.target else {
            return Err("the binding is not ready yet".to_owned());
        };
        if target.branch != *branch {
            tracing::info!(%role, %branch, "the binding has moved; the role ends by itself");
            return Ok(());
        }
        let is_used = || self.leases.is_used(branch, role);
        let service = &target.spec.service;
        let closed = self
            .logins
            .close(&target.uris.direct, service, branch, role, is_used)
            .await
            .map_err(|error| one_line(&error))?;
        if closed {
            tracing::info!(%role, %branch, "closed a lease role that no lease has");
        }
        Ok(())
    }

    fn put_off(&mut self, ended: Ended, failed: u32, error: &str) {
        let Ended { branch, role, .. } = &ended;
        if failed == TRIES_MAX {
            tracing::warn!(%role, %branch, error, "cannot close a lease role; it ends by itself");
            return;
        }
        tracing::debug!(%role, %branch, error, "cannot close a lease role yet");
        let pause = RETRY_MS_MIN.saturating_mul(1 << failed.min(16));
        let at = Instant::now() + Duration::from_millis(pause.min(RETRY_MS_MAX));
        // A lease that ended meanwhile has asked anew.
        self.open.entry(ended).or_insert(Try { at, failed });
    }
}
