//! Ids of requests: which lease each was given, and which are being answered.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use super::Lease;
use crate::names::LeaseId;

/// Held by the request that is being answered.
type Flight = Arc<tokio::sync::Mutex<()>>;

/// An index of leases. What it names may have ended: whoever asks looks.
#[derive(Debug)]
pub(super) struct RequestIds {
    /// The newest lease of each id.
    leases: Mutex<HashMap<Uuid, LeaseId>>,
    /// Those that are being answered: the same one waits, so that it is not
    /// given a lease that then cannot be stored.
    flights: Mutex<HashMap<Uuid, Flight>>,
}

impl RequestIds {
    /// Of these leases.
    pub(super) fn of<'a>(leases: impl Iterator<Item = &'a Lease>) -> RequestIds {
        let leases = leases
            .filter_map(|lease| Some((lease.request_id?, lease.id)))
            .collect();
        RequestIds {
            leases: Mutex::new(leases),
            flights: Mutex::default(),
        }
    }

    /// The lease that the id was given last.
    pub(super) fn get(&self, id: Uuid) -> Option<LeaseId> {
        self.leases().get(&id).copied()
    }

    /// Notes a lease that is given.
    pub(super) fn note(&self, lease: &Lease) {
        self.leases()
            .extend(lease.request_id.map(|request| (request, lease.id)));
    }

    /// Forgets a lease that has ended.
    pub(super) fn forget(&self, lease: &Lease) {
        if let Some(request) = lease.request_id {
            let mut leases = self.leases();
            if leases.get(&request) == Some(&lease.id) {
                leases.remove(&request);
            }
        }
    }

    /// What the one that answers the id holds meanwhile.
    pub(super) fn flight(&self, id: Uuid) -> Flight {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody else has those that only this map holds.
        flights.retain(|_, flight| Arc::strong_count(flight) > 1);
        Arc::clone(flights.entry(id).or_default())
    }

    fn leases(&self) -> MutexGuard<'_, HashMap<Uuid, LeaseId>> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
