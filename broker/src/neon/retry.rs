//! Repeating what may be repeated.

use std::time::Duration;

use backon::{ExponentialBuilder, Retryable as _};
use neon_api::Error;

/// How often a mutation is repeated, beyond the first time: Neon refuses them
/// for as long as it is busy with another of the same project.
const MUTATION_REPEATS_MAX: usize = 8;
/// How often a read is repeated: somebody may be waiting to hear that Neon is
/// away.
const READ_REPEATS_MAX: usize = 4;
/// How often a read of something new is repeated: for some seconds Neon may not
/// find it.
const NEW_REPEATS_MAX: usize = 8;
/// The first pause, in milliseconds; each is drawn between nothing and this,
/// doubled each time.
const BACKOFF_MS_MIN: u64 = 100;
/// The longest pause, in milliseconds.
const BACKOFF_MS_MAX: u64 = 5_000;
/// The longest Retry-After that is waited for, in milliseconds. Beyond it the
/// error goes to the caller, who hears how long.
const RETRY_AFTER_MS_MAX: u64 = 30_000;

/// Repeats a mutation for as long as that does nothing twice.
pub(super) async fn mutations<T, F>(request: impl FnMut() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    repeat(request, MUTATION_REPEATS_MAX, Error::may_repeat).await
}

/// Repeats a read.
pub(super) async fn reads<T, F>(request: impl FnMut() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    repeat(request, READ_REPEATS_MAX, Error::may_repeat).await
}

/// Repeats a read of a branch that is known to be there. Shortly after its
/// creation Neon may say that it is not.
pub(super) async fn reads_of_new<T, F>(request: impl FnMut() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let may = |error: &Error| error.may_repeat() || error.is_not_found();
    repeat(request, NEW_REPEATS_MAX, may).await
}

async fn repeat<T, F>(
    request: impl FnMut() -> F,
    repeats_max: usize,
    may: impl FnMut(&Error) -> bool,
) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let backoff = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(BACKOFF_MS_MIN))
        .with_max_delay(Duration::from_millis(BACKOFF_MS_MAX))
        .with_max_times(repeats_max);
    request
        .retry(backoff)
        .when(may)
        .adjust(pause_after)
        .notify(|error, pause| {
            let ms = pause.as_millis();
            tracing::debug!(error = %crate::text::one_line(error), ms, "asking Neon again");
        })
        .await
}

/// A pause between nothing and the one that was due, so that callers who failed
/// together do not come back together; after what Neon asks for, if it does.
fn pause_after(error: &Error, pause: Option<Duration>) -> Option<Duration> {
    let pause = pause?.mul_f64(rand::random());
    match error.retry_after() {
        None => Some(pause),
        Some(asked) if asked > Duration::from_millis(RETRY_AFTER_MS_MAX) => None,
        Some(asked) => Some(asked + pause),
    }
}
