//! Lookups by key that share a query: calls that arrive together become one.
//!
//! A call with nothing under way is sent at once, by itself. Calls that arrive
//! while a query is under way gather for the next one, which is sent when that one
//! has come back; when enough have gathered; or when the first of them has waited
//! long enough, so that a slow query does not hold up the rest.
//!
//! What to count on:
//! - **Read your writes**: a call joins only a query that is not sent yet, so its
//!   answer is never older than the call.
//! - **Callers are independent**: one that goes away, or whose deadline passes, takes
//!   nothing from the others. A query for which nobody waits any more is dropped.
//! - **Errors are each caller's own**: the callers of a query that fails, or panics,
//!   look their keys up alone, each in its own time.
//!
//! ```
//! use std::{collections::BTreeMap, io};
//! use user_service::lookups::{Limits, Lookups, Source};
//!
//! struct Squares;
//!
//! impl Source for Squares {
//!     type Key = u64;
//!     type Value = u64;
//!     type Error = io::Error;
//!
//!     async fn fetch(&self, keys: Vec<u64>) -> io::Result<BTreeMap<u64, u64>> {
//!         let known = keys.into_iter().filter(|key| *key < 100);
//!         Ok(known.map(|key| (key, key * key)).collect())
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> io::Result<()> {
//! let squares = Lookups::new(Squares, Limits::default());
//! assert_eq!(squares.get(7).await?, Some(49));
//! assert_eq!(squares.get(700).await?, None);
//! # Ok(())
//! # }
//! ```

use std::{
    collections::{BTreeMap, VecDeque},
    error::Error as StdError,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::oneshot,
    task::yield_now,
    time::{Instant, sleep_until},
};

/// Beyond it a query takes longer by each key, and two are no slower than one.
const KEYS_MAX: usize = 100;
/// One at a time: so the most callers gather for each.
const QUERIES_USUAL: usize = 1;
/// Less than a pool has connections (24): what is no lookup finds some too.
const QUERIES_MAX: usize = 16;
/// Whoever is answered goes on first, and what has arrived meanwhile comes along. It is
/// no time when there is nothing else to do.
const YIELDS: u32 = 1;
/// Several times what a query takes when nothing is wrong.
const WAIT_MICROSECONDS_MAX: u64 = 2_000;

/// Where values are looked up.
pub trait Source: Send + Sync + 'static {
    /// What a value is known by.
    type Key: Ord + Clone + Send + 'static;
    /// What is looked up.
    type Value: Clone + Send + 'static;
    /// Why there is no answer.
    type Error: StdError + Send + 'static;

    /// One query: the values of those keys that have one. The keys are in order, and
    /// each is there once. Dropped, it is given up.
    fn fetch(
        &self,
        keys: Vec<Self::Key>,
    ) -> impl Future<Output = Result<BTreeMap<Self::Key, Self::Value>, Self::Error>> + Send;
}

/// How many calls share a query, and for how long they wait for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The most callers of one query.
    pub keys_max: usize,
    /// While so many queries are under way, calls gather for the next.
    pub queries_usual: usize,
    /// The most queries under way, when some are slow or calls many: at least
    /// `queries_usual`. Those that callers of a failed one send for themselves are
    /// not counted.
    pub queries_max: usize,
    /// How often the runtime's other tasks go first when a query has come back, before
    /// the next one is sent.
    pub yields: u32,
    /// How long a call waits for others, in microseconds, while fewer than
    /// `queries_max` queries are under way. The runtime's timer knows whole
    /// milliseconds, so it may be one more.
    pub wait_microseconds_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            keys_max: KEYS_MAX,
            queries_usual: QUERIES_USUAL,
            queries_max: QUERIES_MAX,
            yields: YIELDS,
            wait_microseconds_max: WAIT_MICROSECONDS_MAX,
        }
    }
}

/// Looks values up in a source, for many callers at once.
pub struct Lookups<S: Source> {
    shared: Arc<Shared<S>>,
}

impl<S: Source> Lookups<S> {
    /// Within those limits.
    pub fn new(source: S, limits: Limits) -> Self {
        Self {
            shared: Arc::new(Shared {
                source,
                limits,
                gathering: Mutex::new(Gathering {
                    waiting: VecDeque::new(),
                    under_way: 0,
                    is_watched: false,
                }),
            }),
        }
    }

    /// The value of a key; `None` if it has none. Needs a tokio runtime.
    ///
    /// # Errors
    /// What the source says of this key alone.
    pub async fn get(&self, key: S::Key) -> Result<Option<S::Value>, S::Error> {
        let answer = match self.shared.arrive(&key) {
            Arrival::Sends(_turn) => return self.shared.fetch_alone(key).await,
            Arrival::Waits(answer) => answer,
        };
        match answer.await {
            Ok(answer) => answer,
            // The query failed, perhaps because of another's key.
            Err(_) => self.shared.fetch_alone(key).await,
        }
    }
}

