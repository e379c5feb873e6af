//! A folder of a test's own, gone afterwards.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use nix::sys::statvfs::statvfs;
use tempfile::TempDir;

/// Where Linux has a file system in memory.
const MEMORY: &str = "/dev/shm";
/// It is used when it has that many bytes left: more than the tests that run at
/// once ever hold.
const MEMORY_BYTES_MIN: u64 = 4 << 30;

/// A temporary folder that the user who runs Postgres can enter.
#[derive(Debug)]
pub struct Folder(TempDir);

impl Folder {
    /// Makes one: in memory, if there is plenty, because a Postgres is a thousand
    /// files and a disk that makes and removes them is what most tests would wait
    /// for; else, or when TMPDIR is set, in the system's folder for temporary
    /// files.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn new() -> anyhow::Result<Self> {
        match std::env::var_os("TMPDIR").is_none() && has_memory() {
            true => Self::new_in(Path::new(MEMORY)),
            false => Self::new_in(&std::env::temp_dir()),
        }
    }

    /// Makes one on the disk: in the system's folder for temporary files.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn on_disk() -> anyhow::Result<Self> {
        Self::new_in(&std::env::temp_dir())
    }

    fn new_in(place: &Path) -> anyhow::Result<Self> {
        // Short: a Unix socket's path may have 107 bytes.
        let folder = tempfile::Builder::new()
            .prefix("bb-")
            .tempdir_in(place)
            .context("make a folder for the test")?;
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755))
            .context("open the test's folder")?;
        Ok(Self(folder))
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// A path below it.
    #[must_use]
    pub fn join(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

/// Whether there is a file system in memory with room for the tests.
#[allow(clippy::useless_conversion, reason = "on macOS they have 32 bits")]
fn has_memory() -> bool {
    statvfs(MEMORY).is_ok_and(|found| {
        let bytes = u64::from(found.blocks_available()) * u64::from(found.fragment_size());
        bytes >= MEMORY_BYTES_MIN
    })
}
