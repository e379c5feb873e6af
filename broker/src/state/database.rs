//! The state database: opening it, its tables, and what is asked of it.

mod migration;
mod prepared;
mod read;
mod write;

use diesel::{ExpressionMethods as _, OptionalExtension as _, QueryDsl as _};
use diesel_async::{AsyncPgConnection, RunQueryDsl as _, SimpleAsyncConnection as _};
use futures_util::{FutureExt as _, StreamExt as _, future};
use jiff::Timestamp;

use super::rows::{BadRow, time_in};
use super::schema::head;
use crate::postgres::{self, OwnerUri};
use prepared::Prepared;

/// How long one statement may take, in milliseconds.
const STATEMENT_MS_MAX: u64 = 10_000;
/// How long a transaction may wait for its broker, in milliseconds. It holds the
/// row that every write of every broker needs: one that hangs is thrown out.
const IDLE_IN_TRANSACTION_MS_MAX: u64 = 5_000;

/// What brokers tell each other of a write.
pub(super) const CHANNEL: &str = "branch_broker_state";

/// Why the state database did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It could not be reached, or refused the session.
    #[error(transparent)]
    Postgres(#[from] postgres::Error),
    /// diesel-async did not take the session.
    #[error("prepare a session")]
    FailedSession(#[source] diesel::ConnectionError),
    /// A statement failed.
    #[error("{what}")]
    FailedStatement {
        /// What it was for.
        what: &'static str,
        /// What came instead.
        #[source]
        source: diesel::result::Error,
    },
    /// Its tables are of a later broker.
    #[error(
        "it has the revision {revision}, which this broker does not know: a newer broker has \
         migrated it; run that one, or name another database"
    )]
    Ahead {
        /// The revision.
        revision: String,
    },
    /// Its tables could not be made.
    #[error("migrate it: {reason}")]
    FailedMigration {
        /// What Postgres said.
        reason: String,
        /// Whether the same may work in a moment.
        transient: bool,
    },
    /// The thread that migrated is gone.
    #[error("the migrating thread ended early")]
    Interrupted(#[source] tokio::task::JoinError),
    /// It holds what no broker writes.
    #[error(transparent)]
    BadRow(#[from] BadRow),
    /// Somebody emptied it.
    #[error("broker.head has no row: the database is not whole")]
    NoHead,
}

impl Error {
    /// Whether the same may work in a moment.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Postgres(error) => error.is_transient(),
            Error::FailedSession(_) | Error::Interrupted(_) => true,
            Error::FailedStatement { source, .. } => is_transient(source),
            Error::FailedMigration { transient, .. } => *transient,
            Error::Ahead { .. } | Error::BadRow(_) | Error::NoHead => false,
        }
    }
}

// Declared, not written as SQL into a statement: such a statement is prepared anew
// each time, and that is one more time to and fro.
diesel::define_sql_function! {
    /// As pg_current_xact_id(), of a type that Diesel knows.
    fn txid_current() -> diesel::sql_types::BigInt;
}
diesel::define_sql_function! {
    /// The time, also inside a transaction.
    fn clock_timestamp() -> diesel::sql_types::Timestamptz;
}

/// A session with the state database.
pub(super) struct Session {
    connection: AsyncPgConnection,
}

/// The one row that orders all writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    /// Of the last write.
    pub(super) version: i64,
    /// Of the broker that works in the background.
    pub(super) epoch: i64,
}

/// A transaction that has the head, and so no rival.
pub(super) struct Begun {
    pub(super) head: Head,
    /// By which Postgres tells what became of it.
    pub(super) transaction: String,
}

impl Session {
    /// Opens a session. One try: who asks tries again.
    pub(super) async fn open(uri: &OwnerUri) -> Result<Session, Error> {
        let (client, connection) = postgres::open_once(uri).await?;
        let mut connection = AsyncPgConnection::try_from_client_and_connection(client, connection)
            .await
            .map_err(Error::FailedSession)?;
        connection
            .batch_execute(&format!(
                "SET statement_timeout = {STATEMENT_MS_MAX};
                 SET idle_in_transaction_session_timeout = {IDLE_IN_TRANSACTION_MS_MAX};
                 SET synchronous_commit = on;
                 SET search_path = broker;"
            ))
            .await
            .attempted("prepare a session")?;
        Ok(Session { connection })
    }

    /// Makes the tables what this broker needs. Refuses those of a later one.
    pub(super) async fn migrate(self) -> Result<Session, Error> {
        let connection = migration::run(self.connection).await?;
        Ok(Session { connection })
    }

    /// Begins a write: from here on until its end no other broker writes.
    pub(super) async fn begin(&mut self) -> Result<Begun, Error> {
        const WHAT: &str = "begin a write";
        // Requests are made in the order in which they are first polled: both are
        // on their way before the first is answered.
        let (mut first, mut second) = (&self.connection, &self.connection);
        let begin = first.batch_execute("BEGIN");
        let raise = diesel::update(head::table)
            .set(head::version.eq(head::version + 1))
            .returning((head::version, head::epoch, txid_current()));
        let raise = Prepared(raise).get_result::<(i64, i64, i64)>(&mut second);
        let (begun, raised) = future::join(begin, raise).await;
        begun.attempted(WHAT)?;
        let raised = raised.optional().attempted(WHAT)?;
        let (version, epoch, transaction) = raised.ok_or(Error::NoHead)?;
        Ok(Begun {
            head: Head { version, epoch },
            transaction: transaction.to_string(),
        })
    }

