//! What each kind of operation does.

use std::path::PathBuf;
use std::sync::Arc;

use neon_api::types::{EndpointState, OperationAction};
use neon_api::{BranchId, EndpointId, ProjectId};
use uuid::Uuid;

use super::Engine;
use super::history::Point;
use super::job_error::JobError;
use super::outcome::Outcome;
use crate::operations;
use crate::postgres::{ForkPoint, admin, checkpoint_lsn, clone_idle, clone_running, empty};
use crate::state::{Job, OperationRecord, ProjectRecord, StoreError};
use crate::time::now;

impl Engine {
    pub(super) async fn run(
        self: &Arc<Self>,
        project: &ProjectId,
        job: &Job,
    ) -> Result<Outcome, JobError> {
        let _held = match self.touched_by(project, job) {
            Some(branch) => Some(self.hold(&branch).await),
            None => None,
        };
        match job {
            Job::CreateRoot { branch } => self.create_root(branch).await,
            Job::CreateBranch { branch, point } => {
                self.create_branch(project, branch, *point).await
            }
            Job::CreateSchemaBranch { branch, source } => {
                self.create_schema_branch(project, branch, source).await
            }
            Job::RestoreBranch {
                branch,
                source,
                before: _,
                point,
                preserve,
            } => {
                self.restore_branch(project, branch, source, *point, preserve.as_ref())
                    .await
            }
            Job::StartCompute { endpoint } => {
                self.start_endpoint(project, endpoint).await?;
                Ok(Outcome::Active(endpoint.clone()))
            }
            Job::SuspendCompute { endpoint } => {
                self.halt_endpoint(project, endpoint).await?;
                Ok(Outcome::Idle(endpoint.clone()))
            }
            Job::SuspendIfIdle { endpoint } => self.suspend_if_idle(project, endpoint).await,
            Job::MoveEndpoint { endpoint, to, .. } => {
                self.halt_endpoint(project, endpoint).await?;
                Ok(Outcome::Moved {
                    endpoint: endpoint.clone(),
                    branch: to.clone(),
                })
            }
            Job::DeleteEndpoint { endpoint } => {
                recorded(self.delete_endpoint(project, endpoint).await)
            }
            Job::ApplyConfig { branch, change } => {
                recorded(self.apply(project, branch, change).await)
            }
            Job::DeleteBranch { branch } => recorded(self.delete_branch(project, branch).await),
            Job::CreateSnapshot {
                snapshot,
                branch,
                point,
            } => recorded(
                self.create_snapshot(project, snapshot, branch, *point)
                    .await,
            ),
            Job::RestoreSnapshot { snapshot, branch } => {
                self.restore_snapshot(snapshot, branch).await
            }
            Job::FinalizeRestore {
                branch,
                target,
                old_name,
            } => recorded(
                self.finalize_restore(project, branch, target, old_name)
                    .await,
            ),
            Job::DeleteSnapshot { snapshot } => {
                recorded(self.delete_snapshot(project, snapshot).await)
            }
            Job::DeleteProject => recorded(self.delete_project(project).await),
        }
    }

    /// The branch whose folder a job works on. Of a branch that is cloned it is
    /// the parent's: nobody else knows the new one.
    fn touched_by(&self, project: &ProjectId, job: &Job) -> Option<BranchId> {
        self.store().read(|state| {
            let project = state.projects.get(project)?;
            match job {
                // A restore holds its source first, then the branch.
                Job::CreateRoot { .. }
                | Job::DeleteProject
                | Job::RestoreBranch { .. }
                | Job::RestoreSnapshot { .. }
                | Job::FinalizeRestore { .. }
                | Job::DeleteSnapshot { .. } => None,
                Job::CreateSnapshot { branch, .. } => Some(branch.clone()),
                Job::CreateSchemaBranch { source, .. } => Some(source.clone()),
                Job::CreateBranch { branch, .. } => {
                    project.branches.get(branch)?.branch.parent_id.clone()
                }
                Job::StartCompute { endpoint }
                | Job::SuspendCompute { endpoint }
                | Job::SuspendIfIdle { endpoint }
                | Job::MoveEndpoint { endpoint, .. }
                | Job::DeleteEndpoint { endpoint } => {
                    Some(project.endpoints.get(endpoint)?.endpoint.branch_id.clone())
                }
                Job::ApplyConfig { branch, .. } | Job::DeleteBranch { branch } => {
                    Some(branch.clone())
                }
            }
        })
    }

    /// Schedules the start of an endpoint whose server has died, as the emulator's
    /// own doing.
    pub(super) fn schedule_start(
        &self,
        project: &ProjectId,
        endpoint: &EndpointId,
    ) -> Result<(), StoreError> {
        self.schedule_one(project, |project| {
            let record = &project.endpoint(endpoint)?.endpoint;
            // It may have been suspended or disabled meanwhile; or have died before
            // its start was recorded.
            let is_wanted = match record.pending_state {
                Some(EndpointState::Active) => true,
                Some(EndpointState::Idle) => false,
                _ => record.current_state == EndpointState::Active,
            } && !record.disabled;
            is_wanted
                .then(|| start_operation(project, endpoint))
                .flatten()
        })
    }

