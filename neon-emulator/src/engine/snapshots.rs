//! Snapshots: clones of a branch's folder that nobody runs.

use std::path::PathBuf;

use neon_api::types::{BranchRestoreStatus, InitSource};
use neon_api::{BranchId, ProjectId, SnapshotId};

use super::history::Point;
use super::job_error::JobError;
use super::jobs::blocking;
use super::outcome::Outcome;
use super::{Engine, SNAPSHOTS};
use crate::names;
use crate::postgres::clone_idle;
use crate::state::{ProjectRecord, StoreError};
use crate::time::now;

impl Engine {
    /// The caller holds the branch.
    pub(super) async fn create_snapshot(
        &self,
        project: &ProjectId,
        snapshot: &SnapshotId,
        branch: &BranchId,
        point: Option<Point>,
    ) -> Result<(), JobError> {
        let folder = self.snapshot_folder(snapshot);
        let (lsn, time, catalog) = match point {
            None => (self.copy(project, branch, folder).await?.lsn, now(), None),
            Some(point) => {
                let past = self.copy_past(project, branch, point, folder).await?;
                let time = past.time.unwrap_or_else(now);
                (past.lsn.to_string(), time, Some(past.found))
            }
        };
        self.change(|state| {
            let number = &mut state.next_database_id;
            if let Some(record) = state
                .projects
                .get_mut(project)
                .and_then(|project| project.snapshots.get_mut(snapshot))
            {
                record.snapshot.lsn = Some(lsn);
                record.snapshot.timestamp = Some(time);
                if let Some(catalog) = catalog {
                    catalog.put_into_snapshot(branch, record, number);
                }
            }
            Ok(())
        })
    }

    pub(super) async fn restore_snapshot(
        &self,
        snapshot: &SnapshotId,
        branch: &BranchId,
    ) -> Result<Outcome, JobError> {
        let (from, to) = (self.snapshot_folder(snapshot), self.folder(branch));
        let storage = self.storage().clone();
        let cloned_by = blocking(move || Ok(clone_idle(&from, &to, &storage)?)).await?;
        Ok(Outcome::Ready {
            branch: branch.clone(),
            fork: None,
            cloned_by,
        })
    }

    /// Stops the target's endpoints and gives them to the branch, with its name.
    pub(super) async fn finalize_restore(
        &self,
        project: &ProjectId,
        branch: &BranchId,
        target: &BranchId,
        old_name: &str,
    ) -> Result<(), JobError> {
        let endpoints = {
            let _held = self.hold(target).await;
            let endpoints = self.endpoints_of(project, target);
            for endpoint in &endpoints {
                self.stop_endpoint(project, endpoint).await?;
            }
            endpoints
        };
        self.change(|state| {
            let Some(project) = state.projects.get_mut(project) else {
                return Ok(());
            };
            for endpoint in &endpoints {
                if let Some(record) = project.endpoints.get_mut(endpoint) {
                    record.endpoint.branch_id = branch.clone();
                }
            }
            exchange(project, branch, target, old_name);
            Ok::<_, StoreError>(())
        })?;
        Ok(())
    }

    pub(super) async fn delete_snapshot(
        &self,
        project: &ProjectId,
        snapshot: &SnapshotId,
    ) -> Result<(), JobError> {
        self.remove_folder(self.snapshot_folder(snapshot)).await?;
        self.change(|state| {
            if let Some(project) = state.projects.get_mut(project) {
                project.snapshots.remove(snapshot);
            }
            Ok(())
        })
    }

    pub(super) fn snapshots_of(&self, project: &ProjectId) -> Vec<SnapshotId> {
        self.store().read(|state| {
            let record = state.projects.get(project);
            record
                .into_iter()
                .flat_map(|record| record.snapshots.keys().cloned())
                .collect()
        })
    }

    fn snapshot_folder(&self, snapshot: &SnapshotId) -> PathBuf {
        let folder = self.storage().root().join(SNAPSHOTS);
        folder.join(snapshot.as_str())
    }
}

/// The branch gets the target's name and its place as the default branch.
fn exchange(project: &mut ProjectRecord, branch: &BranchId, target: &BranchId, old_name: &str) {
    let is_done = project
        .branches
        .get(branch)
        .is_some_and(|record| record.branch.restore_status == Some(BranchRestoreStatus::Finalized));
    if is_done {
        // Cut off before its operation was recorded as finished.
        return;
    }
    let at = now();
    let is_taken = project
        .live_branches()
        .any(|record| record.branch.name == old_name && record.branch.id != *branch);
    let old_name = match is_taken {
        // Since it was asked for.
        true => names::branch_name(),
        false => old_name.to_owned(),
    };
    let Some(old) = project.branches.get_mut(target).map(|old| &mut old.branch) else {
        return;
    };
    let name = std::mem::replace(&mut old.name, old_name);
    let default = std::mem::replace(&mut old.default, false);
    old.primary = Some(false);
    old.updated_at = at;
    // Replaced, it may be deleted, the project's first branch as well.
    old.init_source.get_or_insert(InitSource::ParentData);
    if let Some(record) = project.branches.get_mut(branch) {
        let new = &mut record.branch;
        new.name = name;
        new.default = default;
        new.primary = Some(default);
        new.updated_at = at;
        new.restored_as = Some(target.to_string());
        new.restore_status = Some(BranchRestoreStatus::Finalized);
    }
}
