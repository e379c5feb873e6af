//! Migrations: a service's revisions, run on its branch over a direct
//! connection.
//!
//! The history lies in the service's own schema, in Diesel's own table, so that
//! Diesel's command line understands it and services that share a database do
//! not see each other's. One session runs them, and that same session holds an
//! advisory lock meanwhile: when it dies, both end together. Each revision and
//! its row in the history are one transaction, unless its metadata.toml says
//! otherwise, so a broker that is killed in the middle leaves whole revisions.

mod error;

use std::path::Path;
use std::time::Duration;

use diesel::migration::{Migration, MigrationSource};
use diesel::pg::Pg;
use diesel::sql_types::Bool;
use diesel_async::async_connection_wrapper::AsyncConnectionWrapper;
use diesel_async::{AsyncPgConnection, RunQueryDsl as _, SimpleAsyncConnection as _};
use diesel_migrations::{FileBasedMigrations, MigrationHarness};
use tokio_postgres::{Client, GenericClient};

use crate::config::{Revision, ServiceSpec};
use crate::postgres::{self, Attempted as _, OwnerUri, escape_identifier, escape_literal};

pub use error::Error;
pub(crate) use error::is_transient;

/// Diesel's table.
pub const HISTORY_TABLE: &str = "__diesel_schema_migrations";

/// How long to wait for another migration of the same service, in milliseconds.
const LOCK_WAIT_MS_MAX: u64 = 60_000;
/// How often to ask for the lock meanwhile, in milliseconds.
const LOCK_POLL_MS: u64 = 200;
/// How long a statement of a revision may wait for a table's lock, in
/// milliseconds: everybody who comes after it waits behind it.
const LOCK_TIMEOUT_MS: u64 = 10_000;

/// The revisions in a folder, oldest first. Names that Diesel would not take,
/// and two of the same version, are refused.
pub fn revisions_in(path: &Path) -> Result<Vec<Revision>, Error> {
    let mut revisions: Vec<Revision> = migrations_in(path)?
        .iter()
        .map(|migration| revision_of(&**migration))
        .collect();
    revisions.sort();
    let same = revisions
        .windows(2)
        .find(|pair| pair[0].version == pair[1].version);
    match same {
        Some(pair) => Err(Error::BadFolder {
            path: path.to_owned(),
            reason: format!(
                "{} and {} are of the same version",
                pair[0].name, pair[1].name
            ),
        }),
        None => Ok(revisions),
    }
}

