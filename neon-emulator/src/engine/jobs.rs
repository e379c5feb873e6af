//! What each kind of operation does.

use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use neon_api::types::{BranchState, OperationAction};
use neon_api::{BranchId, EndpointId, ProjectId};
use thiserror::Error;
use tracing::error;
use uuid::Uuid;

use super::Engine;
use super::history::Point;
use super::ports::FreePortError;
use crate::operations;
use crate::postgres::admin::{self, AdminError};
use crate::postgres::{
    CloneError, ClusterError, ForkPoint, LeftoverError, ServerError, checkpoint_lsn, clone_idle,
    clone_running, empty,
};
use crate::state::{CatalogChange, Job, StoreError};
use crate::storage::{CloneMethod, StorageError};
use crate::time::now;

/// Why an operation failed.
#[derive(Debug, Error)]
pub(crate) enum JobError {
    #[error("could not prepare the data directory")]
    Cluster(#[from] ClusterError),
    #[error("could not clone the parent")]
    Clone(#[from] CloneError),
    #[error("could not run Postgres")]
    Server(#[from] ServerError),
    #[error("could not change the branch")]
    Admin(#[from] AdminError),
    #[error("could not end what an earlier run left")]
    Leftover(#[from] LeftoverError),
    #[error("could not record the change")]
    Store(#[from] StoreError),
    #[error("could not give the endpoint an address")]
    Port(#[from] FreePortError),
    #[error("could not change the branch's folder")]
    Storage(#[from] StorageError),
    #[error("could not put the label of a backup right in {}", path.display())]
    Label {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("could not read or write {} of the history", path.display())]
    Archive {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("could not go back in the history: {0}")]
    History(String),
    #[error("what it was for is gone")]
    Gone,
    #[error("its task ended early")]
    Cancelled,
    #[error("{0}")]
    AskedFor(String),
}

impl Engine {
    pub(super) async fn run(
        self: &Arc<Self>,
        project: &ProjectId,
        job: &Job,
    ) -> Result<(), JobError> {
        let _held = match self.touched_by(project, job) {
            Some(branch) => Some(self.hold(&branch).await),
            None => None,
        };
        match job {
            Job::CreateRoot { branch } => self.create_root(project, branch).await,
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
            Job::StartCompute { endpoint } => self.start_endpoint(project, endpoint).await,
            Job::SuspendCompute { endpoint } => self.stop_endpoint(project, endpoint).await,
            Job::DeleteEndpoint { endpoint } => self.delete_endpoint(project, endpoint).await,
            Job::ApplyConfig { branch, change } => self.apply(project, branch, change).await,
            Job::DeleteBranch { branch } => self.delete_branch(project, branch).await,
            Job::CreateSnapshot {
                snapshot,
                branch,
                point,
            } => {
                self.create_snapshot(project, snapshot, branch, *point)
                    .await
            }
            Job::RestoreSnapshot { snapshot, branch } => {
                self.restore_snapshot(project, snapshot, branch).await
            }
            Job::FinalizeRestore {
                branch,
                target,
                old_name,
            } => {
                self.finalize_restore(project, branch, target, old_name)
                    .await
            }
            Job::DeleteSnapshot { snapshot } => self.delete_snapshot(project, snapshot).await,
            Job::DeleteProject => self.delete_project(project).await,
        }
    }

    /// Leaves nothing of a job that failed: a branch whose making failed is no
    /// branch, and a role or database is what it was before.
    pub(super) async fn discard_half_made(&self, project: &ProjectId, job: &Job) {
        let discarded = match job {
            Job::CreateRoot { branch }
            | Job::CreateBranch { branch, .. }
            | Job::CreateSchemaBranch { branch, .. }
            | Job::RestoreSnapshot { branch, .. } => self.delete_branch(project, branch).await,
            Job::CreateSnapshot { snapshot, .. } => self.delete_snapshot(project, snapshot).await,
            Job::RestoreBranch {
                before, preserve, ..
            } => self.undo_restore(project, before, preserve.as_ref()).await,
            Job::ApplyConfig { branch, change } => self.change(|state| -> Result<_, JobError> {
                if let Some(record) = state
                    .projects
                    .get_mut(project)
                    .and_then(|project| project.branches.get_mut(branch))
                {
                    change.clone().undo(record);
                }
                Ok(())
            }),
            Job::StartCompute { endpoint } => {
                let idle = self.set_endpoint_idle(project, endpoint, None);
                idle.map_err(JobError::from)
            }
            Job::SuspendCompute { .. }
            | Job::DeleteEndpoint { .. }
            | Job::DeleteBranch { .. }
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
                | Job::DeleteEndpoint { endpoint } => {
                    Some(project.endpoints.get(endpoint)?.endpoint.branch_id.clone())
                }
                Job::ApplyConfig { branch, .. } | Job::DeleteBranch { branch } => {
                    Some(branch.clone())
                }
            }
        })
    }

    /// Schedules the start of an endpoint, as the emulator's own doing.
    pub(super) fn schedule_start(
        &self,
        project: &ProjectId,
        endpoint: &EndpointId,
    ) -> Result<(), StoreError> {
        self.change(|state| {
            let Some(project) = state.projects.get_mut(project) else {
                return Ok(());
            };
            let Some(record) = project.endpoint(endpoint) else {
                return Ok(());
            };
            let operation = operations::record(
                &project.project.id,
                Some(&record.endpoint.branch_id),
                Some(endpoint),
                OperationAction::StartCompute,
                Job::StartCompute {
                    endpoint: endpoint.clone(),
                },
                Uuid::new_v4(),
            );
            project.schedule(vec![operation]);
            Ok(())
        })
    }

    async fn create_branch(
        &self,
        project: &ProjectId,
        branch: &BranchId,
        point: Option<Point>,
    ) -> Result<(), JobError> {
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
            let fork = Some((copied.lsn, now()));
            return self.branch_is_ready(project, branch, fork, copied.cloned_by);
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
        self.branch_is_ready(project, branch, fork, cloned_by)
    }

    async fn create_schema_branch(
        &self,
        project: &ProjectId,
        branch: &BranchId,
        source: &BranchId,
    ) -> Result<(), JobError> {
        let copied = self.copy(project, source, self.folder(branch)).await?;
        self.with_admin(project, branch, async |client, port| {
            Ok::<_, JobError>(empty::remove_rows(&client, self.sockets(), port).await?)
        })
        .await?;
        self.branch_is_ready(project, branch, None, copied.cloned_by)
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

    pub(super) fn branch_is_ready(
        &self,
        project: &ProjectId,
        branch: &BranchId,
        fork: Option<(String, Timestamp)>,
        cloned_by: CloneMethod,
    ) -> Result<(), JobError> {
        Ok(self.change(|state| {
            if let Some(record) = state
                .projects
                .get_mut(project)
                .and_then(|project| project.branches.get_mut(branch))
            {
                let at = now();
                record.branch.current_state = BranchState::Ready;
                record.branch.pending_state = None;
                record.branch.state_changed_at = at;
                record.branch.updated_at = at;
                record.cloned_by = Some(cloned_by);
                if let Some((lsn, time)) = fork {
                    record.branch.parent_lsn = Some(lsn);
                    record.branch.parent_timestamp = Some(time);
                }
            }
            Ok::<_, StoreError>(())
        })?)
    }

    async fn delete_endpoint(
        &self,
        project: &ProjectId,
        endpoint: &EndpointId,
    ) -> Result<(), JobError> {
        self.stop_endpoint(project, endpoint).await?;
        Ok(self.change(|state| {
            if let Some(project) = state.projects.get_mut(project) {
                project.endpoints.remove(endpoint);
            }
            Ok::<_, StoreError>(())
        })?)
    }

    async fn delete_branch(&self, project: &ProjectId, branch: &BranchId) -> Result<(), JobError> {
        let endpoints = self.endpoints_of(project, branch);
        for endpoint in &endpoints {
            self.delete_endpoint(project, endpoint).await?;
        }
        self.remove_folder(self.folder(branch)).await?;
        self.remove_beside(branch).await?;
        self.forget_history(branch).await?;
        Ok(self.change(|state| {
            if let Some(project) = state.projects.get_mut(project) {
                project.branches.remove(branch);
            }
            Ok::<_, StoreError>(())
        })?)
    }

    /// Removes a folder; one that is not there is no error.
    pub(super) async fn remove_folder(&self, path: PathBuf) -> Result<(), JobError> {
        let storage = self.storage().clone();
        blocking(move || Ok(storage.remove(&path)?)).await
    }

    async fn delete_project(&self, project: &ProjectId) -> Result<(), JobError> {
        let branches: Vec<BranchId> = self.store().read(|state| {
            let record = state.projects.get(project);
            record
                .into_iter()
                .flat_map(|record| record.branches.keys().cloned())
                .collect()
        });
        for snapshot in &self.snapshots_of(project) {
            self.delete_snapshot(project, snapshot).await?;
        }
        for branch in &branches {
            let _held = self.hold(branch).await;
            self.delete_branch(project, branch).await?;
        }
        Ok(self.change(|state| {
            state.projects.remove(project);
            Ok::<_, StoreError>(())
        })?)
    }

    async fn apply(
        &self,
        project: &ProjectId,
        branch: &BranchId,
        change: &CatalogChange,
    ) -> Result<(), JobError> {
        let record = self
            .store()
            .read(|state| Some(state.projects.get(project)?.branches.get(branch)?.clone()))
            .ok_or(JobError::Gone)?;
        let sockets = self.sockets();
        self.with_admin(project, branch, async |client, port| {
            match change {
                CatalogChange::Role { name, before } => {
                    let role = record.roles.get(name).ok_or(JobError::Gone)?;
                    let password = role.password.as_ref().map(neon_api::Secret::expose);
                    admin::ensure_role(&client, name, password).await?;
                    // As on Neon: a new password ends the sessions of the old.
                    if before.is_some() {
                        admin::end_sessions(&client, name).await?;
                    }
                }
                CatalogChange::DropRole { before } => {
                    admin::drop_role(&client, sockets, port, &before.name).await?;
                }
                CatalogChange::Database { name, before } => {
                    let database = record.databases.get(name).ok_or(JobError::Gone)?;
                    if let Some(before) = before
                        && before.name != *name
                    {
                        admin::rename_database(&client, &before.name, name).await?;
                    }
                    let owner = &database.owner_name;
                    admin::ensure_database(&client, sockets, port, name, owner).await?;
                }
                CatalogChange::DropDatabase { before } => {
                    admin::drop_database(&client, &before.name).await?;
                }
            }
            Ok(())
        })
        .await
    }
}

/// Work that would hold up the runtime.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, JobError> + Send + 'static,
) -> Result<T, JobError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| JobError::Cancelled)?
}