impl<S: Source> std::fmt::Debug for Lookups<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lookups")
            .field("limits", &self.shared.limits)
            .finish_non_exhaustive()
    }
}

/// Who waits for one query.
type Batch<S> = Vec<Waiting<S>>;
type Answer<S> = Result<Option<<S as Source>::Value>, <S as Source>::Error>;

struct Shared<S: Source> {
    source: S,
    limits: Limits,
    /// Locked for as long as it takes to move callers in or out.
    gathering: Mutex<Gathering<S>>,
}

/// Who waits for a query that is not sent yet, in the order in which they came.
struct Gathering<S: Source> {
    waiting: VecDeque<Waiting<S>>,
    /// How many [`Turn`]s there are.
    under_way: usize,
    /// Whether [`watch`] is running.
    is_watched: bool,
}

struct Waiting<S: Source> {
    key: S::Key,
    since: Instant,
    /// Dropped without an answer, it tells the caller to look the key up alone.
    answer: oneshot::Sender<Answer<S>>,
}

/// What a call does when it arrives.
enum Arrival<S: Source> {
    /// It sends its query, and has a turn meanwhile.
    Sends(Turn<S>),
    /// Others send it.
    Waits(oneshot::Receiver<Answer<S>>),
}

/// A query under way. When it ends, whatever ends it, those who have gathered have the
/// turn next.
struct Turn<S: Source> {
    shared: Arc<Shared<S>>,
    /// Whether anybody is at it: a task that its runtime does not run never is.
    is_begun: bool,
}

impl<S: Source> Turn<S> {
    fn new(shared: &Arc<Shared<S>>, is_begun: bool) -> Self {
        Self {
            shared: Arc::clone(shared),
            is_begun,
        }
    }
}

impl<S: Source> Drop for Turn<S> {
    fn drop(&mut self) {
        if !self.is_begun {
            // The runtime ends, and the next turn would be dropped in here, and so on.
            let waiting = self.shared.gathering().give_up();
            drop(waiting);
        } else if self.shared.gathering().hand_on(&self.shared.limits) {
            start(Turn::new(&self.shared, false), None);
        }
    }
}

impl<S: Source> Shared<S> {
    fn arrive(self: &Arc<Self>, key: &S::Key) -> Arrival<S> {
        let mut gathering = self.gathering();
        if gathering.under_way < self.limits.queries_usual {
            gathering.under_way += 1;
            return Arrival::Sends(Turn::new(self, true));
        }
        let answer = gathering.join(key.clone());
        let full = match gathering.is_full(&self.limits) {
            true => gathering.send_another(&self.limits),
            false => None,
        };
        let is_first = !std::mem::replace(&mut gathering.is_watched, true);
        drop(gathering);
        if full.is_some() {
            start(Turn::new(self, false), full);
        }
        if is_first {
            tokio::spawn(watch(Arc::clone(self)));
        }
        Arrival::Waits(answer)
    }

    /// Whom [`watch`] has to send a query for, if anybody, and when it has to look
    /// again. `None`: nobody waits.
    fn look(&self) -> Option<(Option<Batch<S>>, Instant)> {
        let now = Instant::now();
        let mut gathering = self.gathering();
        let Some(due) = gathering.due(&self.limits) else {
            gathering.is_watched = false;
            return None;
        };
        if due > now {
            return Some((None, due));
        }
        Some(match gathering.send_another(&self.limits) {
            // There may be more.
            Some(batch) => (Some(batch), now),
            None => (None, now + self.limits.wait()),
        })
    }

    async fn fetch_alone(&self, key: S::Key) -> Answer<S> {
        // Boxed, or each call would carry the room for it, and most wait for others'.
        let mut found = Box::pin(self.source.fetch(vec![key.clone()])).await?;
        Ok(found.remove(&key))
    }

