//! Keeps the histories: makes images, and forgets what is older than the window.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::ToSpan;
use neon_api::types::EndpointType;
use neon_api::{BranchId, ProjectId};
use tracing::debug;

use super::bases;
use super::bounds::{is_due, prune};
use crate::engine::job_error::JobError;
use crate::engine::jobs::blocking;
use crate::engine::{Engine, chain};
use crate::postgres::{admin, clone_running};
use crate::storage::CloneMethod;
use crate::time::{ahead, now};

/// How often it looks whether there is an image to be made.
const LOOK: Duration = Duration::from_secs(15);
/// When a branch that has been started gets its first image, where that is a copy.
const FIRST_COPY: Duration = Duration::from_secs(3);

impl Engine {
    /// Until the emulator stops. One image is made at a time.
    pub(in crate::engine) async fn keep_histories(self: Arc<Self>) {
        let mut changes = self.changes.subscribe();
        let mut stopping = self.stopping.subscribe();
        // When each is to be looked at next.
        let mut due: HashMap<BranchId, Instant> = HashMap::new();
        // Of projects that keep none: whose history is gone.
        let mut forgotten: HashSet<BranchId> = HashSet::new();
        loop {
            changes.mark_unchanged();
            self.forget_unwanted(&mut forgotten).await;
            let branches = self.branches_with_history();
            due.retain(|known, _| branches.iter().any(|(_, branch, _)| branch == known));
            for (project, branch, retention_seconds) in branches {
                if *stopping.borrow() {
                    return;
                }
                let first = Instant::now() + self.before_first_image();
                if *due.entry(branch.clone()).or_insert(first) > Instant::now() {
                    continue;
                }
                due.insert(branch.clone(), Instant::now() + LOOK);
                if let Err(error) = self.keep(&project, &branch, retention_seconds).await {
                    // The server was stopped meanwhile, say. It is tried again.
                    debug!(%branch, error = chain(&error), "its history was not kept up");
                }
            }
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = tokio::time::sleep_until(next(&due).into()) => {}
                _ = stopping.wait_for(|stopping| *stopping) => return,
            }
        }
    }

    async fn forget_unwanted(&self, forgotten: &mut HashSet<BranchId>) {
        let branches = self.branches_without_history();
        forgotten.retain(|known| branches.iter().any(|(_, branch, _)| branch == known));
        for (project, branch, server) in branches {
            let is_kept = server.is_some_and(|server| server.keeps_wal());
            if forgotten.contains(&branch) && !is_kept {
                continue;
            }
            match self.stop_to_keep(&project, &branch).await {
                Ok(()) => {
                    forgotten.insert(branch);
                }
                Err(error) => {
                    debug!(%branch, error = chain(&error), "its history was not forgotten");
                }
            }
        }
    }

    /// A copy is work and space: a branch that lives for a moment is not worth it.
    fn before_first_image(&self) -> Duration {
        match self.storage.chosen().method {
            CloneMethod::Copy => FIRST_COPY,
            CloneMethod::Btrfs | CloneMethod::Reflink => Duration::ZERO,
        }
    }

    /// The branches that are written.
    fn branches_with_history(&self) -> Vec<(ProjectId, BranchId, i64)> {
        self.store.read(|state| {
            let projects = state.projects.values();
            let endpoints = projects.flat_map(|project| {
                project
                    .live_endpoints()
                    .map(move |record| (project, record))
            });
            endpoints
                .filter(|(project, record)| {
                    record.endpoint.endpoint_type == EndpointType::ReadWrite
                        && project.project.history_retention_seconds > 0
                        && project.branch(&record.endpoint.branch_id).is_some()
                        && self.server(&record.endpoint.id).is_some()
                })
                .map(|(project, record)| {
                    let id = project.project.id.clone();
                    let seconds = project.project.history_retention_seconds;
                    (id, record.endpoint.branch_id.clone(), seconds)
                })
                .collect()
        })
    }

    async fn keep(
        &self,
        project: &ProjectId,
        branch: &BranchId,
        retention_seconds: i64,
    ) -> Result<(), JobError> {
        let _held = self.hold_history(branch).await;
        let server = self.writer_of(project, branch).ok_or(JobError::Gone)?;
        if !server.keeps_wal() {
            self.begin_to_keep(branch, &server).await?;
        }
        let folder = self.history_folder(branch);
        let wal_bytes_max = self.limits.history_wal_megabytes_max << 20;
        // What it was when the server started says little of a copy made now.
        let copy_bytes = match self.storage.chosen().method {
            CloneMethod::Copy => {
                let size = self.measure(project, branch, server.port()).await?;
                size.unsigned_abs()
            }
            CloneMethod::Btrfs | CloneMethod::Reflink => 0,
        };
        let is_due = {
            let (storage, folder) = (self.storage.clone(), folder.clone());
            blocking(move || {
                bases::remove_hidden(&folder, &storage)?;
                let bases = bases::list(&folder)?;
                let window = now() - retention_seconds.seconds();
                prune(&storage, &folder, &bases, window, wal_bytes_max)?;
                is_due(&folder, bases.last(), copy_bytes, wal_bytes_max)
            })
            .await?
        };
        if is_due {
            self.make_base(project, branch).await?;
        }
        Ok(())
    }

    async fn make_base(&self, project: &ProjectId, branch: &BranchId) -> Result<(), JobError> {
        let folder = bases::folder(&self.history_folder(branch));
        let unfinished = folder.join("new");
        // Nobody holds the branch: only in backup mode can its folder be cloned.
        let server = self.writer_of(project, branch).ok_or(JobError::Gone)?;
        let client = self.admin(server.port()).await?;
        let (major, storage) = (self.installation().major(), self.storage.clone());
        let (from, to) = (self.folder(branch), unfinished.clone());
        let copied = clone_running(client, major, from, to, storage).await?;
        let lsn = copied.lsn.parse().map_err(JobError::History)?;
        let whole = folder.join(bases::name(lsn, now(), ahead()));
        let storage = self.storage.clone();
        blocking(move || Ok(storage.rename(&unfinished, &whole)?)).await?;
        debug!(%branch, %lsn, "made a base image");
        Ok(())
    }

    /// Puts a record of a commit into the log, after all that is there: a point
    /// is found by what comes after it.
    pub(super) async fn tick(
        &self,
        project: &ProjectId,
        branch: &BranchId,
    ) -> Result<(), JobError> {
        self.with_admin(project, branch, async |client, _| {
            admin::commit_something(&client).await?;
            Ok(())
        })
        .await
    }
}

/// When the next branch is to be looked at.
fn next(due: &HashMap<BranchId, Instant>) -> Instant {
    let latest = Instant::now() + LOOK;
    due.values()
        .copied()
        .min()
        .map_or(latest, |at| at.min(latest))
}
