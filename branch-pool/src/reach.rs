//! Whether anybody answers where a generation's sessions lead.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

/// How the attempts at opening sessions go.
#[derive(Debug, Default)]
pub(crate) struct Reach(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Whether the last attempt brought no session: it failed, or nobody waited for its
    /// end.
    is_doubtful: bool,
    failing: Option<Failing>,
}

/// Attempts that have failed one after another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failing {
    /// When the first of them began.
    pub(crate) since: Instant,
    /// Why the last one has failed.
    pub(crate) reason: String,
}

/// An attempt at opening a session.
#[derive(Debug)]
pub(crate) struct Attempt<'r> {
    reach: &'r Reach,
    begun: Instant,
    is_over: bool,
}

impl Reach {
    /// Begins an attempt. Dropped half-way it says nothing: who gave it up may have had
    /// little time, and the branch be waking up.
    pub(crate) fn attempt(&self) -> Attempt<'_> {
        Attempt {
            reach: self,
            begun: Instant::now(),
            is_over: false,
        }
    }

    /// There are sessions, or nobody expects any: what has failed before is over.
    pub(crate) fn forget(&self) {
        *self.inner() = Inner::default();
    }

    /// Whether it is not known that there is an answer.
    pub(crate) fn is_doubtful(&self) -> bool {
        self.inner().is_doubtful
    }

    /// `None`: none has failed since there was a session.
    pub(crate) fn failing(&self) -> Option<Failing> {
        self.inner().failing.clone()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Attempt<'_> {
    /// There is a session.
    pub(crate) fn answered(mut self) {
        self.is_over = true;
        self.reach.forget();
    }

    /// Nothing is said of it here.
    pub(crate) fn given_up(mut self) {
        self.is_over = true;
    }

    /// There is none.
    pub(crate) fn failed(mut self, reason: &str) {
        self.is_over = true;
        let mut inner = self.reach.inner();
        inner.is_doubtful = true;
        let first = inner.failing.as_ref().map(|failing| failing.since);
        inner.failing = Some(Failing {
            since: first.unwrap_or(self.begun),
            reason: reason.to_owned(),
        });
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            self.reach.inner().is_doubtful = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_counts_until_there_is_an_answer() {
        let reach = Reach::default();
        assert!(!reach.is_doubtful());
        let first = reach.attempt();
        let began = first.begun;
        first.failed("refused");
        let second = reach.attempt();
        assert_ne!(second.begun, began);
        second.failed("silence");
        let expected = Failing {
            since: began,
            reason: "silence".to_owned(),
        };
        assert_eq!(reach.failing(), Some(expected));
        reach.attempt().answered();
        assert_eq!((reach.failing(), reach.is_doubtful()), (None, false));
    }

    #[test]
    fn who_gives_an_attempt_up_proves_nothing() {
        let reach = Reach::default();
        drop(reach.attempt());
        assert_eq!((reach.failing(), reach.is_doubtful()), (None, true));
        reach.forget();
        assert!(!reach.is_doubtful());
    }
}
