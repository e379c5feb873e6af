//! Deletions that failed are tried again while the emulator runs. Callers see
//! what they deleted as gone; only its folders are left.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use neon_api::types::OperationAction;
use neon_api::{BranchId, ProjectId, SnapshotId};
use tracing::{error, info};
use uuid::Uuid;

use super::{Engine, chain};
use crate::operations;
use crate::state::{Job, ProjectRecord, StoreError};

/// After the first failure. Each further one doubles it.
const RETRY_SECONDS_MIN: u64 = 1;
const RETRY_SECONDS_MAX: u64 = 300;

/// A project with deletions that failed.
#[derive(Default)]
struct Waiting {
    failures: u32,
    /// `None`: they are being tried again.
    due: Option<Instant>,
}

impl Engine {
    /// Until the emulator stops.
    pub(super) async fn retry_deletions(self: Arc<Self>) {
        let mut changes = self.changes.subscribe();
        let mut stopping = self.stopping.subscribe();
        let mut waiting: HashMap<ProjectId, Waiting> = HashMap::new();
        loop {
            changes.mark_unchanged();
            self.store.read(|state| {
                waiting.retain(|id, _| state.projects.get(id).is_some_and(has_deletions));
                for (id, project) in &state.projects {
                    if has_failed_deletions(project) {
                        waiting.entry(id.clone()).or_default().failed();
                    }
                }
            });
            for (project, waiting) in &mut waiting {
                if waiting.due.is_some_and(|due| due <= Instant::now()) {
                    waiting.due = None;
                    if let Err(error) = self.retry(project) {
                        error!(%project, error = chain(&error), "it could not be scheduled");
                        waiting.failed();
                    }
                }
            }
            let next = waiting.values().filter_map(|waiting| waiting.due).min();
            let due = async {
                match next {
                    Some(time) => tokio::time::sleep_until(time.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = due => {}
                _ = stopping.wait_for(|stopping| *stopping) => return,
            }
        }
    }

    fn retry(&self, project: &ProjectId) -> Result<(), StoreError> {
        info!(%project, "trying again to delete what could not be deleted");
        self.change(|state| {
            if let Some(project) = state.projects.get_mut(project) {
                schedule_failed_deletions(project);
            }
            Ok(())
        })
    }
}

impl Waiting {
    /// Notes a failure, unless it is noted.
    fn failed(&mut self) {
        if self.due.is_some() {
            return;
        }
        let doubled = RETRY_SECONDS_MIN.saturating_mul(1_u64 << self.failures.min(32));
        self.failures = self.failures.saturating_add(1);
        self.due = Some(Instant::now() + Duration::from_secs(doubled.min(RETRY_SECONDS_MAX)));
    }
}

/// Schedules the deletions of the project that failed: their records are still
/// there.
pub(super) fn schedule_failed_deletions(project: &mut ProjectRecord) {
    if project.deleted {
        if !is_deletion_scheduled(project) {
            project.schedule(vec![operations::record(
                &project.project.id.clone(),
                None,
                None,
                OperationAction::DeleteTimeline,
                Job::DeleteProject,
                Uuid::new_v4(),
            )]);
        }
        return;
    }
    let snapshots: Vec<SnapshotId> = failed_snapshots(project).cloned().collect();
    for snapshot in snapshots {
        operations::delete_snapshot(project, &snapshot);
    }
    let branches: Vec<BranchId> = failed_branches(project).cloned().collect();
    for branch in branches {
        operations::delete_branch(project, &branch);
    }
}

/// Something of the project was deleted, and is not gone.
fn has_deletions(project: &ProjectRecord) -> bool {
    project.deleted
        || project.branches.values().any(|record| record.deleted)
        || project.snapshots.values().any(|record| record.deleted)
}

/// And nobody is at it.
fn has_failed_deletions(project: &ProjectRecord) -> bool {
    match project.deleted {
        true => !is_deletion_scheduled(project),
        false => {
            failed_branches(project).next().is_some() || failed_snapshots(project).next().is_some()
        }
    }
}

fn is_deletion_scheduled(project: &ProjectRecord) -> bool {
    let mut operations = project.operations.iter();
    operations.any(|record| record.job == Job::DeleteProject && !record.operation.status.is_final())
}

fn failed_branches(project: &ProjectRecord) -> impl Iterator<Item = &BranchId> {
    let branches = project.branches.values().filter(|record| record.deleted);
    branches
        .map(|record| &record.branch.id)
        .filter(|id| !project.is_busy(id))
}

fn failed_snapshots(project: &ProjectRecord) -> impl Iterator<Item = &SnapshotId> {
    let snapshots = project.snapshots.values().filter(|record| record.deleted);
    snapshots
        .map(|record| &record.snapshot.id)
        .filter(|id| !project.is_snapshot_busy(id))
}