    fn gathering(&self) -> MutexGuard<'_, Gathering<S>> {
        // Each change of it is whole before anything can panic.
        self.gathering
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Source> Gathering<S> {
    fn join(&mut self, key: S::Key) -> oneshot::Receiver<Answer<S>> {
        let capacity = self.waiting.capacity();
        if self.waiting.len() == capacity {
            // Those who have gone away hold no place: there is room for twice those
            // who ever waited at once, and no more.
            self.waiting.retain(|one| !one.answer.is_closed());
            if self.waiting.len() > capacity / 2 {
                self.waiting.reserve(capacity);
            }
        }
        let (answer, answered) = oneshot::channel();
        self.waiting.push_back(Waiting {
            key,
            since: Instant::now(),
            answer,
        });
        answered
    }

    /// Whether there is somebody for the turn of a query that has come back.
    fn hand_on(&mut self, limits: &Limits) -> bool {
        let is_one_too_many = self.under_way > limits.queries_usual
            && !self.is_full(limits)
            && self.due(limits).is_none_or(|due| due > Instant::now());
        let goes_on = !self.waiting.is_empty() && !is_one_too_many;
        if !goes_on {
            self.under_way -= 1;
        }
        goes_on
    }

    /// A query under way less, and nobody who waits: they hear that they are alone.
    fn give_up(&mut self) -> VecDeque<Waiting<S>> {
        self.under_way -= 1;
        std::mem::take(&mut self.waiting)
    }

    /// Whom another query is sent for, beside those under way. `None`: these are all
    /// that may be.
    fn send_another(&mut self, limits: &Limits) -> Option<Batch<S>> {
        if self.under_way >= limits.queries_max {
            return None;
        }
        self.under_way += 1;
        Some(self.take(limits))
    }

    fn take(&mut self, limits: &Limits) -> Batch<S> {
        let count = self.waiting.len().min(limits.keys_max);
        self.waiting.drain(..count).collect()
    }

    fn is_full(&self, limits: &Limits) -> bool {
        self.waiting.len() >= limits.keys_max
    }

    /// When the first has waited as long as it may.
    fn due(&self, limits: &Limits) -> Option<Instant> {
        let first = self.waiting.front()?;
        Some(first.since + limits.wait())
    }
}

impl Limits {
    fn wait(&self) -> Duration {
        Duration::from_micros(self.wait_microseconds_max)
    }
}

/// Sends a query in a task of its own, so that none of its callers ends it by going
/// away: for the batch, or for whoever has gathered by then.
fn start<S: Source>(turn: Turn<S>, batch: Option<Batch<S>>) {
    // Without a runtime, which ends just then, they hear that they are alone.
    if let Ok(runtime) = Handle::try_current() {
        runtime.spawn(send(turn, batch));
    }
}

async fn send<S: Source>(mut turn: Turn<S>, batch: Option<Batch<S>>) {
    turn.is_begun = true;
    let mut batch = match batch {
        Some(batch) => batch,
        None => {
            for _ in 0..turn.shared.limits.yields {
                yield_now().await;
            }
            turn.shared.gathering().take(&turn.shared.limits)
        }
    };
    batch.retain(|one| !one.answer.is_closed());
    if batch.is_empty() {
        return;
    }
    batch.sort_unstable_by(|one, other| one.key.cmp(&other.key));
    let mut keys: Vec<S::Key> = batch.iter().map(|one| one.key.clone()).collect();
    keys.dedup();
    let fetched = tokio::select! {
        biased;
        fetched = turn.shared.source.fetch(keys) => fetched,
        () = all_gone(&mut batch) => return,
    };
    match fetched {
        Ok(found) => answer(batch, found),
        Err(error) => refuse(batch, error),
    }
}

/// Resolves when nobody waits any more. It waits for one after another, so it wakes up
/// for those alone who go away before the others.
async fn all_gone<S: Source>(batch: &mut [Waiting<S>]) {
    for one in batch {
        one.answer.closed().await;
    }
}

/// Answers all; `batch` is in the order of the keys.
fn answer<S: Source>(batch: Batch<S>, mut found: BTreeMap<S::Key, S::Value>) {
    let mut batch = batch.into_iter().peekable();
    while let Some(one) = batch.next() {
        let is_asked_again = batch.peek().is_some_and(|next| next.key == one.key);
        let value = match is_asked_again {
            true => found.get(&one.key).cloned(),
            false => found.remove(&one.key),
        };
        // Whoever has gone away needs no answer.
        let _ = one.answer.send(Ok(value));
    }
}

/// An error is the caller's own if there is one caller. Several are told nothing, and
/// each looks alone.
fn refuse<S: Source>(mut batch: Batch<S>, error: S::Error) {
    match (batch.pop(), batch.len()) {
        (Some(only), 0) => {
            let _ = only.answer.send(Err(error));
        }
        (_, others) => tracing::debug!(
            error = &error as &dyn StdError,
            callers = others + 1,
            "a shared lookup failed; each caller looks alone"
        ),
    }
}

/// Sends queries for those who have waited as long as they may, for as long as
/// somebody waits. One timer for all: under load it goes off as often as a call may
/// wait, and not for each query.
async fn watch<S: Source>(shared: Arc<Shared<S>>) {
    while let Some((late, next)) = shared.look() {
        if late.is_some() {
            start(Turn::new(&shared, false), late);
        }
        sleep_until(next).await;
    }
}

#[cfg(test)]
mod tests;
