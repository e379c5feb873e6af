//! A service's folder of revisions, as Diesel lays it out:
//! `<timestamp>_<name>/{up.sql, down.sql, metadata.toml}`.
//!
//! What Diesel takes is taken and means the same, so that its command line can be used on
//! the same folder: a revision's version is what comes before the first underscore,
//! without hyphens; entries whose names begin with a dot, and files, are passed over;
//! there may be no down.sql. Stricter in one thing: a metadata.toml that cannot be read,
//! or leaves out `run_in_transaction`, is refused, where Diesel would run the revision in
//! a transaction, or without one.

use std::path::{Path, PathBuf};
use std::{fmt, fs, io};

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::Error;
use crate::config::Revision;

/// A revision, with what it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migration {
    /// Its version and its folder's name.
    pub revision: Revision,
    /// What takes the schema one step on.
    pub up: Script,
    /// What takes it back. `None`: nothing does.
    pub down: Option<Script>,
    /// Whether each script runs in one transaction with the history.
    pub in_transaction: bool,
}

/// A file of SQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// The file.
    pub path: PathBuf,
    /// What is in it.
    pub sql: String,
}

/// SHA-256 of all that a revision does: up.sql, down.sql, and whether they run in a
/// transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checksum(String);

impl Migration {
    /// What is recorded with the revision, so that a change of it is noticed.
    pub fn checksum(&self) -> Checksum {
        let down = self.down.as_ref().map(|down| down.sql.as_str());
        let mut hash = Sha256::new();
        hash.update([u8::from(self.in_transaction), u8::from(down.is_some())]);
        // Each with its length before it, so that nothing moves from one to the other.
        for part in [self.up.sql.as_str(), down.unwrap_or_default()] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let digits = hash
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        Checksum(digits)
    }
}

impl Checksum {
    /// As it was recorded.
    pub fn recorded(text: String) -> Checksum {
        Checksum(text)
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The revisions in a folder, oldest first. Two of the same version are refused, as are
/// folders without an up.sql.
pub fn read(path: &Path) -> Result<Vec<Migration>, Error> {
    let entries = fs::read_dir(path).map_err(|error| unreadable(path, &error))?;
    let mut migrations = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| unreadable(path, &error))?;
        let is_folder = fs::metadata(entry.path()).is_ok_and(|found| found.is_dir());
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if is_folder && !name.starts_with('.') {
            migrations.push(migration(&entry.path(), &name)?);
        }
    }
    migrations.sort_by(|one, other| one.revision.cmp(&other.revision));
    let same = migrations
        .windows(2)
        .find(|pair| pair[0].revision.version == pair[1].revision.version);
    match same {
        Some(pair) => Err(bad(
            path,
            format!(
                "{} and {} are of the same version: rename one",
                pair[0].revision.name, pair[1].revision.name
            ),
        )),
        None => Ok(migrations),
    }
}

fn migration(path: &Path, name: &str) -> Result<Migration, Error> {
    let version = name.split('_').next().unwrap_or_default().replace('-', "");
    if version.is_empty() || version.len() > VERSION_CHARS_MAX {
        return Err(bad(
            path,
            format!("{name} is no name of a revision: 2026-01-10-090000_create_users is one"),
        ));
    }
    let up = script(path.join("up.sql"))?;
    let up = up.ok_or_else(|| bad(path, "it has no up.sql".to_owned()))?;
    Ok(Migration {
        revision: Revision {
            version,
            name: name.to_owned(),
        },
        up,
        down: script(path.join("down.sql"))?,
        in_transaction: in_transaction(&path.join("metadata.toml"))?,
    })
}

/// The longest version that Diesel's history has room for.
const VERSION_CHARS_MAX: usize = 50;

/// `None`: there is no such file.
fn script(path: PathBuf) -> Result<Option<Script>, Error> {
    match fs::read_to_string(&path) {
        Ok(sql) => Ok(Some(Script { path, sql })),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unreadable(&path, &error)),
    }
}

#[derive(Deserialize)]
struct Metadata {
    run_in_transaction: bool,
}

fn in_transaction(path: &Path) -> Result<bool, Error> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(unreadable(path, &error)),
    };
    let metadata: Metadata =
        toml::from_str(&text).map_err(|error| bad(path, error.message().to_owned()))?;
    Ok(metadata.run_in_transaction)
}

fn unreadable(path: &Path, error: &io::Error) -> Error {
    bad(path, error.to_string())
}

fn bad(path: &Path, reason: String) -> Error {
    Error::BadFolder {
        path: path.to_owned(),
        reason,
    }
}

#[cfg(test)]
mod tests;
