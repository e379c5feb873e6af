//! One running PgBouncer.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use thiserror::Error;
use tokio::process::Command;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;
use tracing::{info, warn};

use super::configuration::Settings;
use super::program::Program;
use crate::postgres::{ServerUser, log};

const START_SECONDS_MAX: u64 = 10;
const END_SECONDS_MAX: u64 = 5;
const READY: &str = "process up: PgBouncer";

/// A running PgBouncer. Dropping it does not end the process: [`Pooler::end`]
/// does.
#[derive(Debug)]
pub(crate) struct Pooler {
    pid: Pid,
    port: u16,
    server_port: u16,
    exited: watch::Receiver<bool>,
}

/// Why there is no PgBouncer.
#[derive(Debug, Error)]
pub(crate) enum PoolerError {
    #[error("could not write PgBouncer's configuration to {}", folder.display())]
    Write {
        folder: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("could not start {}", program.display())]
    Spawn {
        program: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("could not write the log {}", path.display())]
    Log {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("PgBouncer ended at its start: {message}")]
    Ended { message: String },
    #[error("PgBouncer was not ready after {START_SECONDS_MAX} s; its log is {}", log.display())]
    NotReady { log: PathBuf },
}

impl Pooler {
    /// Starts one, and waits until it listens.
    pub(crate) async fn start(
        program: &Program,
        user: &ServerUser,
        settings: &Settings<'_>,
    ) -> Result<Self, PoolerError> {
        settings
            .write(program, user)
            .map_err(|source| PoolerError::Write {
                folder: settings.folder.to_owned(),
                source,
            })?;
        let file = log::open(settings.log)
            .await
            .map_err(|source| PoolerError::Log {
                path: settings.log.to_owned(),
                source,
            })?;
        let mut command = user.command(&program.path);
        command
            .arg(settings.folder.join("pgbouncer.ini"))
            // By this it is found when the emulator was killed.
            .current_dir(settings.folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = Command::from(command)
            .spawn()
            .map_err(|source| PoolerError::Spawn {
                program: program.path.clone(),
                source,
            })?;
        let pid = child.id().map_or(Pid::from_raw(0), |id| {
            Pid::from_raw(id.try_into().unwrap_or_default())
        });
        let (ready, is_ready) = oneshot::channel();
        let last = Arc::new(Mutex::new(String::new()));
        if let Some(stderr) = child.stderr.take() {
            let is_ready = |line: &str| line.contains(READY);
            tokio::spawn(log::copy(stderr, file, is_ready, ready, Arc::clone(&last)));
        }
        let (exit, exited) = watch::channel(false);
        tokio::spawn(async move {
            let _ = child.wait().await;
            exit.send_replace(true);
        });
        let pooler = Self {
            pid,
            port: settings.port,
            server_port: settings.server_port,
            exited,
        };
        match timeout(Duration::from_secs(START_SECONDS_MAX), is_ready).await {
            Ok(Ok(())) => Ok(pooler),
            Ok(Err(_)) => {
                let message = last.lock().unwrap_or_else(PoisonError::into_inner).clone();
                Err(PoolerError::Ended { message })
            }
            Err(_) => {
                pooler.end().await;
                let log = settings.log.to_owned();
                Err(PoolerError::NotReady { log })
            }
        }
    }

    /// Where it listens.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// True while it runs, and leads to the server of this port.
    pub(crate) fn serves(&self, server_port: u16) -> bool {
        !*self.exited.borrow() && self.server_port == server_port
    }

    /// Ends it at once: its clients see a closed socket, as on Neon. It keeps
    /// nothing that a kill could harm.
    pub(crate) async fn end(&self) {
        if !*self.exited.borrow() && self.pid.as_raw() > 0 {
            let _ = kill(self.pid, Signal::SIGKILL);
        }
        let mut exited = self.exited.clone();
        let end = exited.wait_for(|exited| *exited);
        if timeout(Duration::from_secs(END_SECONDS_MAX), end)
            .await
            .is_err()
        {
            warn!(pid = self.pid.as_raw(), "PgBouncer does not end");
        }
    }
}

/// Ends the poolers that an emulator that was killed left, and removes their
/// folder. A process counts only when it works in there.
pub(crate) fn end_leftovers(folder: &Path) -> io::Result<()> {
    if let Ok(folder) = fs::canonicalize(folder) {
        for pid in crate::postgres::processes_below(&folder) {
            info!(pid = pid.as_raw(), "ending a PgBouncer of an earlier run");
            let _ = kill(pid, Signal::SIGKILL);
        }
    }
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
