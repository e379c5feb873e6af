//! Ids of requests: which lease each was given, and which are being answered.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use super::{Lease, Request};
use crate::names::LeaseId;

/// Held by the request that is being answered.
type Flight = Arc<tokio::sync::Mutex<()>>;

/// An id that a caller made. Another's may be the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct RequestKey {
    owner: Option<String>,
    id: Uuid,
}

impl RequestKey {
    /// The id of that request.
    pub(super) fn of(id: Uuid, request: &Request) -> RequestKey {
        RequestKey {
            owner: request.owner.clone(),
            id,
        }
    }

    fn of_lease(lease: &Lease) -> Option<RequestKey> {
        Some(RequestKey::of(lease.request_id?, &lease.request))
    }
}

/// An index of leases. What it names may have ended: whoever asks looks.
#[derive(Debug)]
pub(super) struct RequestIds {
    /// The newest lease of each id.
    leases: Mutex<HashMap<RequestKey, LeaseId>>,
    /// Those that are being answered: the same one waits, so that it is not
    /// given a lease that then cannot be stored.
    flights: Mutex<HashMap<RequestKey, Flight>>,
}

impl RequestIds {
    /// Of these leases.
    pub(super) fn of<'a>(leases: impl Iterator<Item = &'a Lease>) -> RequestIds {
        let leases = leases
            .filter_map(|lease| Some((RequestKey::of_lease(lease)?, lease.id)))
            .collect();
        RequestIds {
            leases: Mutex::new(leases),
            flights: Mutex::default(),
        }
    }

    /// The lease that the id was given last.
    pub(super) fn get(&self, key: &RequestKey) -> Option<LeaseId> {
        self.leases().get(key).copied()
    }

    /// Notes a lease that is given.
    pub(super) fn note(&self, lease: &Lease) {
        self.leases()
            .extend(RequestKey::of_lease(lease).map(|key| (key, lease.id)));
    }

    /// Forgets a lease that has ended.
    pub(super) fn forget(&self, lease: &Lease) {
        if let Some(key) = RequestKey::of_lease(lease) {
            let mut leases = self.leases();
            if leases.get(&key) == Some(&lease.id) {
                leases.remove(&key);
            }
        }
    }

    /// What the one that answers the id holds meanwhile.
    pub(super) fn flight(&self, key: RequestKey) -> Flight {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody else has those that only this map holds.
        flights.retain(|_, flight| Arc::strong_count(flight) > 1);
        Arc::clone(flights.entry(key).or_default())
    }

    fn leases(&self) -> MutexGuard<'_, HashMap<RequestKey, LeaseId>> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
