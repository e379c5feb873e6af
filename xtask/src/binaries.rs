//! The three binaries of the system.

use std::path::PathBuf;

use anyhow::Result;

use crate::process;
use crate::repository;

const PACKAGES: [&str; 3] = ["neon-emulator", "broker", "user-service"];

/// Where the built binaries lie.
pub(crate) struct Binaries {
    folder: PathBuf,
}

impl Binaries {
    /// Builds them, as one step, and with them the packages that are to run against
    /// them: what both need is then built once.
    pub(crate) fn build(release: bool, also: &[&str]) -> Result<Self> {
        let mut arguments = vec!["build"];
        for package in PACKAGES.iter().chain(also) {
            arguments.extend(["--package", package]);
        }
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
