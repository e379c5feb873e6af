//! What can go wrong with a migration.

use std::fmt;
use std::path::PathBuf;

use crate::{postgres, roles};

/// Why a branch is not at its revision.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder of revisions is not usable.
    #[error("read the revisions in {}: {reason}", path.display())]
    BadFolder {
        /// The folder, or the file in it.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The folder has no such revision.
    #[error("no revision is called {given}, or begins so")]
    RevisionNotFound {
        /// What was asked for.
        given: String,
    },
    /// The folder has several.
    #[error("{given} may be {one} or {other}: give more of its name")]
    RevisionAmbiguous {
        /// What was asked for.
        given: String,
        /// One that begins so.
        one: String,
        /// Another.
        other: String,
    },
    /// What a revision is now is not what the branch has.
    #[error(
        "the files of {revision} were changed since it was applied: put them back and write \
         another revision; or, if the branch has what they say now, stamp it `current`"
    )]
    RevisionChanged {
        /// The revision.
        revision: String,
    },
    /// The branch has a revision that the folder does not.
    #[error(
        "the branch has the revision {version}{}, which the folder does not",
        called(name)
    )]
    RevisionMissing {
        /// Its version.
        version: String,
        /// Its name, where it is known.
        name: String,
    },
    /// Nothing takes a revision back.
    #[error("{revision} has no down.sql: nothing takes it back")]
    NoWayBack {
        /// The revision.
        revision: String,
    },
    /// Through a pooler a session is nobody's own.
    #[error("a pooled address: migrations need a session of their own")]
    Pooled,
    /// The database could not be reached or refused.
    #[error(transparent)]
    Postgres(#[from] postgres::Error),
    /// The service's migration role is not as it should be.
    #[error(transparent)]
    Role(#[from] roles::Error),
    /// Somebody else migrates, for too long.
    #[error(
        "another session has been migrating the service {service} for {} s",
        super::engine::LOCK_WAIT_MS_MAX / 1000
    )]
    LockTaken {
        /// The service.
        service: String,
    },
    /// A revision failed.
    #[error(transparent)]
    FailedRevision(Box<FailedRevision>),
    /// A script has no statement.
    #[error("run the revision {revision}: {} has no statement yet", path.display())]
    NothingToRun {
        /// The revision.
        revision: String,
        /// The file.
        path: PathBuf,
    },
    /// A script committed, or rolled back, by itself.
    #[error(
        "run the revision {revision}: {} ends its transaction by itself, so what came before that \
         may be there, and is not written down; let metadata.toml say run_in_transaction = false, \
         or leave COMMIT and ROLLBACK out",
        path.display()
    )]
    EndsTransaction {
        /// The revision.
        revision: String,
        /// The file.
        path: PathBuf,
    },
    /// Done outside a transaction, and not in the history.
    #[error(
        "{} of the revision {revision} was run, and the history does not say so ({reason}): look, \
         and stamp where the branch is",
        path.display()
    )]
    NotWritten {
        /// The revision.
        revision: String,
        /// The file.
        path: PathBuf,
        /// What Postgres said.
        reason: String,
    },
    /// The binding's version stops before it.
    #[error(
        "{revision} comes after what the binding declares: let broker.toml say `revision`, and apply"
    )]
    RevisionBeyond {
        /// The revision.
        revision: String,
    },
    /// Who migrated, or read the folder, is gone.
    #[error("the task that migrated ended early")]
    Interrupted(#[source] tokio::task::JoinError),
}

/// A revision that failed.
#[derive(Debug, thiserror::Error)]
#[error(
    "run the revision {revision}: {}{}: {reason}{left_behind}",
    path.display(),
    at(place.as_ref())
)]
pub struct FailedRevision {
    /// The revision.
    pub revision: String,
    /// The file.
    pub path: PathBuf,
    /// Where in it, if Postgres says.
    pub place: Option<Place>,
    /// What Postgres said.
    pub reason: String,
    /// What is there now though it failed.
    pub left_behind: LeftBehind,
    /// Whether the same may work in a moment.
    pub is_transient: bool,
    /// Whether a lock was not to be had in time.
    pub is_lock_timeout: bool,
}

/// A place in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// The line.
    pub text: String,
}

impl Error {
    /// Whether the same may work in a moment.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Postgres(error) => error.is_transient(),
            Error::Role(error) => error.is_transient(),
            Error::FailedRevision(failed) => failed.is_transient,
            Error::LockTaken { .. } | Error::Interrupted(_) => true,
            _ => false,
        }
    }

    /// Whether a lock was not to be had in time.
    pub(super) fn is_lock_timeout(&self) -> bool {
        matches!(self, Error::FailedRevision(failed) if failed.is_lock_timeout)
    }
}

/// What is there of a revision that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeftBehind {
    /// Nothing, or nothing that shows.
    Nothing,
    /// Invalid indexes of the service, which somebody has begun.
    Indexes(Vec<String>),
    /// Nobody could look.
    Unknown,
}

impl fmt::Display for LeftBehind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => Ok(()),
            Self::Indexes(names) => write!(
                f,
                "; there is the invalid index {}: drop it, then run the revision again",
                names.join(", ")
            ),
            Self::Unknown => f.write_str(
                "; it ran outside a transaction, and nobody could look what it left behind",
            ),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.text)
    }
}

fn at(place: Option<&Place>) -> String {
    place.map(|place| format!(":{place}")).unwrap_or_default()
}

fn called(name: &str) -> String {
    match name {
        "" => String::new(),
        name => format!(" ({name})"),
    }
}

/// Diesel tells no SQLSTATE, and of a revision that failed nothing but words.
pub(crate) fn is_transient(words: &str) -> bool {
    const PASSING: [&str; 5] = [
        "lock timeout",
        "deadlock detected",
        "could not serialize access",
        "terminating connection",
        "connection closed",
    ];
    PASSING.iter().any(|passing| words.contains(passing))
}
