//! Waiting for a condition.

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::bail;

/// How long a test waits for what it waits for: far beyond what anything takes, on a
/// busy machine too, so that reaching it is a failure and not slowness.
pub const PATIENCE: Duration = Duration::from_secs(180);
const POLL_MS: u64 = 10;

/// Repeats `look` until it says `Ok`, and returns what it said.
///
/// # Errors
/// When it has not come true within [`PATIENCE`]; the message has what `look` said last.
pub async fn eventually<T, F>(what: &str, mut look: impl FnMut() -> F) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<T>>,
{
    let begun = Instant::now();
    loop {
        match look().await {
            Ok(value) => return Ok(value),
            Err(error) if begun.elapsed() > PATIENCE => {
                bail!("{what}: not in {PATIENCE:?}: {error:#}");
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(POLL_MS)).await,
        }
    }
}
