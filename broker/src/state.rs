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
mod rows;
mod schema;
mod writer;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use rpc::clock::Clock;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::postgres::OwnerUri;
use crate::text::one_line;
use data::Changes;
use database::Head;
use writer::{Change, Job, Writer};

pub use data::{Answered, Data, Draft, Generation, RequestKey};
pub use database::Error as DatabaseError;
pub use endings::{Ended, Endings};

/// Changes that may wait for a transaction. More wait before they are asked.
const WRITES_QUEUED_MAX: usize = 1_024;

/// Why something is not stored, or not to be asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The database takes no writes.
    #[error("the state database takes no writes at the moment")]
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
    /// Asked to write; without a database nobody is.
    writer: Option<mpsc::Sender<Job>>,
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
    /// Told that another broker has written.
    told: Notify,
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
    /// Of the last write that was looked at.
    epoch: i64,
}

impl State {
    /// In memory.
    pub fn in_memory() -> State {
        let shared = Shared::new(Duration::MAX);
        shared.loaded();
        State {
            shared: Arc::new(shared),
            writer: None,
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
        let opened = match writer::open(&uri, &shared, 0).await {
            Ok(opened) => Some(opened),
            Err(error) if error.is_transient() => {
                tracing::warn!(error = %one_line(&error), "the state database is away");
                None
            }
            Err(error) => return Err(error),
        };
        let (writer, queue) = mpsc::channel(WRITES_QUEUED_MAX);
        tokio::spawn(Writer::new(uri, clock, Arc::clone(&shared), queue, opened).run());
        Ok(State {
            shared,
            writer: Some(writer),
        })
    }

    /// Whether it outlives this process.
    pub fn is_durable(&self) -> bool {
        self.writer.is_some()
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
        let mut gate = self.shared.gate.subscribe();
        // The sender lives as long as we do.
        let _ = gate
            .wait_for(|gate| gate.is_read && gate.apart_ms.is_none())
            .await;
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

    /// Forgets in memory what needs no write to be forgotten.
    pub fn forget_requests(&self, now: Timestamp) {
        let mut data = self.shared.data();
        data.requests.retain(|_, answered| answered.expire_time > now);
    }

    async fn change_of<T>(
        &self,
        epoch: Option<i64>,
        mut change: impl FnMut(&mut Draft<'_>) -> T + Send + 'static,
    ) -> Result<T, Error>
    where
        T: Send + 'static,
    {
        let Some(writer) = &self.writer else {
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

impl Shared {
    fn new(clock_skew_max: Duration) -> Shared {
        Shared {
            data: Mutex::default(),
            endings: Endings::default(),
            told: Notify::new(),
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

    /// What is stored is so in memory too.
    fn apply(&self, changes: Changes) {
        let ended = changes.apply(&mut self.data());
        self.endings.tell(ended);
    }

    fn change_now<T>(&self, mut change: impl FnMut(&mut Draft<'_>) -> T) -> T {
        let mut data = self.data();
        let mut changes = Changes::default();
        let made = change(&mut Draft::new(&data, &mut changes));
        data.events_keep(&mut changes.events);
        let ended = changes.apply(&mut data);
        drop(data);
        self.endings.tell(ended);
        made
    }

    fn is_loaded(&self) -> bool {
        self.gate.borrow().is_read
    }

    fn loaded(&self) {
        self.gate.send_if_modified(|gate| !std::mem::replace(&mut gate.is_read, true));
    }

    fn note(&self, head: Head) {
        self.gate.send_if_modified(|gate| {
            std::mem::replace(&mut gate.epoch, head.epoch) != head.epoch
        });
    }

    fn data(&self) -> MutexGuard<'_, Data> {
        self.data.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
