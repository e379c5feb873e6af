//! Cloning a data directory: what makes a folder of files a branch.
//!
//! A stopped parent's folder is simply cloned. A running one is cloned in
//! backup mode, which is Postgres's own protocol for copying files under a
//! server that writes ("Making an Exclusive/Non-Exclusive Low-Level Backup",
//! chapter 26.3 of its manual): start the backup, clone all but the WAL, stop
//! the backup, put the label that the stop returned into the clone, and add the
//! WAL from the start to the stop. The clone's first start replays that WAL and
//! is exactly the parent as it was at the stop.
//!
//! So it is whichever way the bytes are cloned (`storage`). A btrfs snapshot
//! could do without: with every process of the parent stopped by a signal, it is
//! what a kill would leave. But the parent's writers would wait, its WAL since
//! the last checkpoint would be replayed, and nobody could say at which LSN the
//! clone stands. Without stopping them it would be no clone: fsync being off,
//! nothing orders what is written while the snapshot is taken.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use thiserror::Error;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::storage::{CloneMethod, Selection, Storage, StorageError};

/// Of a running parent: the content of these belongs to it alone. The first
/// three as pg_basebackup has them; a clone has no use for the parent's
/// replication slots, and gets its WAL separately.
const RUNNING: Selection = Selection {
    left_out: |name| name == CONTROL_NAME || is_left_out(name),
    empty: &[
        "pg_dynshmem",
        "pg_notify",
        "pg_serial",
        "pg_snapshots",
        "pg_stat_tmp",
        "pg_subtrans",
        "pg_replslot",
        "pg_wal",
        "pg_wal/archive_status",
    ],
};
/// Of a stopped one, its WAL has its last checkpoint. A clone that was never
/// started has its label yet, and is to replay from there.
const STOPPED: Selection = Selection {
    left_out: |name| name != LABEL && is_left_out(name),
    empty: &[
        "pg_dynshmem",
        "pg_notify",
        "pg_serial",
        "pg_snapshots",
        "pg_stat_tmp",
        "pg_subtrans",
        "pg_replslot",
        "pg_wal/archive_status",
    ],
};
const LABEL: &str = "backup_label";
/// Postgres's name for a label that it has read.
const LABEL_SET_ASIDE: &str = "backup_label.old";
const CONTROL_NAME: &str = "pg_control";
/// Cloned last, as the manual asks: it must not be older than any page.
const CONTROL: &str = "global/pg_control";

/// Files that would tie the clone to the parent's process or to a backup. Those
/// below the data directory, caches and temporary files, Postgres removes at
/// its start where a snapshot has brought them along.
fn is_left_out(name: &str) -> bool {
    const NAMES: [&str; 7] = [
        LABEL,
        LABEL_SET_ASIDE,
        "postmaster.pid",
        "postmaster.opts",
        "tablespace_map",
        "pg_internal.init",
        "backup_manifest",
    ];
    NAMES.contains(&name) || name.starts_with("pgsql_tmp")
}

/// Why a clone was not made. Nothing of it remains.
#[derive(Debug, Error)]
pub(crate) enum CloneError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("could not read or write {}", path.display())]
    File {
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
    #[error("{} is missing", path.display())]
    Missing { path: PathBuf },
    #[error("the copying task ended early")]
    Cancelled,
}

/// What a clone was forked from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ForkPoint {
    /// The parent's LSN that the clone starts from.
    pub(crate) lsn: String,
    /// How the bytes were cloned.
    pub(crate) cloned_by: CloneMethod,
}

/// Clones the folder of a parent that is stopped, and stays so meanwhile.
pub(crate) fn clone_idle(
    parent: &Path,
    child: &Path,
    storage: &Storage,
) -> Result<CloneMethod, CloneError> {
    // A parent whose own first recovery was cut off.
    begin_recovery_again(parent).map_err(|source| CloneError::File {
        path: parent.join(LABEL_SET_ASIDE),
        source,
    })?;
    let cloned_by = storage.clone_folder(parent, child, &STOPPED)?;
    storage.settle()?;
    Ok(cloned_by)
}

