//! A project's worker: takes its operations in order, and records how each goes.

use std::sync::Arc;
use std::time::Duration;

use neon_api::types::OperationStatus;
use neon_api::{OperationId, ProjectId};
use tracing::{error, info, warn};

use super::outcome::Outcome;
use super::{Engine, chain};
use crate::state::{OperationRecord, ProjectRecord, StoreError};
use crate::time::now;

/// How long a worker waits when the state cannot be written.
const RECORD_RETRY_MS: u64 = 1_000;

impl Engine {
    /// Works until the project is gone or the emulator stops.
    pub(super) async fn work(self: Arc<Self>, project: ProjectId) {
        let mut changes = self.changes.subscribe();
        let mut stopping = self.stopping.subscribe();
        loop {
            changes.mark_unchanged();
            let next = self.store.read(|state| {
                let project = state.projects.get(&project)?;
                Some(project.next_operation().cloned())
            });
            match next {
                // The project was deleted.
                None => return,
                Some(Some(record)) => {
                    if let Err(error) = self.perform(&project, record).await {
                        // The disk is full, say. The job is done again.
                        error!(%project, error = chain(&error), "an operation could not be recorded");
                        tokio::time::sleep(Duration::from_millis(RECORD_RETRY_MS)).await;
                    }
                }
                Some(None) => {
                    tokio::select! {
                        changed = changes.changed() => if changed.is_err() { return },
                        _ = stopping.wait_for(|stopping| *stopping) => return,
                    }
                }
            }
            if *stopping.borrow() {
                return;
            }
        }
    }

    async fn perform(
        self: &Arc<Self>,
        project: &ProjectId,
        record: OperationRecord,
    ) -> Result<(), StoreError> {
        let id = record.operation.id;
        self.set_status(project, id, OperationStatus::Running, None)?;
        let started = std::time::Instant::now();
        let result = self.run_with_fault(project, &record).await;
        if *self.stopping.borrow() && result.is_err() {
            // The next run does it again.
            return self.set_status(project, id, OperationStatus::Scheduling, None);
        }
        let milliseconds = started.elapsed().as_millis();
        match result {
            Ok(outcome) => {
                self.set_finished(project, id, &outcome)?;
                info!(operation = %id, action = %record.operation.action, milliseconds, "finished");
                if let Outcome::Restored {
                    branch, preserve, ..
                } = &outcome
                {
                    self.tidy_restore(branch, preserve.as_ref()).await;
                }
                Ok(())
            }
            Err(error) => {
                let message = chain(&error);
                warn!(operation = %id, action = %record.operation.action, error = message, "failed");
                self.discard_half_made(project, &record.job).await;
                self.set_status(project, id, OperationStatus::Failed, Some(message))?;
                self.change(|state| {
                    if let Some(project) = state.projects.get_mut(project) {
                        project.cancel_chain(record.chain);
                    }
                    Ok(())
                })
            }
        }
    }

    fn set_finished(
        &self,
        project: &ProjectId,
        id: OperationId,
        outcome: &Outcome,
    ) -> Result<(), StoreError> {
        let has_pooler = self.has_pooler();
        self.change(|state| {
            if let Some(project) = state.projects.get_mut(project) {
                set_status(project, id, OperationStatus::Finished, None);
                outcome.put_into(project, has_pooler);
            }
            Ok(())
        })
    }

    fn set_status(
        &self,
        project: &ProjectId,
        id: OperationId,
        status: OperationStatus,
        error: Option<String>,
    ) -> Result<(), StoreError> {
        self.change(|state| {
            if let Some(project) = state.projects.get_mut(project) {
                set_status(project, id, status, error);
            }
            Ok(())
        })
    }
}

fn set_status(
    project: &mut ProjectRecord,
    id: OperationId,
    status: OperationStatus,
    error: Option<String>,
) {
    let mut operations = project.operations.iter_mut();
    let found = operations.find(|record| record.operation.id == id);
    if let Some(operation) = found.map(|record| &mut record.operation) {
        let at = now();
        operation.failures_count += i64::from(status == OperationStatus::Failed);
        operation.total_duration_ms = (at - operation.created_at)
            .total(jiff::Unit::Millisecond)
            .unwrap_or_default() as i64;
        operation.updated_at = at;
        operation.status = status;
        operation.error = error;
    }
}
