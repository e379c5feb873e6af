//! Postgres's own client: libpq as people have it.

use std::process::{ExitStatus, Stdio};

use anyhow::{Context, bail};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::timeout;

use crate::wait::PATIENCE;

/// A psql that waits for statements.
#[derive(Debug)]
pub struct Psql {
    child: Child,
    stdin: ChildStdin,
}

/// What a psql printed, and how it ended.
#[derive(Debug)]
pub struct Printed {
    /// Its exit code says whether all went well.
    pub status: ExitStatus,
    /// Rows, one a line, without headings.
    pub rows: String,
    /// Errors and notices.
    pub errors: String,
}

impl Psql {
    /// Starts one on a URI. It ends at its first error.
    ///
    /// # Errors
    /// When there is no psql.
    pub fn start(uri: &str) -> anyhow::Result<Self> {
        let mut child = Command::new("psql")
            .args(["--no-psqlrc", "--tuples-only", "--no-align", "--quiet"])
            .args(["--set", "ON_ERROR_STOP=1", uri])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("run psql: install the package postgresql-client")?;
        let stdin = child.stdin.take().context("its stdin")?;
        Ok(Self { child, stdin })
    }

    /// Gives it statements, and does not wait for what they do.
    ///
    /// # Errors
    /// When it has ended.
    pub async fn send(&mut self, statements: &str) -> anyhow::Result<()> {
        let line = format!("{statements}\n");
        let written = self.stdin.write_all(line.as_bytes()).await;
        written.context("write to psql")
    }

    /// Tells it that nothing more comes, and waits for its end.
    ///
    /// # Errors
    /// When it does not end in a minute.
    pub async fn finish(self) -> anyhow::Result<Printed> {
        drop(self.stdin);
        let Ok(output) = timeout(PATIENCE, self.child.wait_with_output()).await else {
            bail!("psql does not end in {PATIENCE:?}");
        };
        let output = output.context("wait for psql")?;
        Ok(Printed {
            status: output.status,
            rows: String::from_utf8_lossy(&output.stdout).trim().to_owned(),
            errors: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        })
    }

    /// Runs statements in a session of their own.
    ///
    /// # Errors
    /// When there is no psql, or it does not end in a minute.
    pub async fn run(uri: &str, statements: &str) -> anyhow::Result<Printed> {
        let mut psql = Self::start(uri)?;
        // One that could not connect reads nothing.
        let _ = psql.send(statements).await;
        psql.finish().await
    }
}
