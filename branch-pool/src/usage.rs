//! Who uses connections at the moment, and who is to hold back.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// What a connection is checked out for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To read, nothing else; what is a moment behind will do.
    Read,
    /// To read what is there now, nothing else.
    Fresh,
    /// Anything.
    Any,
}

/// Counts connections that are checked out, by what for.
#[derive(Debug, Clone)]
pub(crate) struct Usage {
    readers: TaskTracker,
    others: TaskTracker,
}

/// One that is counted, until it is dropped.
#[derive(Debug)]
pub(crate) struct User(#[expect(dead_code, reason = "counts by being there")] TaskTrackerToken);

/// Checkouts are to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hold {
    /// The pause's generation.
    pub(crate) generation: i64,
    /// When to go on at the latest.
    pub(crate) until: Instant,
    /// Whether those who only read may go on.
    pub(crate) writes_only: bool,
}

impl Usage {
    pub(crate) fn new() -> Self {
        let tracker = || {
            let tracker = TaskTracker::new();
            // Closed, it can be waited for; it counts all the same.
            tracker.close();
            tracker
        };
        Self {
            readers: tracker(),
            others: tracker(),
        }
    }

    /// Counts one.
    pub(crate) fn enter(&self, purpose: Purpose) -> User {
        User(match purpose {
            Purpose::Read | Purpose::Fresh => self.readers.token(),
            Purpose::Any => self.others.token(),
        })
    }

    /// Waits until nobody is left whom a pause concerns. Who enters after the pause was
    /// published sees it.
    pub(crate) async fn quiet(&self, writes_only: bool) {
        self.others.wait().await;
        if !writes_only {
            self.readers.wait().await;
        }
    }
}

impl Hold {
    /// For how long this purpose has to wait from now. `None`: not at all.
    pub(crate) fn left(&self, purpose: Purpose) -> Option<Duration> {
        if self.writes_only && purpose != Purpose::Any {
            return None;
        }
        let left = self.until.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }
}
