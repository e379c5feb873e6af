//! Where the Postgres programs are: looked for, and installed when missing.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use thiserror::Error;
use tracing::info;

/// Major versions that the emulator is made for: those that Neon offers.
const MAJOR_VERSIONS: std::ops::RangeInclusive<u32> = 14..=18;

const VERSION_PREFIX: &str = "postgres (PostgreSQL) ";

/// A folder with `initdb` and `postgres` of one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installation {
    bin: PathBuf,
    major: u32,
    version: String,
}

/// Why there is no Postgres to run.
#[derive(Debug, Error)]
pub enum FindError {
    /// The folder that was asked for is not an installation.
    #[error("{} has no usable Postgres: {reason}; give the folder that holds initdb and postgres, version 14 to 18", dir.display())]
    NotAnInstallation {
        /// The folder that was asked for.
        dir: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Nothing was found and nothing could be installed.
    #[error(
        "no Postgres 14 to 18 was found (looked at pg_config, PATH, /usr/lib/postgresql/*/bin and Homebrew) and {reason}; install the package postgresql, or give its folder with --postgres-bin"
    )]
    Missing {
        /// Why it could not be installed.
        reason: String,
    },
}

impl Installation {
    /// Finds Postgres: the configured folder alone when there is one, else
    /// what pg_config names, PATH, Debian's folders and Homebrew's, the first
    /// that works.
    ///
    /// # Errors
    /// [`FindError::NotAnInstallation`] when the configured folder is none,
    /// [`FindError::Missing`] when nothing is found.
    pub fn find(configured: Option<&Path>) -> Result<Self, FindError> {
        if let Some(dir) = configured {
            return Self::at(dir).map_err(|reason| FindError::NotAnInstallation {
                dir: dir.to_owned(),
                reason,
            });
        }
        candidates()
            .iter()
            .find_map(|dir| Self::at(dir).ok())
            .ok_or_else(|| FindError::Missing {
                reason: "nothing was installed".to_owned(),
            })
    }

    /// As [`Installation::find`], but where nothing is found and nothing was
    /// configured, the package postgresql is installed with apt-get, as root
    /// or by sudo without a password. No default cluster is made.
    ///
    /// # Errors
    /// As [`Installation::find`]; [`FindError::Missing`] says why nothing
    /// could be installed.
    pub fn find_or_install(configured: Option<&Path>) -> Result<Self, FindError> {
        match Self::find(configured) {
            Err(FindError::Missing { .. }) => {
                apt_install().map_err(|reason| FindError::Missing { reason })?;
                Self::find(None)
            }
            found => found,
        }
    }

    /// The major version: 14 to 18.
    #[must_use]
    pub fn major(&self) -> u32 {
        self.major
    }

    /// What `postgres --version` says of itself: "15.18 (Debian …)".
    #[must_use]
    pub fn version(&self) -> &str {
        self.version
            .strip_prefix(VERSION_PREFIX)
            .unwrap_or(&self.version)
    }

    /// Whether [`Installation::find_or_install`] could install it.
    ///
    /// # Errors
    /// Why it could not.
    pub fn check_installable() -> Result<(), String> {
        if !Path::new("/usr/bin/apt-get").exists() {
            return Err("this system has no apt-get to install it with".to_owned());
        }
        let root = nix::unistd::geteuid().is_root();
        if !root && !quiet("sudo", ["-n", "true"]).is_ok_and(|status| status.success()) {
            return Err("installing it needs root, or sudo without a password".to_owned());
        }
        Ok(())
    }

    /// The folder of the programs.
    #[must_use]
    pub fn bin(&self) -> &Path {
        &self.bin
    }

    /// The path of one program.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }

    fn at(dir: &Path) -> Result<Self, String> {
        // PATH may hold links into the real folder, where the rest of the
        // programs are.
        let postgres = fs::canonicalize(dir.join("postgres"))
            .map_err(|error| format!("its program postgres cannot be used: {error}"))?;
        let bin = postgres
            .parent()
            .ok_or("its program postgres has no folder")?
            .to_owned();
        if !bin.join("initdb").exists() {
            return Err("it has no program initdb".to_owned());
        }
        let output = Command::new(&postgres)
            .arg("--version")
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("its program postgres does not run: {error}"))?;
        let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        match major_of(&version) {
            Some(major) if MAJOR_VERSIONS.contains(&major) => Ok(Self {
                bin,
                major,
                version,
            }),
            _ => Err(format!("it is of version {version:?}")),
        }
    }
}

