//! One running Postgres server.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::Signal;
use thiserror::Error;
use tokio::sync::watch;
use tracing::warn;

use super::child::{Child, Started};
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
    child: Child,
    listen: Listen,
    standstill: watch::Receiver<bool>,
    keeps_wal: AtomicBool,
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
            .current_dir(&cluster.data);
        let log_file = log::open(log_path)
            .await
            .map_err(|source| ServerError::Log {
                path: log_path.to_owned(),
                source,
            })?;
        let (stop_short, standstill) = watch::channel(false);
        let is_ready = move |line: &str| {
            if replica::cannot_go_on(line) {
                stop_short.send_replace(true);
            }
            READY.iter().any(|ready| line.ends_with(ready))
        };
        let (child, start) = Child::spawn(command, log_file, is_ready)
            .map_err(|source| ServerError::Spawn { program, source })?;
        let server = Self {
            child,
            listen,
            standstill,
            keeps_wal: AtomicBool::new(cluster.keeps_wal()),
        };
        match start.wait(START_SECONDS_MAX).await {
            Started::Ready => Ok(server),
            Started::Ended(message) if message.contains("Address already in use") => {
                let port = listen.port();
                Err(ServerError::PortTaken { port })
            }
            Started::Ended(message) => Err(ServerError::Ended { message }),
            Started::Slow => {
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

    /// Whether its WAL is kept, as far as it has been told.
    pub(crate) fn keeps_wal(&self) -> bool {
        self.keeps_wal.load(Ordering::Relaxed)
    }

    /// It has been told.
    pub(crate) fn set_keeps_wal(&self, keeps: bool) {
        self.keeps_wal.store(keeps, Ordering::Relaxed);
    }

    /// True until the process has ended, by whatever cause.
    pub(crate) fn is_running(&self) -> bool {
        self.child.is_running()
    }

    /// True when the process has ended.
    pub(crate) fn exited(&self) -> watch::Receiver<bool> {
        self.child.exited()
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
            self.child.signal(signal);
            if self.child.ends_within(seconds_max).await {
                return Ok(());
            }
            warn!(pid = self.child.pid(), %signal, "Postgres does not end");
        }
        Err(ServerError::NotStopped {
            pid: self.child.pid(),
        })
    }

    /// Kills it, as a crash would, and waits for the end.
    pub(crate) async fn kill(&self) {
        self.child.signal(Signal::SIGKILL);
        self.child.end().await;
    }
}
