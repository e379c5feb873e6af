//! What is stored here, and who may change it.
//!
//! Leases, the generations of bindings, request ids and audit events: what has to
//! outlive the process, so that a broker that was stopped, or another one, goes on
//! where it was. leases.rs changes the leases, bindings.rs the generations, and
//! nobody else changes anything. No password and no connection string is in it:
//! what is stored names a role, a branch and a key, and opens nothing.
//!
//! It is read from memory. A change is decided and made inside one transaction of
//! the state database, and memory follows once it is stored. Brokers that share a
//! database see each other's changes. Without a database it lives in memory alone
//! and ends with the process.

mod clocks;
mod data;
mod database;
mod endings;
mod leader;
mod ledgers;
mod listener;
mod rows;
mod schema;
mod writer;

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rpc::clock::Clock;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch};
use tokio_util::task::AbortOnDropHandle;

use crate::audit::{Event, Query};
use crate::postgres::OwnerUri;
use crate::text::one_line;
use data::Changes;
use database::Session;
use writer::{Change, Job, Writer};

pub use data::{Answered, Data, Draft, Generation, RequestKey, Role, RoleKey, RoleStatus};
pub use database::Error as DatabaseError;
pub use endings::Endings;
pub use ledgers::{Intent, Operation, OwnBranch};

/// Sessions that may read audit events at once: what is looked up seldom is not
/// kept in memory.
const READERS_MAX: usize = 4;
/// How long what has ended is kept, in hours: long enough for every broker to see
/// its end.
const ENDED_HOURS: i64 = 24;
/// Changes that may wait for a transaction. More wait before they are asked.
const WRITES_QUEUED_MAX: usize = 1_024;

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
    /// Who stands for election and who listens end with the state, and with them
    /// what they hold.
    _tasks: [AbortOnDropHandle<()>; 2],
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
    /// Told that a broker has written, this one or another.
    told: Notify,
    /// The newest version that was told of.
    heard: AtomicI64,
    /// What memory has: all that was written up to this version.
    seen: AtomicI64,
    /// The epoch of this broker, while it works in the background.
    leader: watch::Sender<Option<i64>>,
    /// Told that bindings have new generations.
    generations: watch::Sender<()>,
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
        let listening = tokio::spawn(listener::listen(uri.clone(), Arc::clone(&shared)));
        tokio::spawn(Writer::new(uri.clone(), clock, Arc::clone(&shared), queue, opened).run());
        Ok(State {
            shared,
            stored: Some(Stored {
                uri,
                writer,
                readers: Semaphore::new(READERS_MAX),
                _tasks: [standing, listening].map(AbortOnDropHandle::new),
            }),
        })
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

    /// Goes up with each change.
    pub fn version(&self) -> i64 {
        self.shared.seen()
    }

    /// Told when bindings have new generations, whoever gave them.
    pub fn generations(&self) -> watch::Receiver<()> {
        self.shared.generations.subscribe()
    }

    /// Reads.
    pub fn read<T>(&self, read: impl FnOnce(&Data) -> T) -> T {
        read(&self.shared.data())
    }

    /// The ends of leases.
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
        self.change_of(None, change).await
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
        self.change_of(Some(epoch.ok_or(Error::Fenced)?), change)
            .await
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
            change: move |draft: &mut Draft<'_>| change(draft),
            made: None,
            waits,
        };
        let asked = writer.send(Box::new(job)).await;
        asked.map_err(|_| Error::Gone)?;
        answer.await.map_err(|_| Error::Gone)?
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
            told: Notify::new(),
            heard: AtomicI64::new(0),
            seen: AtomicI64::new(0),
            leader: watch::Sender::new(None),
            generations: watch::Sender::new(()),
            gate: watch::Sender::new(Gate::default()),
            clock_skew_max,
        }
    }

    /// What a change would do.
    fn draft(&self, change: impl FnOnce(&mut Draft<'_>)) -> Changes {
        let mut changes = Changes::default();
        change(&mut Draft::new(&self.data(), &mut changes));
        changes
    }

    /// What is stored, as that version, is so in memory too.
    fn apply(&self, changes: Changes, version: i64) {
        let has_generations = !changes.generations.is_empty();
        let ended = {
            let mut data = self.data();
            self.seen.store(version, Ordering::Relaxed);
            changes.apply(&mut data)
        };
        ended.into_iter().for_each(|id| self.endings.end(id));
        if has_generations {
            self.generations.send_replace(());
        }
    }

    fn change_now<T>(&self, mut change: impl FnMut(&mut Draft<'_>) -> T) -> T {
        let (made, ended) = {
            let mut data = self.data();
            let mut changes = Changes::default();
            let made = change(&mut Draft::new(&data, &mut changes));
            data.events_keep(&mut changes.events);
            self.seen.fetch_add(1, Ordering::Relaxed);
            (made, changes.apply(&mut data))
        };
        ended.into_iter().for_each(|id| self.endings.end(id));
        made
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

    /// That version was written, by whomever.
    fn hear(&self, version: i64) {
        self.heard.fetch_max(version, Ordering::Relaxed);
        self.told.notify_one();
    }

    /// Whether something was told of that memory does not have. Says so once.
    fn has_missed(&self) -> bool {
        self.heard.swap(0, Ordering::Relaxed) > self.seen()
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
