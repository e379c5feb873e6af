//! Closes the roles of leases that have ended.
//!
//! What holds: a role that no live lease has is closed, if its branch can be
//! reached, soon after its last lease ended; if it cannot, that is tried again,
//! some times, by whichever broker works in the background then. What was not
//! closed ends by itself: each role's password has an end.
//!
//! Other brokers give leases meanwhile. So closing is written down as begun while
//! the branch's lock keeps everybody from making the role; who then stores a lease
//! that has the role sees it, and makes the role again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use neon_api::BranchId;
use tokio::time::Instant;

use crate::bindings::Bindings;
use crate::leases::Leases;
use crate::logins::Logins;
use crate::names::BindingName;
use crate::state::{self, Draft, Role, RoleKey, RoleStatus, State};
use crate::text::one_line;

/// How often to look for roles that no lease has, in milliseconds.
const LOOK_MS: u64 = 250;
/// How often closing a role is tried.
const TRIES_MAX: u32 = 12;
/// Pauses between tries, in milliseconds, doubled each time.
const RETRY_MS_MIN: u64 = 500;
const RETRY_MS_MAX: u64 = 300_000;

/// Closes roles.
#[derive(Debug)]
pub struct Closer {
    state: Arc<State>,
    bindings: Arc<Bindings>,
    leases: Arc<Leases>,
    logins: Arc<Logins>,
}

/// When closing a role is tried next.
#[derive(Debug, Clone, Copy)]
struct Try {
    at: Instant,
    failed: u32,
}

impl Closer {
    /// For the roles of these leases.
    pub fn new(
        state: Arc<State>,
        bindings: Arc<Bindings>,
        leases: Arc<Leases>,
        logins: Arc<Logins>,
    ) -> Closer {
        Closer {
            state,
            bindings,
            leases,
            logins,
        }
    }

    /// Closes roles as their leases end, for ever.
    pub async fn run(&self) {
        let mut interval = tokio::time::interval(Duration::from_millis(LOOK_MS));
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut tries: BTreeMap<RoleKey, Try> = BTreeMap::new();
        let mut seen = None;
        loop {
            interval.tick().await;
            let version = self.state.version();
            if seen == Some(version) && tries.is_empty() {
                continue;
            }
            seen = Some(version);
            let unused = self.unused();
            tries.retain(|key, _| unused.contains_key(key));
            for (key, binding) in unused {
                let next = tries.get(&key).copied();
                if next.is_some_and(|next| next.at > Instant::now()) {
                    continue;
                }
                match self.close(&key, &binding).await {
                    Ok(()) => {
                        tries.remove(&key);
                    }
                    Err(error) => {
                        let failed = next.map_or(0, |next| next.failed) + 1;
                        let next = self.put_off(&key, failed, &error).await;
                        tries.insert(key, next);
                    }
                }
            }
        }
    }

    /// Roles that are not closed and that no lease has.
    fn unused(&self) -> BTreeMap<RoleKey, BindingName> {
        let now = self.leases.now();
        self.state.read(|data| {
            let leases = data.leases.values();
            let live = leases.filter(|lease| lease.expire_time > now);
            let used: BTreeSet<(&BranchId, &str)> = live
                .map(|lease| (&lease.grant.branch, lease.grant.role.as_str()))
                .collect();
            let is_unused = |key: &RoleKey, role: &Role| {
                role.status != RoleStatus::Closed
                    && !used.contains(&(&key.branch, key.role.as_str()))
            };
            let roles = data.roles.iter();
            let unused = roles.filter(|(key, role)| is_unused(key, role));
            let named = unused.map(|(key, role)| (key.clone(), role.binding.clone()));
            named.collect()
        })
    }

    /// Closes a role unless a lease has it by now. The error says what is the
    /// matter.
    async fn close(&self, key: &RoleKey, binding: &BindingName) -> Result<(), String> {
        let RoleKey { branch, role } = key;
        let left = |why: &str| tracing::info!(%role, %branch, "{why}; the role ends by itself");
        let Some(declared) = self.bindings.get(binding) else {
            left("the binding is declared no more");
            return self.leave(key).await;
        };
        let Some(target) = &declared.target else {
            return Err("the binding is not ready yet".to_owned());
        };
        if target.branch != *branch {
            left("the binding has moved");
            return self.leave(key).await;
        }
        let may_close = async {
            let noted = self.note(key, RoleStatus::Closing, false).await;
            // If that cannot be stored, it is found and tried again.
            noted.unwrap_or(false)
        };
        let service = &target.spec.service;
        let closed = self
            .logins
            .close(&target.uris.direct, service, branch, role, may_close)
            .await
            .map_err(|error| one_line(&error))?;
        if closed && self.note(key, RoleStatus::Closed, true).await? {
            tracing::info!(%role, %branch, "closed a lease role that no lease has");
        }
        Ok(())
    }

    /// Lets a role end by itself.
    async fn leave(&self, key: &RoleKey) -> Result<(), String> {
        let left = self.note(key, RoleStatus::Closed, false).await;
        left.map(|_| ())
    }

    /// Writes down how far closing a role is, unless a lease has it by now.
    /// `was_begun`: by who began it.
    async fn note(
        &self,
        key: &RoleKey,
        status: RoleStatus,
        was_begun: bool,
    ) -> Result<bool, String> {
        let (key, now) = (key.clone(), self.leases.now());
        let change = move |draft: &mut Draft<'_>| {
            let Some(mut role) = draft.role(&key).cloned() else {
                return false;
            };
            if draft.is_used(&key, now) {
                return false;
            }
            match status {
                RoleStatus::Closing => role.closings += 1,
                // It was given and given back meanwhile: it is open again.
                _ if was_begun && role.status != RoleStatus::Closing => return false,
                _ => {}
            }
            role.status = status;
            draft.role_put(key.clone(), role);
            true
        };
        let noted = self.state.change_in_background(change).await;
        noted.map_err(|error: state::Error| one_line(&error))
    }

    async fn put_off(&self, key: &RoleKey, failed: u32, error: &str) -> Try {
        let RoleKey { branch, role } = key;
        if failed >= TRIES_MAX {
            tracing::warn!(%role, %branch, error, "cannot close a lease role; it ends by itself");
            if let Err(error) = self.leave(key).await {
                tracing::debug!(%role, %branch, error, "cannot write that down yet");
            }
        } else {
            tracing::debug!(%role, %branch, error, "cannot close a lease role yet");
        }
        let pause = RETRY_MS_MIN.saturating_mul(1 << failed.min(16));
        let at = Instant::now() + Duration::from_millis(pause.min(RETRY_MS_MAX));
        Try { at, failed }
    }
}
