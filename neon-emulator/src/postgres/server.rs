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
use tokio::fs::File;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;
use tracing::warn;

use super::cluster::{Cluster, Listen};

/// A start replays WAL: a second for each 150 MB.
const START_SECONDS_MAX: u64 = 120;
/// A fast shutdown writes a checkpoint. A server that takes longer is made to
/// end at once, and replays its WAL at its next start.
const STOP_SECONDS_MAX: u64 = 30;
/// How long a server may take to end at once.
const QUIT_SECONDS_MAX: u64 = 5;
/// A log file beyond this is begun anew at the next start.
const LOG_BYTES_MAX: u64 = 16 << 20;
const READY: &str = "database system is ready to accept connections";

/// A running server. Dropping it does not end the process: [`Server::stop`]
/// does.
#[derive(Debug)]
pub(crate) struct Server {
    pid: Pid,
    listen: Listen,
    exited: watch::Receiver<bool>,
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
        log: &Path,
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
        let log_file = open_log(log).await?;
        let mut child = Command::from(command)
            .spawn()
            .map_err(|source| ServerError::Spawn { program, source })?;
        let pid = child.id().map_or(Pid::from_raw(0), |id| {
            Pid::from_raw(id.try_into().unwrap_or_default())
        });
        let (ready, is_ready) = oneshot::channel();
        let last = Arc::new(Mutex::new(String::new()));
        if let Some(stderr) = child.stderr.take() {
            tokio::spawn(copy_log(stderr, log_file, ready, Arc::clone(&last)));
        }
        let (exit, exited) = watch::channel(false);
        tokio::spawn(reap(child, exit));

        let server = Self {
            pid,
            listen,
            exited,
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
                    log: log.to_owned(),
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

async fn open_log(path: &Path) -> Result<File, ServerError> {
    let too_long = tokio::fs::metadata(path)
        .await
        .is_ok_and(|metadata| metadata.len() > LOG_BYTES_MAX);
    tokio::fs::OpenOptions::new()
        .create(true)
        .write(true)
        .append(!too_long)
        .truncate(too_long)
        .mode(0o600)
        .open(path)
        .await
        .map_err(|source| ServerError::Log {
            path: path.to_owned(),
            source,
        })
}

/// Copies the log line by line. `ready` is told once; `last` keeps the last
/// line that says why a start failed.
async fn copy_log(
    stderr: impl AsyncRead + Unpin,
    mut file: File,
    ready: oneshot::Sender<()>,
    last: Arc<Mutex<String>>,
) {
    let mut ready = Some(ready);
    let mut lines = BufReader::new(stderr).lines();
    while let Ok(Some(mut line)) = lines.next_line().await {
        if line.ends_with(READY) {
            if let Some(ready) = ready.take() {
                // Nobody waits any more: the start took too long.
                let _ = ready.send(());
            }
        } else if ready.is_some()
            && let Some((_, message)) = line
                .split_once("could not bind")
                .or_else(|| line.split_once("FATAL:"))
        {
            let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
            // The bind error comes before the FATAL that follows from it.
            if !last.contains("in use") {
                message.trim().clone_into(&mut last);
            }
        }
        line.push('\n');
        if let Err(error) = file.write_all(line.as_bytes()).await {
            warn!(%error, "a Postgres log line was lost");
        }
        let _ = file.flush().await;
    }
}

async fn reap(mut child: Child, exit: watch::Sender<bool>) {
    let _ = child.wait().await;
    exit.send_replace(true);
}
