//! Behind the answers: roles made right, passwords and branches that outlive their
//! leases.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use neon_api::types::BranchUpdateRequest;
use rpc::traces;
use tracing::Instrument as _;

use super::{Error, Leasing};
use crate::leases::{Lease, Request};
use crate::logins::{Place, Wanted};
use crate::names::LeaseId;
use crate::roles::Access;
use crate::state::RoleKey;
use crate::text::one_line;

/// How often the end of a branch is moved in one go, should it be too early still.
const PROLONG_TRIES_MAX: u32 = 3;

impl Leasing {
    /// Makes a role right behind the answer, unless that was done not long ago: its
    /// holder may have changed it, or somebody may have restored its branch.
    pub(super) fn right_behind(self: &Arc<Self>, place: &Place, request: &Request, key: &RoleKey) {
        if self.right.contains_key(key) {
            return;
        }
        let (leasing, place) = (Arc::clone(self), place.clone());
        let (key, access) = (key.clone(), request.access);
        tokio::spawn(async move {
            // As it is now, not as this broker last heard: it is not to end earlier than
            // what was promised meanwhile.
            if !matches!(leasing.leases.role_is_usable(&key).await, Ok(true)) {
                return;
            }
            let Some(valid_until) = leasing.leases.role_valid_until(&key) else {
                return;
            };
            let wanted = Wanted {
                access,
                valid_until,
            };
            let made = async {
                leasing.make(&place, &key, wanted).await?;
                leasing.close_unusable(&place, &key).await
            };
            if let Err(error) = made.await {
                let branch = &key.branch;
                tracing::warn!(%branch, error = %one_line(&error), "make a lease role right");
            }
        });
    }

    /// Sees to it that what a lease leads to outlives it: its role's password, and its
    /// branch where that is its own; and the `ttl` that was asked for just now, should
    /// the lease have been given less of it for their sake. Not waited for: a branch that is away for a while
    /// ends no lease, and the next renewal comes before the time is up.
    pub fn prolong(self: &Arc<Self>, lease: &Lease, ttl: Option<Duration>) {
        let key = lease.grant.role_key();
        let is_ours = lease.grant.key == *self.logins.key_id();
        if is_ours && self.leases.role_runs_out(&key) {
            let (leasing, lease) = (Arc::clone(self), lease.clone());
            tokio::spawn(async move {
                if let Err(error) = leasing
                    .prolong_role(&lease, key, lease.request.access)
                    .await
                {
                    let lease = &lease.id;
                    tracing::warn!(%lease, error = %one_line(&error), "prolong a lease role");
                }
            });
        }
        if self.leases.branch_runs_out(lease) {
            let (leasing, lease) = (Arc::clone(self), lease.clone());
            let until = self.leases.end_of(ttl).max(lease.expire_time);
            let prolonged = async move {
                // While Neon is away each renewal comes here.
                let prolonging = Box::pin(leasing.prolong_branch(&lease, until));
                if let Err(error) = leasing.prolonging.share(lease.id, prolonging).await {
                    let (lease, error) = (&lease.id, one_line(&*error));
                    tracing::warn!(%lease, error, "prolong a lease's branch");
                }
            };
            tokio::spawn(prolonged.instrument(traces::behind("prolong a lease's branch")));
        }
    }

    async fn prolong_role(
        self: &Arc<Self>,
        lease: &Lease,
        key: RoleKey,
        access: Access,
    ) -> Result<(), Error> {
        let place = self.place_of_lease(lease).await?;
        if place.branch != key.branch {
            // Its binding has moved, and so will it.
            return Ok(());
        }
        let wanted = Wanted {
            access,
            valid_until: self.leases.password_end(),
        };
        let valid_until = self.make(&place, &key, wanted).await?;
        let prolonged = self.leases.role_prolonged(key.clone(), valid_until).await;
        self.close_unusable(&place, &key).await?;
        Ok(prolonged?)
    }

    async fn prolong_branch(&self, lease: &Lease, until: Timestamp) -> Result<(), Error> {
        let neon = self.keeper.neon();
        let turn = neon.turn().await?;
        let mut until = until;
        for _ in 0..PROLONG_TRIES_MAX {
            // Whoever had the turn before may have done it, or another broker, or the
            // lease has ended; and another broker's end may come after ours.
            self.leases.catch_up().await?;
            let Some(lease) = self.runs_out_still(lease.id) else {
                return Ok(());
            };
            until = until.max(lease.expire_time);
            let change = BranchUpdateRequest::default().expires_at(self.leases.branch_end(until));
            let branch = &lease.grant.branch;
            neon.branch_update(branch, &change, &turn).await?;
            let found = neon.branch(branch).await?;
            // What Neon says counts, not what it was asked for.
            if let Some(confirmed) = found.and_then(|found| found.branch.expires_at) {
                self.leases.branch_prolonged(lease.id, confirmed).await?;
            }
        }
        Ok(())
    }

    fn runs_out_still(&self, id: LeaseId) -> Option<Lease> {
        let lease = self.leases.known(id).ok()?;
        self.leases.branch_runs_out(&lease).then_some(lease)
    }
}
