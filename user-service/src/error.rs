//! What goes wrong with a request that was well formed, and what the caller
//! hears of it.

use std::{error::Error as StdError, time::Duration};

use diesel::result::{DatabaseErrorKind, Error as QueryError};
use rpc::status::{FieldViolation, Refusal};
use tonic::{Code, Status};

use crate::user::UserId;

/// What a caller waits after an outage before it tries again, in milliseconds:
/// a branch that has to wake up takes about as long.
const RETRY_AFTER_OUTAGE_MS: u64 = 500;

/// The constraint that keeps one address to one user.
const EMAIL_KEY: &str = "users_email_key";

/// How Postgres begins the messages of sessions and statements that it ended,
/// not the caller (SQLSTATE classes 57 and 08; diesel does not pass the code on).
const OUTAGE_MESSAGES: [&str; 3] = [
    "terminating connection",
    "the database system is",
    CANCELED_MESSAGE,
];

/// Of these, the one that is sent of a statement that was undone, for certain.
const CANCELED_MESSAGE: &str = "canceling statement";

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
    /// Of a query that failed. `broken`: its connection is of no more use.
    pub(crate) fn of_query(action: &'static str, source: QueryError, broken: bool) -> Self {
        if broken || is_outage(&source) {
            Self::LostConnection { action, source }
        } else {
            Self::FailedQuery { action, source }
        }
    }

    /// The same of work that must not be done twice: an answer that was lost
    /// leaves open whether it was done.
    pub(crate) fn of_unrepeatable(self) -> Self {
        match self {
            // Postgres says so itself: the statement was undone.
            Self::LostConnection { ref source, .. } if begins(source, &[CANCELED_MESSAGE]) => self,
            Self::LostConnection { action, .. } | Self::NoAnswer { action, .. } => {
                Self::UnknownOutcome {
                    action,
                    source: Box::new(self),
                }
            }
            _ => self,
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
                rpc::status::internal("INTERNAL", "an internal error; it has been logged")
            }
            Error::UserNotFound {
                type_name,
                field,
                id,
            } => Refusal::new(Code::NotFound, "USER_NOT_FOUND", &*message)
                .resource(type_name, id.get().to_string())
                .violation(FieldViolation::new(field, message))
                .into(),
            Error::EmailTaken { type_name, email } => {
                Refusal::new(Code::AlreadyExists, "EMAIL_TAKEN", &*message)
                    .resource(type_name, email)
                    .violation(FieldViolation::new("user.email", message))
                    .into()
            }
        }
    }
}

fn unavailable() -> Status {
    rpc::status::unavailable(
        "DATABASE_UNAVAILABLE",
        "the database is not available at the moment",
        Duration::from_millis(RETRY_AFTER_OUTAGE_MS),
    )
}

fn is_outage(error: &QueryError) -> bool {
    match error {
        QueryError::DatabaseError(
            DatabaseErrorKind::UnableToSendCommand | DatabaseErrorKind::ClosedConnection,
            _,
        )
        | QueryError::BrokenTransactionManager => true,
        _ => begins(error, &OUTAGE_MESSAGES),
    }
}

