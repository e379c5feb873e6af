//! Equal requests that come together share one.

use std::hash::Hash;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use moka::future::Cache;

/// How many different requests may be under way and shared. Beyond it they are
/// made all the same, not shared.
const FLIGHTS_MAX: u64 = 10_000;
/// How long an answer may stay that nobody took out, because who should have was
/// cut off at that moment, in milliseconds.
const LEFT_OVER_MS_MAX: u64 = 10;

/// Requests of one kind that are under way. `K` is all that is asked: what has
/// the same key is given the same answer.
#[derive(Debug)]
pub(crate) struct Flights<K, T>(Cache<K, T>)
where
    K: Hash + Eq + Send + Sync + 'static,
    T: Clone + Send + Sync + 'static;

impl<K, T> Default for Flights<K, T>
where
    K: Hash + Eq + Send + Sync + 'static,
    T: Clone + Send + Sync + 'static,
{
    fn default() -> Self {
        let cache = Cache::builder()
            .max_capacity(FLIGHTS_MAX)
            .time_to_live(Duration::from_millis(LEFT_OVER_MS_MAX));
        Flights(cache.build())
    }
}

impl<K, T> Flights<K, T>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    T: Clone + Send + Sync + 'static,
{
    /// Does it, or waits for who does. When who does is cut off, one of those who
    /// wait goes on in its place.
    pub(crate) async fn share<E: Send + Sync + 'static>(
        &self,
        key: K,
        request: Pin<Box<impl Future<Output = Result<T, E>>>>,
    ) -> Result<T, Arc<E>> {
        let shared = self.0.try_get_with(key.clone(), request).await;
        // It is no cache: who asks from now on asks anew.
        self.0.invalidate(&key).await;
        shared
    }
}
