//! The files of new revisions.

use std::path::{Path, PathBuf};

use jiff::civil::DateTime;
use jiff::{Timestamp, ToSpan as _, Zoned};
use rpc::clock::Clock;

use super::NewArguments;
use crate::cli::client::Error;
use crate::cli::output::put;

/// How the version of a new revision is written.
const VERSION_FORMAT: &str = "%Y-%m-%d-%H%M%S";

/// A revision that is to be written.
pub(super) struct NewRevision<'a> {
    /// The service's folder of revisions.
    pub(super) folder: &'a Path,
    /// What it does, in a few words.
    pub(super) words: &'a str,
    pub(super) in_transaction: bool,
}

/// `broker migrate new`.
pub(super) fn new(wished: &NewArguments) -> Result<(), Error> {
    let revision = NewRevision {
        folder: &wished.folder,
        words: &wished.name,
        in_transaction: !wished.no_transaction,
    };
    let up = "-- What takes the schema one step on.\n";
    let down = "-- What takes it back.\n";
    revision.write(&revision.name()?, up, down)
}

impl NewRevision<'_> {
    /// What comes after its version; refused where it could not be a folder's name.
    pub(super) fn name(&self) -> Result<String, Error> {
        let words = self.words.trim().replace([' ', '-'], "_");
        let is_plain = |one: char| one.is_ascii_alphanumeric() || one == '_';
        if words.is_empty() || !words.chars().all(is_plain) {
            return Err(Error::Refused {
                message: format!("{:?} is no name: letters, digits and _", self.words),
            });
        }
        if !self.folder.is_dir() {
            return Err(Error::Refused {
                message: format!("there is no folder {}", self.folder.display()),
            });
        }
        Ok(words)
    }

    /// Writes its files, and prints where they are.
    pub(super) fn write(&self, name: &str, up: &str, down: &str) -> Result<(), Error> {
        let failed = |path: &Path, source: std::io::Error| Error::Refused {
            message: format!("make {}: {source}", path.display()),
        };
        let path = unused(self.folder, name).map_err(|error| failed(self.folder, error))?;
        std::fs::create_dir(&path).map_err(|error| failed(&path, error))?;
        let mut files = vec![("up.sql", up), ("down.sql", down)];
        if !self.in_transaction {
            files.push(("metadata.toml", "run_in_transaction = false\n"));
        }
        for (name, text) in files {
            let file = path.join(name);
            std::fs::write(&file, text).map_err(|error| failed(&file, error))?;
            put(&format!("{}\n", file.display()));
        }
        Ok(())
    }
}

/// The folder of a revision that is newer than all: it is to run after them, whatever this
/// machine's clock says.
fn unused(folder: &Path, words: &str) -> std::io::Result<PathBuf> {
    let names = std::fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name()));
    let names = names.collect::<std::io::Result<Vec<_>>>()?;
    let now = Timestamp::try_from(Clock::system().now()).map_err(std::io::Error::other)?;
    let now = Zoned::new(now, jiff::tz::TimeZone::UTC).datetime();
    let newest = names
        .iter()
        .filter_map(|name| moment(&name.to_string_lossy()));
    let after = newest.filter_map(|newest| newest.checked_add(1.second()).ok());
    let version = after.chain([now]).max().unwrap_or(now);
    let version = version.strftime(VERSION_FORMAT);
    Ok(folder.join(format!("{version}_{words}")))
}

/// The moment that a revision is called after, to the second.
fn moment(name: &str) -> Option<DateTime> {
    const DIGITS: usize = 14;
    let version = name.split('_').next()?.replace('-', "");
    let is_moment = version.len() == DIGITS;
    let moment = is_moment.then(|| DateTime::strptime("%Y%m%d%H%M%S", &version).ok());
    moment.flatten()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_new_revision_comes_after_all() {
        let folder = tempfile::tempdir().unwrap();
        let made = unused(folder.path(), "first").unwrap();
        assert!(made.to_string_lossy().ends_with("_first"), "{made:?}");
        for name in [
            "2999-12-31-235959_last",
            "00000000000000_diesel",
            "README.md",
        ] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        let made = unused(folder.path(), "next").unwrap();
        assert_eq!(made.file_name().unwrap(), "3000-01-01-000000_next");
    }
}
