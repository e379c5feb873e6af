//! What goes wrong with a request that was well formed, and what the caller
//! hears of it.

use std::{error::Error as StdError, time::Duration};

use branch_pool::{Effect, WorkError};
use diesel::result::{DatabaseErrorKind, Error as QueryError};
use rpc::{
    request_id,
    status::{FieldViolation, Refusal, VIOLATIONS_MAX},
};
use tokio::task::JoinError;
use tonic::{Code, Status};
use uuid::Uuid;

use crate::user::UserId;

/// What a caller waits after an outage before it tries again, in milliseconds:
/// a branch that has to wake up takes about as long.
const RETRY_AFTER_OUTAGE_MS: u64 = 500;

/// The constraint that keeps one address to one user.
const EMAIL_KEY: &str = "users_email_key";

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no connection to the branch at the moment.
    #[error("no database connection to {action}")]
    NoConnection {
        /// As in `get a user`.
        action: &'static str,
        /// What the pool says.
        source: Box<branch_pool::Error>,
    },
    /// The connection broke, or Postgres ended it.
    #[error("the database connection was lost while it was to {action}")]
    LostConnection {
        /// As in `get a user`.
        action: &'static str,
        /// What the connection says.
        source: QueryError,
    },
    /// The database did not answer in time.
    #[error("no answer from the database after {} s when it was to {action}", waited.as_secs())]
    NoAnswer {
        /// As in `get a user`.
        action: &'static str,
        /// How long it was waited for.
        waited: Duration,
    },
    /// What must not be done twice may have been done: the answer was lost.
    #[error("it is not known whether the database did {action}")]
    UnknownOutcome {
        /// As in `create a user`.
        action: &'static str,
        /// How the answer was lost.
        source: Box<Error>,
    },
    /// The branch takes no writes from this service's role: it is being moved away from.
    #[error("the database takes no writes at the moment, as to {action}")]
    WritesRefused {
        /// As in `create a user`.
        action: &'static str,
        /// What Postgres says.
        source: QueryError,
    },
    /// Postgres refuses the query.
    #[error("the database could not {action}")]
    FailedQuery {
        /// As in `get a user`.
        action: &'static str,
        /// What Postgres says.
        source: QueryError,
    },
    /// No user has the id.
    #[error("no user has the id {}", id.get())]
    UserNotFound {
        /// The API's name for a user, as in `users.v1.User`.
        type_name: &'static str,
        /// The field that named it.
        field: &'static str,
        /// The id.
        id: UserId,
    },
    /// No users have some of the ids.
    #[error("no user has the id {}{}", first(missing), and_more(missing))]
    UsersNotFound {
        /// The API's name for a user, as in `users.v1.User`.
        type_name: &'static str,
        /// The ids, and where each is in the field `ids`; one at least.
        missing: Vec<(usize, UserId)>,
    },
    /// The user is not as the caller knows it.
    #[error("the user {} was changed since its etag was read; read it again", id.get())]
    EtagMismatch {
        /// The API's name for a user, as in `users.v1.User`.
        type_name: &'static str,
        /// The id.
        id: UserId,
    },
    /// Another user was asked for under the id.
    #[error("the request id {request_id} was used with another request")]
    RequestIdReused {
        /// The id.
        request_id: Uuid,
    },
    /// The caller takes nothing of a stream.
    #[error("nothing of the stream was taken for {} s", waited.as_secs())]
    StalledStream {
        /// How long it was waited for.
        waited: Duration,
    },
    /// A stream's task broke.
    #[error("a stream broke off")]
    BrokenStream {
        /// How.
        source: JoinError,
    },
    /// Another user has the address.
    #[error("another user has this email address")]
    EmailTaken {
        /// The API's name for a user, as in `users.v1.User`.
        type_name: &'static str,
        /// The address, as the caller gave it.
        email: String,
    },
}

impl Error {
    /// Of work with this effect that was not done, or of which nobody knows.
    pub(crate) fn of_work(action: &'static str, effect: Effect, error: WorkError) -> Self {
        let (undone, error) = match error {
            WorkError::NoConnection(source) => {
                let source = Box::new(source);
                return Self::NoConnection { action, source };
            }
            WorkError::Failed(source) if is_write(effect) && is_denied(&source) => {
                return Self::WritesRefused { action, source };
            }
            WorkError::Failed(source) => return Self::FailedQuery { action, source },
            WorkError::Lost { undone, source } => (undone, Self::LostConnection { action, source }),
            WorkError::TimedOut { waited } => (false, Self::NoAnswer { action, waited }),
        };
        if undone || effect != Effect::Once {
            return error;
        }
        let source = Box::new(error);
        Self::UnknownOutcome { action, source }
    }

