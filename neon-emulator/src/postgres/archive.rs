//! WAL that is kept, and a recovery from it: settings of a server.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::{ClusterError, ServerUser};
use crate::lsn::Lsn;
use crate::storage::Durability;

/// Where a server's archiver puts its WAL.
#[derive(Debug, Clone)]
pub(crate) struct Archive {
    /// False: nowhere, for now. A server's archiver is there from its start on:
    /// what it does can be changed while it runs, whether it is there cannot.
    pub(crate) is_kept: bool,
    pub(crate) folder: PathBuf,
    pub(crate) method: ArchiveMethod,
    pub(crate) durability: Durability,
}

/// How a segment gets there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ArchiveMethod {
    /// By a second name. Segments must not be used again then.
    Link,
    /// By a copy, which shares its blocks.
    Copy,
}

/// Up to where a server recovers before it takes writes.
#[derive(Debug, Clone)]
pub(crate) struct Recovery {
    pub(crate) target: RecoveryTarget,
    /// The WAL of the branch whose past it is.
    pub(crate) archive: PathBuf,
}

/// A point, as Postgres takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RecoveryTarget {
    /// All that was written before this place.
    Before(Lsn),
    /// All that was committed until then, by Postgres's clock.
    UpTo(Timestamp),
}

type Setting = (&'static str, String);

impl Archive {
    pub(super) fn make_folder(&self, user: &ServerUser) -> Result<(), ClusterError> {
        if !self.is_kept {
            return Ok(());
        }
        let written = |path: &Path| {
            let path = path.to_owned();
            |source| ClusterError::Write { path, source }
        };
        fs::create_dir_all(&self.folder).map_err(written(&self.folder))?;
        // Those above are to be passed by who runs Postgres.
        for folder in self.folder.ancestors().skip(1).take(2) {
            fs::set_permissions(folder, PermissionsExt::from_mode(0o711))
                .map_err(written(folder))?;
        }
        fs::set_permissions(&self.folder, PermissionsExt::from_mode(0o700))
            .and_then(|()| user.own(&self.folder))
            .map_err(written(&self.folder))
    }

    pub(super) fn settings(&self) -> Vec<Setting> {
        let to = format!("{}/%f", quoted(&self.folder));
        let put = match self.method {
            ArchiveMethod::Link => format!("ln %p {to}"),
            // Renamed: what is cut off is no segment.
            ArchiveMethod::Copy => {
                format!("cp --reflink=auto %p {to}.new && mv {to}.new {to}")
            }
        };
        let sync = match self.durability {
            Durability::Process => String::new(),
            Durability::Machine => format!(" && sync {to} {}", quoted(&self.folder)),
        };
        // One that is there was put there before a kill.
        let command = match self.is_kept {
            true => format!("test -f {to} || {{ {put}{sync}; }}"),
            false => "true".to_owned(),
        };
        vec![
            ("archive_mode", "on".to_owned()),
            ("archive_command", command),
            ("wal_recycle", "off".to_owned()),
        ]
    }
}

impl Recovery {
    pub(super) fn settings(&self) -> Vec<Setting> {
        let (name, value) = match self.target {
            RecoveryTarget::Before(lsn) => ("recovery_target_lsn", lsn.to_string()),
            RecoveryTarget::UpTo(time) => {
                // More digits would be rounded, up as well. The names of time
                // zones, Z among them, are not known yet when this is read.
                let whole = Timestamp::from_microsecond(time.as_microsecond()).unwrap_or(time);
                let text = whole.strftime("%Y-%m-%d %H:%M:%S%.f+00").to_string();
                ("recovery_target_time", text)
            }
        };
        // A record belongs to what is before its first byte; a commit to its time.
        let inclusive = matches!(self.target, RecoveryTarget::UpTo(_));
        let from = format!("{}/%f", quoted(&self.archive));
        vec![
            ("restore_command", format!("test -f {from} && cp {from} %p")),
            (name, value),
            ("recovery_target_inclusive", inclusive.to_string()),
            ("recovery_target_action", "promote".to_owned()),
            ("recovery_target_timeline", "latest".to_owned()),
            ("hot_standby", "off".to_owned()),
            ("archive_mode", "off".to_owned()),
        ]
    }
}

/// For the shell, and for Postgres, which replaces what follows a percent sign.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    format!("'{}'", text.replace('\'', "'\\''").replace('%', "%%"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_any_name_are_quoted() {
        let quoted = quoted(Path::new("/a b/it's 100%"));
        assert_eq!(quoted, r"'/a b/it'\''s 100%%'");
    }
}
