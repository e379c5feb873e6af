//! The log of a server process: its stderr, which is read here line by line.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::fs::File;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWriteExt, BufReader};
use tokio::sync::oneshot;
use tracing::warn;

/// A log file beyond this is begun anew at the next start.
const LOG_BYTES_MAX: u64 = 16 << 20;

/// Opens a log file, to write on where it ends.
pub(crate) async fn open(path: &Path) -> io::Result<File> {
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
}

/// Copies the log line by line. `ready` is told once, by the first line that
/// `is_ready` knows; `last` keeps the last line that says why a start failed.
pub(crate) async fn copy(
    stderr: impl AsyncRead + Unpin,
    mut file: File,
    is_ready: impl Fn(&str) -> bool,
    ready: oneshot::Sender<()>,
    last: Arc<Mutex<String>>,
) {
    let mut ready = Some(ready);
    let mut lines = BufReader::new(stderr).lines();
    while let Ok(Some(mut line)) = lines.next_line().await {
        if is_ready(&line) {
            if let Some(ready) = ready.take() {
                // Nobody waits any more: the start took too long.
                let _ = ready.send(());
            }
        } else if ready.is_some()
            && let Some((_, message)) = ["could not bind", "FATAL:", "FATAL", "ERROR"]
                .iter()
                .find_map(|word| line.split_once(word))
        {
            let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
            // The bind error comes before the FATAL that follows from it.
            if !last.contains("in use") {
                message.trim().clone_into(&mut last);
            }
        }
        line.push('\n');
        if let Err(error) = file.write_all(line.as_bytes()).await {
            warn!(%error, "a log line of a server was lost");
        }
        let _ = file.flush().await;
    }
}

/// What a program says it failed of: the text of its line that says so, else its
/// last line.
pub(crate) fn failure(said: &str) -> &str {
    let fatal = said.lines().find_map(|line| line.split_once("FATAL:"));
    match fatal {
        Some((_, text)) => text.trim(),
        None => said.lines().next_back().unwrap_or("it said nothing").trim(),
    }
}
