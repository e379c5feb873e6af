//! One running Postgres server.
//!
//! Its stderr is a pipe that is read here: the line that says it is ready ends
//! the start, without polling, and every line goes to the endpoint's log file.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use thiserror::Error;
use tokio::process::{Child, Command};
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;
use tracing::warn;

use super::cluster::{Cluster, Listen};
use super::{log, replica};

/// A start replays WAL: a second for each 150 MB.
const START_SECONDS_MAX: u64 = 120;
/// A fast shutdown writes a checkpoint. A server that takes longer is made to
/// end at once, and replays its WAL at its next start.
const STOP_SECONDS_MAX: u64 = 30;
/// How long a server may take to end at once.
const QUIT_SECONDS_MAX: u64 = 5;
/// The second is what a standby says.
const READY: [&str; 2] = [
    "database system is ready to accept connections",
    "database system is ready to accept read-only connections",
];

/// A running server. Dropping it does not end the process: [`Server::stop`]
/// does.
#[derive(Debug)]
pub(crate) struct Server {
    pid: Pid,
    listen: Listen,
    exited: watch::Receiver<bool>,
    standstill: watch::Receiver<bool>,
}

/// Why a server did not start or stop.
#[derive(Debug, Error)]
pub(crate) enum ServerError {
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
    #[error("port {port} was taken by another process before Postgres had it")]
    PortTaken { port: u16 },
    #[error("Postgres ended at its start: {message}")]
    Ended { message: String },
    #[error("Postgres was not ready after {START_SECONDS_MAX} s; its log is {}", log.display())]
    NotReady { log: PathBuf },
    #[error("Postgres (process {pid}) does not end, not even by SIGKILL")]
    NotStopped { pid: i32 },
}

impl Server {
    /// Starts a server on the cluster, which is configured already, and waits
    /// until it accepts connections.
    pub(crate) async fn start(
        cluster: &Cluster,
        listen: Listen,
        log_path: &Path,
    ) -> Result<Self, ServerError> {
        let program = cluster.installation.program("postgres");
        let mut command = cluster.user.command(&program);
        command
            .arg("-D")
            .arg(&cluster.data)
            .current_dir(&cluster.data)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let log_file = log::open(log_path)
            .await
            .map_err(|source| ServerError::Log {
                path: log_path.to_owned(),
                source,
            })?;
        let mut child = Command::from(command)
            .spawn()
            .map_err(|source| ServerError::Spawn { program, source })?;
        let pid = child.id().map_or(Pid::from_raw(0), |id| {
            Pid::from_raw(id.try_into().unwrap_or_default())
        });
        let (ready, is_ready) = oneshot::channel();
        let last = Arc::new(Mutex::new(String::new()));
        let (stop_short, standstill) = watch::channel(false);
        if let Some(stderr) = child.stderr.take() {
            let last = Arc::clone(&last);
            let is_ready = move |line: &str| {
                if replica::cannot_go_on(line) {
                    stop_short.send_replace(true);
                }
                READY.iter().any(|ready| line.ends_with(ready))
            };
            tokio::spawn(log::copy(stderr, log_file, is_ready, ready, last));
        }
        let (exit, exited) = watch::channel(false);
        tokio::spawn(reap(child, exit));

        let server = Self {
            pid,
            listen,
            exited,
            standstill,
        };
        match timeout(Duration::from_secs(START_SECONDS_MAX), is_ready).await {
            Ok(Ok(())) => Ok(server),
            // The log ended without the line.
            Ok(Err(_)) => {
                let message = last.lock().unwrap_or_else(PoisonError::into_inner).clone();
                if message.contains("Address already in use") {
                    let port = listen.port();
                    return Err(ServerError::PortTaken { port });
                }
                Err(ServerError::Ended { message })
            }
            Err(_) => {
                server.stop().await?;
                Err(ServerError::NotReady {
                    log: log_path.to_owned(),
                })
            }
        }
    }

    /// The port that names its socket, and that it listens on if it does.
    pub(crate) fn port(&self) -> u16 {
        self.listen.port()
    }

    /// True until the process has ended, by whatever cause.
    pub(crate) fn is_running(&self) -> bool {
        !*self.exited.borrow()
    }

    /// Resolves when the process has ended.
    pub(crate) fn exited(&self) -> watch::Receiver<bool> {
        self.exited.clone()
    }

    /// True when it is a replica that cannot go on.
    pub(crate) fn standstill(&self) -> watch::Receiver<bool> {
        self.standstill.clone()
    }

    /// Ends all sessions with 57P01, writes a checkpoint, and waits for the end.
    pub(crate) async fn stop(&self) -> Result<(), ServerError> {
        for (signal, seconds_max) in [
            (Signal::SIGINT, STOP_SECONDS_MAX),
            (Signal::SIGQUIT, QUIT_SECONDS_MAX),
            (Signal::SIGKILL, QUIT_SECONDS_MAX),
        ] {
            self.signal(signal);
            let mut exited = self.exited.clone();
            // An error means that the reaper is gone, and so is the process.
            let end = exited.wait_for(|exited| *exited);
            if timeout(Duration::from_secs(seconds_max), end).await.is_ok() {
                return Ok(());
            }
            warn!(pid = self.pid.as_raw(), %signal, "Postgres does not end");
        }
        Err(ServerError::NotStopped {
            pid: self.pid.as_raw(),
        })
    }

    /// Kills it, as a crash would, and waits for the end.
    pub(crate) async fn kill(&self) {
        self.signal(Signal::SIGKILL);
        // An error means that the reaper is gone, and so is the process.
        let _ = self.exited.clone().wait_for(|exited| *exited).await;
    }

    fn signal(&self, signal: Signal) {
        // Pid 0 would be our own process group.
        if self.is_running() && self.pid.as_raw() > 0 {
            let _ = kill(self.pid, signal);
        }
    }
}

async fn reap(mut child: Child, exit: watch::Sender<bool>) {
    let _ = child.wait().await;
    exit.send_replace(true);
}
