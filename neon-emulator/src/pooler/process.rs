//! One running PgBouncer.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use thiserror::Error;
use tracing::{info, warn};

use super::configuration::Settings;
use super::program::Program;
use crate::postgres::child::{Child, Started};
use crate::postgres::{ServerUser, log};

const START_SECONDS_MAX: u64 = 10;
const END_SECONDS_MAX: u64 = 5;
const READY: &str = "process up: PgBouncer";

/// A running PgBouncer. Dropping it does not end the process: [`Pooler::end`]
/// does.
#[derive(Debug)]
pub(crate) struct Pooler {
    child: Child,
    port: u16,
    server_port: u16,
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
            .current_dir(settings.folder);
        let is_ready = |line: &str| line.contains(READY);
        let spawned = Child::spawn(command, file, is_ready);
        let (child, start) = spawned.map_err(|source| PoolerError::Spawn {
            program: program.path.clone(),
            source,
        })?;
        let pooler = Self {
            child,
            port: settings.port,
            server_port: settings.server_port,
        };
        match start.wait(START_SECONDS_MAX).await {
            Started::Ready => Ok(pooler),
            Started::Ended(message) => Err(PoolerError::Ended { message }),
            Started::Slow => {
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
        self.child.is_running() && self.server_port == server_port
    }

    /// Ends it at once: its clients see a closed socket, as on Neon. It keeps
    /// nothing that a kill could harm.
    pub(crate) async fn end(&self) {
        self.child.signal(Signal::SIGKILL);
        if !self.child.ends_within(END_SECONDS_MAX).await {
            warn!(pid = self.child.pid(), "PgBouncer does not end");
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
