//! A folder of a test's own, gone afterwards.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use tempfile::TempDir;

/// A temporary folder that the user who runs Postgres can enter.
#[derive(Debug)]
pub struct Folder(TempDir);

impl Folder {
    /// Makes one.
    ///
    /// # Errors
    /// When the system's folder for temporary files cannot be written.
    pub fn new() -> anyhow::Result<Self> {
        // Short: a Unix socket's path may have 107 bytes.
        let folder = tempfile::Builder::new()
            .prefix("bb-")
            .tempdir()
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
