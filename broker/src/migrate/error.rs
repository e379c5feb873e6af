//! What can go wrong with a migration.

use std::path::PathBuf;

use crate::postgres;

/// Why a branch is not at its revision.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder of revisions is not usable.
    #[error("list the revisions in {}: {reason}", path.display())]
    BadFolder {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The database could not be reached or refused.
    #[error(transparent)]
    Postgres(#[from] postgres::Error),
    /// The migrating session could not be prepared.
    #[error("{what}")]
    FailedPreparation {
        /// What was attempted.
        what: &'static str,
        /// What the driver said.
        #[source]
        source: diesel::result::Error,
    },
    /// diesel-async did not take the session.
    #[error("prepare the migrating session")]
    FailedSession(#[source] diesel::ConnectionError),
    /// Somebody else migrates, for too long.
    #[error(
        "another session has been migrating the service {service} for {} s",
        super::LOCK_WAIT_MS_MAX / 1000
    )]
    LockTaken {
        /// The service.
        service: String,
    },
    /// A revision failed, and left nothing behind.
    #[error("run the revision {revision}: {reason}")]
    FailedRevision {
        /// The revision.
        revision: String,
        /// What Postgres said, or what is wrong with the file.
        reason: String,
        /// Whether the same may work in a moment.
        transient: bool,
    },
    /// The history could not be read by Diesel.
    #[error("read the migration history: {reason}")]
    FailedHistory {
        /// What Diesel said.
        reason: String,
    },
    /// The thread that migrated is gone.
    #[error("the migrating thread ended early")]
    Interrupted(#[source] tokio::task::JoinError),
}

impl Error {
    /// Whether the same may work in a moment.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::BadFolder { .. } => false,
            Error::Postgres(error) => error.is_transient(),
            Error::FailedPreparation { source, .. } => is_transient(&source.to_string()),
            Error::FailedSession(_) => true,
            Error::LockTaken { .. } => true,
            Error::FailedRevision { transient, .. } => *transient,
            Error::FailedHistory { reason } => is_transient(reason),
            Error::Interrupted(_) => true,
        }
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
