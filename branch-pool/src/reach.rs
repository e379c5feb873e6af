//! Whether anybody answers where a generation's sessions lead.

use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

/// Since when each attempt at opening a session has failed.
#[derive(Debug, Default)]
pub(crate) struct Reach(Mutex<Option<Instant>>);

/// An attempt at opening a session: failed, unless it is [answered](Self::answered).
#[derive(Debug)]
pub(crate) struct Attempt<'r> {
    reach: &'r Reach,
    begun: Instant,
    is_answered: bool,
}

impl Reach {
    /// Begins an attempt. Dropped half-way it counts as failed: who gave it up had no
    /// answer.
    pub(crate) fn attempt(&self) -> Attempt<'_> {
        Attempt {
            reach: self,
            begun: Instant::now(),
            is_answered: false,
        }
    }

    /// When the first attempt began of those that have failed since the last one that
    /// was answered. `None`: the last one was.
    pub(crate) fn failing_since(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Attempt<'_> {
    /// There is a session.
    pub(crate) fn answered(mut self) {
        self.is_answered = true;
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        let mut since = self.reach.0.lock().unwrap_or_else(PoisonError::into_inner);
        *since = match self.is_answered {
            true => None,
            false => since.or(Some(self.begun)),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_counts_until_there_is_an_answer() {
        let reach = Reach::default();
        let first = reach.attempt();
        let began = first.begun;
        drop(first);
        assert_eq!(reach.failing_since(), Some(began));
        let second = reach.attempt();
        assert_ne!(second.begun, began);
        drop(second);
        assert_eq!(reach.failing_since(), Some(began));
        reach.attempt().answered();
        assert_eq!(reach.failing_since(), None);
    }
}
