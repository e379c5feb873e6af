//! The three binaries of the system.

use std::path::PathBuf;

use anyhow::Result;

use crate::process;
use crate::repository;

/// Where the built binaries lie.
pub(crate) struct Binaries {
    folder: PathBuf,
}

impl Binaries {
    /// Builds them, as one step. With all packages, since cargo unites the features of
    /// those that it builds: with fewer it would build what they need anew.
    pub(crate) fn build(release: bool) -> Result<Self> {
        let mut arguments = vec!["build", "--workspace", "--bins"];
        if release {
            arguments.push("--release");
        }
        process::run_step("build", process::cargo(arguments))?;
        let profile = if release { "release" } else { "debug" };
        Ok(Self {
            folder: repository::target_dir()?.join(profile),
        })
    }

    /// The path of one.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}
