//! Which PgBouncer there is.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use thiserror::Error;
use tracing::{info, warn};

use crate::postgres::ServerUser;

/// The first that keeps prepared statements in transaction mode.
const VERSION_MIN: (u32, u32) = (1, 21);
/// Where packages put it, which is not in everybody's PATH.
const FOLDERS: [&str; 3] = ["/usr/sbin", "/usr/local/sbin", "/opt/homebrew/bin"];

/// A PgBouncer that can be run.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    pub(crate) path: PathBuf,
    /// As 1.24.
    pub(crate) version: (u32, u32),
}

/// Why the PgBouncer that was asked for cannot be used.
#[derive(Debug, Error)]
#[error("cannot run the PgBouncer that --pgbouncer names, {}, as the user {user}: {reason}", path.display())]
pub struct PoolerProgramError {
    path: PathBuf,
    user: String,
    reason: String,
}

impl Program {
    /// The one that was asked for, else the first that is found. `None`: there is
    /// none, or it is too old; the log says so, and pooled addresses lead to
    /// Postgres itself.
    pub(crate) fn choose(
        wanted: Option<&Path>,
        use_old: bool,
        user: &ServerUser,
    ) -> Result<Option<Self>, PoolerProgramError> {
        let found = match wanted {
            Some(path) => Some(Self::ask(path, user).map_err(|reason| PoolerProgramError {
                path: path.to_owned(),
                user: user.name().to_owned(),
                reason,
            })?),
            None => candidates().find_map(|path| Self::ask(&path, user).ok()),
        };
        let (major, minor) = VERSION_MIN;
        let advice = format!(
            "pooled addresses pass through to Postgres itself; for a real pooler install \
             PgBouncer {major}.{minor} or later (Debian 13 and apt.postgresql.org have one), or \
             name it by --pgbouncer"
        );
        let Some(program) = found else {
            warn!("there is no PgBouncer: {advice}");
            return Ok(None);
        };
        let (path, version) = (program.path.display(), program.version_text());
        if program.version >= VERSION_MIN {
            info!(%path, version, "pooled addresses are served by PgBouncer");
            return Ok(Some(program));
        }
        if use_old {
            warn!(%path, version, "UNSAFE: this PgBouncer loses prepared statements (--unsafe-old-pgbouncer); it is for tests only");
            return Ok(Some(program));
        }
        warn!(%path, version, "this PgBouncer loses prepared statements in transaction mode: {advice}");
        Ok(None)
    }

    /// True from this version on.
    pub(crate) fn is_at_least(&self, version: (u32, u32)) -> bool {
        self.version >= version
    }

    fn version_text(&self) -> String {
        format!("{}.{}", self.version.0, self.version.1)
    }

    /// Runs it as it will be run, for its version.
    fn ask(path: &Path, user: &ServerUser) -> Result<Self, String> {
        let output = user
            .command(path)
            .arg("--version")
            .current_dir("/")
            .stdin(Stdio::null())
            .output()
            .map_err(|error| error.to_string())?;
        let said = String::from_utf8_lossy(&output.stdout);
        let version = parse(&said).ok_or_else(|| {
            let errors = String::from_utf8_lossy(&output.stderr);
            format!("it says no version: {}{}", said.trim(), errors.trim())
        })?;
        Ok(Self {
            path: path.to_owned(),
            version,
        })
    }
}

fn candidates() -> impl Iterator<Item = PathBuf> {
    let in_path = std::env::var_os("PATH").unwrap_or_default();
    let in_path: Vec<PathBuf> = std::env::split_paths(&in_path).collect();
    in_path
        .into_iter()
        .chain(FOLDERS.iter().map(PathBuf::from))
        .map(|folder| folder.join("pgbouncer"))
        .filter(|path| path.is_file())
}

/// `PgBouncer 1.24.1`, and more lines.
fn parse(said: &str) -> Option<(u32, u32)> {
    let version = said.lines().next()?.strip_prefix("PgBouncer ")?;
    let mut parts = version.split('.');
    let number = |part: &str| {
        let digits: String = part.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    };
    Some((number(parts.next()?)?, number(parts.next()?)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        assert_eq!(parse("PgBouncer 1.24.1\nlibevent 2"), Some((1, 24)));
        assert_eq!(parse("PgBouncer 1.25dev"), Some((1, 25)));
        assert_eq!(parse("PgBouncer 1.18.0"), Some((1, 18)));
        assert_eq!(parse("pgbench 15"), None);
        assert!((1, 18) < VERSION_MIN && (2, 0) >= VERSION_MIN);
    }
}