fn begins(error: &QueryError, beginnings: &[&str]) -> bool {
    match error {
        QueryError::DatabaseError(DatabaseErrorKind::Unknown, information) => beginnings
            .iter()
            .any(|beginning| information.message().starts_with(beginning)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use diesel::result::DatabaseErrorInformation;
    use tonic_types::StatusExt;

    /// What Postgres says of a failed query, `message` and the constraint.
    struct Said(&'static str, Option<&'static str>);

    impl DatabaseErrorInformation for Said {
        fn message(&self) -> &str {
            self.0
        }
        fn details(&self) -> Option<&str> {
            None
        }
        fn hint(&self) -> Option<&str> {
            None
        }
        fn table_name(&self) -> Option<&str> {
            None
        }
        fn column_name(&self) -> Option<&str> {
            None
        }
        fn constraint_name(&self) -> Option<&str> {
            self.1
        }
        fn statement_position(&self) -> Option<i32> {
            None
        }
    }

    fn query_error(kind: DatabaseErrorKind, said: Said) -> QueryError {
        QueryError::DatabaseError(kind, Box::new(said))
    }

    #[test]
    fn outages_ask_to_try_again() {
        let ended = "terminating connection due to administrator command";
        for (kind, message, broken) in [
            (DatabaseErrorKind::Unknown, ended, false),
            (
                DatabaseErrorKind::UnableToSendCommand,
                "connection closed",
                false,
            ),
            (DatabaseErrorKind::ClosedConnection, "", false),
            (DatabaseErrorKind::Unknown, "anything", true),
        ] {
            let error =
                Error::of_query("get a user", query_error(kind, Said(message, None)), broken);
            let status = Status::from(error);
            assert_eq!(status.code(), Code::Unavailable, "{message}");
            assert!(status.get_details_retry_info().is_some());
            assert!(!status.message().contains("terminating"));
        }
    }

    #[test]
    fn what_may_have_been_done_is_not_to_be_repeated_blindly() {
        let action = "create a user";
        let lost = |message| {
            let source = query_error(DatabaseErrorKind::Unknown, Said(message, None));
            Error::of_query(action, source, false)
        };
        let waited = Duration::from_secs(15);
        for error in [
            lost("terminating connection due to administrator command"),
            Error::of_query(
                action,
                query_error(DatabaseErrorKind::ClosedConnection, Said("", None)),
                true,
            ),
            Error::NoAnswer { action, waited },
        ] {
            let status = Status::from(error.of_unrepeatable());
            assert_eq!(status.code(), Code::Unknown, "{status:?}");
            assert!(status.get_details_retry_info().is_none());
            let info = status.get_details_error_info().unwrap();
            assert_eq!(info.reason, "OUTCOME_UNKNOWN");
        }
        // Undone, or never begun.
        let undone = lost("canceling statement due to conflict with recovery");
        let status = Status::from(undone.of_unrepeatable());
        assert_eq!(status.code(), Code::Unavailable);
        assert!(status.get_details_retry_info().is_some());
        let source = Box::new(branch_pool::Error::Closed {
            binding: branch_pool::Binding::new("users", "v1"),
        });
        let status = Status::from(Error::NoConnection { action, source }.of_unrepeatable());
        assert_eq!(status.code(), Code::Unavailable);
    }

    #[test]
    fn other_failures_say_nothing_outside() {
        let secret = "relation \"users.users\" does not exist";
        let source = query_error(DatabaseErrorKind::Unknown, Said(secret, None));
        let status = Status::from(Error::of_query("get a user", source, false));
        assert_eq!(status.code(), Code::Internal);
        assert!(!format!("{status:?}").contains("relation"), "{status:?}");
        let info = status.get_details_error_info().unwrap();
        assert_eq!(info.reason, "INTERNAL");
    }

    #[test]
    fn one_constraint_means_a_taken_address() {
        let failed = |constraint| {
            let said = Said("duplicate key value violates unique constraint", constraint);
            let source = query_error(DatabaseErrorKind::UniqueViolation, said);
            Error::of_query("create a user", source, false)
        };
        assert!(failed(Some("users_email_key")).is_email_taken());
        assert!(!failed(Some("users_pkey")).is_email_taken());
        assert!(!failed(None).is_email_taken());
        let status = Status::from(Error::EmailTaken {
            type_name: "users.v1.User",
            email: "alice@example.com".to_owned(),
        });
        assert_eq!(status.code(), Code::AlreadyExists);
        let bad = status.get_details_bad_request().unwrap();
        assert_eq!(bad.field_violations[0].field, "user.email");
    }

    #[test]
    fn who_is_not_there_is_named() {
        let id = UserId::parse("id", 7).unwrap();
        let status = Status::from(Error::UserNotFound {
            type_name: "users.v2.User",
            field: "id",
            id,
        });
        assert_eq!(status.code(), Code::NotFound);
        let resource = status.get_details_resource_info().unwrap();
        assert_eq!(resource.resource_type, "users.v2.User");
        assert_eq!(resource.resource_name, "7");
        let info = status.get_details_error_info().unwrap();
        assert_eq!(info.reason, "USER_NOT_FOUND");
        assert_eq!(UserId::parse("id", 0).unwrap_err().field, "id");
    }
}
