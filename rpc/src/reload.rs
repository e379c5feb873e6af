//! Files that are read again while a server runs: when what they hold changes,
//! and at SIGHUP.

use std::{path::PathBuf, time::Duration};

use sha2::{Digest, Sha256};
use tokio::{
    signal::unix::{Signal, SignalKind},
    task::JoinHandle,
};

/// How often the files are looked at, in milliseconds. What they hold is
/// compared, not their dates: those lie where a file is a link that is exchanged.
const LOOK_MS: u64 = 2_000;

/// Reads files again for as long as it is held.
#[derive(Debug)]
pub struct Reloading(JoinHandle<()>);

impl Drop for Reloading {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Calls `load` whenever one of `files` has changed, and at SIGHUP. One that
/// fails is to have changed nothing: the log says why, and that what was there
/// goes on. `what` is for the log. Needs a tokio runtime.
#[must_use = "reloading ends when this is dropped"]
pub fn reload<E: std::fmt::Display>(
    what: &'static str,
    files: Vec<PathBuf>,
    load: impl Fn() -> Result<(), E> + Send + Sync + 'static,
) -> Reloading {
    let mut hangup = tokio::signal::unix::signal(SignalKind::hangup())
        .inspect_err(|error| tracing::error!(%error, "cannot listen for SIGHUP"))
        .ok();
    Reloading(tokio::spawn(async move {
        let mut seen = None;
        let mut asked = false;
        loop {
            let now = Some(fingerprint(&files).await);
            if now != seen || asked {
                // The first time it was read a moment ago, and may have changed
                // since.
                let first = seen.is_none();
                match load() {
                    Ok(()) if first => {}
                    Ok(()) => tracing::info!("read the {what} again"),
                    Err(error) => {
                        tracing::warn!(%error, "cannot read the {what} again; what was read before goes on");
                    }
                }
                seen = now;
            }
            asked = tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(LOOK_MS)) => false,
                () = arrives(&mut hangup) => true,
            };
        }
    }))
}

async fn arrives(signal: &mut Option<Signal>) {
    let arrived = match signal {
        Some(signal) => signal.recv().await,
        None => None,
    };
    if arrived.is_none() {
        std::future::pending().await
    }
}

/// What the files hold, in short; `None` for one that cannot be read.
async fn fingerprint(files: &[PathBuf]) -> Vec<Option<[u8; 32]>> {
    let mut found = Vec::with_capacity(files.len());
    for file in files {
        let text = tokio::fs::read(file).await.ok();
        found.push(text.map(|text| Sha256::digest(text).into()));
    }
    found
}
