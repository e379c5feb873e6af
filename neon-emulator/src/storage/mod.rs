//! The bytes of branches: folders that are made, cloned, renamed and removed in
//! the way that the file system does cheapest.
//!
//! How folders are cloned is found out once, at the start, by really doing it
//! ([`choose`]), and is then the way for all of them: nothing slower is taken
//! silently. What Postgres needs of a clone is not known here; see
//! `postgres::copy`.

mod btrfs;
mod choose;
mod error;
mod file;
mod image;
mod progress;
mod tree;

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

pub(crate) use choose::{Chosen, choose};
pub use choose::{CloneMethod, StorageWish};
pub(crate) use error::StorageError;
pub(crate) use image::{Image, check_image_tool};
pub use image::{ImageError, ImageSize, enter_private_mounts, has_storage_image};
pub(crate) use tree::Selection;

use crate::postgres::ServerUser;

/// What data survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// The death of any process, by kill -9 as well. Not a power cut, nor a
    /// crash of the machine: nothing is forced to the disk.
    #[default]
    Process,
    /// A power cut as well: what was acknowledged is on the disk.
    Machine,
}

/// Where the folders are, and how they are cloned.
#[derive(Debug, Clone)]
pub(crate) struct Storage {
    root: PathBuf,
    chosen: Chosen,
    durability: Durability,
    user: ServerUser,
}

impl Storage {
    pub(crate) fn new(
        root: PathBuf,
        chosen: Chosen,
        durability: Durability,
        user: ServerUser,
    ) -> Self {
        Self {
            root,
            chosen,
            durability,
            user,
        }
    }

    /// The folder that all others are in.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// How folders are cloned, and what was found at the start.
    pub(crate) fn chosen(&self) -> &Chosen {
        &self.chosen
    }

    pub(crate) fn durability(&self) -> Durability {
        self.durability
    }

    /// An empty folder, owned by who runs Postgres. What is there is removed
    /// first: an earlier attempt that was cut off.
    pub(crate) fn make_folder(&self, path: &Path) -> Result<(), StorageError> {
        self.remove(path)?;
        self.make_parent(path)?;
        match self.chosen.method {
            CloneMethod::Btrfs => btrfs::create(path),
            CloneMethod::Reflink | CloneMethod::Copy => fs::create_dir(path),
        }
        .and_then(|()| fs::set_permissions(path, PermissionsExt::from_mode(0o700)))
        .and_then(|()| self.user.own(path))
        .map_err(|source| self.error("make", path, source))
    }

    /// Makes a folder that is a clone of another, without what `selection`
    /// leaves out, and says how. What is there is removed first. On failure
    /// nothing remains.
    pub(crate) fn clone_folder(
        &self,
        from: &Path,
        to: &Path,
        selection: &Selection,
    ) -> Result<CloneMethod, StorageError> {
        let cloned = self.clone_unguarded(from, to, selection);
        if cloned.is_err() {
            // The reason that it was not made is the one to be told.
            let _ = self.remove(to);
        }
        cloned
    }

    fn clone_unguarded(
        &self,
        from: &Path,
        to: &Path,
        selection: &Selection,
    ) -> Result<CloneMethod, StorageError> {
        // A folder of an earlier run with another method is no subvolume.
        if self.chosen.method == CloneMethod::Btrfs && btrfs::is_subvolume(from) {
            self.remove(to)?;
            self.make_parent(to)?;
            btrfs::snapshot(from, to).map_err(|source| self.error("snapshot", from, source))?;
            tree::prune(to, selection).map_err(|(path, source)| {
                self.error("remove what is the source's alone at", &path, source)
            })?;
            return Ok(CloneMethod::Btrfs);
        }
        let method = match self.chosen.method {
            CloneMethod::Btrfs | CloneMethod::Reflink => CloneMethod::Reflink,
            CloneMethod::Copy => CloneMethod::Copy,
        };
        self.make_folder(to)?;
        tree::copy(from, to, selection, method, &self.user)
            .map_err(|(path, source)| self.error("copy", &path, source))?;
        Ok(method)
    }

    /// Copies one file from a folder into another, over what is there. One that
    /// is missing is left out: `false`.
    pub(crate) fn clone_file(
        &self,
        from: &Path,
        to: &Path,
        name: &Path,
    ) -> Result<bool, StorageError> {
        match file::copy(
            &from.join(name),
            &to.join(name),
            self.chosen.method,
            &self.user,
            &|_| (),
        ) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound && to.exists() => Ok(false),
            Err(source) => Err(self.error("copy", &from.join(name), source)),
        }
    }

    /// What was written below the root so far is on the disk from now on, where
    /// that is asked for.
    pub(crate) fn settle(&self) -> Result<(), StorageError> {
        match self.durability {
            Durability::Process => Ok(()),
            Durability::Machine => file::sync_file_system(&self.root)
                .map_err(|source| self.error("write to the disk", &self.root, source)),
        }
    }

    /// Renames a folder.
    pub(crate) fn rename(&self, from: &Path, to: &Path) -> Result<(), StorageError> {
        let failed = |source| StorageError::Rename {
            from: from.to_owned(),
            to: to.to_owned(),
            source,
        };
        fs::rename(from, to).map_err(failed)?;
        if self.durability == Durability::Machine {
            for folder in [from.parent(), to.parent()].into_iter().flatten() {
                file::sync_folder(folder).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Removes a folder; one that is not there is no error.
    pub(crate) fn remove(&self, path: &Path) -> Result<(), StorageError> {
        if self.chosen.method == CloneMethod::Btrfs
            && btrfs::is_subvolume(path)
            && btrfs::delete(path).is_ok()
        {
            return Ok(());
        }
        // Who may not delete a subvolume may still empty it and remove it.
        match fs::remove_dir_all(path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(self.error("remove", path, source))
            }
            _ => Ok(()),
        }
    }

    /// Gives a file to the user who runs Postgres.
    pub(crate) fn own(&self, path: &Path) -> io::Result<()> {
        self.user.own(path)
    }

    /// Somebody else found the file system full.
    pub(crate) fn full(&self, attempt: &'static str, path: &Path) -> StorageError {
        self.error(attempt, path, io::ErrorKind::StorageFull.into())
    }

    fn make_parent(&self, path: &Path) -> Result<(), StorageError> {
        let Some(parent) = path.parent() else {
            return Ok(());
        };
        fs::create_dir_all(parent).map_err(|source| self.error("make", parent, source))
    }

    fn error(&self, attempt: &'static str, path: &Path, source: io::Error) -> StorageError {
        StorageError::new(attempt, path, &self.root, &self.chosen.file_system, source)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
impl Storage {
    /// For tests of others: plain folders, copied.
    pub(crate) fn plain(root: &Path) -> Self {
        let chosen = Chosen {
            method: CloneMethod::Copy,
            file_system: "a test's".to_owned(),
            reason: "a test".to_owned(),
        };
        let user = ServerUser::choose(None).unwrap();
        Self::new(root.to_owned(), chosen, Durability::Process, user)
    }
}
