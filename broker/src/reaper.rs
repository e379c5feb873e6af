//! Deletes the branches of leases that have ended, and those that wait for none any more.
//!
//! What holds: a branch that was made for a lease goes when the lease does not live,
//! or never will, and nobody makes it any more, whichever broker began it; and nothing else is
//! deleted here. Neon's own `expires_at` is behind this, should no broker run.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};

use crate::branches;
use crate::leases::Leases;
use crate::leasing::Leasing;
use crate::names::{BranchName, LeaseId};
use crate::neon::{self, Found, Neon};
use crate::state::{self, Intent, OwnBranch};
use crate::text::one_line;
use crate::tries::Tries;

/// How often to look for branches that are to go, in milliseconds.
const LOOK_MS: u64 = 250;
/// Pauses between looks for a branch that may come yet, in milliseconds.
const LATE_MS: u64 = 2_000;

/// Deletes branches.
#[derive(Debug)]
pub struct Reaper {
    leases: Arc<Leases>,
    leasing: Arc<Leasing>,
    neon: Neon,
}

/// Why a branch is still there.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Neon(#[from] neon::Error),
    #[error(transparent)]
    State(#[from] state::Error),
    #[error(transparent)]
    Refused(#[from] branches::Error),
}

impl Reaper {
    /// For the branches of these leases, in that project.
    pub fn new(leases: Arc<Leases>, leasing: Arc<Leasing>, neon: Neon) -> Reaper {
        Reaper {
            leases,
            leasing,
            neon,
        }
    }

    /// Deletes branches as their leases end, for ever.
    pub async fn run(&self) {
        let mut interval = tokio::time::interval(Duration::from_millis(LOOK_MS));
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut tries: Tries<BranchName> = Tries::default();
        loop {
            interval.tick().await;
            let orphans = self.leases.orphans();
            tries.retain(&orphans.iter().map(|(name, _)| name).collect());
            for (name, own) in orphans {
                if !tries.is_due(&name, Instant::now()) {
                    continue;
                }
                match self.delete(&name, &own).await {
                    Ok(true) => {}
                    Ok(false) => tries.wait(name, Instant::now() + Duration::from_millis(LATE_MS)),
                    Err(error) => {
                        let (branch, error) = (name.clone(), one_line(&error));
                        let failed = tries.failed(name, Instant::now());
                        tracing::warn!(%branch, failed, error, "a lease's branch is still there");
                    }
                }
            }
        }
    }

    /// False: it is not there, and may come yet.
    async fn delete(&self, name: &BranchName, own: &OwnBranch) -> Result<bool, Error> {
        let turn = self.neon.turn().await?;
        // Written down first, and looked at again with that: the lease may live by now.
        if !self
            .leases
            .orphan_note(name.clone(), Intent::Delete)
            .await?
        {
            return Ok(true);
        }
        let found = match &own.branch {
            Some(id) => self.neon.branch(id).await?,
            None => self.neon.branch_named(name).await?,
        };
        let waits_for = || own.warm.as_ref().map(|warm| warm.lease);
        let lease = own.lease.as_ref().map(|of| of.id).or_else(waits_for);
        if found.is_none() && own.branch.is_none() && self.leases.may_come(own) {
            return Ok(false);
        }
        if let Some(found) = found {
            let id = found.branch.id.clone();
            may_delete(&found, own, lease)?;
            self.neon.branch_delete(&id, &turn).await?;
            self.leasing.forget_place(&id).await;
            tracing::info!(branch = %name, %id, "deleted an ephemeral branch");
        }
        self.leases.orphan_note(name.clone(), Intent::Gone).await?;
        Ok(true)
    }
}

/// Nothing but what was made for that lease, and no default or protected branch.
fn may_delete(
    found: &Found,
    own: &OwnBranch,
    lease: Option<LeaseId>,
) -> Result<(), branches::Error> {
    let name = found.branch.name.clone();
    if found.branch.default {
        return Err(branches::Error::Default { name });
    }
    if found.branch.protected {
        return Err(branches::Error::Protected { name });
    }
    let is_in_ledger = own.branch.as_ref() == Some(&found.branch.id);
    let note = lease.map(|lease| lease.to_string());
    let is_noted = found.managed && note.is_some() && found.request == note;
    match is_in_ledger || is_noted {
        true => Ok(()),
        false => Err(branches::Error::NotOurs { name }),
    }
}
