//! What an earlier run left: processes, and folders that are no branch's.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;

use tracing::{error, info, warn};

use super::history::HISTORY;
use super::{BRANCHES, Engine, SNAPSHOTS, chain};
use crate::pooler;
use crate::postgres::remove_leftovers;
use crate::state::{Job, State};

impl Engine {
    /// Ends processes, and removes files, of an earlier run.
    pub(super) async fn end_leftovers(&self) {
        let folders: Vec<PathBuf> = self.store.read(|state| {
            state
                .projects
                .values()
                .flat_map(|project| project.branches.keys())
                .map(|branch| self.folder(branch))
                .chain(self.replica_folders(state))
                .filter(|folder| folder.join("postmaster.pid").exists())
                .collect()
        });
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
            for folder in [BRANCHES, SNAPSHOTS, HISTORY] {
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

    /// The names of the folders of branches and snapshots, and of those that a
    /// restore works with.
    fn known_folders(&self, state: &State) -> BTreeSet<OsString> {
        let mut known = BTreeSet::new();
        for project in state.projects.values() {
            known.extend(project.snapshots.keys().map(|id| id.as_str().into()));
            for branch in project.branches.keys() {
                known.insert(branch.as_str().into());
                let is_restored = project.operations.iter().any(|record| {
                    matches!(&record.job, Job::RestoreBranch { branch: restored, .. } if restored == branch)
                        && !record.operation.status.is_final()
                });
                // Without its own folder, its data may be in one of these.
                if is_restored || !self.folder(branch).exists() {
                    known.insert(format!("{branch}.new").into());
                    known.insert(format!("{branch}.old").into());
                }
            }
        }
        known
    }
}
