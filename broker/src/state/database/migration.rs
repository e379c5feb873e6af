//! The tables of the state, made and kept up.

use diesel::migration::{Migration, MigrationSource as _};
use diesel::pg::Pg;
use diesel_async::async_connection_wrapper::AsyncConnectionWrapper;
use diesel_async::{AsyncPgConnection, SimpleAsyncConnection as _};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness as _, embed_migrations};

use super::{Attempted as _, Error};
use crate::migrate::is_transient;

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("../migrations/broker");

/// How long to wait for another broker that migrates, in milliseconds.
const LOCK_MS_MAX: u64 = 60_000;

/// Runs the revisions that the database does not have. One that this broker does
/// not know is an error, and nothing is changed.
pub(super) async fn run(mut connection: AsyncPgConnection) -> Result<AsyncPgConnection, Error> {
    const WHAT: &str = "take the migration lock";
    // A lock of the session: it goes with it, however this ends.
    let lock = "pg_advisory_lock(hashtextextended('branch-broker state migration', 0))";
    for statement in [
        format!("SET statement_timeout = {LOCK_MS_MAX}"),
        format!("SELECT {lock}"),
        "CREATE SCHEMA IF NOT EXISTS broker".to_owned(),
    ] {
        connection.batch_execute(&statement).await.attempted(WHAT)?;
    }
    let mut connection = tokio::task::spawn_blocking(move || pending(connection))
        .await
        .map_err(Error::Interrupted)??;
    let unlock = lock.replace("pg_advisory_lock", "pg_advisory_unlock");
    for statement in [
        format!("SELECT {unlock}"),
        format!("SET statement_timeout = {}", super::STATEMENT_MS_MAX),
    ] {
        connection.batch_execute(&statement).await.attempted(WHAT)?;
    }
    Ok(connection)
}

fn pending(connection: AsyncPgConnection) -> Result<AsyncPgConnection, Error> {
    let mut harness: AsyncConnectionWrapper<AsyncPgConnection> = connection.into();
    let ours: Vec<Box<dyn Migration<Pg>>> = MIGRATIONS.migrations().map_err(failed)?;
    let known = |version: &str| {
        let mut ours = ours.iter();
        ours.any(|one| one.name().version().to_string() == version)
    };
    for version in harness.applied_migrations().map_err(failed)? {
        let revision = version.to_string();
        if !known(&revision) {
            return Err(Error::Ahead { revision });
        }
    }
    let done = harness.run_pending_migrations(MIGRATIONS).map_err(failed)?;
    for revision in &done {
        tracing::info!(%revision, "migrated the state database");
    }
    Ok(harness.into_inner())
}

fn failed(error: impl std::fmt::Display) -> Error {
    let reason = error.to_string();
    Error::FailedMigration {
        transient: is_transient(&reason),
        reason,
    }
}
