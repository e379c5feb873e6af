//! What is stored here, and who may change it.
//!
//! Leases and the generations of bindings: what has to outlive the process, so
//! that a broker that was stopped goes on where it was. leases.rs changes the
//! leases, bindings.rs the generations, and nobody else changes anything. No
//! password and no connection string is in it: what is stored names a role, a
//! branch and a key, and opens nothing.
//!
//! With a folder it lies in `leases.json`, replaced whole at each change, which
//! is on disk before [`State::change`] returns; changes that come together
//! share a write. The folder is locked: one broker at a time. Without a folder
//! it lives in memory and ends with the process.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use neon_api::BranchId;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use crate::leases::Lease;
use crate::names::{BindingName, LeaseId};

/// The file in the state folder.
const FILE: &str = "leases.json";
/// The file whose lock says that a broker uses the folder.
const LOCK_FILE: &str = "lock";
/// How the names begin of files that are moved into place once they are whole:
/// the state's, and the key's.
const HALVES: [&str; 2] = [".tmp", ".key-"];
/// The layout of the file. One that is newer is not read.
const FORMAT: u32 = 1;
/// Changes that may wait for a write. More wait before they are made.
const WRITES_QUEUED_MAX: usize = 1_024;

/// What is stored.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    format: u32,
    /// Leases that have not ended.
    pub leases: BTreeMap<LeaseId, Lease>,
    /// The newest generation of each binding that ever had one.
    pub generations: BTreeMap<BindingName, Generation>,
}

/// What a generation of a binding leads to. When that changes, the generation
/// goes up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Generation {
    /// 1 or more.
    pub number: i64,
    /// The branch.
    pub branch: BranchId,
    /// Host, port and database, direct and pooled.
    pub address: String,
    /// When the branch was last reset or restored.
    #[serde(default)]
    pub reset_at: Option<Timestamp>,
    /// Since when.
    pub since: Timestamp,
    /// Why it came to be, for people.
    pub reason: String,
}

/// Why what is stored cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder could not be made or opened.
    #[error("open the state folder {}", path.display())]
    FailedOpen {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Another broker has it.
    #[error("the state folder {} is in use by another broker; stop it, or name another folder with --state", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// The file could not be read.
    #[error("read {}", path.display())]
    FailedRead {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file is not one of ours.
    #[error("{} is not a state file of this broker; move it away to start without leases", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// The file is of a later broker.
    #[error("{} is of a newer broker (format {format}); run that one", path.display())]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: u32,
    },
    /// A change could not be written.
    #[error("write {}", path.display())]
    FailedWrite {
        /// The file.
        path: PathBuf,
        /// What the system said; shared by the changes that were written
        /// together.
        #[source]
        source: Arc<io::Error>,
    },
}

/// Where [`Data`] lives.
#[derive(Debug)]
pub struct State {
    data: Arc<Mutex<Data>>,
    disk: Option<Disk>,
}

#[derive(Debug)]
struct Disk {
    path: PathBuf,
    writes: mpsc::Sender<Written>,
    /// Held for as long as the state is used.
    _lock: File,
}

type Written = oneshot::Sender<Result<(), Arc<io::Error>>>;

impl State {
    /// In memory.
    pub fn in_memory() -> State {
        State {
            data: Arc::default(),
            disk: None,
        }
    }

    /// In that folder, which is made, for its owner alone, if it is not there.
    /// Needs a tokio runtime.
    pub fn open(folder: &Path) -> Result<State, Error> {
        let lock = lock(folder)?;
        sweep(folder);
        let path = folder.join(FILE);
        let data = Arc::new(Mutex::new(read(&path)?));
        let (writes, queue) = mpsc::channel(WRITES_QUEUED_MAX);
        tokio::spawn(write_all(path.clone(), Arc::clone(&data), queue));
        Ok(State {
            data,
            disk: Some(Disk {
                path,
                writes,
                _lock: lock,
            }),
        })
    }

    /// Reads.
    pub fn read<T>(&self, read: impl FnOnce(&Data) -> T) -> T {
        read(&self.data())
    }

