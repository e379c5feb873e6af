//! What an earlier run left: processes, and folders that are no branch's.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;

use neon_api::BranchId;
use neon_api::types::OperationStatus;
use tracing::{error, info, warn};

use super::history::HISTORY;
use super::replicas::REPLICAS;
use super::{BRANCHES, Engine, SNAPSHOTS, chain};
use crate::pooler;
use crate::postgres::{end_servers_below, remove_leftovers};
use crate::state::{Job, ProjectRecord, State};

impl Engine {
    /// Ends processes, and removes files, of an earlier run: every Postgres below
    /// the storage's root. Some have folders that no record names, a recovery to
    /// a point of the past for one. None of this run has started yet.
    pub(super) async fn end_leftovers(&self) {
        let kinds = [BRANCHES, SNAPSHOTS, REPLICAS].map(|kind| self.storage.root().join(kind));
        let folders = kinds
            .iter()
            .flat_map(|kind| fs::read_dir(kind).into_iter().flatten());
        let folders = folders
            .flatten()
            .map(|entry| entry.path())
            .filter(|folder| folder.join("postmaster.pid").exists());
        let mut ends = tokio::task::JoinSet::new();
        for folder in folders {
            ends.spawn_blocking(move || {
                if let Err(error) = remove_leftovers(&folder) {
                    // Its start will fail, and say so.
                    error!(%error, "a process of an earlier run is left");
                }
            });
        }
        while ends.join_next().await.is_some() {}
        for kind in kinds {
            // Their folders, or their pid files, are gone.
            ends.spawn_blocking(move || end_servers_below(&kind));
        }
        while ends.join_next().await.is_some() {}
        self.remove_all_replicas().await;
        let poolers = self.poolers_folder();
        if let Err(error) = pooler::end_leftovers(&poolers) {
            error!(%error, folder = %poolers.display(), "could not remove what poolers left");
        }
        // Lock files of sockets hold pids, which somebody else may have by now.
        for entry in fs::read_dir(&self.sockets).into_iter().flatten().flatten() {
            let _ = fs::remove_file(entry.path());
        }
    }

    /// Removes folders that the state does not know: what was cut off after its
    /// record was gone, or before a power cut lost it.
    pub(super) async fn remove_strangers(&self) {
        let known = self.store.read(|state| self.known_folders(state));
        let storage = self.storage.clone();
        let removed = tokio::task::spawn_blocking(move || {
            // Replicas keep nothing.
            for folder in [BRANCHES, SNAPSHOTS, HISTORY, REPLICAS] {
                let entries = fs::read_dir(storage.root().join(folder));
                for entry in entries.into_iter().flatten().flatten() {
                    if known.contains(&entry.file_name()) {
                        continue;
                    }
                    let path = entry.path();
                    match storage.remove(&path) {
                        Ok(()) => info!(folder = %path.display(), "removed a folder of no branch"),
                        Err(error) => {
                            warn!(error = chain(&error), "a folder of no branch is left");
                        }
                    }
                }
            }
        });
        if removed.await.is_err() {
            warn!("not every folder of no branch is gone");
        }
    }

    /// Removes what restores have put away: one that was recorded as done may have
    /// been cut off before it did that itself.
    pub(super) async fn tidy_restores(&self) {
        let done: Vec<BranchId> = self.store.read(|state| {
            let projects = state.projects.values();
            let branches = projects.flat_map(|project| {
                let branches = project.live_branches().map(|record| &record.branch.id);
                // One that failed may have left data where a restore puts them away.
                branches.filter(|id| last_restore(project, id) == Some(&OperationStatus::Finished))
            });
            branches.cloned().collect()
        });
        for branch in &done {
            self.tidy_restore(branch, None).await;
        }
    }

    /// The names of the folders of branches and snapshots, and of those that a
    /// restore works with.
    fn known_folders(&self, state: &State) -> BTreeSet<OsString> {
        let mut known = BTreeSet::new();
        for project in state.projects.values() {
            known.extend(project.snapshots.keys().map(|id| id.as_str().into()));
            for branch in project.branches.keys() {
                known.insert(branch.as_str().into());
                // Without its own folder, its data may be in one of these.
                if last_restore(project, branch).is_some_and(|status| !status.is_final())
                    || !self.folder(branch).exists()
                {
                    known.insert(format!("{branch}.new").into());
                    known.insert(format!("{branch}.old").into());
                }
            }
        }
        known
    }
}

/// How the branch's last restore went.
fn last_restore<'a>(project: &'a ProjectRecord, branch: &BranchId) -> Option<&'a OperationStatus> {
    let mut latest_first = project.operations.iter().rev();
    let restore = latest_first.find(|record| {
        matches!(&record.job, Job::RestoreBranch { branch: restored, .. } if restored == branch)
    });
    restore.map(|record| &record.operation.status)
}
