//! Cloning a data directory: the bytes of a branch.
//!
//! A stopped parent's folder is simply copied. A running one is copied in
//! backup mode, which is Postgres's own protocol for copying files under a
//! server that writes ("Making an Exclusive/Non-Exclusive Low-Level Backup",
//! chapter 26.3 of its manual): start the backup, copy all but the WAL, stop
//! the backup, put the label that the stop returned into the copy, and add the
//! WAL from the start to the stop. The copy's first start replays that WAL and
//! is exactly the parent as it was at the stop.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use thiserror::Error;
use tokio_postgres::Client;

use super::ServerUser;

/// Copies are bound by system calls, not by the disk: a fresh branch is 1,300
/// small files.
const COPY_THREADS_MAX: usize = 4;

/// Folders whose content belongs to the running parent alone. The first three
/// as pg_basebackup has them; a clone has no use for the parent's replication
/// slots, and gets its WAL separately.
const EMPTY_FOLDERS: [&str; 9] = [
    "pg_dynshmem",
    "pg_notify",
    "pg_serial",
    "pg_snapshots",
    "pg_stat_tmp",
    "pg_subtrans",
    "pg_replslot",
    "pg_wal",
    "pg_wal/archive_status",
];
/// Files that would tie the clone to the parent's process or to a backup.
const LEFT_OUT: [&str; 7] = [
    LABEL_SET_ASIDE,
    "postmaster.pid",
    "postmaster.opts",
    "backup_label",
    "tablespace_map",
    "pg_internal.init",
    "backup_manifest",
];
/// Postgres's name for a label that it has read.
const LABEL_SET_ASIDE: &str = "backup_label.old";
/// Copied last, as the manual asks: it must not be older than any page.
const CONTROL: &str = "global/pg_control";

/// Why a clone was not made. Nothing of it remains.
#[derive(Debug, Error)]
pub(crate) enum CloneError {
    #[error("could not copy {}", path.display())]
    Copy {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("could not {attempt} on the parent")]
    Parent {
        attempt: &'static str,
        #[source]
        source: tokio_postgres::Error,
    },
    #[error("the copying task ended early")]
    Cancelled,
}

/// What a clone was forked from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ForkPoint {
    /// The parent's LSN that the clone starts from.
    pub(crate) lsn: String,
}

/// Copies the folder of a parent that is stopped, and stays so meanwhile.
pub(crate) fn clone_idle(parent: &Path, child: &Path, user: &ServerUser) -> Result<(), CloneError> {
    // A parent whose own first recovery was cut off.
    begin_recovery_again(parent).map_err(|source| CloneError::Copy {
        path: parent.join(LABEL_SET_ASIDE),
        source,
    })?;
    let mut tree = Tree::read(parent)?;
    // A stopped parent's WAL has its last checkpoint.
    tree.add(parent, Path::new("pg_wal"), &|_| true)?;
    tree.copy(parent, child, user)?;
    // A clone that was never started has yet to replay from there.
    copy_file(parent, child, Path::new("backup_label"), user)?;
    copy_file(parent, child, Path::new(CONTROL), user)
}

