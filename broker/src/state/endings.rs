//! What becomes of leases, for those who follow one.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::Data;
use crate::names::LeaseId;

/// What became of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// It leads elsewhere, or to another role.
    Moved,
    /// It ended, or was revoked.
    Ended,
}

/// Those who follow leases.
#[derive(Debug, Default)]
pub struct Endings {
    followed: Mutex<HashMap<LeaseId, watch::Sender<Option<Turn>>>>,
}

impl Endings {
    /// Changes when something becomes of the lease. To be asked for before the
    /// lease is looked at, so that nothing is missed.
    pub fn of(&self, id: LeaseId) -> watch::Receiver<Option<Turn>> {
        let mut followed = self.followed();
        let sender = followed
            .entry(id)
            .or_insert_with(|| watch::Sender::new(None));
        sender.subscribe()
    }

    /// Tells who follows a lease what became of it.
    pub fn tell(&self, id: LeaseId, turn: Turn) {
        let mut followed = self.followed();
        match turn {
            Turn::Moved => {
                if let Some(sender) = followed.get(&id) {
                    sender.send_replace(Some(turn));
                }
            }
            Turn::Ended => {
                if let Some(sender) = followed.remove(&id) {
                    sender.send_replace(Some(turn));
                }
            }
        }
    }

    /// Tells who follows a lease that is not there, or is there no more, and
    /// forgets those that nobody follows.
    pub fn forget_unknown(&self, data: &Data) {
        self.followed().retain(|id, sender| {
            let lives = data.leases.contains_key(id);
            if !lives {
                sender.send_replace(Some(Turn::Ended));
            }
            lives && sender.receiver_count() > 0
        });
    }

    fn followed(&self) -> MutexGuard<'_, HashMap<LeaseId, watch::Sender<Option<Turn>>>> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