/// Clones the folder of a parent that runs and takes writes, and returns where
/// in its history the clone stands. `client` is a session of the superuser on
/// the parent, used for this alone: with it end the backup and the reserved
/// WAL, however the cloning went. On failure nothing of the clone remains.
pub(crate) async fn clone_running(
    client: Client,
    server_version: u32,
    parent: PathBuf,
    child: PathBuf,
    storage: Storage,
) -> Result<ForkPoint, CloneError> {
    let (to, by) = (child.clone(), storage.clone());
    let cloned = clone_in_backup_mode(client, server_version, parent, to, by).await;
    if cloned.is_err() {
        // The reason that it was not made is the one to be told.
        let _ = blocking(move || Ok(storage.remove(&child)?)).await;
    }
    cloned
}

async fn clone_in_backup_mode(
    client: Client,
    server_version: u32,
    parent: PathBuf,
    child: PathBuf,
    storage: Storage,
) -> Result<ForkPoint, CloneError> {
    let at = |attempt| {
        let (storage, child) = (&storage, &child);
        move |source: tokio_postgres::Error| match source.code() {
            // The parent writes to the same file system.
            Some(&SqlState::DISK_FULL) => storage.full("clone into", child).into(),
            _ => CloneError::Parent { attempt, source },
        }
    };
    let (start, stop) = match server_version {
        ..15 => (
            "pg_start_backup('branch', true, false)",
            "pg_stop_backup(false, false)",
        ),
        _ => ("pg_backup_start('branch', true)", "pg_backup_stop(false)"),
    };
    // The slot keeps the WAL since the start of the backup until it is copied.
    client
        .simple_query(
            "SELECT pg_create_physical_replication_slot(\
                 'clone_' || pg_backend_pid(), immediately_reserve => true, temporary => true)",
        )
        .await
        .map_err(at("reserve WAL"))?;
    let first_segment: String = client
        .query_one(&format!("SELECT pg_walfile_name({start})"), &[])
        .await
        .and_then(|row| row.try_get(0))
        .map_err(at("start a backup"))?;

    let cloned_by = {
        let (parent, child, storage) = (parent.clone(), child.clone(), storage.clone());
        blocking(move || {
            let cloned_by = storage.clone_folder(&parent, &child, &RUNNING)?;
            match storage.clone_file(&parent, &child, Path::new(CONTROL))? {
                true => Ok(cloned_by),
                false => Err(CloneError::Missing {
                    path: parent.join(CONTROL),
                }),
            }
        })
        .await?
    };
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
        copy_wal(&parent, &child, &first_segment, &last_segment, &storage)?;
        let path = child.join(LABEL);
        fs::write(&path, label)
            .and_then(|()| fs::set_permissions(&path, PermissionsExt::from_mode(0o600)))
            .and_then(|()| storage.own(&path))
            .map_err(|source| CloneError::File { path, source })?;
        Ok(storage.settle()?)
    })
    .await?;
    Ok(ForkPoint { lsn, cloned_by })
}

/// Copies the WAL segments from the first to the last. Their names sort as
/// their positions do, on one timeline. Later segments, which the parent may
/// have made since, are no part of the copy.
fn copy_wal(
    parent: &Path,
    child: &Path,
    first: &str,
    last: &str,
    storage: &Storage,
) -> Result<(), CloneError> {
    let wal = parent.join("pg_wal");
    let failed = |source| CloneError::File {
        path: wal.clone(),
        source,
    };
    for entry in fs::read_dir(&wal).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let Some(name) = name.to_str() else { continue };
        let is_segment = name.len() == 24 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
        let is_history = name.ends_with(".history");
        if is_history || (is_segment && (first..=last).contains(&name)) {
            // A segment that goes meanwhile is none that the slot keeps.
            storage.clone_file(parent, child, &Path::new("pg_wal").join(name))?;
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
    let failed = |source| CloneError::File {
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
    let (label, aside) = (data.join(LABEL), data.join(LABEL_SET_ASIDE));
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
