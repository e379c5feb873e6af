//! Restore: a clone of the source takes the place of a branch's data.
//!
//! The clone is made beside the data while the branch serves. Then its servers
//! are stopped, and two renames exchange the folders. Each step can be done
//! again: where a killed emulator was is seen by which folders are there, and
//! the state knows when the clone is whole.

mod folders;

use std::path::PathBuf;

use jiff::Timestamp;
use neon_api::types::BranchState;
use neon_api::{BranchId, EndpointId, ProjectId};
use tracing::warn;

use super::Engine;
use super::history::Point;
use super::job_error::JobError;
use super::jobs::blocking;
use super::outcome::Outcome;
use crate::postgres::{admin, checkpoint_lsn};
use crate::state::{BranchRecord, StoreError};
use crate::time::now;
use folders::Folders;

impl Engine {
    pub(super) async fn restore_branch(
        &self,
        project: &ProjectId,
        branch: &BranchId,
        source: &BranchId,
        point: Option<Point>,
        preserve: Option<&BranchId>,
    ) -> Result<Outcome, JobError> {
        let folders = self.folders(branch, preserve);
        if !self.is_being_restored(project, branch)? {
            // Killed before its end was recorded, by an emulator that recorded the
            // branch first.
            self.tidy_restore(branch, preserve).await;
            return Ok(Outcome::Recorded);
        }
        {
            let folders = folders.clone();
            blocking(move || folders.take_back_if_lost()).await?;
        }
        let fork = match self.restored_from(project, branch)? {
            Some(fork) if folders.is_cloned() => fork,
            _ => {
                // What an earlier restore left would be taken for this one's.
                self.tidy_history(branch).await?;
                {
                    let folders = folders.clone();
                    blocking(move || folders.remove(&folders.old)).await?;
                }
                let _held = self.hold(source).await;
                let new = folders.new.clone();
                self.clone_for_restore(project, branch, source, point, new)
                    .await?
            }
        };
        let _held = self.hold(branch).await;
        for endpoint in self.endpoints_of(project, branch) {
            self.stop_endpoint(project, &endpoint).await?;
        }
        {
            let folders = folders.clone();
            blocking(move || folders.exchange()).await?;
        }
        // The history follows the data, and nothing of either is removed before
        // the state has the branch as it is now: until then all can be undone.
        match source == branch {
            true => {
                let point = fork.0.parse().map_err(JobError::History)?;
                self.go_on_with_history(branch, point).await?;
            }
            false => self.set_history_aside(branch, preserve).await?,
        }
        Ok(Outcome::Restored {
            branch: branch.clone(),
            preserve: preserve.cloned(),
            fork,
        })
    }

    /// Removes what a restore that is done has no more use for. What cannot be
    /// removed goes at the next start.
    pub(super) async fn tidy_restore(&self, branch: &BranchId, preserve: Option<&BranchId>) {
        let folders = self.folders(branch, preserve);
        let tidied = async {
            self.tidy_history(branch).await?;
            match folders.keep_old {
                true => Ok(()),
                false => blocking(move || folders.remove(&folders.old)).await,
            }
        };
        if let Err(error) = tidied.await {
            warn!(%branch, error = super::chain(&error), "old data of a restore are left");
        }
    }

    /// Clones the source beside the branch, and notes where it stood.
    async fn clone_for_restore(
        &self,
        project: &ProjectId,
        branch: &BranchId,
        source: &BranchId,
        point: Option<Point>,
        new: PathBuf,
    ) -> Result<(String, Timestamp), JobError> {
        let (fork, cloned_by, catalog) = match point {
            None => {
                let copied = self.copy(project, source, new).await?;
                ((copied.lsn, now()), copied.cloned_by, None)
            }
            Some(point) => {
                let past = self.copy_past(project, source, point, new).await?;
                let time = past.time.unwrap_or_else(now);
                (
                    (past.lsn.to_string(), time),
                    past.cloned_by,
                    Some(past.found),
                )
            }
        };
        self.change(|state| {
            let number = &mut state.next_database_id;
            if let Some(record) = state
                .projects
                .get_mut(project)
                .and_then(|project| project.branches.get_mut(branch))
            {
                record.restored_from = Some(fork.clone());
                record.cloned_by = Some(cloned_by);
                if let Some(catalog) = catalog {
                    catalog.put_into(record, number);
                }
            }
            Ok::<_, StoreError>(())
        })?;
        Ok(fork)
    }

