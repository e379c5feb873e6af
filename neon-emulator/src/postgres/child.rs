//! The process of a server, be it Postgres or its pooler.
//!
//! Its stderr is a pipe that is read here: the line that says it is ready ends
//! the start, without polling, and every line goes to its log file.

use std::io;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::fs::File;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use super::log;

/// A process. Dropping it does not end it.
#[derive(Debug)]
pub(crate) struct Child {
    pid: Pid,
    exited: watch::Receiver<bool>,
}

/// A process that starts.
#[derive(Debug)]
pub(crate) struct Start {
    ready: oneshot::Receiver<()>,
    last: Arc<Mutex<String>>,
}

/// How a start went.
#[derive(Debug)]
pub(crate) enum Started {
    Ready,
    /// It ended; with what it said last.
    Ended(String),
    /// It is neither ready nor gone.
    Slow,
}

impl Child {
    /// Starts it. `is_ready` is asked of every line of its log.
    pub(crate) fn spawn(
        mut command: Command,
        log_file: File,
        is_ready: impl Fn(&str) -> bool + Send + 'static,
    ) -> io::Result<(Self, Start)> {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = tokio::process::Command::from(command).spawn()?;
        let pid = child.id().map_or(Pid::from_raw(0), |id| {
            Pid::from_raw(id.try_into().unwrap_or_default())
        });
        let (ready, becomes_ready) = oneshot::channel();
        let last = Arc::new(Mutex::new(String::new()));
        if let Some(stderr) = child.stderr.take() {
            let last = Arc::clone(&last);
            tokio::spawn(log::copy(stderr, log_file, is_ready, ready, last));
        }
        let (exit, exited) = watch::channel(false);
        tokio::spawn(async move {
            let _ = child.wait().await;
            exit.send_replace(true);
        });
        let start = Start {
            ready: becomes_ready,
            last,
        };
        Ok((Self { pid, exited }, start))
    }

    /// Its number, for messages.
    pub(crate) fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// True until it has ended, by whatever cause.
    pub(crate) fn is_running(&self) -> bool {
        !*self.exited.borrow()
    }

    /// True when it has ended.
    pub(crate) fn exited(&self) -> watch::Receiver<bool> {
        self.exited.clone()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        // Pid 0 would be our own process group.
        if self.is_running() && self.pid.as_raw() > 0 {
            let _ = kill(self.pid, signal);
        }
    }

    /// Waits for its end. False: it has not ended in that time.
    pub(crate) async fn ends_within(&self, seconds: u64) -> bool {
        timeout(Duration::from_secs(seconds), self.end())
            .await
            .is_ok()
    }

    /// Resolves when it has ended.
    pub(crate) async fn end(&self) {
        // An error means that the reaper is gone, and so is the process.
        let _ = self.exited.clone().wait_for(|exited| *exited).await;
    }
}

impl Start {
    /// Waits until it is ready.
    pub(crate) async fn wait(self, seconds: u64) -> Started {
        match timeout(Duration::from_secs(seconds), self.ready).await {
            Ok(Ok(())) => Started::Ready,
            // The log ended without the line.
            Ok(Err(_)) => {
                let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
                Started::Ended(last.clone())
            }
            Err(_) => Started::Slow,
        }
    }
}
