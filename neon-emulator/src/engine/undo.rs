//! What is done when an operation has failed.

use neon_api::{BranchId, EndpointId, ProjectId, SnapshotId};
use tracing::error;

use super::Engine;
use super::job_error::JobError;
use crate::state::{Job, StoreError};

impl Engine {
    /// Leaves nothing of a job that failed: a branch whose making failed is no
    /// branch, and a role or database is what it was before.
    pub(super) async fn discard_half_made(&self, project: &ProjectId, job: &Job) {
        let discarded = match job {
            Job::CreateRoot { branch }
            | Job::CreateBranch { branch, .. }
            | Job::CreateSchemaBranch { branch, .. }
            | Job::RestoreSnapshot { branch, .. } => self.discard_branch(project, branch).await,
            Job::CreateSnapshot { snapshot, .. } => self.discard_snapshot(project, snapshot).await,
            Job::RestoreBranch {
                before, preserve, ..
            } => self.undo_restore(project, before, preserve.as_ref()).await,
            Job::ApplyConfig { branch, change } => self.undo_change(project, branch, change).await,
            Job::StartCompute { endpoint } => {
                if let Some((branch, false)) = self.served_by(project, endpoint) {
                    self.leave_replicas(project, &branch).await;
                }
                let idle = self.set_endpoint_idle(project, endpoint, None);
                idle.map_err(JobError::from)
            }
            Job::SuspendCompute { endpoint }
            | Job::SuspendIfIdle { endpoint }
            | Job::MoveEndpoint { endpoint, .. }
            | Job::DeleteEndpoint { endpoint } => self.stays(project, endpoint),
            Job::DeleteBranch { .. }
            | Job::FinalizeRestore { .. }
            | Job::DeleteSnapshot { .. }
            | Job::DeleteProject => Ok(()),
        };
        if let Err(error) = discarded {
            error!(
                ?job,
                error = super::chain(&error),
                "could not undo what failed"
            );
        }
    }

    /// One that cannot be removed now is tried again later, as any that was deleted.
    async fn discard_branch(&self, project: &ProjectId, branch: &BranchId) -> Result<(), JobError> {
        let deleted = self.delete_branch(project, branch).await;
        if deleted.is_err() {
            self.change(|state| {
                let project = state.projects.get_mut(project);
                if let Some(record) = project.and_then(|found| found.branches.get_mut(branch)) {
                    record.deleted = true;
                }
                Ok::<_, StoreError>(())
            })?;
        }
        deleted
    }

    async fn discard_snapshot(
        &self,
        project: &ProjectId,
        snapshot: &SnapshotId,
    ) -> Result<(), JobError> {
        let deleted = self.delete_snapshot(project, snapshot).await;
        if deleted.is_err() {
            self.change(|state| {
                let project = state.projects.get_mut(project);
                if let Some(record) = project.and_then(|found| found.snapshots.get_mut(snapshot)) {
                    record.deleted = true;
                }
                Ok::<_, StoreError>(())
            })?;
        }
        deleted
    }

    /// An endpoint that was to stop, or to go, and did not: it is there, and as it
    /// is.
    fn stays(&self, project: &ProjectId, endpoint: &EndpointId) -> Result<(), JobError> {
        let runs = self.server(endpoint).is_some();
        self.change(|state| {
            let project = state.projects.get_mut(project);
            if let Some(record) = project.and_then(|project| project.endpoints.get_mut(endpoint)) {
                record.deleted = false;
            }
            Ok::<_, StoreError>(())
        })?;
        if !runs {
            return Ok(self.set_endpoint_idle(project, endpoint, None)?);
        }
        Ok(self.change(|state| {
            let project = state.projects.get_mut(project);
            if let Some(record) = project.and_then(|project| project.endpoints.get_mut(endpoint)) {
                record.endpoint.pending_state = None;
            }
            Ok::<_, StoreError>(())
        })?)
    }
}
