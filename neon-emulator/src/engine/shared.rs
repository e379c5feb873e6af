//! Things that several tasks share, one for each of many: they are there as long
//! as somebody has them.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedMutexGuard;

/// One of them for each key.
#[derive(Debug)]
pub(super) struct Shared<K, V>(Mutex<HashMap<K, Arc<V>>>);

/// A lock for each key.
pub(super) type Locks<K> = Shared<K, tokio::sync::Mutex<()>>;

impl<K, V> Default for Shared<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Clone + Eq + Hash, V: Default> Shared<K, V> {
    /// The one of a key. A new one takes the place of those that nobody has any
    /// more, and of which `is_idle` says that they hold nothing.
    pub(super) fn of(&self, key: &K, is_idle: impl Fn(&V) -> bool) -> Arc<V> {
        // A map of handles: no panic leaves it half changed.
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = all.get(key) {
            return Arc::clone(found);
        }
        // Nobody gets one meanwhile: that needs the map.
        all.retain(|_, value| Arc::strong_count(value) > 1 || !is_idle(value));
        let new = Arc::<V>::default();
        all.insert(key.clone(), Arc::clone(&new));
        new
    }

    /// All that there are.
    pub(super) fn all(&self) -> Vec<Arc<V>> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.values().cloned().collect()
    }
}

impl<K: Clone + Eq + Hash> Locks<K> {
    /// Waits until nobody else holds the key.
    pub(super) async fn hold(&self, key: &K) -> OwnedMutexGuard<()> {
        self.of(key, |_| true).lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn what_nobody_has_is_not_kept() {
        let locks = Locks::<u32>::default();
        let held = locks.hold(&1).await;
        for key in 2..100 {
            drop(locks.hold(&key).await);
        }
        assert_eq!(locks.all().len(), 2, "the one that is held, and the last");
        let second = timeout(Duration::from_millis(20), locks.hold(&1));
        assert!(second.await.is_err(), "it is held");
        drop(held);
        drop(locks.hold(&1).await);
    }

    #[tokio::test]
    async fn what_holds_something_is_kept() {
        let shared = Shared::<u32, Mutex<Option<u32>>>::default();
        let is_idle = |value: &Mutex<Option<u32>>| value.lock().is_ok_and(|value| value.is_none());
        *shared
            .of(&1, is_idle)
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(7);
        for key in 2..100 {
            drop(shared.of(&key, is_idle));
        }
        assert_eq!(shared.all().len(), 2);
        let kept = shared.of(&1, is_idle);
        assert!(kept.lock().is_ok_and(|value| *value == Some(7)));
    }
}
