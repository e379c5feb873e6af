//! The past of a branch: its WAL, which Postgres's archiver puts aside, and base
//! images, which are clones of the branch that nobody runs.
//!
//! Below `history/<branch>/` there are `wal`, with the segments and the timeline
//! files, and `bases`, with a folder for each image, whose name says where in the
//! branch's log and when it was whole. A point of the past is an image from
//! before it, and the WAL from there: the archive's, and what the branch still
//! has for itself. A branch's history begins with its first image, which the
//! keeper makes when the branch has been started, and is as long as the
//! project's `history_retention_seconds`.

mod archive;
mod archiving;
mod bases;
mod bounds;
mod catalog;
mod keeper;
mod recover;

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use neon_api::{BranchId, ProjectId};
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedMutexGuard;

use super::Engine;
use super::job_error::JobError;
use super::jobs::blocking;
use crate::lsn::Lsn;
use crate::postgres::{Archive, ArchiveMethod};
use crate::storage::{CloneMethod, Storage};
use bases::Base;
use recover::Past;

/// The folder of the branches' histories.
pub(super) const HISTORY: &str = "history";

/// A point of a branch's past.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Point {
    /// What was written before this place in the log.
    Lsn(Lsn),
    /// What was committed up to then.
    Time(Timestamp),
}

/// What there is of a branch's history: from an image to the head.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extent {
    /// Of the oldest image that is kept.
    pub(crate) begin: Option<(Lsn, Timestamp)>,
    pub(crate) head: Lsn,
}

impl Engine {
    /// How far back the branch can be looked at, and where it stands.
    pub(crate) async fn extent(
        &self,
        project: &ProjectId,
        branch: &BranchId,
    ) -> Result<Extent, JobError> {
        let folder = self.history_folder(branch);
        let bases = blocking(move || bases::list(&folder)).await?;
        let head = self.head_lsn(project, branch).await?;
        Ok(Extent {
            begin: bases.first().map(|base| (base.lsn, base.time)),
            head: head.parse().map_err(JobError::History)?,
        })
    }

    /// Where the branch's WAL goes: nowhere, where the project keeps no history.
    pub(super) fn archive(&self, branch: &BranchId) -> Archive {
        let keeps_history = self.store.read(|state| {
            let mut projects = state.projects.values();
            let project = projects.find(|project| project.branches.contains_key(branch))?;
            Some(project.project.history_retention_seconds > 0)
        });
        Archive {
            is_kept: keeps_history.unwrap_or(false),
            folder: self.history_folder(branch).join("wal"),
            method: match self.storage.chosen().method {
                // A subvolume's files cannot be linked from another.
                CloneMethod::Btrfs => ArchiveMethod::Copy,
                CloneMethod::Reflink | CloneMethod::Copy => ArchiveMethod::Link,
            },
            durability: self.storage.durability(),
        }
    }

    /// Forgets a branch's past: it is deleted.
    pub(super) async fn forget_history(&self, branch: &BranchId) -> Result<(), JobError> {
        let _held = self.hold_history(branch).await;
        let (storage, folder) = (self.storage.clone(), self.history_folder(branch));
        let aside = self.aside(branch, None);
        blocking(move || {
            remove_history(&storage, &aside)?;
            remove_history(&storage, &folder)
        })
        .await
    }

    /// Puts away the past of a branch whose data are another's now: it is of the
    /// old data, which `preserve` gets, if anybody. Can be done again, and undone
    /// until it is tidied up.
    pub(super) async fn set_history_aside(
        &self,
        branch: &BranchId,
        preserve: Option<&BranchId>,
    ) -> Result<(), JobError> {
        let _held = self.hold_history(branch).await;
        let storage = self.storage.clone();
        let (from, to) = (self.history_folder(branch), self.aside(branch, preserve));
        blocking(move || match from.exists() && !to.exists() {
            true => Ok(storage.rename(&from, &to)?),
            false => Ok(()),
        })
        .await
    }

    /// A branch that is restored to its own past keeps its history. Can be done
    /// again, and undone until it is tidied up.
    pub(super) async fn go_on_with_history(
        &self,
        branch: &BranchId,
        point: Lsn,
    ) -> Result<(), JobError> {
        let _held = self.hold_history(branch).await;
        let (history, storage) = (self.history_folder(branch), self.storage.clone());
        let new = self.folder(branch);
        blocking(move || archive::adopt(&new, &history, point, &storage)).await
    }

    /// Undoes either of them.
    pub(super) async fn take_history_back(
        &self,
        branch: &BranchId,
        preserve: Option<&BranchId>,
    ) -> Result<(), JobError> {
        let _held = self.hold_history(branch).await;
        let storage = self.storage.clone();
        let (history, aside) = (self.history_folder(branch), self.aside(branch, preserve));
        blocking(move || {
            if aside.exists() {
                remove_history(&storage, &history)?;
                return Ok(storage.rename(&aside, &history)?);
            }
            archive::disown(&history, &storage)
        })
        .await
    }

    /// What was put away is not needed again.
    pub(super) async fn tidy_history(&self, branch: &BranchId) -> Result<(), JobError> {
        let _held = self.hold_history(branch).await;
        let storage = self.storage.clone();
        let (history, aside) = (self.history_folder(branch), self.aside(branch, None));
        blocking(move || {
            remove_history(&storage, &aside)?;
            archive::settle(&history, &storage)
        })
        .await
    }

    /// Where the past of a branch's old data goes. No id has a dot.
    fn aside(&self, branch: &BranchId, preserve: Option<&BranchId>) -> PathBuf {
        match preserve {
            Some(preserve) => self.history_folder(preserve),
            None => self.history_folder(branch).with_extension("old"),
        }
    }

    /// Holds a branch's images and archive. Who holds its folder as well took
    /// that first.
    async fn hold_history(&self, branch: &BranchId) -> OwnedMutexGuard<()> {
        self.histories.hold(branch).await
    }

    pub(super) fn history_folder(&self, branch: &BranchId) -> PathBuf {
        self.storage.root().join(HISTORY).join(branch.as_str())
    }
}

/// Removes a history with its images, which may be subvolumes.
fn remove_history(storage: &Storage, folder: &Path) -> Result<(), JobError> {
    for base in bases::list(folder)? {
        storage.remove(&base.folder)?;
    }
    bases::remove_hidden(folder, storage)?;
    Ok(storage.remove(folder)?)
}