    /// The same of what may be asked for again, whether or not it was done.
    pub(crate) fn of_repeatable(self) -> Self {
        match self {
            Self::UnknownOutcome { source, .. } => *source,
            error => error,
        }
    }

    /// Whether the database refused an address that another user has.
    pub(crate) fn is_email_taken(&self) -> bool {
        matches!(
            self,
            Self::FailedQuery {
                source: QueryError::DatabaseError(DatabaseErrorKind::UniqueViolation, information),
                ..
            } if information.constraint_name() == Some(EMAIL_KEY)
        )
    }
}

/// What the caller hears. Here, where requests end, is also the one place that
/// logs: callers hear nothing of queries.
impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match error {
            Error::NoConnection { ref source, .. } => {
                if matches!(
                    **source,
                    branch_pool::Error::NotReady { .. } | branch_pool::Error::LeaseExpired { .. }
                ) {
                    // The pool itself logs that, once and not at each call.
                    tracing::debug!(error = &error as &dyn StdError, "no lease");
                } else {
                    tracing::warn!(error = &error as &dyn StdError, "no connection");
                }
                unavailable()
            }
            Error::LostConnection { .. } => {
                tracing::warn!(error = &error as &dyn StdError, "lost a connection");
                unavailable()
            }
            Error::WritesRefused { .. } => {
                tracing::warn!(error = &error as &dyn StdError, "may not write");
                unavailable()
            }
            Error::NoAnswer { .. } => {
                tracing::warn!(error = &error as &dyn StdError, "gave a query up");
                unavailable()
            }
            Error::UnknownOutcome { .. } => {
                tracing::warn!(error = &error as &dyn StdError, "lost an answer");
                // Neither the code nor a RetryInfo invites to try again blindly.
                Refusal::new(
                    Code::Unknown,
                    "OUTCOME_UNKNOWN",
                    "the database's answer was lost; this may have been done or not",
                )
                .into()
            }
            Error::FailedQuery { .. } => {
                tracing::error!(error = &error as &dyn StdError, "a query failed");
                internal()
            }
            Error::UserNotFound {
                type_name,
                field,
                id,
            } => Refusal::new(Code::NotFound, "USER_NOT_FOUND", &*message)
                .resource(type_name, id.get().to_string())
                .violation(FieldViolation::new(field, message))
                .into(),
            Error::UsersNotFound { type_name, missing } => {
                let refusal = Refusal::new(Code::NotFound, "USER_NOT_FOUND", message)
                    .resource(type_name, first(&missing).to_string());
                let missing = missing.into_iter().take(VIOLATIONS_MAX);
                missing
                    .fold(refusal, |refusal, (at, id)| {
                        let problem = format!("no user has the id {}", id.get());
                        refusal.violation(FieldViolation::new(format!("ids[{at}]"), problem))
                    })
                    .into()
            }
            Error::EtagMismatch { type_name, id } => {
                Refusal::new(Code::Aborted, "ETAG_MISMATCH", message)
                    .resource(type_name, id.get().to_string())
                    .into()
            }
            Error::RequestIdReused { .. } => request_id::reused(message).into(),
            Error::StalledStream { .. } => {
                rpc::status::deadline_exceeded("STREAM_STALLED", message)
            }
            Error::BrokenStream { .. } => {
                tracing::error!(error = &error as &dyn StdError, "a stream's task broke");
                internal()
            }
            Error::EmailTaken { type_name, email } => {
                Refusal::new(Code::AlreadyExists, "EMAIL_TAKEN", &*message)
                    .resource(type_name, email)
                    .violation(FieldViolation::new("user.email", message))
                    .into()
            }
        }
    }
}

fn is_write(effect: Effect) -> bool {
    match effect {
        Effect::Read | Effect::ReadPrimary => false,
        Effect::Repeatable | Effect::Once => true,
    }
}

/// Whether the role lacks a right (SQLSTATE 42501, which diesel does not pass on): a
/// fence takes those to write away.
fn is_denied(error: &QueryError) -> bool {
    matches!(
        error,
        QueryError::DatabaseError(DatabaseErrorKind::Unknown, information)
            if information.message().starts_with("permission denied")
    )
}

fn unavailable() -> Status {
    rpc::status::unavailable(
        "DATABASE_UNAVAILABLE",
        "the database is not available at the moment",
        Duration::from_millis(RETRY_AFTER_OUTAGE_MS),
    )
}

fn internal() -> Status {
    rpc::status::internal("INTERNAL", "an internal error; it has been logged")
}

fn first(missing: &[(usize, UserId)]) -> i32 {
    missing.first().map_or(0, |(_, id)| id.get())
}

fn and_more(missing: &[(usize, UserId)]) -> String {
    match missing.len() {
        0 | 1 => String::new(),
        count => format!(" (and {} more)", count - 1),
    }
}

#[cfg(test)]
mod tests;
