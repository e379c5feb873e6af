//! A file system of our own, in a file: for machines whose file system cannot
//! share blocks.
//!
//! The file is mounted by a loop device, in a mount namespace that only this
//! process and its children have. So a kill leaves no mount behind, once the
//! last Postgres of the killed run is gone; until then the same loop device is
//! found and used again, by mount(8). The space is taken when the file is made:
//! a full image is an ordinary full file system, and never one whose blocks
//! cannot be written.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};

use thiserror::Error;
use tracing::{info, warn};

use super::StorageWish;

/// The image, in the data folder. One that is there is used.
const IMAGE_FILE: &str = "storage.img";
/// Where it is mounted, in the data folder.
const MOUNT_FOLDER: &str = "storage";
/// What mkfs.xfs wants at least.
const IMAGE_MB_MIN: u64 = 320;

static MOUNTS_ARE_PRIVATE: AtomicBool = AtomicBool::new(false);

/// How large an image is to be: 512M, 8G.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageSize(u64);

/// Why there is no image.
#[derive(Debug, Error)]
pub enum ImageError {
    /// Mounting is root's.
    #[error(
        "a storage image needs root, and Linux, to be mounted: {source}; run the emulator as root, or put the data folder on btrfs or XFS"
    )]
    Private {
        /// What the system said.
        source: io::Error,
    },
    /// The program did not ask for private mounts.
    #[error(
        "the mounts of this process are not private: call neon_emulator::enter_private_mounts before it has a second thread"
    )]
    NotPrivate,
    /// The folder has branches, and they are in no image.
    #[error("the data folder {} has branches outside of a storage image; leave --storage-image out, or choose a new folder with --data", data.display())]
    Occupied {
        /// The data folder.
        data: PathBuf,
    },
    /// Both were asked for.
    #[error(
        "--storage-image is for cloning without copying; leave out --storage copy, or the image"
    )]
    Pointless,
    /// The program that makes file systems is missing.
    #[error(
        "{program} is missing, and with it a file system for the storage image; install it with: apt-get install {package}"
    )]
    NoTool {
        /// What was looked for.
        program: &'static str,
        /// What has it.
        package: &'static str,
    },
    /// A program failed.
    #[error("could not {attempt} {}: {message}", path.display())]
    Tool {
        /// What it was to do.
        attempt: &'static str,
        /// On what.
        path: PathBuf,
        /// What it said.
        message: String,
    },
    /// The file could not be made.
    #[error("could not {attempt} {}: {source}", path.display())]
    File {
        /// What was attempted.
        attempt: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl FromStr for ImageSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let malformed = || format!("{text:?} is no size: write 512M or 8G");
        let unit = match text.chars().last() {
            Some('M') => 1 << 20,
            Some('G') => 1 << 30,
            Some('T') => 1 << 40,
            _ => return Err(malformed()),
        };
        let number: u64 = text[..text.len() - 1].parse().map_err(|_| malformed())?;
        let bytes = number.checked_mul(unit).ok_or_else(malformed)?;
        if bytes < IMAGE_MB_MIN << 20 {
            return Err(format!("{text} is too small: at least {IMAGE_MB_MIN}M"));
        }
        Ok(Self(bytes))
    }
}

/// Whether a data folder has a storage image, which needs
/// [`enter_private_mounts`].
#[must_use]
pub fn has_storage_image(data: &Path) -> bool {
    data.join(IMAGE_FILE).exists()
}

/// Gives this process mounts of its own, which a storage image needs. Mounts
/// that others make still appear. To be called while the process has one
/// thread: those that there are already keep the old mounts.
///
/// # Errors
/// When the system refuses: it is for root alone.
#[cfg(target_os = "linux")]
pub fn enter_private_mounts() -> Result<(), ImageError> {
    use nix::mount::{MsFlags, mount};
    const NONE: Option<&str> = None;
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)
        .and_then(|()| mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_SLAVE, NONE))
        .map_err(|error| ImageError::Private {
            source: error.into(),
        })?;
    MOUNTS_ARE_PRIVATE.store(true, Ordering::Relaxed);
    Ok(())
}

/// Elsewhere there is no such thing.
///
/// # Errors
/// Always.
#[cfg(not(target_os = "linux"))]
pub fn enter_private_mounts() -> Result<(), ImageError> {
    Err(ImageError::Private {
        source: io::ErrorKind::Unsupported.into(),
    })
}

/// A mounted image. Dropping it unmounts it.
#[derive(Debug)]
pub(crate) struct Image {
    folder: PathBuf,
}

impl Image {
    /// Mounts the image of a data folder; makes it if there is none and a size
    /// is given. `None`: there is none, and none is wanted.
    pub(crate) fn mount(
        data: &Path,
        size: Option<ImageSize>,
        wish: StorageWish,
    ) -> Result<Option<Self>, ImageError> {
        let image = data.join(IMAGE_FILE);
        match (image.exists(), size) {
            (false, None) => return Ok(None),
            (false, Some(size)) => make(data, &image, size, wish)?,
            (true, Some(size)) => {
                if fs::metadata(&image).is_ok_and(|found| found.len() != size.0) {
                    warn!(image = %image.display(), "the storage image is there, and keeps its size");
                }
            }
            (true, None) => {}
        }
        if !MOUNTS_ARE_PRIVATE.load(Ordering::Relaxed) {
            return Err(ImageError::NotPrivate);
        }
        let folder = data.join(MOUNT_FOLDER);
        fs::create_dir_all(&folder).map_err(|source| ImageError::File {
            attempt: "make",
            path: folder.clone(),
            source,
        })?;
        let options = ["-n", "-o", "loop,noatime,nodiscard"];
        let mut command = Command::new("mount");
        command.args(options).arg(&image).arg(&folder);
        run(command, "mount", &image)?;
        let mounted = Self { folder };
        fs::set_permissions(&mounted.folder, PermissionsExt::from_mode(0o711)).map_err(
            |source| ImageError::File {
                attempt: "open to Postgres",
                path: mounted.folder.clone(),
                source,
            },
        )?;
        info!(image = %image.display(), folder = %mounted.folder.display(), "mounted the storage image, for this process alone");
        Ok(Some(mounted))
    }

