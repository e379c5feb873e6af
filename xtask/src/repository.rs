//! Where things are.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The repository's root folder.
pub(crate) fn root() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package)
}

/// The folder that holds cargo's `debug` and `release`.
///
/// Taken from where this program lies, because that respects CARGO_TARGET_DIR,
/// config files and `--target` without asking cargo for any of them.
pub(crate) fn target_dir() -> Result<PathBuf> {
    let program = std::env::current_exe().context("find this program's own path")?;
    program
        .ancestors()
        .nth(2)
        .map(Path::to_path_buf)
        .with_context(|| format!("{} does not lie in a target folder", program.display()))
}

/// Where `check` keeps the tools that it installs.
pub(crate) fn tools_dir() -> Result<PathBuf> {
    Ok(target_dir()?.join("tools"))
}
