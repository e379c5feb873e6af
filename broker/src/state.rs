//! What is stored here, and who may change it.
//!
//! Leases, the generations of bindings, operations, the ledger of own branches,
//! request ids and audit events: what has to outlive the process, so that a broker
//! that was stopped, or another one, goes on where it was. leases.rs changes the
//! leases, their roles and the branches that go with them, bindings.rs the
//! generations, operations.rs the operations, ledger.rs all other branches, and
//! nobody else changes anything. No password and no connection string is in it: what
//! is stored names a role, a branch and a key, and opens nothing.
//!
//! It is read from memory. A change is decided and made inside one transaction of
//! the state database, and memory follows once it is stored. Brokers that share a
//! database see each other's changes. Without a database it lives in memory alone
//! and ends with the process.

mod clocks;
mod data;
mod database;
mod draft;
mod endings;
mod leader;
mod ledgers;
mod move_rows;
mod moves;
mod rows;
mod schema;
mod writer;

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable as _};
use jiff::{SignedDuration, Timestamp};
use neon_api::BranchId;
use rpc::clock::Clock;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio_util::task::AbortOnDropHandle;

use crate::audit::{Event, Query};
use crate::names::{LeaseId, ServiceName};
use crate::postgres::OwnerUri;
use crate::text::one_line;
use database::Session;
use draft::Changes;
use writer::{Change, Job, Writer};

pub use clocks::now;
pub use data::{Answered, Data, Generation, RequestKey, Role, RoleKey, RoleStatus};
pub use database::Error as DatabaseError;
pub use draft::Draft;
pub use endings::{Endings, Turn};
pub use ledgers::{ForLease, Intent, Operation, OwnBranch, Warm};
pub use moves::{Departure, Move, Phase, Stream, Watching};

/// Sessions that may read audit events at once: what is looked up seldom is not
/// kept in memory.
const READERS_MAX: usize = 4;
/// How long what has ended is kept, in hours: long enough for every broker to see
/// its end.
const ENDED_HOURS: i64 = 24;
/// Changes that may wait for a transaction. More wait before they are asked.
const WRITES_QUEUED_MAX: usize = 1_024;

/// What has happened is written down in at most so many tries, with such pauses in
/// milliseconds: a minute and a half.
const AGAIN_MAX: usize = 50;
const AGAIN_MS_MIN: u64 = 100;
const AGAIN_MS_MAX: u64 = 2_000;

/// Why something is not stored, or not to be asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The database is away, or takes no writes.
    #[error("the state database cannot be used at the moment")]
    Away(#[source] Option<Arc<DatabaseError>>),
    /// Another broker works in the background by now.
    #[error("another broker has taken over the work in the background")]
    Fenced,
    /// The task that writes is gone.
    #[error("nothing is stored any more: the broker is stopping")]
    Gone,
    /// What is stored has not been read yet.
    #[error("the state database could not be read yet")]
    NotRead,
    /// Leases would end too early or too late.
    #[error(
        "this machine's clock is {apart_ms} ms from the state database's, and may be \
         {max_ms} ms from it at most; set the clock right"
    )]
    ClockSkewed {
        /// How far, either way.
        apart_ms: u64,
        /// How far it may be.
        max_ms: u64,
    },
}

impl Error {
    fn away(error: DatabaseError) -> Error {
        Error::Away(Some(Arc::new(error)))
    }
}

/// Where [`Data`] lives.
#[derive(Debug)]
pub struct State {
    shared: Arc<Shared>,
    /// None without a database.
    stored: Option<Stored>,
}

/// What there is of a state that is stored.
#[derive(Debug)]
struct Stored {
    uri: OwnerUri,
    /// Asked to write.
    writer: mpsc::Sender<Job>,
    readers: Semaphore,
    /// Who stands for election ends with the state, and with it what it holds.
    _standing: AbortOnDropHandle<()>,
}

/// How to reach the state database.
#[derive(Debug, Clone)]
pub struct Database {
    /// Its URI.
    pub uri: OwnerUri,
    /// The time that leases end by.
    pub clock: Clock,
    /// How far its clock may be from this machine's.
    pub clock_skew_max: Duration,
}

