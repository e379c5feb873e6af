//! Work on a connection that may die under it: done again where that is safe.

use std::pin::Pin;
use std::time::Duration;

use diesel::QueryResult;
use diesel::result::{DatabaseErrorKind, Error as QueryError};
use diesel_async::AsyncPgConnection;
use tokio::time::timeout;

use crate::usage::Purpose;
use crate::{BranchPool, Connection, Error, Work};

/// What work does, and so whether it may be done again when its connection was lost
/// before there was an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Effect {
    /// It reads: again without harm. From the binding's read-only endpoint where it has
    /// one, which may be a moment behind.
    Read,
    /// It reads what is there now, at the primary: again without harm.
    ReadPrimary,
    /// It writes, and a second time changes nothing more: a request that is stored
    /// under its id.
    Repeatable,
    /// It writes, and must not be done twice.
    Once,
}

/// Why work was not done, or it is not known whether it was.
#[derive(Debug, thiserror::Error)]
pub enum WorkError {
    /// There was no connection.
    #[error("there was no connection")]
    NoConnection(#[source] Error),
    /// The connection was lost, or Postgres ended what ran on it.
    #[error("the connection was lost")]
    Lost {
        /// Whether nothing of it was done, for certain. Otherwise it may have been.
        undone: bool,
        /// What the connection says.
        #[source]
        source: QueryError,
    },
    /// There was no answer in time; Postgres is asked to stop. The work may have been
    /// done: what was not sent yet is sent before that question is.
    #[error("there was no answer within {waited:?}")]
    TimedOut {
        /// [`work_timeout`](crate::Options::work_timeout).
        waited: Duration,
    },
    /// Postgres refuses it, or there is no such row.
    #[error("the query failed")]
    Failed(#[source] QueryError),
}

impl WorkError {
    /// What an error comes to that was met on this connection by work that began with
    /// [`BranchPool::begin`].
    pub fn of(error: QueryError, connection: &mut Connection) -> Self {
        match Loss::of(&error, connection) {
            Some(loss) => loss.error(error),
            None => Self::Failed(error),
        }
    }
}

/// Work under way on a borrowed connection.
pub type Working<'c, T> = Pin<Box<dyn Future<Output = QueryResult<T>> + Send + 'c>>;

impl BranchPool {
    /// Checks a connection out (to a [`replica`](Self::replica) for [`Effect::Read`]),
    /// does the work on it, and gives it back. When the connection is lost, the work
    /// is done once more on a fresh one of the primary where that is safe: nothing of it
    /// was sent, or its [`Effect`] says that it may be repeated. Work that opens a
    /// transaction closes it as well, and is repeated from its beginning.
    ///
    /// Waiting for a connection is bounded as with [`get`](Self::get), each attempt at
    /// the work by [`work_timeout`](crate::Options::work_timeout). Dropped half-way,
    /// the connection is [recovered](Connection::recover).
    ///
    /// Errors: [`WorkError`].
    pub async fn run<T>(
        &self,
        effect: Effect,
        work: impl for<'c> FnMut(&'c mut AsyncPgConnection) -> Working<'c, T>,
    ) -> Result<T, WorkError> {
        let (value, under_way) = self.begin(effect, work).await?;
        drop(under_way.finish());
        Ok(value)
    }

    /// The same for work that goes on: what comes of it is the beginning of a stream,
    /// say, and the connection is kept until the caller [finishes](Work::finish) it.
    ///
    /// Errors: [`WorkError`].
    pub async fn begin<T>(
        &self,
        effect: Effect,
        mut work: impl for<'c> FnMut(&'c mut AsyncPgConnection) -> Working<'c, T>,
    ) -> Result<(T, Work), WorkError> {
        let mut repeated = false;
        loop {
            let purpose = match effect {
                Effect::Read if !repeated => Purpose::Read,
                Effect::Read | Effect::ReadPrimary => Purpose::Fresh,
                Effect::Repeatable | Effect::Once => Purpose::Any,
            };
            let connection = self.checkout(purpose).await;
            let mut under_way = connection.map_err(WorkError::NoConnection)?.begin();
            let limit = self.shared.options.work_timeout;
            let Ok(outcome) = timeout(limit, work(&mut under_way)).await else {
                return Err(WorkError::TimedOut { waited: limit });
            };
            let error = match outcome {
                Ok(value) => return Ok((value, under_way)),
                Err(error) => error,
            };
            let mut connection = under_way.finish();
            let Some(loss) = Loss::of(&error, &mut connection) else {
                return Err(WorkError::Failed(error));
            };
            let generation = connection.generation();
            if loss.dead {
                connection.died();
            }
            let safe = loss.undone || effect != Effect::Once;
            if repeated || !safe || !loss.repeat {
                return Err(loss.error(error));
            }
            tracing::debug!(
                target = %self.shared.target, generation, %error,
                "a connection was lost; once more on another one"
            );
            repeated = true;
        }
    }
}