/// "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)" is 15.
fn major_of(version: &str) -> Option<u32> {
    let number = version.strip_prefix(VERSION_PREFIX)?;
    let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

fn candidates() -> Vec<PathBuf> {
    let mut dirs = Vec::new();
    if let Ok(output) = Command::new("pg_config").arg("--bindir").output()
        && output.status.success()
    {
        dirs.push(PathBuf::from(
            String::from_utf8_lossy(&output.stdout).trim(),
        ));
    }
    if let Some(path) = std::env::var_os("PATH") {
        dirs.extend(std::env::split_paths(&path).filter(|dir| dir.join("postgres").exists()));
    }
    dirs.extend(versioned(Path::new("/usr/lib/postgresql"), ""));
    for prefix in ["/opt/homebrew/opt", "/usr/local/opt"] {
        dirs.extend(versioned(Path::new(prefix), "postgresql@"));
    }
    dirs
}

/// `<root>/<prefix><major>/bin`, newest first.
fn versioned(root: &Path, prefix: &str) -> Vec<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = fs::read_dir(root)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            let major = name.to_str()?.strip_prefix(prefix)?.parse().ok()?;
            Some((major, entry.path().join("bin")))
        })
        .collect();
    found.sort_by(|a, b| b.cmp(a));
    found.into_iter().map(|(_, dir)| dir).collect()
}

fn apt_install() -> Result<(), String> {
    Installation::check_installable()?;
    let root = nix::unistd::geteuid().is_root();
    info!("Postgres is missing: installing the package postgresql with apt-get");
    // Read by the package's own script: without it, apt would make a default
    // cluster and leave it running on port 5432.
    const NO_CLUSTER: &str = "mkdir -p /etc/postgresql-common && \
        { grep -qs '^create_main_cluster' /etc/postgresql-common/createcluster.conf || \
          echo 'create_main_cluster = false' >> /etc/postgresql-common/createcluster.conf; } && \
        export DEBIAN_FRONTEND=noninteractive && \
        apt-get -qq update && \
        apt-get -qq install --yes --no-install-recommends \
            -o Dpkg::Options::=--force-confold postgresql";
    let status = if root {
        quiet("sh", ["-c", NO_CLUSTER])
    } else {
        quiet("sudo", ["-n", "sh", "-c", NO_CLUSTER])
    };
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("apt-get could not install it ({status})")),
        Err(error) => Err(format!("apt-get could not be run: {error}")),
    }
}

/// Runs a program whose words on stdout nobody needs; what it complains about
/// goes to stderr as it is.
fn quiet<I, S>(program: &str, args: I) -> io::Result<std::process::ExitStatus>
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn major_versions_are_read_from_what_postgres_prints() {
        for (printed, major) in [
            (
                "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)",
                Some(15),
            ),
            ("postgres (PostgreSQL) 18.1", Some(18)),
            ("postgres (PostgreSQL) 19devel", Some(19)),
            ("pg_ctl (PostgreSQL) 15.1", None),
            ("", None),
        ] {
            assert_eq!(major_of(printed), major, "{printed:?}");
        }
    }

    #[test]
    fn a_folder_without_postgres_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let error = Installation::find(Some(dir.path())).unwrap_err();
        assert!(matches!(&error, FindError::NotAnInstallation { .. }));
        let message = error.to_string();
        assert!(message.contains(dir.path().to_str().unwrap()), "{message}");
        assert!(message.contains("14 to 18"), "{message}");
    }

    #[test]
    fn newest_version_comes_first() {
        let root = tempfile::tempdir().unwrap();
        for name in ["9.6", "14", "17", "junk"] {
            fs::create_dir(root.path().join(name)).unwrap();
        }
        let names: Vec<_> = versioned(root.path(), "")
            .iter()
            .map(|dir| dir.strip_prefix(root.path()).unwrap().to_owned())
            .collect();
        assert_eq!(names, [Path::new("17/bin"), Path::new("14/bin")]);
    }
}
