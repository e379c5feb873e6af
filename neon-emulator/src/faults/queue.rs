//! What is stored here, and who may change it.
//!
//! The faults that are waiting, those that are spent, and what was asked of the
//! API since the start; in memory alone. The handle and the admin routes queue
//! and delete faults, the API's middleware and the engine take them.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::http::Method;
use neon_api::types::Operation;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::requests::{RequestGuard, RequestLog, Requests};
use super::{Fault, FaultError, OperationEffect, OperationFault, RouteEffect, RouteFault};

/// Faults that are kept, spent ones included.
const FAULTS_MAX: usize = 1_000;

/// Names a fault that was queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FaultId(u64);

impl fmt::Display for FaultId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// A fault that was queued. It stays in the list when it is spent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueuedFault {
    /// Its name.
    pub id: FaultId,
    /// What it is.
    pub fault: Fault,
    /// How often it happened.
    pub hits: u32,
    /// How often it is still to happen.
    pub left: u32,
}

/// A request, as far as faults look at it.
#[derive(Debug)]
pub(crate) struct Seen<'a> {
    pub(crate) method: &'a Method,
    /// The route, without `/api/v2`.
    pub(crate) route: &'a str,
    /// The path as it was asked for, with its query.
    pub(crate) path: &'a str,
}

/// The faults of one emulator.
#[derive(Debug)]
pub(crate) struct FaultQueue {
    faults: Mutex<Vec<QueuedFault>>,
    /// The last id that was given out.
    last_id: AtomicU64,
    requests: Mutex<RequestLog>,
    /// Counts the changes, for those who wait for a hit.
    changes: watch::Sender<u64>,
}

impl Default for FaultQueue {
    fn default() -> Self {
        Self {
            faults: Mutex::default(),
            last_id: AtomicU64::new(0),
            requests: Mutex::default(),
            changes: watch::Sender::new(0),
        }
    }
}

impl FaultQueue {
    /// Queues a fault whose route was found to be one.
    pub(super) fn push(&self, fault: Fault) -> Result<QueuedFault, FaultError> {
        fault.check()?;
        let mut faults = self.lock();
        if faults.len() >= FAULTS_MAX {
            return Err(FaultError::TooMany {
                faults_max: FAULTS_MAX,
            });
        }
        let queued = QueuedFault {
            id: FaultId(self.last_id.fetch_add(1, Ordering::Relaxed) + 1),
            left: fault.count(),
            fault,
            hits: 0,
        };
        faults.push(queued.clone());
        Ok(queued)
    }

    pub(super) fn list(&self) -> Vec<QueuedFault> {
        self.lock().clone()
    }

    pub(super) fn clear(&self) {
        self.lock().clear();
        self.changes.send_modify(|count| *count += 1);
    }

    pub(super) fn remove(&self, id: FaultId) -> bool {
        let mut faults = self.lock();
        let before = faults.len();
        faults.retain(|queued| queued.id != id);
        let removed = faults.len() < before;
        drop(faults);
        self.changes.send_modify(|count| *count += 1);
        removed
    }

    /// Waits until the fault has happened so often; false when it was deleted.
    pub(super) async fn wait_for_hits(&self, id: FaultId, hits: u32) -> bool {
        let mut found = false;
        let mut changes = self.changes.subscribe();
        let done = |_: &u64| {
            let faults = self.lock();
            let queued = faults.iter().find(|queued| queued.id == id);
            found = queued.is_some();
            queued.is_none_or(|queued| queued.hits >= hits)
        };
        // The sender lives as long as `self`.
        let _ = changes.wait_for(done).await;
        found
    }

    /// Whether a fault that could be for the request wants to see its body.
    pub(crate) fn wants_body(&self, seen: &Seen<'_>) -> bool {
        self.lock().iter().any(|queued| {
            queued.left > 0
                && matches!(&queued.fault, Fault::Route(fault)
                    if fault.body_contains.is_some() && fault.is_for(seen))
        })
    }

    /// Takes the oldest fault that is for the request.
    pub(crate) fn take_for_request(&self, seen: &Seen<'_>, body: &[u8]) -> Option<RouteEffect> {
        self.take(|fault| match fault {
            Fault::Route(fault) if fault.is_for(seen) && fault.is_for_body(body) => {
                Some(fault.effect.clone())
            }
            _ => None,
        })
    }

    /// Takes the oldest fault that is for the operation.
    pub(crate) fn take_for_operation(
        &self,
        operation: &Operation,
        branch_name: Option<&str>,
    ) -> Option<OperationEffect> {
        self.take(|fault| match fault {
            Fault::Operation(fault) if fault.is_for(operation, branch_name) => {
                Some(fault.effect.clone())
            }
            _ => None,
        })
    }

    /// Notes that a request came.
    pub(crate) fn request_begun(
        self: &Arc<Self>,
        method: &Method,
        route: &str,
        path: &str,
    ) -> RequestGuard {
        RequestGuard::begin(Arc::clone(self), method, route, path)
    }

    pub(super) fn requests(&self) -> Requests {
        self.requests_lock().requests()
    }

    pub(super) fn requests_lock(&self) -> MutexGuard<'_, RequestLog> {
        // A panic while it was held left a whole log.
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take<T>(&self, fits: impl Fn(&Fault) -> Option<T>) -> Option<T> {
        let mut faults = self.lock();
        let (queued, effect) = faults
            .iter_mut()
            .filter(|queued| queued.left > 0)
            .find_map(|queued| fits(&queued.fault).map(|effect| (queued, effect)))?;
        queued.left -= 1;
        queued.hits += 1;
        drop(faults);
        self.changes.send_modify(|count| *count += 1);
        Some(effect)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<QueuedFault>> {
        // A panic while it was held left whole faults.
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RouteFault {
    fn is_for(&self, seen: &Seen<'_>) -> bool {
        self.method == *seen.method
            && self.path == seen.route
            && self
                .path_contains
                .as_ref()
                .is_none_or(|text| seen.path.contains(text.as_str()))
    }

    fn is_for_body(&self, body: &[u8]) -> bool {
        self.body_contains.as_ref().is_none_or(|text| {
            body.windows(text.len())
                .any(|window| window == text.as_bytes())
        })
    }
}

impl OperationFault {
    fn is_for(&self, operation: &Operation, branch_name: Option<&str>) -> bool {
        let id = operation.branch_id.as_ref().map(|id| id.as_str());
        self.action == operation.action
            && self
                .branch
                .as_deref()
                .is_none_or(|wanted| id == Some(wanted) || branch_name == Some(wanted))
    }
}
