//! How each revision stands on a branch: what the folder has against what the branch
//! says. No I/O.

use jiff::Timestamp;

use super::folder::Migration;
use super::history::Applied;

/// How a revision stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Standing {
    /// The branch has it, as it is in the folder.
    Applied,
    /// The branch has it, and its files were changed since.
    Changed,
    /// The branch has it, and the folder does not.
    Missing,
    /// The branch has it, and the service's version stops before it.
    Ahead,
    /// The branch is to get it.
    Pending,
    /// The branch is to get it, and has one that is newer.
    OutOfOrder,
    /// The branch does not have it, and the service's version stops before it.
    Beyond,
}

/// A revision and how it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its version.
    pub version: String,
    /// Its folder's name. Empty: neither the folder nor the branch has it.
    pub name: String,
    /// How it stands.
    pub standing: Standing,
    /// When it was applied.
    pub applied_at: Option<Timestamp>,
    /// Whether Diesel applied it: what it was then, nobody knows.
    pub is_adopted: bool,
}

impl Standing {
    /// Whether the branch has it.
    pub fn is_applied(self) -> bool {
        match self {
            Self::Applied | Self::Changed | Self::Missing | Self::Ahead => true,
            Self::Pending | Self::OutOfOrder | Self::Beyond => false,
        }
    }

    /// Whether `up` would run it.
    pub fn is_pending(self) -> bool {
        matches!(self, Self::Pending | Self::OutOfOrder)
    }
}

/// How everything stands, oldest first, when a version of the service stops at the
/// revision `last` (`None`: it has all that the folder has).
pub fn rows(folder: &[Migration], history: &[Applied], last: Option<&str>) -> Vec<Row> {
    let newest = history.iter().map(|applied| applied.version.as_str()).max();
    let is_beyond = |version: &str| last.is_some_and(|last| version > last);
    let known = |version: &str| folder.iter().any(|one| one.revision.version == version);
    let of_folder = folder.iter().map(|migration| {
        let version = &migration.revision.version;
        let applied = history.iter().find(|applied| applied.version == *version);
        let record = applied.and_then(|applied| applied.record.as_ref());
        let is_changed = record.is_some_and(|record| record.checksum != migration.checksum());
        let standing = match applied {
            Some(_) if is_changed => Standing::Changed,
            Some(_) if is_beyond(version) => Standing::Ahead,
            Some(_) => Standing::Applied,
            None if is_beyond(version) => Standing::Beyond,
            None if newest.is_some_and(|newest| newest > version.as_str()) => Standing::OutOfOrder,
            None => Standing::Pending,
        };
        Row {
            version: version.clone(),
            name: migration.revision.name.clone(),
            standing,
            applied_at: applied.map(|applied| applied.at),
            is_adopted: applied.is_some() && record.is_none(),
        }
    });
    let missing = history.iter().filter(|applied| !known(&applied.version));
    let missing = missing.map(|applied| Row {
        version: applied.version.clone(),
        name: applied
            .record
            .as_ref()
            .map(|record| record.name.clone())
            .unwrap_or_default(),
        standing: Standing::Missing,
        applied_at: Some(applied.at),
        is_adopted: applied.record.is_none(),
    });
    let mut rows: Vec<Row> = of_folder.chain(missing).collect();
    rows.sort_by(|one, other| one.version.cmp(&other.version));
    rows
}

#[cfg(test)]
mod tests;