    /// Ends a write that changes nothing.
    pub(super) async fn rollback(&mut self) -> Result<(), Error> {
        let ended = self.connection.batch_execute("ROLLBACK").await;
        ended.attempted("end a write")
    }

    /// Ends a write, and tells the other brokers. An error does not say whether
    /// it is stored.
    pub(super) async fn commit(&mut self, version: i64) -> Result<(), Error> {
        let commit = format!("NOTIFY {CHANNEL}, '{version}'; COMMIT");
        self.connection
            .batch_execute(&commit)
            .await
            .attempted("commit a write")
    }

    /// Asks for the lock of the work in the background, which ends with this
    /// session.
    pub(super) async fn try_lock(&mut self) -> Result<bool, Error> {
        let lock = diesel::dsl::sql::<diesel::sql_types::Bool>(
            "pg_try_advisory_lock(hashtextextended('branch-broker background', 0))",
        );
        let asked = diesel::select(lock).get_result(&mut self.connection).await;
        asked.attempted("ask for the lock of the work in the background")
    }

    /// Raises the epoch: whoever had the lock before writes in the background no
    /// more.
    pub(super) async fn take_over(&mut self) -> Result<i64, Error> {
        let raised = diesel::update(head::table)
            .set(head::epoch.eq(head::epoch + 1))
            .returning(head::epoch)
            .get_result(&mut self.connection)
            .await
            .optional()
            .attempted("take over the work in the background")?;
        raised.ok_or(Error::NoHead)
    }

    /// Listens to what brokers write from now on. What this session writes it hears of
    /// without another process being woken for it.
    pub(super) async fn listen(&mut self) -> Result<(), Error> {
        let listen = format!("LISTEN {CHANNEL}");
        let listening = self.connection.batch_execute(&listen).await;
        listening.attempted("listen to other brokers")
    }

    /// The newest version that is heard of. None: the session has ended.
    pub(super) async fn heard(&mut self) -> Result<Option<i64>, Error> {
        let mut told = std::pin::pin!(self.connection.notifications_stream());
        let mut next = told.next().await;
        let mut newest = None;
        // All that has come: none may pile up while brokers write.
        while let Some(told_of) = next {
            let told_of = told_of.attempted("listen to other brokers")?;
            // What cannot be read is a reason to look.
            newest = newest.max(Some(told_of.payload.parse().unwrap_or(i64::MAX)));
            next = told.next().now_or_never().flatten();
        }
        Ok(newest)
    }

    /// Whether a transaction whose end was not heard of is stored. None: it still
    /// runs.
    pub(super) async fn is_stored(&mut self, transaction: &str) -> Result<Option<bool>, Error> {
        #[derive(diesel::QueryableByName)]
        struct Row {
            #[diesel(sql_type = diesel::sql_types::Nullable<diesel::sql_types::Text>)]
            status: Option<String>,
        }
        let asked = diesel::sql_query("SELECT pg_xact_status($1::text::xid8) AS status")
            .bind::<diesel::sql_types::Text, _>(transaction);
        let row: Row = match asked.get_result(&mut self.connection).await {
            // A database that was put back to before it.
            Err(error) if error.to_string().contains("is in the future") => return Ok(Some(false)),
            answer => answer.attempted("ask what became of a write")?,
        };
        // Without a status it was hundreds of millions of transactions ago.
        Ok(match row.status.as_deref() {
            Some("in progress") => None,
            Some("committed") => Some(true),
            _ => Some(false),
        })
    }

    /// The head, and the database's clock.
    pub(super) async fn look(&mut self) -> Result<(Head, Option<Timestamp>), Error> {
        let looked = head::table
            .select((head::version, head::epoch, clock_timestamp()))
            .first::<(i64, i64, diesel::pg::data_types::PgTimestamp)>(&mut self.connection)
            .await
            .optional()
            .attempted("look at the head")?;
        let (version, epoch, time) = looked.ok_or(Error::NoHead)?;
        Ok((Head { version, epoch }, time_in(time)))
    }
}

/// Names what a statement was for in its error.
trait Attempted<T> {
    fn attempted(self, what: &'static str) -> Result<T, Error>;
}

impl<T> Attempted<T> for Result<T, diesel::result::Error> {
    fn attempted(self, what: &'static str) -> Result<T, Error> {
        self.map_err(|source| Error::FailedStatement { what, source })
    }
}

/// Diesel tells no SQLSTATE. A statement of ours is not refused for what it says,
/// so what comes is most often the end of the session; a constraint that does not
/// hold is not, and a right that is missing.
fn is_transient(error: &diesel::result::Error) -> bool {
    use diesel::result::DatabaseErrorKind as Kind;
    match error {
        diesel::result::Error::DatabaseError(kind, words) => match kind {
            Kind::ClosedConnection | Kind::SerializationFailure | Kind::UnableToSendCommand => true,
            Kind::Unknown => !words.message().contains("permission denied"),
            _ => false,
        },
        _ => false,
    }
}
