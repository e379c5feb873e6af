//! A program under test, as a process.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use crate::wait::PATIENCE;

/// Lines of a log that a test which failed shows of each program.
const SHOWN_LINES_MAX: usize = 40;

/// A running program. Its stderr goes to a log file; a test that ends early
/// does not leave it behind.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    stdout: Lines<BufReader<ChildStdout>>,
    log: PathBuf,
}

impl Process {
    /// Starts a binary of this workspace. Its environment is what is given here
    /// and PATH, nothing that the test was started with.
    ///
    /// # Errors
    /// When it is not built or cannot be run.
    pub fn start(
        name: &str,
        arguments: &[&str],
        environment: &[(&str, &str)],
        log: &Path,
    ) -> anyhow::Result<Self> {
        let program = crate::binary(name)?;
        let file = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("open {}", log.display()))?;
        let mut child = Command::new(&program)
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(file)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        let stdout = child.stdout.take().context("its stdout")?;
        Ok(Self {
            name: name.to_owned(),
            child,
            stdout: BufReader::new(stdout).lines(),
            log: log.to_owned(),
        })
    }

    /// The next line that it prints.
    ///
    /// # Errors
    /// When it ends before, or prints nothing within [`PATIENCE`]; with its log.
    pub async fn line(&mut self) -> anyhow::Result<String> {
        match timeout(PATIENCE, self.stdout.next_line()).await {
            Ok(Ok(Some(line))) => Ok(line),
            Ok(Ok(None)) => bail!("{} ended: {}", self.name, self.log()),
            Ok(Err(error)) => bail!("{}: its stdout: {error}", self.name),
            Err(_) => bail!("{} printed nothing: {}", self.name, self.log()),
        }
    }

    /// Sends SIGKILL and waits for the end.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub async fn kill(mut self) -> anyhow::Result<()> {
        self.child
            .kill()
            .await
            .with_context(|| format!("kill {}", self.name))?;
        check_log(&self.name, &self.log())
    }

    /// Sends SIGTERM and waits for the end, which has to be a clean one.
    ///
    /// # Errors
    /// When it does not end in a minute, or not with exit code 0.
    pub async fn stop(self) -> anyhow::Result<()> {
        let name = self.name.clone();
        let log = self.log.clone();
        let status = self.signal_and_wait(Signal::SIGTERM).await?;
        let said = fs::read_to_string(log).unwrap_or_default();
        if !status.success() {
            bail!("{name} ended with {status}: {said}");
        }
        check_log(&name, &said)
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// When it does not end within [`PATIENCE`].
    pub async fn wait(&mut self) -> anyhow::Result<ExitStatus> {
        match timeout(PATIENCE, self.child.wait()).await {
            Ok(status) => {
                check_log(&self.name, &self.log())?;
                status.with_context(|| format!("wait for {}", self.name))
            }
            Err(_) => bail!("{} goes on running: {}", self.name, self.log()),
        }
    }

    /// Its process id.
    ///
    /// # Errors
    /// When it has ended.
    pub fn pid(&self) -> anyhow::Result<i32> {
        let id = self.child.id().context("it has ended")?;
        Ok(id.try_into()?)
    }

    /// What it logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    async fn signal_and_wait(mut self, signal: Signal) -> anyhow::Result<ExitStatus> {
        kill(Pid::from_raw(self.pid()?), signal)
            .with_context(|| format!("signal {}", self.name))?;
        match timeout(PATIENCE, self.child.wait()).await {
            Ok(status) => Ok(status?),
            Err(_) => bail!("{} does not stop: {}", self.name, self.log()),
        }
    }
}

/// A test that ends with a program running has failed: what the program was doing is
/// shown beside the failure.
impl Drop for Process {
    fn drop(&mut self) {
        // Ended and waited for: whoever did that has told of it.
        if self.child.id().is_none() {
            return;
        }
        let state = match self.child.try_wait() {
            Ok(Some(status)) => format!("had ended by itself, with {status}"),
            Ok(None) => "was running".to_owned(),
            Err(error) => format!("is in an unknown state: {error}"),
        };
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        let shown = lines.len().saturating_sub(SHOWN_LINES_MAX);
        eprintln!("{} {state}; the end of its log:", self.name);
        for line in lines.iter().skip(shown) {
            eprintln!("    {line}");
        }
    }
}

/// No log shows a secret, in whatever test: the API key, a password as the
/// emulator makes them, a connection URI, a token. Those that a test alone knows are
/// looked for by `System::finish`.
fn check_log(name: &str, log: &str) -> anyhow::Result<()> {
    for secret in [
        crate::API_KEY,
        "npg_",
        "postgresql://",
        "SCRAM-SHA-256$",
        "bbt_",
    ] {
        if log.contains(secret) {
            bail!("the log of {name} shows {secret:?}…");
        }
    }
    Ok(())
}
