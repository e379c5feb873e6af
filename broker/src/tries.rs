//! When to try again what has failed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

/// Pauses between tries, in milliseconds, doubled each time.
const PAUSE_MS_MIN: u64 = 500;
const PAUSE_MS_MAX: u64 = 60_000;

/// Things that are tried until they are done, each on its own: the first time at once.
#[derive(Debug)]
pub(crate) struct Tries<K>(BTreeMap<K, Try>);

#[derive(Debug, Clone, Copy)]
struct Try {
    at: Instant,
    failed: u32,
    /// When it was last tried itself.
    tried: Option<Instant>,
}

impl<K> Default for Tries<K> {
    fn default() -> Self {
        Tries(BTreeMap::new())
    }
}

impl<K: Ord> Tries<K> {
    /// Whether it may be tried.
    pub(crate) fn is_due(&self, key: &K, now: Instant) -> bool {
        self.0.get(key).is_none_or(|one| one.at <= now)
    }

    /// It failed. Says how often by now.
    pub(crate) fn failed(&mut self, key: K, now: Instant) -> u32 {
        self.failed_with(key, now, Some(now))
    }

    /// It was not tried, because another failed that most often fails for all. As if it
    /// had failed too, but that it has its turn before the other.
    pub(crate) fn held_up(&mut self, key: K, now: Instant) {
        let tried = self.0.get(&key).and_then(|one| one.tried);
        self.failed_with(key, now, tried);
    }

    fn failed_with(&mut self, key: K, now: Instant, tried: Option<Instant>) -> u32 {
        let failed = self.failures(&key) + 1;
        let at = now + pause(failed);
        self.0.insert(key, Try { at, failed, tried });
        failed
    }

    /// Nothing is wrong, and it is too early.
    pub(crate) fn wait(&mut self, key: K, until: Instant) {
        let one = Try {
            at: until,
            failed: 0,
            tried: None,
        };
        self.0.insert(key, one);
    }

    /// How often it has failed.
    pub(crate) fn failures(&self, key: &K) -> u32 {
        self.0.get(key).map_or(0, |one| one.failed)
    }

    /// When it was last tried itself, if it failed then.
    pub(crate) fn tried(&self, key: &K) -> Option<Instant> {
        self.0.get(key).and_then(|one| one.tried)
    }

    /// Forgets what is not among these: it is not to be done any more.
    pub(crate) fn retain(&mut self, to_be_done: &BTreeSet<&K>) {
        self.0.retain(|key, _| to_be_done.contains(key));
    }
}

fn pause(failed: u32) -> Duration {
    let doubled = PAUSE_MS_MIN.saturating_mul(1 << failed.saturating_sub(1).min(16));
    Duration::from_millis(doubled.min(PAUSE_MS_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_grows_and_has_an_end() {
        assert_eq!(pause(1), Duration::from_millis(PAUSE_MS_MIN));
        assert_eq!(pause(4), Duration::from_millis(PAUSE_MS_MIN * 8));
        assert_eq!(pause(u32::MAX), Duration::from_millis(PAUSE_MS_MAX));
    }

    #[test]
    fn what_failed_is_due_after_its_pause_and_forgotten_when_it_is_done() {
        let begun = Instant::now();
        let after = |pauses: u64| begun + Duration::from_millis(PAUSE_MS_MIN * pauses);
        let mut tries = Tries::default();
        assert!(tries.is_due(&1, begun));
        assert_eq!((tries.failed(1, begun), tries.failed(1, begun)), (1, 2));
        assert!(!tries.is_due(&1, after(1)) && tries.is_due(&2, after(1)));
        assert!(tries.is_due(&1, after(2)));
        tries.wait(1, after(3));
        assert!(!tries.is_due(&1, after(2)));
        assert_eq!((tries.failures(&1), tries.failures(&2)), (0, 0));
        tries.retain(&BTreeSet::from([&2]));
        assert!(tries.is_due(&1, after(2)));
        assert_eq!(tries.failed(1, begun), 1);
    }

    #[test]
    fn what_is_held_up_pauses_too_and_was_not_tried() {
        let begun = Instant::now();
        let mut tries = Tries::default();
        tries.failed(1, begun);
        tries.held_up(2, begun);
        assert!(!tries.is_due(&2, begun));
        assert_eq!((tries.failures(&1), tries.failures(&2)), (1, 1));
        assert_eq!((tries.tried(&1), tries.tried(&2)), (Some(begun), None));
        tries.held_up(1, begun);
        assert_eq!((tries.failures(&1), tries.tried(&1)), (2, Some(begun)));
    }
}