/// Copies the folder of a parent that runs and takes writes, and returns where
/// in its history the copy stands. `client` is a session of the superuser on
/// the parent, used for this alone: with it end the backup and the reserved
/// WAL, however the copying went.
pub(crate) async fn clone_running(
    client: Client,
    server_version: u32,
    parent: PathBuf,
    child: PathBuf,
    user: ServerUser,
) -> Result<ForkPoint, CloneError> {
    let at = |attempt| move |source| CloneError::Parent { attempt, source };
    // Keeps the WAL since the start of the backup until it is copied.
    client
        .simple_query(
            "SELECT pg_create_physical_replication_slot(\
                 'clone_' || pg_backend_pid(), immediately_reserve => true, temporary => true)",
        )
        .await
        .map_err(at("reserve WAL"))?;
    let (start, stop) = match server_version {
        ..15 => (
            "pg_start_backup('branch', true, false)",
            "pg_stop_backup(false, false)",
        ),
        _ => ("pg_backup_start('branch', true)", "pg_backup_stop(false)"),
    };
    let first_segment: String = client
        .query_one(&format!("SELECT pg_walfile_name({start})"), &[])
        .await
        .and_then(|row| row.try_get(0))
        .map_err(at("start a backup"))?;

    {
        let (parent, child, user) = (parent.clone(), child.clone(), user.clone());
        blocking(move || {
            Tree::read(&parent)?.copy(&parent, &child, &user)?;
            copy_file(&parent, &child, Path::new(CONTROL), &user)
        })
        .await?;
    }
    let row = client
        .query_one(
            &format!(
                "SELECT lsn::text, labelfile, pg_walfile_name(lsn - 1) \
                 FROM {stop} AS stop(lsn, labelfile, spcmapfile)"
            ),
            &[],
        )
        .await
        .map_err(at("stop the backup"))?;
    let label: String = row.try_get(1).map_err(at("stop the backup"))?;
    let lsn: String = row.try_get(0).map_err(at("stop the backup"))?;
    let last_segment: String = row.try_get(2).map_err(at("stop the backup"))?;

    blocking(move || {
        copy_wal(&parent, &child, &first_segment, &last_segment, &user)?;
        let path = child.join("backup_label");
        fs::write(&path, label)
            .and_then(|()| fs::set_permissions(&path, PermissionsExt::from_mode(0o600)))
            .and_then(|()| user.own(&path))
            .map_err(|source| CloneError::Copy { path, source })
    })
    .await?;
    Ok(ForkPoint { lsn })
}

/// What is to be copied, as paths below the data directory.
struct Tree {
    folders: Vec<PathBuf>,
    files: Vec<PathBuf>,
}

impl Tree {
    fn read(root: &Path) -> Result<Self, CloneError> {
        let mut tree = Self {
            folders: Vec::new(),
            files: Vec::new(),
        };
        let wanted = |path: &Path| {
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or("");
            path != Path::new(CONTROL)
                && !LEFT_OUT.contains(&name)
                && !name.starts_with("pgsql_tmp")
        };
        tree.add(root, Path::new(""), &wanted)?;
        for folder in EMPTY_FOLDERS {
            let folder = Path::new(folder);
            if !tree.folders.iter().any(|known| known == folder) {
                tree.folders.push(folder.to_owned());
            }
        }
        Ok(tree)
    }

    /// Adds what is in a folder. Below a running server files come and go: one
    /// that is gone when its turn comes was dropped, and its removal is in the
    /// WAL that the copy replays.
    fn add(
        &mut self,
        root: &Path,
        folder: &Path,
        wanted: &dyn Fn(&Path) -> bool,
    ) -> Result<(), CloneError> {
        let failed = |path: PathBuf| move |source| CloneError::Copy { path, source };
        let here = root.join(folder);
        let entries = match fs::read_dir(&here) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(failed(here.clone()))?,
        };
        for entry in entries {
            let entry = entry.map_err(failed(here.clone()))?;
            let path = folder.join(entry.file_name());
            let kind = entry.file_type().map_err(failed(path.clone()))?;
            if !wanted(&path) {
                continue;
            }
            if kind.is_dir() {
                self.folders.push(path.clone());
                if !EMPTY_FOLDERS.iter().any(|empty| path == Path::new(empty)) {
                    self.add(root, &path, wanted)?;
                }
            } else if kind.is_file() {
                self.files.push(path);
            }
        }
        Ok(())
    }

    fn copy(&self, from: &Path, to: &Path, user: &ServerUser) -> Result<(), CloneError> {
        for folder in &self.folders {
            let path = to.join(folder);
            match fs::DirBuilder::new().mode(0o700).create(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                made => made.and_then(|()| user.own(&path)),
            }
            .map_err(|source| CloneError::Copy { path, source })?;
        }
        let next = AtomicUsize::new(0);
        let failure = Mutex::new(None);
        let threads = std::thread::available_parallelism()
            .map_or(1, usize::from)
            .min(COPY_THREADS_MAX);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while let Some(file) = self.files.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if let Err(error) = copy_file(from, to, file, user) {
                            // The others stop at their next file.
                            next.store(self.files.len(), Ordering::Relaxed);
                            if let Ok(mut failure) = failure.lock() {
                                failure.get_or_insert(error);
                            }
                        }
                    }
                });
            }
        });
        match failure.into_inner() {
            Ok(Some(error)) => Err(error),
            _ => Ok(()),
        }
    }
}

