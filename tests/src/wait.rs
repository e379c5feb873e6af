//! Waiting for a condition.

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::bail;

/// Far beyond what anything takes: reaching it is a failure, not slowness.
const WAIT_SECONDS_MAX: u64 = 60;
const POLL_MS: u64 = 10;

/// Repeats `look` until it says `Ok`, and returns what it said.
///
/// # Errors
/// When it has not come true in a minute; the message has what `look` said last.
pub async fn eventually<T, F>(what: &str, mut look: impl FnMut() -> F) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<T>>,
{
    let begun = Instant::now();
    loop {
        match look().await {
            Ok(value) => return Ok(value),
            Err(error) if begun.elapsed() > Duration::from_secs(WAIT_SECONDS_MAX) => {
                bail!("{what}: not in {WAIT_SECONDS_MAX} s: {error:#}");
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(POLL_MS)).await,
        }
    }
}
