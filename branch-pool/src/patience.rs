//! Trying a connection again that nobody answered: a branch may be waking up, or its
//! Postgres starting again.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::backoff;
use crate::target::ConnectFailure;

/// For how long, and how often it was tried.
#[derive(Debug)]
pub(crate) struct Patience {
    until: Instant,
    failures: u32,
}

impl Patience {
    /// For so long from now.
    pub(crate) fn new(limit: Duration) -> Self {
        Self {
            until: Instant::now() + limit,
            failures: 0,
        }
    }

    /// Waits before the next attempt, if it may help: false when it may not, or there
    /// is no more time.
    pub(crate) async fn again(&mut self, failure: &ConnectFailure) -> bool {
        self.failures = self.failures.saturating_add(1);
        let wait = backoff::after_refusals(self.failures);
        if !failure.is_transient || Instant::now() + wait > self.until {
            return false;
        }
        sleep(wait).await;
        true
    }
}