    /// Changes, and returns once the change is stored. On an error it is made
    /// in memory and not on disk: the caller takes it back or lets it be.
    pub async fn change<T>(&self, change: impl FnOnce(&mut Data) -> T) -> Result<T, Error> {
        let changed = change(&mut self.data());
        self.store().await?;
        Ok(changed)
    }

    /// Changes in memory. For what the next start would do by itself, and for
    /// taking back what could not be stored.
    pub fn change_unstored<T>(&self, change: impl FnOnce(&mut Data) -> T) -> T {
        change(&mut self.data())
    }

    async fn store(&self) -> Result<(), Error> {
        let Some(disk) = &self.disk else {
            return Ok(());
        };
        let (written, answer) = oneshot::channel();
        let gone = || Arc::new(io::Error::other("the writer has stopped"));
        let failed = |source| Error::FailedWrite {
            path: disk.path.clone(),
            source,
        };
        disk.writes
            .send(written)
            .await
            .map_err(|_| failed(gone()))?;
        answer.await.map_err(|_| failed(gone()))?.map_err(failed)
    }

    fn data(&self) -> MutexGuard<'_, Data> {
        self.data.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes when asked to, once for all who have asked meanwhile. Ends with the
/// state.
async fn write_all(path: PathBuf, data: Arc<Mutex<Data>>, mut queue: mpsc::Receiver<Written>) {
    let mut waiting = Vec::new();
    while queue.recv_many(&mut waiting, WRITES_QUEUED_MAX).await > 0 {
        let (path, data) = (path.clone(), Arc::clone(&data));
        let written = tokio::task::spawn_blocking(move || write(&path, &data)).await;
        let result = written
            .unwrap_or_else(|error| Err(io::Error::other(error)))
            .map_err(Arc::new);
        for asked in waiting.drain(..) {
            // Who asked may have gone away meanwhile; the write stands.
            let _ = asked.send(result.clone());
        }
    }
}

fn write(path: &Path, data: &Mutex<Data>) -> io::Result<()> {
    let text = {
        let mut data = data.lock().unwrap_or_else(PoisonError::into_inner);
        data.format = FORMAT;
        serde_json::to_vec_pretty(&*data).map_err(io::Error::other)?
    };
    let folder = path.parent().unwrap_or(Path::new("."));
    // Readable by its owner alone, as tempfile makes them.
    let mut file = tempfile::Builder::new()
        .prefix(HALVES[0])
        .tempfile_in(folder)?;
    file.write_all(&text)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    File::open(folder)?.sync_all()
}

fn read(path: &Path) -> Result<Data, Error> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Data::default()),
        Err(source) => {
            return Err(Error::FailedRead {
                path: path.to_owned(),
                source,
            });
        }
    };
    #[derive(Deserialize)]
    struct Head {
        format: u32,
    }
    let malformed = |source| Error::Malformed {
        path: path.to_owned(),
        source,
    };
    let Head { format } = serde_json::from_slice(&text).map_err(malformed)?;
    if format > FORMAT {
        return Err(Error::TooNew {
            path: path.to_owned(),
            format,
        });
    }
    serde_json::from_slice(&text).map_err(malformed)
}

/// Removes what a broker that was killed in a write has left. The folder is
/// ours alone by now.
fn sweep(folder: &Path) {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in entries {
        let name = entry.file_name();
        let is_half = |prefix: &&str| name.as_encoded_bytes().starts_with(prefix.as_bytes());
        if HALVES.iter().any(is_half)
            && let Err(error) = std::fs::remove_file(entry.path())
        {
            tracing::warn!(file = %entry.path().display(), %error, "cannot be removed");
        }
    }
}

fn lock(folder: &Path) -> Result<File, Error> {
    use std::os::unix::fs::DirBuilderExt as _;
    let failed = |source| Error::FailedOpen {
        path: folder.to_owned(),
        source,
    };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(failed)?;
    let file = File::create(folder.join(LOCK_FILE)).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::InUse {
            path: folder.to_owned(),
        }),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}
