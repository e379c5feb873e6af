//! How folders are cloned here: found out by doing it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::{btrfs, file};
use crate::postgres::ServerUser;

/// How a folder is cloned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CloneMethod {
    /// A btrfs snapshot of the whole folder.
    Btrfs,
    /// Each file shares its blocks with the source's: XFS, btrfs, APFS.
    Reflink,
    /// Every byte is copied.
    Copy,
}

/// Which way of cloning is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum StorageWish {
    /// The cheapest that the file system of the data folder has.
    #[default]
    Auto,
    /// btrfs snapshots.
    Btrfs,
    /// Files that share blocks.
    Reflink,
    /// Copies.
    Copy,
}

/// What was found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chosen {
    pub(crate) method: CloneMethod,
    /// The name of the file system: ext4, say.
    pub(crate) file_system: String,
    /// Why it is this method, for people.
    pub(crate) reason: String,
}

/// Why there is no way of cloning.
#[derive(Debug, Error)]
pub(crate) enum ChooseError {
    #[error("--storage {wanted} cannot be had in {} ({file_system}): {source}; {advice}", root.display())]
    NotToBeHad {
        wanted: CloneMethod,
        root: PathBuf,
        file_system: String,
        advice: &'static str,
        source: io::Error,
    },
    #[error("could not try out in {} ({file_system}) how to clone: {source}", root.display())]
    Try {
        root: PathBuf,
        file_system: String,
        source: io::Error,
    },
}

impl std::fmt::Display for CloneMethod {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Btrfs => "btrfs",
            Self::Reflink => "reflink",
            Self::Copy => "copy",
        })
    }
}

/// Tries the ways of cloning in this folder, and takes the cheapest that works,
/// or the one that is wanted. Nothing is left of the attempts.
pub(crate) fn choose(
    root: &Path,
    wish: StorageWish,
    user: &ServerUser,
) -> Result<Chosen, ChooseError> {
    let file_system = file_system(root);
    let attempts = tempfile::Builder::new()
        .prefix("clone-attempt-")
        .tempdir_in(root)
        .map_err(|source| ChooseError::Try {
            root: root.to_owned(),
            file_system: file_system.clone(),
            source,
        })?;
    let attempt = |method| attempt(attempts.path(), method, user);
    let chosen = |method, reason: String| {
        Ok(Chosen {
            method,
            file_system: file_system.clone(),
            reason,
        })
    };
    let only = |method, advice| match attempt(method) {
        Ok(()) => chosen(method, "it was asked for with --storage".to_owned()),
        Err(source) => Err(ChooseError::NotToBeHad {
            wanted: method,
            root: root.to_owned(),
            file_system: file_system.clone(),
            advice,
            source,
        }),
    };
    match wish {
        StorageWish::Btrfs => only(
            CloneMethod::Btrfs,
            "put the data folder on btrfs, or as root have a file system made with --storage-image",
        ),
        StorageWish::Reflink => only(
            CloneMethod::Reflink,
            "put the data folder on XFS or btrfs, or as root have a file system made with --storage-image",
        ),
        StorageWish::Copy => only(CloneMethod::Copy, "it needs a folder that can be written"),
        StorageWish::Auto => {
            let Err(no_snapshot) = attempt(CloneMethod::Btrfs) else {
                let reason = "the file system snapshots folders";
                return chosen(CloneMethod::Btrfs, reason.to_owned());
            };
            let Err(no_reflink) = attempt(CloneMethod::Reflink) else {
                let reason = "the file system's files can share blocks";
                return chosen(CloneMethod::Reflink, reason.to_owned());
            };
            attempt(CloneMethod::Copy).map_err(|source| ChooseError::Try {
                root: root.to_owned(),
                file_system: file_system.clone(),
                source,
            })?;
            let reason = format!(
                "neither folders nor files can be shared (snapshot: {no_snapshot}; reflink: {no_reflink})"
            );
            chosen(CloneMethod::Copy, reason)
        }
    }
}

/// Clones something, and sees that it is there.
fn attempt(folder: &Path, method: CloneMethod, user: &ServerUser) -> io::Result<()> {
    /// More than fits into a file's inode.
    const CONTENT_BYTES: usize = 65_536;
    let content = vec![7; CONTENT_BYTES];
    let (from, to) = (folder.join("from"), folder.join("to"));
    for path in [&from, &to] {
        if path.exists() && (!btrfs::is_subvolume(path) || btrfs::delete(path).is_err()) {
            fs::remove_dir_all(path)?;
        }
    }
    match method {
        CloneMethod::Btrfs => {
            btrfs::create(&from)?;
            fs::write(from.join("file"), &content)?;
            btrfs::snapshot(&from, &to)?;
        }
        CloneMethod::Reflink | CloneMethod::Copy => {
            #[cfg(not(target_os = "linux"))]
            if method == CloneMethod::Reflink && file_system(folder) != "apfs" {
                return Err(io::ErrorKind::Unsupported.into());
            }
            fs::create_dir(&from)?;
            fs::create_dir(&to)?;
            fs::write(from.join("file"), &content)?;
            file::copy(&from.join("file"), &to.join("file"), method, user, &|_| ())?;
        }
    }
    if fs::read(to.join("file"))? == content {
        Ok(())
    } else {
        Err(io::Error::other("the clone has other content"))
    }
}

/// The name of the file system that a folder is on, as /proc/filesystems has it.
#[cfg(target_os = "linux")]
pub(crate) fn file_system(path: &Path) -> String {
    use nix::sys::statfs;
    let Ok(found) = statfs::statfs(path) else {
        return "unknown".to_owned();
    };
    match found.filesystem_type() {
        statfs::BTRFS_SUPER_MAGIC => "btrfs".to_owned(),
        statfs::XFS_SUPER_MAGIC => "xfs".to_owned(),
        // ext2 and ext3 have the same number.
        statfs::EXT4_SUPER_MAGIC => "ext4".to_owned(),
        statfs::TMPFS_MAGIC => "tmpfs".to_owned(),
        statfs::OVERLAYFS_SUPER_MAGIC => "overlayfs".to_owned(),
        statfs::NFS_SUPER_MAGIC => "nfs".to_owned(),
        other => format!("file system 0x{:x}", other.0),
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn file_system(path: &Path) -> String {
    nix::sys::statfs::statfs(path).map_or_else(
        |_| "unknown".to_owned(),
        |found| found.filesystem_type_name().to_owned(),
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_chosen_works_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let user = ServerUser::choose(None).unwrap();
        let chosen = choose(folder.path(), StorageWish::Auto, &user).unwrap();
        assert!(!chosen.reason.is_empty());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        let copy = choose(folder.path(), StorageWish::Copy, &user).unwrap();
        assert_eq!(copy.method, CloneMethod::Copy);
        assert_eq!(copy.file_system, chosen.file_system);
    }

    #[test]
    fn what_is_not_to_be_had_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let user = ServerUser::choose(None).unwrap();
        if file_system(folder.path()) == "btrfs" {
            return;
        }
        let error = choose(folder.path(), StorageWish::Btrfs, &user).unwrap_err();
        let message = error.to_string();
        assert!(message.contains("--storage btrfs"), "{message}");
        assert!(message.contains("--storage-image"), "{message}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
