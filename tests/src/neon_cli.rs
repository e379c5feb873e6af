//! Neon's own command line, unmodified, pointed at an emulator.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, bail, ensure};
use serde_json::Value;
use tokio::process::Command;
use tokio::time::timeout;

use crate::wait::PATIENCE;
use crate::{API_KEY, EmulatorProcess, Folder, tools};

/// A release of the command line, with settings of its own.
#[derive(Debug)]
pub struct NeonCli {
    program: PathBuf,
    api: String,
    home: Folder,
}

/// What a command said.
#[derive(Debug)]
pub struct Said {
    /// Its exit code; none when a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

impl NeonCli {
    /// Installs the npm package, whose program has the package's name.
    ///
    /// # Errors
    /// When npm is missing or cannot install it.
    pub async fn install(
        package: &str,
        version: &str,
        emulator: &EmulatorProcess,
    ) -> anyhow::Result<Self> {
        let folder = tools::npm(package, version).await?;
        Ok(Self {
            program: folder.join("node_modules/.bin").join(package),
            api: emulator.url(),
            home: Folder::new()?,
        })
    }

    /// Runs a command as a script would: without a terminal, without the
    /// statistics that it would send to Neon.
    ///
    /// # Errors
    /// When it cannot be run, or does not end.
    pub async fn run(&self, arguments: &[&str]) -> anyhow::Result<Said> {
        let child = Command::new(&self.program)
            .args(arguments)
            .arg("--no-analytics")
            .arg("--config-dir")
            .arg(self.home.join("config"))
            .arg("--context-file")
            .arg(self.context_file())
            .current_dir(self.home.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.home.path())
            .env("CI", "true")
            .env("NEON_API_HOST", &self.api)
            .env("NEON_API_KEY", API_KEY)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = match timeout(PATIENCE, child).await {
            Ok(output) => {
                output.with_context(|| format!("run {} (it needs node)", self.program.display()))?
            }
            Err(_) => bail!("{arguments:?} did not end in {PATIENCE:?}"),
        };
        Ok(Said {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout)?,
            stderr: String::from_utf8(output.stderr)?,
        })
    }

    /// The file that `set-context` writes.
    #[must_use]
    pub fn context_file(&self) -> PathBuf {
        self.home.join("context")
    }
}

impl Said {
    /// Checks that it ended with this exit code.
    ///
    /// # Errors
    /// When it ended with another one, or said "undefined".
    pub fn ended_with(self, code: i32) -> anyhow::Result<Self> {
        ensure!(self.code == Some(code), "exit code {code}, not {self:?}");
        // What the command line says where it read a field that is not there.
        ensure!(
            !self.stdout.contains("undefined") && !self.stderr.contains("undefined"),
            "a field is missing: {self:?}"
        );
        Ok(self)
    }

    /// Checks that it printed all of these.
    ///
    /// # Errors
    /// When it did not.
    pub fn prints(&self, words: &[&str]) -> anyhow::Result<()> {
        for word in words {
            ensure!(
                !word.is_empty() && self.stdout.contains(word),
                "{word:?} printed, not {self:?}"
            );
        }
        Ok(())
    }

    /// What it printed with `-o json`.
    ///
    /// # Errors
    /// When that is no JSON.
    pub fn json(&self) -> anyhow::Result<Value> {
        serde_json::from_str(&self.stdout).with_context(|| format!("JSON: {self:?}"))
    }
}
