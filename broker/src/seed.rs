//! Seeds: a file of SQL that runs once on a binding's branch.
//!
//! What is stored here: `branch_broker.seeds`, one row for each seed that ran,
//! in the database that it ran in, written in the seed's own transaction. Only
//! this module writes it; it belongs to the owner and nobody else may look. A
//! row names the binding and the file, because a fork inherits its parent's.

use std::collections::BTreeSet;
use std::path::PathBuf;

use tokio_postgres::{Client, GenericClient};

use crate::config::{BindingSpec, SqlFile};
use crate::migrate;
use crate::postgres::{self, Attempted as _, escape_identifier};

/// How long a seed waits for another session that changes the service's schema,
/// and for tables' locks, in milliseconds.
const LOCK_TIMEOUT_MS: u64 = 30_000;

/// Under a lock of its own: services that share a database share the table, and
/// two that make one schema at once would collide.
const CREATE_MARKS: &str = "
    BEGIN;
    SET LOCAL client_min_messages = warning;
    SELECT pg_advisory_xact_lock(hashtextextended('branch-broker seeds', 0));
    CREATE SCHEMA IF NOT EXISTS branch_broker;
    CREATE TABLE IF NOT EXISTS branch_broker.seeds (
        binding text NOT NULL,
        file text NOT NULL,
        applied_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (binding, file)
    );
    COMMIT;";

/// Why a seed did not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its file could not be read.
    #[error("read the seed {}", path.display())]
    FailedRead {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The database could not be reached or refused; nothing of the seed stays.
    #[error(transparent)]
    Postgres(#[from] postgres::Error),
}

impl Error {
    /// Whether the same may work in a moment.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::FailedRead { .. } => false,
            Error::Postgres(error) => error.is_transient(),
        }
    }
}

/// Bindings and files whose seed ran here, or on a branch that this one was
/// forked from. Reads only.
pub async fn applied(client: &Client) -> Result<BTreeSet<(String, String)>, postgres::Error> {
    let reading = "read the marks of seeds";
    let there = client
        .query_one("SELECT to_regclass('branch_broker.seeds') IS NOT NULL", &[])
        .await
        .attempted(reading)?
        .get::<_, bool>(0);
    if !there {
        return Ok(BTreeSet::new());
    }
    let rows = client
        .query("SELECT binding, file FROM branch_broker.seeds", &[])
        .await
        .attempted(reading)?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Runs the binding's seed, unless it has run; true when it ran now. The file
/// and the mark are one transaction.
pub async fn run(
    client: &mut Client,
    binding: &BindingSpec,
    seed: &SqlFile,
) -> Result<bool, Error> {
    let sql = tokio::fs::read_to_string(&seed.path)
        .await
        .map_err(|source| Error::FailedRead {
            path: seed.path.clone(),
            source,
        })?;
    let name = binding.name.to_string();
    let failed = || format!("seed {name} with {}", seed.name);
    client
        .batch_execute(CREATE_MARKS)
        .await
        .attempted(failed())?;
    let transaction = client.transaction().await.attempted(failed())?;
    let lock = migrate::lock_key(&binding.service);
    let schema = escape_identifier(&binding.service.schema);
    transaction
        .batch_execute(&format!(
            "SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS};
             -- A seed may take as long as it takes.
             SET LOCAL statement_timeout = 0;
             SELECT pg_advisory_xact_lock({lock});
             SET LOCAL search_path = {schema};"
        ))
        .await
        .attempted(failed())?;
    if is_marked(&transaction, &name, &seed.name)
        .await
        .attempted(failed())?
    {
        return Ok(false);
    }
    transaction.batch_execute(&sql).await.attempted(failed())?;
    transaction
        .execute(
            "INSERT INTO branch_broker.seeds (binding, file) VALUES ($1, $2)",
            &[&name, &seed.name],
        )
        .await
        .attempted(failed())?;
    transaction.commit().await.attempted(failed())?;
    tracing::debug!(binding = %name, seed = %seed.name, "seeded");
    Ok(true)
}

async fn is_marked(
    client: &impl GenericClient,
    binding: &str,
    file: &str,
) -> Result<bool, tokio_postgres::Error> {
    let marks = client
        .query(
            "SELECT 1 FROM branch_broker.seeds WHERE binding = $1 AND file = $2",
            &[&binding, &file],
        )
        .await?;
    Ok(!marks.is_empty())
}