/// A failure that is not the query's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Loss {
    /// Nothing was done, for certain.
    undone: bool,
    /// Another connection may do better.
    repeat: bool,
    /// This one is of no more use, whether or not it looks like it already.
    dead: bool,
}

/// How Postgres begins the messages of sessions and statements that it ended, not the
/// caller (SQLSTATE classes 57 and 08, 40001 of a replica, and 0A000; diesel does not pass
/// the code on).
const LOST: [(&str, Loss); 6] = [
    (
        // On a replica: what it replays needs the rows away.
        "canceling statement due to conflict with recovery",
        Loss {
            undone: true,
            repeat: true,
            dead: false,
        },
    ),
    (
        "terminating connection due to conflict with recovery",
        Loss {
            undone: true,
            repeat: true,
            dead: true,
        },
    ),
    (
        // By its time limit or a request: undone, and not to be begun again.
        "canceling statement",
        Loss {
            undone: true,
            repeat: false,
            dead: false,
        },
    ),
    (
        "terminating connection",
        Loss {
            undone: false,
            repeat: true,
            dead: true,
        },
    ),
    (
        "the database system is",
        Loss {
            undone: false,
            repeat: true,
            dead: true,
        },
    ),
    (
        // A migration changed what the statement was prepared for.
        "cached plan must not change result type",
        Loss {
            undone: true,
            repeat: true,
            dead: true,
        },
    ),
];

impl Loss {
    /// What a failed query says of its connection. `None`: the query itself is wrong.
    fn of(error: &QueryError, connection: &mut Connection) -> Option<Self> {
        let said = match error {
            // What a replica cancels has the code of a serialization failure.
            QueryError::DatabaseError(
                DatabaseErrorKind::Unknown | DatabaseErrorKind::SerializationFailure,
                information,
            ) => Self::said(information.message()),
            QueryError::DatabaseError(
                DatabaseErrorKind::UnableToSendCommand | DatabaseErrorKind::ClosedConnection,
                _,
            )
            | QueryError::BrokenTransactionManager => Some(Self::CLOSED),
            _ => None,
        };
        let said = said.or_else(|| connection.is_broken().then_some(Self::CLOSED))?;
        Some(Self {
            undone: said.undone || connection.is_unused(),
            ..said
        })
    }

    fn error(self, source: QueryError) -> WorkError {
        let undone = self.undone;
        WorkError::Lost { undone, source }
    }

    fn said(message: &str) -> Option<Self> {
        let of = |(beginning, loss): &(&str, Self)| message.starts_with(beginning).then_some(*loss);
        LOST.iter().find_map(of)
    }

    const CLOSED: Self = Self {
        undone: false,
        repeat: true,
        dead: true,
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_postgres_ended_is_told_from_what_it_refused() {
        let said = |message| Loss::said(message).map(|loss| (loss.undone, loss.repeat));
        let cases = [
            (
                "terminating connection due to administrator command",
                Some((false, true)),
            ),
            (
                "terminating connection due to conflict with recovery",
                Some((true, true)),
            ),
            (
                "canceling statement due to conflict with recovery",
                Some((true, true)),
            ),
            (
                "canceling statement due to statement timeout",
                Some((true, false)),
            ),
            (
                "canceling statement due to user request",
                Some((true, false)),
            ),
            ("the database system is shutting down", Some((false, true))),
            (
                "cached plan must not change result type",
                Some((true, true)),
            ),
            ("permission denied for table users", None),
            ("could not serialize access due to concurrent update", None),
        ];
        for (message, expected) in cases {
            assert_eq!(said(message), expected, "{message}");
        }
    }
}
