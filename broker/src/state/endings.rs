//! What follows from the end of a lease: who watches it hears of it, and its role
//! is to be closed.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use neon_api::BranchId;
use tokio_util::sync::CancellationToken;

use super::Data;
use crate::leases::Lease;
use crate::names::{BindingName, LeaseId};

/// A role that a lease of that binding had.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ended {
    /// The lease's binding.
    pub binding: BindingName,
    /// The branch that the role is on.
    pub branch: BranchId,
    /// The role.
    pub role: String,
}

/// The ends of leases.
#[derive(Debug, Default)]
pub struct Endings {
    /// Cancelled when the lease ends: for those who follow one.
    watched: Mutex<HashMap<LeaseId, CancellationToken>>,
    /// Roles whose lease has ended, to be closed unless another has them.
    ended: Mutex<BTreeSet<Ended>>,
}

impl Endings {
    /// Resolves when the lease ends. To be asked for before the lease is looked
    /// at, so that no end is missed.
    pub fn of(&self, id: LeaseId) -> CancellationToken {
        self.watched().entry(id).or_default().clone()
    }

    /// Roles that leases had which have ended since this was last asked.
    pub fn take_ended(&self) -> BTreeSet<Ended> {
        std::mem::take(&mut *self.ended())
    }

    /// Tells who watches a lease that its time is up.
    pub fn expired(&self, id: LeaseId) {
        if let Some(ending) = self.watched().remove(&id) {
            ending.cancel();
        }
    }

    /// Tells who asked for a lease that is not there, or is there no more.
    pub fn forget_unknown(&self, data: &Data) {
        self.watched().retain(|id, ending| {
            let lives = data.leases.contains_key(id);
            if !lives {
                ending.cancel();
            }
            lives
        });
    }

    pub(super) fn tell(&self, leases: Vec<Lease>) {
        for lease in leases {
            self.expired(lease.id);
            self.ended().insert(Ended {
                binding: lease.request.binding,
                branch: lease.grant.branch,
                role: lease.grant.role,
            });
        }
    }

    fn watched(&self) -> MutexGuard<'_, HashMap<LeaseId, CancellationToken>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ended(&self) -> MutexGuard<'_, BTreeSet<Ended>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