    /// Everything is as it was before the restore.
    pub(super) async fn undo_restore(
        &self,
        project: &ProjectId,
        before: &BranchRecord,
        preserve: Option<&BranchId>,
    ) -> Result<(), JobError> {
        let branch = &before.branch.id;
        let _held = self.hold(branch).await;
        let folders = self.folders(branch, preserve);
        // Without its mark, only a clone may lie beside the data.
        match self.restored_from(project, branch)? {
            Some(_) => {
                self.take_history_back(branch, preserve).await?;
                blocking(move || folders.undo()).await?;
            }
            None => blocking(move || folders.remove(&folders.new)).await?,
        }
        self.change(|state| {
            let Some(project) = state.projects.get_mut(project) else {
                return Ok(());
            };
            if let Some(preserve) = preserve {
                project.branches.remove(preserve);
                project.move_children(preserve, branch);
            }
            if let Some(record) = project.branches.get_mut(branch) {
                put_back(record, before);
            }
            Ok(())
        })
    }

    /// Where a branch stands now, as an LSN.
    pub(crate) async fn head_lsn(
        &self,
        project: &ProjectId,
        branch: &BranchId,
    ) -> Result<String, JobError> {
        let _held = self.hold(branch).await;
        if let Some(server) = self.writer_of(project, branch) {
            let client = self.admin(server.port()).await?;
            return Ok(admin::current_lsn(&client).await?);
        }
        let folder = self.folder(branch);
        blocking(move || Ok(checkpoint_lsn(&folder)?)).await
    }

    pub(super) fn endpoints_of(&self, project: &ProjectId, branch: &BranchId) -> Vec<EndpointId> {
        self.store().read(|state| {
            let endpoints = state
                .projects
                .get(project)
                .into_iter()
                .flat_map(|project| project.endpoints.values());
            endpoints
                .filter(|record| record.endpoint.branch_id == *branch)
                .map(|record| record.endpoint.id.clone())
                .collect()
        })
    }

    /// Removes what a restore that was cut off left beside a branch.
    pub(super) async fn remove_beside(&self, branch: &BranchId) -> Result<(), JobError> {
        let folders = self.folders(branch, None);
        blocking(move || folders.remove_beside()).await
    }

    fn folders(&self, branch: &BranchId, preserve: Option<&BranchId>) -> Folders {
        // No id has a dot.
        let beside = |suffix| {
            let mut name = self.folder(branch).into_os_string();
            name.push(suffix);
            PathBuf::from(name)
        };
        Folders {
            branch: self.folder(branch),
            new: beside(".new"),
            old: preserve.map_or_else(|| beside(".old"), |preserve| self.folder(preserve)),
            keep_old: preserve.is_some(),
            storage: self.storage().clone(),
        }
    }

    fn is_being_restored(&self, project: &ProjectId, branch: &BranchId) -> Result<bool, JobError> {
        self.store().read(|state| {
            let project = state.projects.get(project).ok_or(JobError::Gone)?;
            let record = project.branch(branch).ok_or(JobError::Gone)?;
            Ok(record.branch.current_state == BranchState::Resetting)
        })
    }

    fn restored_from(
        &self,
        project: &ProjectId,
        branch: &BranchId,
    ) -> Result<Option<(String, Timestamp)>, JobError> {
        self.store().read(|state| {
            let project = state.projects.get(project).ok_or(JobError::Gone)?;
            let record = project.branch(branch).ok_or(JobError::Gone)?;
            Ok(record.restored_from.clone())
        })
    }
}

/// What the restore changed is as it was before. The rest is as it is: the branch
/// may have been renamed meanwhile, say.
fn put_back(record: &mut BranchRecord, before: &BranchRecord) {
    let BranchRecord {
        branch: before_branch,
        roles,
        databases,
        catalog_is_behind,
        undone,
        restored_from,
        cloned_by,
        // Nothing of the restore's.
        annotation: _,
        deleted: _,
    } = before;
    record.roles.clone_from(roles);
    record.databases.clone_from(databases);
    record.catalog_is_behind = *catalog_is_behind;
    record.undone.clone_from(undone);
    record.restored_from.clone_from(restored_from);
    record.cloned_by = *cloned_by;
    let branch = &mut record.branch;
    branch.parent_id.clone_from(&before_branch.parent_id);
    branch.init_source.clone_from(&before_branch.init_source);
    branch.parent_lsn.clone_from(&before_branch.parent_lsn);
    branch.parent_timestamp = before_branch.parent_timestamp;
    branch.current_state = before_branch.current_state.clone();
    branch
        .pending_state
        .clone_from(&before_branch.pending_state);
    branch.state_changed_at = before_branch.state_changed_at;
    branch.last_reset_at = before_branch.last_reset_at;
    branch.logical_size = before_branch.logical_size;
    branch.updated_at = now();
    // The restore began its time anew; another time is another request's.
    if branch.ttl_interval_seconds == before_branch.ttl_interval_seconds {
        branch.expires_at = before_branch.expires_at;
    }
}