/// What the writer and the readers share.
#[derive(Debug)]
struct Shared {
    data: Mutex<Data>,
    endings: Endings,
    /// What memory has: all that was written up to this version.
    seen: AtomicI64,
    /// The last change in which a login role was another.
    roles: AtomicI64,
    /// The epoch of this broker, while it works in the background.
    leader: watch::Sender<Option<i64>>,
    /// Whether another broker was seen to work in the background.
    has_other: AtomicBool,
    /// Told that bindings have new generations.
    generations: watch::Sender<()>,
    /// Told that operations begin, go on or end.
    operations: watch::Sender<()>,
    /// Told that bindings move, or that those say something who have a say in it.
    moves: watch::Sender<()>,
    /// Told that own branches are made, change hands or go.
    branches: watch::Sender<()>,
    gate: watch::Sender<Gate>,
    clock_skew_max: Duration,
}

/// Whether anybody may be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Gate {
    /// Whether memory has what is stored.
    is_read: bool,
    /// How far the clocks are apart, if that is too far.
    apart_ms: Option<u64>,
}

impl State {
    /// In memory.
    pub fn in_memory() -> State {
        let shared = Shared::new(Duration::MAX);
        // Generations of roles are versions: those of an earlier process are not
        // given again.
        let first = i64::from(rand::random::<u32>());
        shared.seen.store(first, Ordering::Relaxed);
        shared.loaded();
        shared.leads(Some(0));
        State {
            shared: Arc::new(shared),
            stored: None,
        }
    }

    /// In that database, whose tables are made or migrated. One that cannot be
    /// reached now is tried until it can be; an error is what does not pass.
    pub async fn open(database: Database) -> Result<State, DatabaseError> {
        let Database {
            uri,
            clock,
            clock_skew_max,
        } = database;
        let shared = Arc::new(Shared::new(clock_skew_max));
        let opened = match writer::open(&uri, &shared).await {
            Ok(opened) => Some(opened),
            Err(error) if error.is_transient() => {
                tracing::warn!(error = %one_line(&error), "the state database is away");
                None
            }
            Err(error) => return Err(error),
        };
        let (writer, queue) = mpsc::channel(WRITES_QUEUED_MAX);
        let standing = tokio::spawn(leader::stand(uri.clone(), Arc::clone(&shared)));
        tokio::spawn(Writer::new(uri.clone(), clock, Arc::clone(&shared), queue, opened).run());
        Ok(State {
            shared,
            stored: Some(Stored {
                uri,
                writer,
                readers: Semaphore::new(READERS_MAX),
                _standing: AbortOnDropHandle::new(standing),
            }),
        })
    }

    /// Whether it outlives the process.
    pub fn is_stored(&self) -> bool {
        self.stored.is_some()
    }

    /// Whether callers may be answered by what is in memory.
    pub fn check(&self) -> Result<(), Error> {
        let gate = *self.shared.gate.borrow();
        match gate {
            Gate { is_read: false, .. } => Err(Error::NotRead),
            Gate {
                apart_ms: Some(apart_ms),
                ..
            } => Err(Error::ClockSkewed {
                apart_ms,
                max_ms: milliseconds(self.shared.clock_skew_max),
            }),
            _ => Ok(()),
        }
    }

    /// Returns when callers may be answered.
    pub async fn is_open(&self) {
        self.gate_is(|gate| gate.is_open()).await;
    }

    /// Returns when callers may not be answered.
    pub async fn is_shut(&self) {
        self.gate_is(|gate| !gate.is_open()).await;
    }

    /// Whether this broker works in the background, now and from now on: its epoch
    /// while it does.
    pub fn leader(&self) -> watch::Receiver<Option<i64>> {
        self.shared.leader.subscribe()
    }

    /// Whether it is known yet who works in the background: this broker, or one that
    /// was there before it.
    pub fn has_leader(&self) -> bool {
        self.shared.leader.borrow().is_some() || self.shared.has_other.load(Ordering::Relaxed)
    }

    /// Goes up with each change.
    pub fn version(&self) -> i64 {
        self.shared.seen()
    }

    /// Goes up with each change of a login role.
    pub fn roles_version(&self) -> i64 {
        self.shared.roles.load(Ordering::Relaxed)
    }

    /// Forgets whom to tell of leases that nobody follows any more.
    pub fn forget_unfollowed(&self) {
        self.shared.endings.forget_unknown(&self.shared.data());
    }

    /// Told when bindings have new generations, whoever gave them.
    pub fn generations(&self) -> watch::Receiver<()> {
        self.shared.generations.subscribe()
    }

    /// Told when operations begin, go on or end, whoever runs them.
    pub fn operations(&self) -> watch::Receiver<()> {
        self.shared.operations.subscribe()
    }

