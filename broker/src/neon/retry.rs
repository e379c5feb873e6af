//! Sending requests: within the account's budget, and again where that may be.

use std::time::Duration;

use backon::{ExponentialBuilder, Retryable as _};

use super::{Error, Neon};

/// How often a mutation is repeated, beyond the first time: Neon refuses them
/// for as long as it is busy with another of the same project.
const MUTATION_REPEATS_MAX: usize = 12;
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

/// A request as it is to be sent. Its route, the method and Neon's template of the
/// path, is what the budget and metrics count by; `what` says in an error what was
/// attempted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) route: &'static str,
    pub(super) what: &'a str,
}

impl Neon {
    /// Sends a mutation, and again for as long as that does nothing twice. The
    /// caller has the project's turn.
    pub(super) async fn mutate<T, F>(
        &self,
        asked: Asked<'_>,
        request: impl FnMut() -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, neon_api::Error>>,
    {
        let sent = self
            .send(asked, request, MUTATION_REPEATS_MAX, Error::may_repeat)
            .await;
        self.shared.mutated();
        sent
    }

    /// Reads.
    pub(super) async fn read<T, F>(
        &self,
        asked: Asked<'_>,
        request: impl FnMut() -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, neon_api::Error>>,
    {
        self.send(asked, request, READ_REPEATS_MAX, Error::may_repeat)
            .await
    }

    /// Reads of something that is known to be there. Shortly after its creation
    /// Neon may say that it is not.
    pub(super) async fn read_of_new<T, F>(
        &self,
        asked: Asked<'_>,
        request: impl FnMut() -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, neon_api::Error>>,
    {
        let may = |error: &Error| error.may_repeat() || error.is_not_found();
        self.send(asked, request, NEW_REPEATS_MAX, may).await
    }

    async fn send<T, F>(
        &self,
        asked: Asked<'_>,
        mut request: impl FnMut() -> F,
        repeats_max: usize,
        may: impl FnMut(&Error) -> bool,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, neon_api::Error>>,
    {
        let backoff = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(BACKOFF_MS_MIN))
            .with_max_delay(Duration::from_millis(BACKOFF_MS_MAX))
            .with_max_times(repeats_max);
        let attempt = || {
            // Nothing is sent before it is polled.
            let request = request();
            async move {
                let budget = &self.shared.budget;
                let admitted = budget.admit(asked.route, self.priority).await;
                admitted.map_err(|_| Error::Crowded)?;
                let answer = self.told(asked.route, request).await;
                answer.map_err(|error| self.refused(asked, error))
            }
        };
        attempt
            .retry(backoff)
            .when(may)
            .adjust(pause_after)
            .notify(|error, pause| {
                let ms = pause.as_millis();
                tracing::debug!(error = %crate::text::one_line(error), ms, "asking Neon again");
            })
            .await
    }

    fn refused(&self, asked: Asked<'_>, error: neon_api::Error) -> Error {
        if error.status() == Some(429)
            && let Some(time) = error.retry_after()
            && time <= Duration::from_millis(RETRY_AFTER_MS_MAX)
        {
            // It is the account's limit: the others' requests would be refused too.
            self.shared.budget.close(asked.route, time);
        }
        Error::api(asked.what, error)
    }
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