    /// Where it is mounted.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Image {
    #[cfg(target_os = "linux")]
    fn drop(&mut self) {
        use nix::errno::Errno;
        use nix::mount::{MntFlags, umount, umount2};
        let unmounted = match umount(&self.folder) {
            // Somebody still works there: it goes with the last of them.
            Err(Errno::EBUSY) => umount2(&self.folder, MntFlags::MNT_DETACH),
            unmounted => unmounted,
        };
        match unmounted {
            Ok(()) => info!(folder = %self.folder.display(), "unmounted the storage image"),
            Err(error) => {
                warn!(folder = %self.folder.display(), %error, "could not unmount the storage image");
            }
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn drop(&mut self) {}
}

/// Makes the file and the file system in it.
fn make(data: &Path, image: &Path, size: ImageSize, wish: StorageWish) -> Result<(), ImageError> {
    let has_branches =
        fs::read_dir(data.join("branches")).is_ok_and(|mut entries| entries.next().is_some());
    if has_branches {
        return Err(ImageError::Occupied {
            data: data.to_owned(),
        });
    }
    let (program, arguments) = maker(wish)?;
    // Renamed when it is whole: a kill leaves no image that cannot be mounted.
    let unfinished = image.with_extension("img.new");
    let made = allocate(&unfinished, size).and_then(|()| {
        let mut command = Command::new(&program);
        command.args(arguments).arg(&unfinished);
        run(command, "make a file system in", &unfinished)?;
        fs::rename(&unfinished, image).map_err(|source| ImageError::File {
            attempt: "rename",
            path: unfinished.clone(),
            source,
        })
    });
    match &made {
        Ok(()) => {
            info!(image = %image.display(), with = %program.display(), "made a storage image");
        }
        // Its space is needed; the reason of the failure is the one to be told.
        Err(_) => drop(fs::remove_file(&unfinished)),
    }
    made
}

#[cfg(target_os = "linux")]
fn allocate(path: &Path, size: ImageSize) -> Result<(), ImageError> {
    use std::os::unix::fs::OpenOptionsExt;
    fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .and_then(|file| {
            let none = rustix::fs::FallocateFlags::empty();
            Ok(rustix::fs::fallocate(&file, none, 0, size.0)?)
        })
        .map_err(|source| ImageError::File {
            attempt: "take the space for",
            path: path.to_owned(),
            source,
        })
}

#[cfg(not(target_os = "linux"))]
fn allocate(path: &Path, _size: ImageSize) -> Result<(), ImageError> {
    Err(ImageError::File {
        attempt: "take the space for",
        path: path.to_owned(),
        source: io::ErrorKind::Unsupported.into(),
    })
}

/// Whether there is a program that makes the file system of an image.
pub(crate) fn check_image_tool(wish: StorageWish) -> Result<(), ImageError> {
    maker(wish).map(|_| ())
}

/// The program that makes the file system, and its arguments. None discards: the
/// space is to stay taken.
fn maker(wish: StorageWish) -> Result<(PathBuf, &'static [&'static str]), ImageError> {
    const BTRFS: &[&str] = &["--quiet", "--nodiscard", "--metadata", "single"];
    const XFS: &[&str] = &["-q", "-K", "-m", "reflink=1"];
    let btrfs = || Some((find("mkfs.btrfs")?, BTRFS));
    let xfs = || Some((find("mkfs.xfs")?, XFS));
    let missing = |program, package| ImageError::NoTool { program, package };
    match wish {
        StorageWish::Copy => Err(ImageError::Pointless),
        StorageWish::Btrfs => btrfs().ok_or(missing("mkfs.btrfs", "btrfs-progs")),
        StorageWish::Reflink => xfs().or_else(btrfs).ok_or(missing("mkfs.xfs", "xfsprogs")),
        StorageWish::Auto => btrfs()
            .or_else(xfs)
            .ok_or(missing("mkfs.btrfs", "btrfs-progs")),
    }
}

/// A program of the administrator's folders, which are not always in PATH.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|folder| folder.join(program))
        .find(|program| program.exists())
}

fn run(mut command: Command, attempt: &'static str, path: &Path) -> Result<(), ImageError> {
    let failed = |message: String| ImageError::Tool {
        attempt,
        path: path.to_owned(),
        message,
    };
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr);
    Err(failed(message.trim().replace('\n', "; ")))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_bad_ones_refused() {
        assert_eq!("512M".parse(), Ok(ImageSize(512 << 20)));
        assert_eq!("8G".parse(), Ok(ImageSize(8 << 30)));
        for bad in [
            "",
            "8",
            "G",
            "-1G",
            "8g",
            "1.5G",
            "319M",
            "0G",
            "99999999999T",
            "é",
        ] {
            assert!(bad.parse::<ImageSize>().is_err(), "{bad}");
        }
    }
}
