//! Endpoints, branches and projects that go: what runs is stopped, what lies
//! there is removed, and then the state forgets them.

use std::path::PathBuf;

use neon_api::{BranchId, EndpointId, ProjectId};

use super::Engine;
use super::job_error::JobError;
use super::jobs::blocking;
use crate::state::StoreError;

impl Engine {
    pub(super) async fn delete_endpoint(
        &self,
        project: &ProjectId,
        endpoint: &EndpointId,
    ) -> Result<(), JobError> {
        self.stop_endpoint(project, endpoint).await?;
        self.forget_lives(endpoint);
        Ok(self.change(|state| {
            if let Some(project) = state.projects.get_mut(project) {
                project.endpoints.remove(endpoint);
            }
            Ok::<_, StoreError>(())
        })?)
    }

    pub(super) async fn delete_branch(
        &self,
        project: &ProjectId,
        branch: &BranchId,
    ) -> Result<(), JobError> {
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

    pub(super) async fn delete_project(&self, project: &ProjectId) -> Result<(), JobError> {
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
    /// Removes a folder; one that is not there is no error.
    pub(super) async fn remove_folder(&self, path: PathBuf) -> Result<(), JobError> {
        let storage = self.storage().clone();
        blocking(move || Ok(storage.remove(&path)?)).await
    }
}
