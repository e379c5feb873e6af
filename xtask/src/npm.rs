//! Tools that come as npm packages.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::process;
use crate::repository;

/// The path of a program from an npm package of just this version, which is
/// installed into a git-ignored folder when it is not there yet.
pub(crate) fn program(package: &str, version: &str, program: &str) -> Result<PathBuf> {
    let name = package.replace(['@', '/'], "-");
    let folder = repository::tools_dir()?
        .join("npm")
        .join(format!("{}-{version}", name.trim_start_matches('-')));
    let path = folder.join("node_modules/.bin").join(program);
    if path.exists() {
        return Ok(path);
    }
    if process::version("npm").is_none() {
        bail!(
            "{program} comes from the npm package {package}, and npm is not installed: \
             install Node.js (apt-get install npm, brew install node)"
        );
    }
    let mut install = process::command("npm");
    install
        // Nothing of a package runs at installation.
        .args([
            "install",
            "--ignore-scripts",
            "--no-audit",
            "--no-fund",
            "--prefix",
        ])
        .arg(&folder)
        .arg(format!("{package}@{version}"));
    process::run_step(&format!("install {package} {version} (npm)"), install)?;
    if !path.exists() {
        bail!("{package} {version} was installed, but has no program {program}");
    }
    Ok(path)
}
