//! Keeps the histories: makes images, and forgets what is older than the window.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, ToSpan};
use neon_api::types::EndpointType;
use neon_api::{BranchId, ProjectId};
use tracing::{debug, warn};

use super::{Base, archive, bases};
use crate::engine::job_error::JobError;
use crate::engine::jobs::blocking;
use crate::engine::{Engine, chain};
use crate::postgres::{admin, clone_running};
use crate::storage::{CloneMethod, Storage};
use crate::time::{ahead, now};

/// How often it looks whether there is an image to be made.
const LOOK: Duration = Duration::from_secs(15);
/// When a branch that has been started gets its first image, where that is a copy.
const FIRST_COPY: Duration = Duration::from_secs(3);
/// What is to be replayed at most, on a file system where an image costs little.
const IMAGE_WAL_BYTES: u64 = 64 << 20;
/// The same for time, where something was written.
const IMAGE_MINUTES: i64 = 5;
/// An image itself makes the branch write a segment or two.
const IDLE_WAL_BYTES: u64 = 3 << 20;
/// Of one branch. Beyond it the second oldest goes: a point there then has more
/// to replay.
const IMAGES_MAX: usize = 500;

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
        let is_due = {
            let (storage, folder) = (self.storage.clone(), folder.clone());
            let size = self.store.read(|state| {
                let record = state.projects.get(project)?.branches.get(branch)?;
                record.branch.logical_size
            });
            blocking(move || {
                bases::remove_hidden(&folder, &storage)?;
                let bases = bases::list(&folder)?;
                let window = now() - retention_seconds.seconds();
                prune(&storage, &folder, &bases, window, wal_bytes_max)?;
                let copy_bytes = match storage.chosen().method {
                    CloneMethod::Copy => size.unwrap_or_default().unsigned_abs(),
                    CloneMethod::Btrfs | CloneMethod::Reflink => 0,
                };
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

/// Whether an image is to be made: there is none, or what was written since the
/// last would take long to replay. A copy is not worth it before it is smaller
/// than that; but without a later image no WAL can go.
fn is_due(
    history: &Path,
    last: Option<&Base>,
    copy_bytes: u64,
    wal_bytes_max: u64,
) -> Result<bool, JobError> {
    let Some(last) = last else { return Ok(true) };
    let segments = archive::segments(&history.join("wal"))?;
    let timeline = segments.iter().map(|segment| segment.timeline).max();
    let written = segments
        .iter()
        .filter(|segment| Some(segment.timeline) == timeline)
        .map(|segment| segment.end().0.saturating_sub(last.lsn.0))
        .max()
        .unwrap_or_default();
    let is_old = now().duration_since(last.time) > SignedDuration::from_mins(IMAGE_MINUTES);
    Ok(match copy_bytes {
        0 => written > IMAGE_WAL_BYTES || (is_old && written > IDLE_WAL_BYTES),
        bytes => written > IMAGE_WAL_BYTES.max(bytes),
    } || written > wal_bytes_max / 2)
}

/// Forgets images that no point of the window needs: all before the last that is
/// older than the window, and those whose WAL is more than there may be, which
/// shortens the window.
fn prune(
    storage: &Storage,
    history: &Path,
    bases: &[Base],
    window: jiff::Timestamp,
    wal_bytes_max: u64,
) -> Result<(), JobError> {
    let archive = history.join("wal");
    let segments = archive::segments(&archive)?;
    let wal_bytes_from =
        |base: &Base| archive::bytes(segments.iter().filter(|segment| segment.end() >= base.lsn));
    let in_window = bases
        .iter()
        .rposition(|base| base.time <= window)
        .unwrap_or(0);
    let mut kept = in_window;
    while kept + 1 < bases.len() && wal_bytes_from(&bases[kept]) > wal_bytes_max {
        kept += 1;
    }
    for base in &bases[..kept] {
        if let Err(error) = storage.remove(&base.folder) {
            warn!(error = chain(&error), "an image that is not needed is left");
        }
    }
    if kept > in_window {
        warn!(
            history = %history.display(),
            begin = %bases[kept].time,
            "the WAL of a history is more than {} MB (--history-wal-megabytes-max): it begins later than the project asks for",
            wal_bytes_max >> 20,
        );
    }
    if bases.len() - kept > IMAGES_MAX
        && let Some(second) = bases.get(kept + 1)
        && let Err(error) = storage.remove(&second.folder)
    {
        warn!(error = chain(&error), "an image too many is left");
    }
    match bases.get(kept) {
        Some(oldest) if kept > 0 => archive::prune(&archive, oldest.lsn),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::lsn::Lsn;

    const MB: u64 = 1 << 20;

    /// Images at these positions, each a minute after the one before, and a
    /// segment for each MB up to the last.
    fn history(images_mb: &[u64], end_mb: u64) -> (tempfile::TempDir, Vec<Base>, Timestamp) {
        let root = tempfile::tempdir().unwrap();
        let begin: Timestamp = "2026-11-21T06:00:00Z".parse().unwrap();
        let wal = root.path().join("wal");
        std::fs::create_dir(&wal).unwrap();
        for segment in 1..end_mb {
            let name = format!("{:08X}{:08X}{segment:08X}", 1, 0);
            std::fs::write(wal.join(name), "").unwrap();
        }
        for (minute, mb) in (0..).zip(images_mb) {
            let time = begin + SignedDuration::from_mins(minute);
            let name = bases::name(Lsn(mb * MB), time, SignedDuration::ZERO);
            std::fs::create_dir_all(bases::folder(root.path()).join(name)).unwrap();
        }
        let bases = bases::list(root.path()).unwrap();
        (root, bases, begin)
    }

    fn left(root: &Path) -> (Vec<u64>, usize) {
        let images = bases::list(root).unwrap();
        let segments = archive::segments(&root.join("wal")).unwrap();
        let images = images.iter().map(|base| base.lsn.0 / MB).collect();
        (images, segments.len())
    }

    #[test]
    fn what_the_window_does_not_need_goes() {
        let (root, bases, begin) = history(&[2, 20, 40], 50);
        let storage = Storage::plain(root.path());
        let prune = |minutes: i64, mb| {
            let window = begin + SignedDuration::from_secs(60 * minutes + 1);
            prune(&storage, root.path(), &bases, window, mb * MB).unwrap();
        };
        prune(-1, 1_000);
        assert_eq!(left(root.path()), (vec![2, 20, 40], 49));
        prune(1, 1_000);
        assert_eq!(left(root.path()), (vec![20, 40], 31));
    }

    #[test]
    fn too_much_wal_shortens_the_window() {
        let (root, bases, begin) = history(&[2, 20, 40], 50);
        let storage = Storage::plain(root.path());
        let window = begin - SignedDuration::from_hours(1);
        prune(&storage, root.path(), &bases, window, 49 * MB).unwrap();
        assert_eq!(left(root.path()), (vec![2, 20, 40], 49));
        prune(&storage, root.path(), &bases, window, 31 * MB).unwrap();
        assert_eq!(left(root.path()), (vec![20, 40], 31));
        // The last image stays, whatever its WAL.
        let bases = bases::list(root.path()).unwrap();
        prune(&storage, root.path(), &bases, window, MB).unwrap();
        assert_eq!(left(root.path()), (vec![40], 11));
        // And another is made in time.
        let last = bases.last();
        assert!(!is_due(root.path(), last, 1_000 * MB, 21 * MB).unwrap());
        assert!(is_due(root.path(), last, 1_000 * MB, 19 * MB).unwrap());
    }
}
