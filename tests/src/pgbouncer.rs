//! PgBouncer from Debian's packages, without an installation.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};

use crate::tools::{command, install, run};

/// The packages' own key; it comes with Debian.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const MIRROR: &str = "http://deb.debian.org/debian";
/// What PgBouncer is linked with, in each release. The loader comes with libc6.
const LIBRARIES: &[(Release, &[&str])] = &[
    (
        Release::Bookworm,
        &[
            "libevent-2.1-7",
            "libssl3",
            "libgcrypt20",
            "libgpg-error0",
            "liblz4-1",
            "libc-ares2",
        ],
    ),
    (
        Release::Trixie,
        &["libevent-2.1-7t64", "libssl3t64", "libcares2"],
    ),
];
const LIBRARIES_OF_BOTH: &[&str] = &[
    "libc6",
    "libpam0g",
    "libsystemd0",
    "libaudit1",
    "libcap-ng0",
    "libcap2",
    "libgcc-s1",
    "libzstd1",
    "zlib1g",
    "liblzma5",
];

/// A release of Debian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    /// Debian 12: PgBouncer 1.18, which loses prepared statements in transaction
    /// mode.
    Bookworm,
    /// Debian 13: PgBouncer 1.24.
    Trixie,
}

/// A PgBouncer of a release, as a program that runs on any Linux: it brings its
/// libraries and their loader.
///
/// # Errors
/// When there is no apt-get, or the packages cannot be had.
pub async fn pgbouncer(release: Release) -> anyhow::Result<PathBuf> {
    let name = release.name();
    let folder = install(&format!("pgbouncer/{name}"), move |folder| {
        download(release, folder)?;
        let root = folder.join("root");
        let loader = find(&root, "ld-linux-")?;
        let libraries = loader.parent().context("a folder of libraries")?;
        let triplet = libraries.file_name().context("a name")?;
        let text = |path: &Path| -> anyhow::Result<String> {
            let below = path.strip_prefix(folder).unwrap_or(path);
            Ok(below.to_str().context("UTF-8")?.to_owned())
        };
        // From where it lies: tests copy the folder.
        let script = format!(
            "#!/bin/sh\nhere=$(dirname \"$(readlink -f \"$0\")\")\n\
             exec \"$here/{loader}\" --library-path \"$here/{libraries}:$here/root/usr/lib/{triplet}\" \
             \"$here/root/usr/sbin/pgbouncer\" \"$@\"\n",
            loader = text(&loader)?,
            libraries = text(libraries)?,
            triplet = text(Path::new(triplet))?,
        );
        let program = folder.join("pgbouncer");
        fs::write(&program, script).context("write PgBouncer's wrapper")?;
        fs::set_permissions(&program, PermissionsExt::from_mode(0o755))?;
        let said = command(&program).arg("--version").output()?;
        let version = String::from_utf8_lossy(&said.stdout).into_owned();
        ensure!(
            version.starts_with("PgBouncer 1."),
            "the PgBouncer of {name} does not run: {version}{}",
            String::from_utf8_lossy(&said.stderr)
        );
        Ok(())
    })
    .await?;
    Ok(folder.join("pgbouncer"))
}

impl Release {
    fn name(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
        }
    }
}

/// The packages into `root`, by an apt-get whose files are all in the folder:
/// the machine's own know another release.
fn download(release: Release, folder: &Path) -> anyhow::Result<()> {
    for name in [
        "state/lists/partial",
        "cache/archives/partial",
        "debs",
        "root",
    ] {
        fs::create_dir_all(folder.join(name))?;
    }
    fs::write(folder.join("status"), "")?;
    let source = format!(
        "deb [signed-by={KEYRING}] {MIRROR} {} main\n",
        release.name()
    );
    fs::write(folder.join("sources.list"), source)?;
    let missing = "apt-get and dpkg are not there: the PgBouncers of the tests are Debian's \
                   packages; run the tests on Debian or Ubuntu";
    ensure!(
        Path::new(KEYRING).exists(),
        "{KEYRING} is missing: install the package debian-archive-keyring"
    );
    run(apt_get(folder).arg("update"), missing)?;
    let libraries = LIBRARIES
        .iter()
        .filter(|(of, _)| *of == release)
        .flat_map(|(_, names)| names.iter());
    let mut packages = apt_get(folder);
    packages.current_dir(folder.join("debs")).arg("download");
    packages
        .arg("pgbouncer")
        .args(LIBRARIES_OF_BOTH)
        .args(libraries);
    run(&mut packages, missing)?;
    for entry in fs::read_dir(folder.join("debs"))? {
        let mut dpkg = command("dpkg");
        run(
            dpkg.arg("-x").arg(entry?.path()).arg(folder.join("root")),
            missing,
        )?;
    }
    for name in ["state", "cache", "debs"] {
        fs::remove_dir_all(folder.join(name))?;
    }
    Ok(())
}

fn apt_get(folder: &Path) -> Command {
    let mut command = command("apt-get");
    let place = folder.display();
    for option in [
        format!("Dir::Etc::SourceList={place}/sources.list"),
        "Dir::Etc::SourceParts=-".to_owned(),
        format!("Dir::State={place}/state"),
        format!("Dir::State::status={place}/status"),
        format!("Dir::Cache={place}/cache"),
        // apt's own user may not reach the folder.
        "APT::Sandbox::User=root".to_owned(),
        "Acquire::Languages=none".to_owned(),
        "Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false".to_owned(),
        "Acquire::Retries=3".to_owned(),
    ] {
        command.arg("-o").arg(option);
    }
    command.arg("-qq");
    command
}

/// The file of this name, or that begins so, in a folder below `root`.
fn find(root: &Path, name: &str) -> anyhow::Result<PathBuf> {
    const FOLDERS_MAX: usize = 10_000;
    let mut folders = vec![root.to_owned()];
    for _ in 0..FOLDERS_MAX {
        let Some(folder) = folders.pop() else { break };
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else if entry.file_name().to_string_lossy().starts_with(name)
                && entry.file_type()?.is_file()
            {
                return Ok(entry.path());
            }
        }
    }
    bail!("no {name}… below {}", root.display())
}
