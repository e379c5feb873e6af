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
        let new = match fs::read_dir(data) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            Err(error) => return Err(failed(data)(error)),
            Ok(entries) => {
                // A kill at the very start leaves the lock alone.
                let mut names = entries.flatten().map(|entry| entry.file_name());
                if names.any(|name| name != "lock") && !data.join("state.json").exists() {
                    return Err(StartError::NotOurs {
                        path: data.to_owned(),
                    });
                }
                false
            }
        };
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
pub(crate) fn socket_folder(data: &Path, user: &ServerUser) -> Result<PathBuf, StartError> {
    let mut folder = data.join("sockets");
    if folder.as_os_str().len() > SOCKET_FOLDER_BYTES_MAX {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let mut hasher = DefaultHasher::new();
        data.hash(&mut hasher);
        folder = PathBuf::from(format!("/tmp/neon-emulator-{:016x}", hasher.finish()));
    }
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
