//! Who watches a lease hears of its end.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use super::Data;
use crate::names::LeaseId;

/// The ends of leases.
#[derive(Debug, Default)]
pub struct Endings {
    /// Cancelled when the lease ends: for those who follow one.
    watched: Mutex<HashMap<LeaseId, CancellationToken>>,
}

impl Endings {
    /// Resolves when the lease ends. To be asked for before the lease is looked
    /// at, so that no end is missed.
    pub fn of(&self, id: LeaseId) -> CancellationToken {
        self.watched().entry(id).or_default().clone()
    }

    /// Tells who watches a lease that it has ended.
    pub fn end(&self, id: LeaseId) {
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

    fn watched(&self) -> MutexGuard<'_, HashMap<LeaseId, CancellationToken>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