/// `std::fs::copy` asks the kernel to copy, which shares the blocks where the
/// file system can.
fn copy_file(from: &Path, to: &Path, file: &Path, user: &ServerUser) -> Result<(), CloneError> {
    let target = to.join(file);
    match fs::copy(from.join(file), &target) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && file != Path::new(CONTROL) => {
            return Ok(());
        }
        copied => copied.and_then(|_| user.own(&target)),
    }
    .map_err(|source| CloneError::Copy {
        path: from.join(file),
        source,
    })
}

/// Copies the WAL segments from the first to the last. Their names sort as
/// their positions do, on one timeline. Later segments, which the parent may
/// have made since, are no part of the copy.
fn copy_wal(
    parent: &Path,
    child: &Path,
    first: &str,
    last: &str,
    user: &ServerUser,
) -> Result<(), CloneError> {
    let wal = parent.join("pg_wal");
    let failed = |source| CloneError::Copy {
        path: wal.clone(),
        source,
    };
    for entry in fs::read_dir(&wal).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let Some(name) = name.to_str() else { continue };
        let is_segment = name.len() == 24 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
        let is_history = name.ends_with(".history");
        if is_history || (is_segment && (first..=last).contains(&name)) {
            copy_file(parent, child, &Path::new("pg_wal").join(name), user)?;
        }
    }
    Ok(())
}

async fn blocking<T, F>(work: F) -> Result<T, CloneError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, CloneError> + Send + 'static,
{
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| CloneError::Cancelled)?
}

/// The LSN of the last checkpoint of a stopped server, from its pg_control: for
/// a server that was shut down, the end of its history.
///
/// `ControlFileData` (src/include/catalog/pg_control.h) begins with the system
/// identifier (8 bytes), two versions (4 each), the state (4, padded to 8) and
/// the time (8); the checkpoint's LSN is next. So it is in Postgres 14 to 18.
pub(crate) fn checkpoint_lsn(data: &Path) -> Result<String, CloneError> {
    const OFFSET: usize = 32;
    let path = data.join(CONTROL);
    let failed = |source| CloneError::Copy {
        path: path.clone(),
        source,
    };
    let control = fs::read(&path).map_err(failed)?;
    let bytes = control
        .get(OFFSET..OFFSET + 8)
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| failed(io::ErrorKind::UnexpectedEof.into()))?;
    let lsn = u64::from_le_bytes(bytes);
    Ok(format!("{:X}/{:X}", lsn >> 32, lsn & 0xFFFF_FFFF))
}

/// Readies a clone whose first recovery was cut off by a kill to begin it
/// again. Postgres sets the label aside when it has read it; without it, what it
/// then finds in pg_control is a backup whose end it never sees ("WAL ends
/// before end of online backup"). All the WAL is still there: none goes before a
/// recovery is complete, and [`forget_label`] follows that.
pub(crate) fn begin_recovery_again(data: &Path) -> io::Result<()> {
    /// `DBState` in `ControlFileData`, after the identifier and two versions.
    const STATE: usize = 16;
    /// `DB_SHUTDOWNED_IN_RECOVERY`, `DB_IN_CRASH_RECOVERY`, which a start without
    /// the label leaves, and `DB_IN_ARCHIVE_RECOVERY`: so Postgres calls a
    /// recovery that has a label, whether or not there is an archive.
    const IN_RECOVERY: [u8; 3] = [2, 4, 5];
    let (label, aside) = (data.join("backup_label"), data.join(LABEL_SET_ASIDE));
    if label.exists() || !aside.exists() {
        return Ok(());
    }
    let control = fs::read(data.join(CONTROL))?;
    if control
        .get(STATE)
        .is_some_and(|state| IN_RECOVERY.contains(state))
    {
        fs::rename(aside, label)?;
    }
    Ok(())
}

/// Removes the label of a clone that has been recovered: a later recovery has
/// nothing to do with it.
pub(crate) fn forget_label(data: &Path) -> io::Result<()> {
    match fs::remove_file(data.join(LABEL_SET_ASIDE)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
