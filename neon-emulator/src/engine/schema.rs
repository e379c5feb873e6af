//! The schema of a branch: as pg_dump writes it, and as tables.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;

use neon_api::types::BranchSchemaJson;
use neon_api::{BranchId, ProjectId};
use thiserror::Error;
use tokio::process::Command;
use tokio_postgres::Client;

use super::Engine;
use super::history::Point;
use super::job_error::JobError;
use crate::postgres::{SUPERUSER, admin, schema};

/// Why there is no schema to answer with.
#[derive(Debug, Error)]
pub(crate) enum SchemaError {
    #[error("{} is missing: the schema of a branch needs pg_dump; install the package postgresql-client", program.display())]
    NoPgDump { program: PathBuf },
    #[error("could not reach the branch")]
    Branch(#[from] JobError),
    #[error("could not run pg_dump")]
    Run(#[source] std::io::Error),
    #[error("pg_dump failed: {message}")]
    Failed { message: String },
}

impl SchemaError {
    /// As [`AdminError::is_passing`](admin::AdminError::is_passing), by what
    /// pg_dump has printed.
    pub(crate) fn is_passing(&self) -> bool {
        const WORDS: [&str; 4] = [
            "server closed the connection",
            "terminating connection",
            "the database system is",
            "Is the server running",
        ];
        matches!(self, Self::Failed { message } if WORDS.iter().any(|words| message.contains(words)))
    }

    /// True when there is no such database.
    pub(crate) fn is_no_database(&self) -> bool {
        matches!(self, Self::Failed { message }
            if message.contains("database \"") && message.contains("does not exist"))
    }
}

impl Engine {
    /// The tables of a database.
    pub(crate) async fn schema_tables(
        self: &Arc<Self>,
        project: &ProjectId,
        branch: &BranchId,
        point: Option<Point>,
        database: &str,
    ) -> Result<BranchSchemaJson, JobError> {
        let engine = Arc::clone(self);
        let (project, branch, database) = (project.clone(), branch.clone(), database.to_owned());
        // In a task of its own, as below.
        let tables = self.tasks.spawn(async move {
            let _held = engine.hold(&branch).await;
            engine
                .with_admin_at(&project, &branch, point, async |_, port| {
                    let client = admin::connect(engine.sockets(), port, &database).await?;
                    Ok::<_, JobError>(schema::tables(&client).await?)
                })
                .await
        });
        tables.await.map_err(|_| JobError::Cancelled)?
    }

    /// The schema of a database as SQL, without what differs from run to run.
    pub(crate) async fn schema(
        self: &Arc<Self>,
        project: &ProjectId,
        branch: &BranchId,
        point: Option<Point>,
        database: &str,
    ) -> Result<String, SchemaError> {
        let program = self.installation().program("pg_dump");
        if !program.exists() {
            return Err(SchemaError::NoPgDump { program });
        }
        let engine = Arc::clone(self);
        let (project, branch, database) = (project.clone(), branch.clone(), escaped(database));
        // In a task of its own: when the caller goes away, the server that was
        // started for this is stopped all the same.
        let dump = self.tasks.spawn(async move {
            let _held = engine.hold(&branch).await;
            let sockets = engine.sockets().to_owned();
            engine
                .with_admin_at(&project, &branch, point, async |_, port| {
                    let output = Command::new(&program)
                        .args(["--schema-only", "--no-password"])
                        // The branch is held meanwhile.
                        .arg("--lock-wait-timeout=30s")
                        .arg("--host")
                        .arg(&sockets)
                        .args(["--port", &port.to_string(), "--username", SUPERUSER])
                        // As one `name=value`: a name may look like an option.
                        .arg(format!("--dbname=dbname='{database}'"))
                        .env_clear()
                        .stdin(Stdio::null())
                        .output()
                        .await;
                    // Its failure is not the branch's.
                    Ok::<_, JobError>(output)
                })
                .await
        });
        let output = dump
            .await
            .map_err(|_| JobError::Cancelled)??
            .map_err(SchemaError::Run)?;
        if !output.status.success() {
            let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(SchemaError::Failed { message });
        }
        Ok(without_keys(&String::from_utf8_lossy(&output.stdout)))
    }

    /// As [`Engine::with_admin`], on the branch as it was at a point of its past,
    /// which is forgotten again.
    async fn with_admin_at<T>(
        &self,
        project: &ProjectId,
        branch: &BranchId,
        point: Option<Point>,
        errand: impl AsyncFnOnce(Client, u16) -> Result<T, JobError>,
    ) -> Result<T, JobError> {
        let Some(point) = point else {
            return self.with_admin(project, branch, errand).await;
        };
        // Of no branch: a start removes what a kill leaves.
        let folder = self.folder(branch).with_extension("past");
        let past = self
            .recover(project, branch, point, folder.clone(), errand)
            .await?;
        self.remove_folder(folder).await?;
        Ok(past.found)
    }
}

/// A value of a libpq connection string.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('\'', "\\'")
}

/// Newer minors of pg_dump put a random key into `\restrict` and `\unrestrict`:
/// two dumps of one schema would differ.
fn without_keys(dump: &str) -> String {
    dump.lines()
        .filter(|line| !line.starts_with("\\restrict ") && !line.starts_with("\\unrestrict "))
        .flat_map(|line| [line, "\n"])
        .collect()
}
