//! The data folder: whose it is, what is in it, where its sockets are.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use fd_lock::{RwLock, RwLockWriteGuard};
use tracing::warn;

use crate::postgres::ServerUser;
use crate::start_error::StartError;

/// A Unix socket's path ends at 107 bytes, of which Postgres uses these for
/// `/.s.PGSQL.65535.lock`.
const SOCKET_FOLDER_BYTES_MAX: usize = 107 - 20;

/// The data folder, held for this process alone.
#[derive(Debug)]
pub(crate) struct DataFolder {
    /// Without links: as Postgres itself sees it.
    pub(crate) path: PathBuf,
    /// Removed again unless the start succeeds.
    new: bool,
    _lock: RwLockWriteGuard<'static, fs::File>,
}

impl DataFolder {
    pub(crate) fn take(data: &Path) -> Result<Self, StartError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            |reason| StartError::Folder { path, reason }
        };
        let new = is_missing(data)?;
        if let Some(parent) = data.parent() {
            fs::create_dir_all(parent).map_err(failed(parent))?;
        }
        make_folder(data, 0o711)?;
        let path = data.canonicalize().map_err(failed(data))?;
        let lock = lock(&path)?;
        Ok(Self {
            path,
            new,
            _lock: lock,
        })
    }

    /// Looks whether it could be taken, and keeps others from it meanwhile.
    /// `None`: it is not there, or empty.
    pub(crate) fn look(data: &Path) -> Result<Option<Self>, StartError> {
        if is_missing(data)? || !data.join("state.json").exists() {
            return Ok(None);
        }
        Self::take(data).map(Some)
    }

    /// Makes the folders in it.
    pub(crate) fn furnish(&self) -> Result<(), StartError> {
        make_folder(&self.path.join("log"), 0o700)
    }

    /// The start has succeeded.
    pub(crate) fn keep(mut self) -> Self {
        self.new = false;
        self
    }
}

impl Drop for DataFolder {
    fn drop(&mut self) {
        if self.new
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            warn!(folder = %self.path.display(), %error, "could not remove what the failed start made");
        }
    }
}

/// True where there is no such folder. One that is somebody else's is refused.
fn is_missing(data: &Path) -> Result<bool, StartError> {
    match fs::read_dir(data) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(reason) => Err(StartError::Folder {
            path: data.to_owned(),
            reason,
        }),
        Ok(entries) => {
            // A kill at the very start leaves the lock alone.
            let mut names = entries.flatten().map(|entry| entry.file_name());
            if names.any(|name| name != "lock") && !data.join("state.json").exists() {
                return Err(StartError::NotOurs {
                    path: data.to_owned(),
                });
            }
            Ok(false)
        }
    }
}

/// Makes a folder unless it is there; one that is there stays as it is.
pub(crate) fn make_folder(path: &Path, mode: u32) -> Result<(), StartError> {
    match fs::DirBuilder::new().mode(mode).create(path) {
        Err(reason) if reason.kind() != io::ErrorKind::AlreadyExists => Err(StartError::Folder {
            path: path.to_owned(),
            reason,
        }),
        _ => Ok(()),
    }
}

fn lock(data: &Path) -> Result<RwLockWriteGuard<'static, fs::File>, StartError> {
    let path = data.join("lock");
    let failed = |reason| StartError::Folder {
        path: path.clone(),
        reason,
    };
    let file = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(failed)?;
    // Held until the process ends, which is when the emulator does.
    let lock: &'static mut RwLock<fs::File> = Box::leak(Box::new(RwLock::new(file)));
    lock.try_write().map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => StartError::Locked {
            path: data.to_owned(),
        },
        _ => failed(error),
    })
}

/// Where Postgres makes its Unix sockets: in the data folder, unless that is
/// too deep.
pub(crate) enum SocketPlace {
    InData(PathBuf),
    Elsewhere(PathBuf),
}

pub(crate) fn socket_place(data: &Path) -> SocketPlace {
    let folder = data.join("sockets");
    if folder.as_os_str().len() <= SOCKET_FOLDER_BYTES_MAX {
        return SocketPlace::InData(folder);
    }
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    data.hash(&mut hasher);
    let name = format!("/tmp/neon-emulator-{:016x}", hasher.finish());
    SocketPlace::Elsewhere(name.into())
}

/// Makes the folder for the Unix sockets.
pub(crate) fn socket_folder(data: &Path, user: &ServerUser) -> Result<PathBuf, StartError> {
    let (SocketPlace::InData(folder) | SocketPlace::Elsewhere(folder)) = socket_place(data);
    let failed = |reason| StartError::Folder {
        path: folder.clone(),
        reason,
    };
    match fs::symlink_metadata(&folder) {
        Ok(found) if !found.is_dir() || !is_ours(&folder, user).map_err(failed)? => {
            let reason = "it is there and belongs to somebody else";
            return Err(failed(io::Error::new(
                io::ErrorKind::PermissionDenied,
                reason,
            )));
        }
        Ok(_) => {}
        Err(_) => fs::DirBuilder::new()
            .mode(0o711)
            .create(&folder)
            .map_err(failed)?,
    }
    fs::set_permissions(&folder, PermissionsExt::from_mode(0o711))
        .and_then(|()| user.own(&folder))
        .map_err(failed)?;
    Ok(folder)
}

/// Made by an earlier run: for the emulator, and given to Postgres's user.
fn is_ours(folder: &Path, user: &ServerUser) -> io::Result<bool> {
    let own = nix::unistd::Uid::effective().as_raw();
    Ok(user.owns(folder)? || folder.metadata()?.uid() == own)
}