/// The versions that a branch has of a service, oldest first. Reads only: a
/// branch that was never migrated has none.
pub async fn applied(
    client: &Client,
    service: &ServiceSpec,
) -> Result<Vec<String>, postgres::Error> {
    if !has_history(client, service).await? {
        return Ok(Vec::new());
    }
    let table = history_table(service);
    let rows = client
        .query(
            &format!("SELECT version FROM {table} ORDER BY version"),
            &[],
        )
        .await
        .attempted(READING)?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Runs those of `revisions` that the branch does not have, oldest first, and
/// says which they were. Waits for another migration of the service to end.
pub async fn run(
    uri: &OwnerUri,
    service: &ServiceSpec,
    revisions: &[Revision],
) -> Result<Vec<Revision>, Error> {
    let (client, connection) = postgres::open(uri).await?;
    let mut session = AsyncPgConnection::try_from_client_and_connection(client, connection)
        .await
        .map_err(Error::FailedSession)?;
    prepare(&mut session, service).await?;
    lock(&mut session, service).await?;
    let folder = service.migrations.clone();
    let wanted = revisions.to_vec();
    // The lock goes with the session, which ends with this thread's work.
    tokio::task::spawn_blocking(move || run_pending(session, &folder, &wanted))
        .await
        .map_err(Error::Interrupted)?
}

/// The key of the lock that everything which changes a service's schema holds.
/// Advisory locks are a database's own, as a service's schema is.
pub(crate) fn lock_key(service: &ServiceSpec) -> String {
    let name = format!("branch-broker {}", service.name);
    format!("hashtextextended({}, 0)", escape_literal(&name))
}

const READING: &str = "read the migration history";

/// Whether the service was ever migrated here.
pub(crate) async fn has_history(
    client: &impl GenericClient,
    service: &ServiceSpec,
) -> Result<bool, postgres::Error> {
    let table = history_table(service);
    let row = client
        .query_one("SELECT to_regclass($1) IS NOT NULL", &[&table])
        .await
        .attempted(READING)?;
    Ok(row.get(0))
}

/// The schema and Diesel's table in it, quoted.
pub(crate) fn history_table(service: &ServiceSpec) -> String {
    let schema = escape_identifier(&service.schema);
    format!("{schema}.{HISTORY_TABLE}")
}

async fn prepare(session: &mut AsyncPgConnection, service: &ServiceSpec) -> Result<(), Error> {
    let schema = escape_identifier(&service.schema);
    session
        .batch_execute(&format!(
            "SET lock_timeout = {LOCK_TIMEOUT_MS};
             SET search_path = {schema};"
        ))
        .await
        .map_err(|source| Error::FailedPreparation {
            what: "prepare the migrating session",
            source,
        })
}

/// Takes the service's lock, and only then makes its schema: two that create
/// one schema at once would collide.
async fn lock(session: &mut AsyncPgConnection, service: &ServiceSpec) -> Result<(), Error> {
    let ask = format!(
        "SELECT pg_try_advisory_lock({}) AS taken",
        lock_key(service)
    );
    let waiting = async {
        loop {
            let answer: Locked =
                diesel::sql_query(&ask)
                    .get_result(session)
                    .await
                    .map_err(|source| Error::FailedPreparation {
                        what: "take the migration lock",
                        source,
                    })?;
            if answer.taken {
                return Ok::<(), Error>(());
            }
            tokio::time::sleep(Duration::from_millis(LOCK_POLL_MS)).await;
        }
    };
    tokio::time::timeout(Duration::from_millis(LOCK_WAIT_MS_MAX), waiting)
        .await
        .map_err(|_| Error::LockTaken {
            service: service.name.to_string(),
        })??;
    let schema = escape_identifier(&service.schema);
    session
        .batch_execute(&format!("CREATE SCHEMA IF NOT EXISTS {schema}"))
        .await
        .map_err(|source| Error::FailedPreparation {
            what: "create the service's schema",
            source,
        })
}

#[derive(diesel::QueryableByName)]
struct Locked {
    #[diesel(sql_type = Bool)]
    taken: bool,
}

fn run_pending(
    session: AsyncPgConnection,
    folder: &Path,
    wanted: &[Revision],
) -> Result<Vec<Revision>, Error> {
    let mut harness: AsyncConnectionWrapper<AsyncPgConnection> = session.into();
    let source =
        FileBasedMigrations::from_path(folder).map_err(|error| bad_folder(folder, error))?;
    let pending = harness
        .pending_migrations(source)
        .map_err(|error| Error::FailedHistory {
            reason: error.to_string(),
        })?;
    let mut done = Vec::new();
    for migration in &pending {
        let revision = revision_of(&**migration);
        if wanted.contains(&revision) {
            run_one(&mut harness, migration, &revision)?;
            done.push(revision);
        }
    }
    Ok(done)
}

fn run_one(
    harness: &mut AsyncConnectionWrapper<AsyncPgConnection>,
    migration: &dyn Migration<Pg>,
    revision: &Revision,
) -> Result<(), Error> {
    match harness.run_migration(migration) {
        Ok(_) => {
            tracing::debug!(revision = %revision.name, "migrated");
            Ok(())
        }
        Err(error) => {
            // Diesel's words begin with what the error here says by itself.
            let said = error.to_string();
            let beginning = format!("Failed to run {} with: ", revision.name);
            let reason = said.strip_prefix(&beginning).unwrap_or(&said).to_owned();
            Err(Error::FailedRevision {
                revision: revision.name.clone(),
                transient: is_transient(&reason),
                reason,
            })
        }
    }
}

fn migrations_in(path: &Path) -> Result<Vec<Box<dyn Migration<Pg>>>, Error> {
    let source = FileBasedMigrations::from_path(path).map_err(|error| bad_folder(path, error))?;
    source.migrations().map_err(|error| bad_folder(path, error))
}

fn bad_folder(path: &Path, error: impl std::fmt::Display) -> Error {
    Error::BadFolder {
        path: path.to_owned(),
        reason: error.to_string(),
    }
}

fn revision_of(migration: &dyn Migration<Pg>) -> Revision {
    Revision {
        version: migration.name().version().to_string(),
        name: migration.name().to_string(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn folder(names: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            let path = folder.path().join(name);
            std::fs::create_dir(&path).unwrap();
            std::fs::write(path.join("up.sql"), "SELECT 1;").unwrap();
        }
        folder
    }

    #[test]
    fn revisions_come_oldest_first() {
        let folder = folder(&["2026-02-01-000000_b", "2026-01-01-000000_z"]);
        let revisions = revisions_in(folder.path()).unwrap();
        let names: Vec<&str> = revisions.iter().map(|r| r.name.as_str()).collect();
        assert_eq!(names, ["2026-01-01-000000_z", "2026-02-01-000000_b"]);
        assert_eq!(revisions[0].version, "20260101000000");
    }

    #[test]
    fn two_revisions_of_one_version_are_refused() {
        let folder = folder(&["2026-01-01-000000_a", "20260101000000_b"]);
        let error = revisions_in(folder.path()).unwrap_err().to_string();
        assert!(error.contains("2026-01-01-000000_a"), "{error}");
        assert!(error.contains("same version"), "{error}");
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let error = revisions_in(Path::new("/no/such/folder")).unwrap_err();
        assert!(error.to_string().contains("/no/such/folder"), "{error}");
    }
}
