//! The emulator's own sessions: the superuser over the Unix socket.

mod catalog;

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use thiserror::Error;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, NoTls};

use super::SUPERUSER;

pub(crate) use catalog::{
    Catalog, catalog, drop_database, drop_empty_database, drop_role, drop_unused_role,
    end_sessions, ensure_database, ensure_neon_superuser, ensure_role, has_database,
    rename_database,
};

const CONNECT_SECONDS_MAX: u64 = 10;

/// What an errand was, and why it failed.
#[derive(Debug, Error)]
#[error("could not {attempt}")]
pub(crate) struct AdminError {
    attempt: String,
    #[source]
    source: tokio_postgres::Error,
}

impl AdminError {
    pub(in crate::postgres) fn at(
        attempt: impl Into<String>,
    ) -> impl FnOnce(tokio_postgres::Error) -> Self {
        let attempt = attempt.into();
        |source| Self { attempt, source }
    }

    /// True when the server was not there, or about to go, or had no room: the
    /// same may go well a moment later.
    pub(crate) fn is_passing(&self) -> bool {
        match self.source.code() {
            // The connection, not what was asked for.
            None => true,
            Some(code) => PASSING_CLASSES
                .iter()
                .any(|class| code.code().starts_with(class)),
        }
    }

    /// True when there is no such database.
    pub(crate) fn is_no_database(&self) -> bool {
        self.source.code() == Some(&SqlState::INVALID_CATALOG_NAME)
    }
}

/// Of SQLSTATE: the connection broke, too much is asked of the server, somebody
/// else holds what is needed, the server stops or starts.
const PASSING_CLASSES: [&str; 4] = ["08", "53", "55", "57"];

/// Roles of the API may own the database, and callers choose settings of the
/// server: nothing of theirs may come between a superuser's statement and
/// Postgres. Who holds a lock is waited for, but not for ever: a project's
/// operations are done one after another.
const OPTIONS: &str = "-c search_path=pg_catalog -c default_transaction_read_only=off \
                       -c statement_timeout=0 -c idle_session_timeout=0 \
                       -c idle_in_transaction_session_timeout=0 -c lock_timeout=30s";

/// Opens a session of the superuser.
pub(crate) async fn connect(
    sockets: &Path,
    port: u16,
    database: &str,
) -> Result<Client, AdminError> {
    let (client, connection) = Config::new()
        .host_path(sockets)
        .port(port)
        .user(SUPERUSER)
        .dbname(database)
        .application_name("neon-emulator")
        .options(OPTIONS)
        .connect_timeout(Duration::from_secs(CONNECT_SECONDS_MAX))
        .connect(NoTls)
        .await
        .map_err(AdminError::at(format!("connect to database {database}")))?;
    // Its end is seen by the client's next query.
    tokio::spawn(connection);
    Ok(client)
}

/// What a server's clients do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Activity {
    /// A statement runs, a transaction is open, or a replica is connected.
    Busy,
    /// No client does anything, since this time by the system's clock. `None`:
    /// there is no client.
    Idle { since: Option<Timestamp> },
}

/// What the server's clients do. The sessions of `excepted` are none.
pub(crate) async fn activity(client: &Client, excepted: &str) -> Result<Activity, AdminError> {
    let attempt = || AdminError::at("look at the clients");
    let row = client
        .query_one(
            "SELECT coalesce(bool_or(state IS DISTINCT FROM 'idle'), false) \
                      OR EXISTS (SELECT FROM pg_stat_replication), \
                    (extract(epoch FROM max(state_change)) * 1000000)::bigint \
             FROM pg_stat_activity \
             WHERE backend_type = 'client backend' AND usename <> $1",
            &[&excepted],
        )
        .await
        .map_err(attempt())?;
    if row.try_get(0).map_err(attempt())? {
        return Ok(Activity::Busy);
    }
    let since: Option<i64> = row.try_get(1).map_err(attempt())?;
    let since = since.and_then(|microseconds| Timestamp::from_microsecond(microseconds).ok());
    Ok(Activity::Idle { since })
}

/// Where the server's log ends, as an LSN.
pub(crate) async fn current_lsn(client: &Client) -> Result<String, AdminError> {
    client
        .query_one("SELECT pg_current_wal_lsn()::text", &[])
        .await
        .and_then(|row| row.try_get(0))
        .map_err(AdminError::at("read the current LSN"))
}

/// The size of all databases together, in bytes.
pub(crate) async fn logical_size(client: &Client) -> Result<i64, AdminError> {
    client
        .query_one(
            "SELECT sum(pg_database_size(oid))::bigint FROM pg_database",
            &[],
        )
        .await
        .and_then(|row| row.try_get(0))
        .map_err(AdminError::at("measure the branch"))
}

/// Puts the record of a commit into the log, after all that is there.
pub(crate) async fn commit_something(client: &Client) -> Result<(), AdminError> {
    client
        // Something of its own has to be written: who only has a transaction's
        // number does not wait until its commit is in the file.
        .batch_execute(
            "SET synchronous_commit = on; \
             SELECT pg_logical_emit_message(true, 'neon-emulator', 'a point of the past')",
        )
        .await
        .map_err(AdminError::at("write to the log"))
}

/// Has the server read its settings again. They hold a moment later.
pub(crate) async fn reload(client: &Client) -> Result<(), AdminError> {
    client
        .batch_execute("SELECT pg_reload_conf()")
        .await
        .map_err(AdminError::at("have the settings read again"))
}

/// Ends the segment that is being written, for the archiver, and names it.
pub(crate) async fn end_segment(client: &Client) -> Result<String, AdminError> {
    // One that is empty would not be ended.
    commit_something(client).await?;
    client
        .query_one("SELECT pg_walfile_name(pg_switch_wal())", &[])
        .await
        .and_then(|row| row.try_get(0))
        .map_err(AdminError::at("end a segment of the log"))
}

/// When what was recovered last was committed; `None` where nothing was.
pub(crate) async fn last_replayed_commit(
    client: &Client,
) -> Result<Option<jiff::Timestamp>, AdminError> {
    let at = || AdminError::at("read where the recovery ended");
    let row = client
        .query_one(
            "SELECT (extract(epoch FROM pg_last_xact_replay_timestamp()) * 1000000)::bigint",
            &[],
        )
        .await
        .map_err(at())?;
    let microseconds: Option<i64> = row.try_get(0).map_err(at())?;
    Ok(microseconds.and_then(|at| jiff::Timestamp::from_microsecond(at).ok()))
}
