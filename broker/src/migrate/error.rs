//! What can go wrong with a migration.

use std::fmt;
use std::path::PathBuf;

use squawk_lexer::TokenKind;

use super::statements::pieces;
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
        "the branch has the revision {version}{}, which the folder does not: put it back, or \
         stamp the branch `current`",
        called(name)
    )]
    RevisionMissing {
        /// Its version.
        version: String,
        /// Its name, where it is known.
        name: String,
    },
    /// Nothing takes a revision back.
    #[error("{revision} has no down.sql: nothing takes it back; write one")]
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
    /// The wanted schema cannot be made.
    #[error("make the wanted schema: {}{}: {}", .0.path.display(), at(.0.place.as_ref()), .0.reason)]
    Wanted(Box<FailedRevision>),
    /// A script has no statement.
    #[error("run the revision {revision}: {} has no statement yet", path.display())]
    NothingToRun {
        /// The revision.
        revision: String,
        /// The file.
        path: PathBuf,
    },
    /// A line asks for a person.
    #[error("run the revision {revision}: {}:{line}: it stops there: {why}", path.display())]
    Stopped {
        /// The revision.
        revision: String,
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is to be decided.
        why: String,
    },
    /// Outside a transaction what came before a failure would stay.
    #[error(
        "run the revision {revision}: {} runs outside a transaction and has more than one \
         statement: give each a revision of its own",
        path.display()
    )]
    SeveralStatements {
        /// The revision.
        revision: String,
        /// The file.
        path: PathBuf,
    },
    /// A statement cannot be run in batches.
    #[error("run the revision {revision} in batches: {}:{line}: {reason}", path.display())]
    BadBatch {
        /// The revision.
        revision: String,
        /// The file.
        path: PathBuf,
        /// The statement's line, from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// A script committed, or rolled back, by itself.
    #[error(
        "run the revision {revision}: {} ends its transaction by itself, so what came before that \
         may be there, and is not written down: look, and leave COMMIT and ROLLBACK out",
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
    /// A gate keeps them out.
    #[error(
        "{} may be run there after a rehearsal that passed, of exactly what they are now: \
         `broker migrate rehearse`; an administrator may use --force",
        revisions.join(", ")
    )]
    NotRehearsed {
        /// The revisions.
        revisions: Vec<String>,
    },
    /// What is written from a difference goes on from where the folder ends.
    #[error(
        "the branch does not have {} yet, which would be written again: run them first \
         (`broker migrate up`), or name another branch that has them",
        revisions.join(", ")
    )]
    Pending {
        /// The revisions.
        revisions: Vec<String>,
    },
    /// What is rehearsed goes on from where the branch is.
    #[error("rehearse up to there: the branch is beyond it, and has {revision}; name a later one")]
    Backwards {
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
    /// Where in it. `None`: what it did was refused at its end.
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
    /// The statement.
    pub statement: String,
}

impl Place {
    /// A statement as it may be shown, on one line: what stands in quotes may be a password,
    /// and a comment is not what failed.
    pub fn shown(sql: &str) -> String {
        const CHARS_MAX: usize = 160;
        let mut text = String::new();
        for piece in pieces(sql) {
            match piece.kind {
                TokenKind::Literal { .. } if piece.is_text() => text.push_str("'…'"),
                TokenKind::LineComment | TokenKind::BlockComment { .. } => text.push(' '),
                _ => text.push_str(piece.text),
            }
        }
        let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
        match line.char_indices().nth(CHARS_MAX) {
            Some((end, _)) => format!("{}…", &line[..end]),
            None => line,
        }
    }
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

    /// Whether it is the revision that is not as it should be.
    pub(super) fn is_of_revision(&self) -> bool {
        match self {
            Error::FailedRevision(_)
            | Error::NothingToRun { .. }
            | Error::Stopped { .. }
            | Error::SeveralStatements { .. }
            | Error::BadBatch { .. }
            | Error::EndsTransaction { .. }
            | Error::NotWritten { .. }
            | Error::NoWayBack { .. } => true,
            Error::BadFolder { .. }
            | Error::Wanted(_)
            | Error::RevisionNotFound { .. }
            | Error::RevisionAmbiguous { .. }
            | Error::RevisionChanged { .. }
            | Error::RevisionMissing { .. }
            | Error::RevisionBeyond { .. }
            | Error::Backwards { .. }
            | Error::NotRehearsed { .. }
            | Error::Pending { .. }
            | Error::Pooled
            | Error::Role(_)
            | Error::Postgres(_)
            | Error::LockTaken { .. }
            | Error::Interrupted(_) => false,
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
    /// Nothing that shows.
    Nothing,
    /// Nothing: its transaction was undone.
    Undone,
    /// Its transaction was at its end, and nobody heard how that ended.
    Unsure,
    /// Invalid indexes of the service, which somebody has begun.
    Indexes(Vec<String>),
    /// The batches that were done.
    Batches {
        /// How many rows they changed.
        rows: i64,
        /// The key that they have reached, with its column.
        key: String,
    },
    /// Nobody could look.
    Unknown,
}

impl fmt::Display for LeftBehind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => Ok(()),
            Self::Undone => f.write_str("; all of it is undone"),
            Self::Unsure => f.write_str(
                "; whether it was committed is not known: `broker migrate status` tells",
            ),
            Self::Indexes(names) => write!(
                f,
                "; there is the invalid index {}: drop it, then run the revision again",
                names.join(", ")
            ),
            Self::Batches { rows, key } => write!(
                f,
                "; {rows} rows are changed, up to {key}: run the revision again, and it goes on there"
            ),
            Self::Unknown => f.write_str(
                "; it ran outside a transaction, and nobody could look what it left behind",
            ),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: in `{}`", self.line, self.column, self.statement)
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