    /// Schedules its suspension, in the same way.
    pub(super) fn schedule_suspension(
        &self,
        project: &ProjectId,
        endpoint: &EndpointId,
    ) -> Result<(), StoreError> {
        let job = Job::SuspendCompute {
            endpoint: endpoint.clone(),
        };
        self.schedule_one(project, |project| {
            endpoint_operation(project, endpoint, OperationAction::SuspendCompute, job)
        })
    }

    fn schedule_one(
        &self,
        project: &ProjectId,
        operation: impl FnOnce(&ProjectRecord) -> Option<OperationRecord>,
    ) -> Result<(), StoreError> {
        self.change(|state| {
            let Some(project) = state.projects.get_mut(project) else {
                return Ok(());
            };
            if let Some(operation) = operation(project) {
                project.schedule(vec![operation]);
            }
            Ok(())
        })
    }

    async fn create_branch(
        &self,
        project: &ProjectId,
        branch: &BranchId,
        point: Option<Point>,
    ) -> Result<Outcome, JobError> {
        let parent = self
            .store()
            .read(|state| {
                let record = state.projects.get(project)?.branches.get(branch)?;
                record.branch.parent_id.clone()
            })
            .ok_or(JobError::Gone)?;
        let folder = self.folder(branch);
        let Some(point) = point else {
            let copied = self.copy(project, &parent, folder).await?;
            return Ok(Outcome::Ready {
                branch: branch.clone(),
                fork: Some((copied.lsn, now())),
                cloned_by: copied.cloned_by,
            });
        };
        let past = self.copy_past(project, &parent, point, folder).await?;
        let fork = Some((past.lsn.to_string(), past.time.unwrap_or_else(now)));
        let cloned_by = past.cloned_by;
        self.change(|state| {
            if let Some(record) = state
                .projects
                .get_mut(project)
                .and_then(|project| project.branches.get_mut(branch))
            {
                past.found.put_into(record, &mut state.next_database_id);
            }
            Ok::<_, StoreError>(())
        })?;
        Ok(Outcome::Ready {
            branch: branch.clone(),
            fork,
            cloned_by,
        })
    }

    async fn create_schema_branch(
        &self,
        project: &ProjectId,
        branch: &BranchId,
        source: &BranchId,
    ) -> Result<Outcome, JobError> {
        let copied = self.copy(project, source, self.folder(branch)).await?;
        self.with_admin(project, branch, async |client, port| {
            Ok::<_, JobError>(empty::remove_rows(&client, self.sockets(), port).await?)
        })
        .await?;
        Ok(Outcome::Ready {
            branch: branch.clone(),
            fork: None,
            cloned_by: copied.cloned_by,
        })
    }

    /// Clones a branch's data into a folder of its own, and says where in the
    /// branch's history it stands. The caller holds the branch.
    pub(super) async fn copy(
        &self,
        project: &ProjectId,
        source: &BranchId,
        to: PathBuf,
    ) -> Result<ForkPoint, JobError> {
        let from = self.folder(source);
        let storage = self.storage().clone();
        let Some(server) = self.writer_of(project, source) else {
            return blocking(move || {
                let cloned_by = clone_idle(&from, &to, &storage)?;
                let lsn = checkpoint_lsn(&from)?;
                Ok(ForkPoint { lsn, cloned_by })
            })
            .await;
        };
        let client = admin::connect(self.sockets(), server.port(), "postgres").await?;
        let major = self.installation().major();
        Ok(clone_running(client, major, from, to, storage).await?)
    }
}

/// Work that records what it does.
fn recorded(done: Result<(), JobError>) -> Result<Outcome, JobError> {
    done.map(|()| Outcome::Recorded)
}

/// The start of an endpoint, if there is such an endpoint.
pub(super) fn start_operation(
    project: &ProjectRecord,
    endpoint: &EndpointId,
) -> Option<OperationRecord> {
    let job = Job::StartCompute {
        endpoint: endpoint.clone(),
    };
    endpoint_operation(project, endpoint, OperationAction::StartCompute, job)
}

fn endpoint_operation(
    project: &ProjectRecord,
    endpoint: &EndpointId,
    action: OperationAction,
    job: Job,
) -> Option<OperationRecord> {
    let branch = &project.endpoint(endpoint)?.endpoint.branch_id;
    let chain = Uuid::new_v4();
    let project = &project.project.id;
    Some(operations::record(
        project,
        Some(branch),
        Some(endpoint),
        action,
        job,
        chain,
    ))
}

/// Work that would hold up the runtime.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, JobError> + Send + 'static,
) -> Result<T, JobError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| JobError::Cancelled)?
}