    /// Told when bindings move, and when those say something who have a say in it.
    pub fn moves(&self) -> watch::Receiver<()> {
        self.shared.moves.subscribe()
    }

    /// Told when own branches are made, change hands or go, whoever does it.
    pub fn branches(&self) -> watch::Receiver<()> {
        self.shared.branches.subscribe()
    }

    /// Reads.
    pub fn read<T>(&self, read: impl FnOnce(&Data) -> T) -> T {
        read(&self.shared.data())
    }

    /// What becomes of leases.
    pub fn endings(&self) -> &Endings {
        &self.shared.endings
    }

    /// Changes, and returns once the change is stored. On an error nothing is
    /// changed. What `change` does it may be asked to do again, on what is true by
    /// then.
    pub async fn change<T>(
        &self,
        change: impl FnMut(&mut Draft<'_>) -> T + Send + 'static,
    ) -> Result<T, Error>
    where
        T: Send + 'static,
    {
        self.change_of(None, false, change).await
    }

    /// As [`State::change`], for what nobody is in a hurry for: it may wait some
    /// milliseconds for others that share its transaction.
    pub async fn change_with_others<T>(
        &self,
        change: impl FnMut(&mut Draft<'_>) -> T + Send + 'static,
    ) -> Result<T, Error>
    where
        T: Send + 'static,
    {
        self.change_of(None, true, change).await
    }

    /// As [`State::change`], for the work in the background: refused when another
    /// broker does that by now.
    pub async fn change_in_background<T>(
        &self,
        change: impl FnMut(&mut Draft<'_>) -> T + Send + 'static,
    ) -> Result<T, Error>
    where
        T: Send + 'static,
    {
        let epoch = *self.shared.leader.borrow();
        self.change_of(Some(epoch.ok_or(Error::Fenced)?), false, change)
            .await
    }

    /// Returns when memory has all that was stored by now, whoever wrote it.
    pub async fn catch_up(&self) -> Result<(), Error> {
        // A write reads first what it missed; of this one nothing else is left.
        self.change(|_| ()).await
    }

    /// Whether a branch is closed to a service's writes, by what any broker on this state
    /// has written by now.
    pub async fn is_fenced(&self, branch: &BranchId, service: &ServiceName) -> Result<bool, Error> {
        self.catch_up().await?;
        Ok(self.read(|data| data.is_fenced(branch, service)))
    }

    /// As [`State::change`], for what has happened already and must not get lost:
    /// tried again while the database is away, for a while.
    pub async fn change_by_all_means<T>(
        &self,
        change: impl FnMut(&mut Draft<'_>) -> T + Clone + Send + 'static,
    ) -> Result<T, Error>
    where
        T: Send + 'static,
    {
        let backoff = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(AGAIN_MS_MIN))
            .with_max_delay(Duration::from_millis(AGAIN_MS_MAX))
            .with_max_times(AGAIN_MAX);
        let attempt = || self.change(change.clone());
        let away = |error: &Error| matches!(error, Error::Away(_) | Error::NotRead);
        attempt.retry(backoff).when(away).await
    }

    /// Forgets in memory what is removed from the database without a word.
    pub fn forget_old(&self, now: Timestamp) {
        let kept = now - SignedDuration::from_hours(ENDED_HOURS);
        let mut data = self.shared.data();
        data.requests
            .retain(|_, answered| answered.expire_time > now);
        data.operations
            .retain(|_, operation| !operation.done || operation.update_time > kept);
        data.branches
            .retain(|_, branch| branch.intent != Intent::Gone || branch.update_time > kept);
        data.roles
            .retain(|_, role| role.status != RoleStatus::Closed || role.update_time > kept);
    }

    /// Audit events, newest first.
    pub async fn audit(&self, query: Query) -> Result<Vec<Event>, Error> {
        let Some(Stored { uri, readers, .. }) = &self.stored else {
            let events = |data: &Data| {
                let events = data.events.iter().rev().filter(|event| query.has(event));
                events.take(query.limit).cloned().collect()
            };
            return Ok(self.read(events));
        };
        let _one_of_few = readers.acquire().await.map_err(|_| Error::Gone)?;
        let asking = async { Session::open(uri).await?.events(&query).await };
        asking.await.map_err(Error::away)
    }

    async fn gate_is(&self, wanted: impl FnMut(&Gate) -> bool) {
        // The sender lives as long as we do.
        let _ = self.shared.gate.subscribe().wait_for(wanted).await;
    }

    async fn change_of<T>(
        &self,
        epoch: Option<i64>,
        may_wait: bool,
        mut change: impl FnMut(&mut Draft<'_>) -> T + Send + 'static,
    ) -> Result<T, Error>
    where
        T: Send + 'static,
    {
        let Some(Stored { writer, .. }) = &self.stored else {
            return Ok(self.shared.change_now(change));
        };
        let (waits, answer) = oneshot::channel();
        let job = Change {
            epoch,
            may_wait,
            change: move |draft: &mut Draft<'_>| change(draft),
            made: None,
            waits,
        };
        let asked = writer.send(Box::new(job)).await;
        asked.map_err(|_| Error::Gone)?;
        answer.await.map_err(|_| Error::Gone)?
    }
}

/// What there is to tell of a change.
struct News {
    generations: bool,
    operations: bool,
    moves: bool,
    branches: bool,
}

impl News {
    fn of(changes: &Changes) -> News {
        let has_moves = !changes.moves.is_empty();
        News {
            generations: has_moves || !changes.generations.is_empty(),
            operations: !changes.operations.is_empty(),
            branches: !changes.branches.is_empty(),
            moves: has_moves || !changes.watches.is_empty() || !changes.leases.is_empty(),
        }
    }
}

impl Gate {
    fn is_open(&self) -> bool {
        self.is_read && self.apart_ms.is_none()
    }
}

impl Shared {
    fn new(clock_skew_max: Duration) -> Shared {
        Shared {
            data: Mutex::default(),
            endings: Endings::default(),
            seen: AtomicI64::new(0),
            roles: AtomicI64::new(0),
            leader: watch::Sender::new(None),
            has_other: AtomicBool::new(false),
            generations: watch::Sender::new(()),
            operations: watch::Sender::new(()),
            moves: watch::Sender::new(()),
            branches: watch::Sender::new(()),
            gate: watch::Sender::new(Gate::default()),
            clock_skew_max,
        }
    }

    /// What a change would do, as that version.
    fn draft(&self, version: i64, change: impl FnOnce(&mut Draft<'_>)) -> Changes {
        let mut changes = Changes::default();
        change(&mut Draft::new(&self.data(), &mut changes, version));
        changes
    }

    /// What is stored, as that version, is so in memory too.
    fn apply(&self, changes: Changes, version: i64) {
        let news = News::of(&changes);
        let turns = {
            let mut data = self.data();
            self.seen.store(version, Ordering::Relaxed);
            self.note_roles(&changes, version);
            changes.apply(&mut data)
        };
        self.tell(turns, news);
    }

    fn change_now<T>(&self, mut change: impl FnMut(&mut Draft<'_>) -> T) -> T {
        let (made, turns, news) = {
            let mut data = self.data();
            let mut changes = Changes::default();
            let version = self.seen.fetch_add(1, Ordering::Relaxed) + 1;
            let made = change(&mut Draft::new(&data, &mut changes, version));
            data.events_keep(&mut changes.events);
            let news = News::of(&changes);
            self.note_roles(&changes, version);
            (made, changes.apply(&mut data), news)
        };
        self.tell(turns, news);
        made
    }

    fn note_roles(&self, changes: &Changes, version: i64) {
        if !changes.roles.is_empty() {
            self.roles.store(version, Ordering::Relaxed);
        }
    }

    fn tell(&self, turns: Vec<(LeaseId, Turn)>, news: News) {
        for (id, turn) in turns {
            self.endings.tell(id, turn);
        }
        let News {
            generations,
            operations,
            moves,
            branches,
        } = news;
        for (is_new, told) in [
            (generations, &self.generations),
            (operations, &self.operations),
            (moves, &self.moves),
            (branches, &self.branches),
        ] {
            if is_new {
                told.send_replace(());
            }
        }
    }

    fn is_loaded(&self) -> bool {
        self.gate.borrow().is_read
    }

    fn loaded(&self) {
        self.gate
            .send_if_modified(|gate| !std::mem::replace(&mut gate.is_read, true));
    }

    fn seen(&self) -> i64 {
        self.seen.load(Ordering::Relaxed)
    }

    fn another_leads(&self) {
        self.has_other.store(true, Ordering::Relaxed);
    }

    /// Says whether that is new.
    fn leads(&self, epoch: Option<i64>) -> bool {
        self.leader
            .send_if_modified(|now| std::mem::replace(now, epoch) != epoch)
    }

    fn data(&self) -> MutexGuard<'_, Data> {
        self.data.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
