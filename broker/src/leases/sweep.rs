//! Taking out leases whose time is up.

use std::time::Duration;

use tokio::time::MissedTickBehavior;

use super::{EndReason, Leases, end};
use crate::names::LeaseId;
use crate::state::{self, Draft, Turn};

/// How often leases whose time is up are taken out, in milliseconds.
const SWEEP_MS: u64 = 500;
/// How many sweeps go by before leases that nobody follows any more are forgotten: all
/// are looked at for that.
const FORGET_SWEEPS: u64 = 10;
/// How many leases end in one transaction at most.
const SWEPT_MAX: usize = 1_000;

impl Leases {
    /// Takes out leases whose time is up, for ever.
    pub async fn sweep(&self) {
        let mut interval = tokio::time::interval(Duration::from_millis(SWEEP_MS));
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for sweep in 0_u64.. {
            interval.tick().await;
            if sweep.is_multiple_of(FORGET_SWEEPS) {
                self.state.forget_unfollowed();
            }
            if let Err(error) = self.sweep_once().await {
                // They have ended all the same; the next sweep writes it down.
                tracing::debug!(%error, "leases that have expired cannot be taken out yet");
            }
        }
    }

    /// Takes out leases whose time is up now. Of brokers that share a database one
    /// writes it down; each tells those who watch. A revoked one stays until its role
    /// is closed.
    pub async fn sweep_once(&self) -> Result<(), state::Error> {
        let now = self.now();
        let endings = self.state.endings();
        let ids: Vec<LeaseId> = self.state.read(|data| {
            let leases = data.leases.values();
            let ended = leases.filter(|lease| lease.expire_time <= now && lease.revoked.is_none());
            ended.map(|lease| lease.id).collect()
        });
        // Who watches hears of it now, whether or not it can be stored.
        ids.iter().for_each(|id| endings.tell(*id, Turn::Ended));
        self.state.forget_old(now);
        if self.state.leader().borrow().is_none() {
            return Ok(());
        }
        for some in ids.chunks(SWEPT_MAX) {
            let some = some.to_vec();
            let change = move |draft: &mut Draft<'_>| {
                let mut ended = Vec::new();
                for id in &some {
                    let lease = draft.lease(*id);
                    let lease =
                        lease.filter(|lease| lease.expire_time <= now && lease.revoked.is_none());
                    if let Some(lease) = lease.cloned() {
                        end(draft, lease.clone(), EndReason::Expired, now);
                        ended.push(lease);
                    }
                }
                ended
            };
            for lease in self.state.change_in_background(change).await? {
                let (service, holder) = (&lease.request.service, &lease.request.holder);
                tracing::info!(lease = %lease.id, %service, %holder, "a lease has expired");
            }
        }
        Ok(())
    }
}
