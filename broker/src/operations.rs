//! Operations: the work of a call that goes on after the call was answered.
//!
//! What is stored here, and who may change it: one record for each operation, in
//! memory, until the process ends. Records are plain data; only the task that
//! does the work ends one, and `cancel` does while nothing was changed yet.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rpc::clock::Clock;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::names::OperationName;

/// How many operations are kept, those that are done included.
const OPERATIONS_MAX: usize = 10_000;
/// How long one that is done is kept, in hours: as long as a request id.
const DONE_KEPT_HOURS: i64 = 24;

/// An operation.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Its name.
    pub name: OperationName,
    /// Who asked; `None` for somebody on this machine without a name.
    pub caller: Option<String>,
    /// The method that was called: `CreateBranch`.
    pub method: String,
    /// The request, encoded.
    pub request: Vec<u8>,
    /// What is worked on: the branch's resource name, once there is one.
    pub metadata: String,
    /// How it ended.
    pub result: Option<Ended>,
    /// When it began.
    pub create_time: Timestamp,
    /// When it ended.
    pub end_time: Option<Timestamp>,
}

/// How an operation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// Well: an encoded google.protobuf.Any.
    Response(Vec<u8>),
    /// Otherwise: an encoded google.rpc.Status.
    Error(Vec<u8>),
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Asked {
    /// Who asks.
    pub caller: Option<String>,
    /// The method.
    pub method: &'static str,
    /// The request, encoded, without its id.
    pub request: Vec<u8>,
}

/// Why there is no such operation, or none can begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There is none, or it was forgotten.
    #[error("there is no {0}")]
    NotFound(OperationName),
    /// It is not done.
    #[error("{0} is not done; cancel it, or wait for it")]
    Running(OperationName),
    /// As many are under way as are kept.
    #[error("{OPERATIONS_MAX} operations are under way")]
    TooMany,
}

/// All operations.
#[derive(Debug)]
pub struct Operations {
    clock: Clock,
    all: Mutex<All>,
}

#[derive(Debug, Default)]
struct All {
    entries: BTreeMap<OperationName, Entry>,
    /// What is under way, by what was asked for: equal requests share it.
    running: HashMap<Asked, OperationName>,
}

#[derive(Debug)]
struct Entry {
    record: watch::Sender<Arc<Record>>,
    gate: Arc<Gate>,
}

/// The work's side of an operation.
#[derive(Debug, Clone)]
pub struct Work {
    gate: Arc<Gate>,
    record: watch::Sender<Arc<Record>>,
}

/// The operation was cancelled before it changed anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cancelled;

/// Where cancelling and changing meet: one of them is first.
#[derive(Debug, Default)]
struct Gate {
    passed: Mutex<bool>,
    cancelled: CancellationToken,
}

impl Operations {
    /// None yet.
    pub fn new(clock: Clock) -> Operations {
        Operations {
            clock,
            all: Mutex::default(),
        }
    }

    /// Begins work, or finds the same that the same caller has under way.
    /// `cancelled` is how it ends when it is cancelled, `lost` when it breaks.
    pub fn begin<W>(
        self: &Arc<Self>,
        asked: Asked,
        metadata: String,
        ends: Ends,
        work: impl FnOnce(Work) -> W,
    ) -> Result<Arc<Record>, Error>
    where
        W: Future<Output = Ended> + Send + 'static,
    {
        let mut all = self.all();
        if let Some(entry) = all
            .running
            .get(&asked)
            .and_then(|name| all.entries.get(name))
        {
            return Ok(Arc::clone(&entry.record.borrow()));
        }
        all.make_room(self.now())?;
        let name = OperationName::random();
        let record = Arc::new(Record {
            name,
            caller: asked.caller.clone(),
            method: asked.method.to_owned(),
            request: asked.request.clone(),
            metadata,
            result: None,
            create_time: self.now(),
            end_time: None,
        });
        let entry = Entry {
            record: watch::Sender::new(Arc::clone(&record)),
            gate: Arc::default(),
        };
        let gate = Arc::clone(&entry.gate);
        let working = tokio::spawn(work(Work {
            gate: Arc::clone(&gate),
            record: entry.record.clone(),
        }));
        all.running.insert(asked.clone(), name);
        all.entries.insert(name, entry);
        drop(all);
        let operations = Arc::clone(self);
        tokio::spawn(async move {
            let abort = working.abort_handle();
            let ended = tokio::select! {
                biased;
                ended = working => ended.unwrap_or(ends.lost),
                () = gate.cancelled.cancelled() => {
                    abort.abort();
                    ends.cancelled
                }
            };
            operations.end(&asked, name, ended);
        });
        Ok(record)
    }

    /// One operation, as it is now.
    pub fn get(&self, name: OperationName) -> Result<Arc<Record>, Error> {
        let all = self.all();
        let entry = all.entries.get(&name).ok_or(Error::NotFound(name))?;
        Ok(Arc::clone(&entry.record.borrow()))
    }

    /// All, newest first.
    pub fn list(&self) -> Vec<Arc<Record>> {
        let all = self.all();
        let records = all.entries.values();
        let mut records: Vec<_> = records
            .map(|entry| Arc::clone(&entry.record.borrow()))
            .collect();
        records.sort_by_key(|record| std::cmp::Reverse((record.create_time, record.name)));
        records
    }

    /// Waits until an operation is done, at most so long. It as it is then.
    pub async fn wait(&self, name: OperationName, time: Duration) -> Result<Arc<Record>, Error> {
        let mut record = {
            let all = self.all();
            let entry = all.entries.get(&name).ok_or(Error::NotFound(name))?;
            entry.record.subscribe()
        };
        let done = record.wait_for(|record| record.result.is_some());
        // Out of time, or forgotten meanwhile: what is known is the answer.
        let _ = tokio::time::timeout(time, done).await;
        let record = Arc::clone(&record.borrow());
        Ok(record)
    }

    /// Cancels an operation that has changed nothing yet. Others go on.
    pub fn cancel(&self, name: OperationName) -> Result<(), Error> {
        let all = self.all();
        let entry = all.entries.get(&name).ok_or(Error::NotFound(name))?;
        entry.gate.cancel();
        Ok(())
    }

    /// Forgets an operation that is done.
    pub fn forget(&self, name: OperationName) -> Result<(), Error> {
        let mut all = self.all();
        let entry = all.entries.get(&name).ok_or(Error::NotFound(name))?;
        if entry.record.borrow().result.is_none() {
            return Err(Error::Running(name));
        }
        all.entries.remove(&name);
        Ok(())
    }

    fn end(&self, asked: &Asked, name: OperationName, ended: Ended) {
        let now = self.now();
        let mut all = self.all();
        all.running.remove(asked);
        if let Some(entry) = all.entries.get(&name) {
            entry.record.send_modify(|record| {
                let record = Arc::make_mut(record);
                record.result = Some(ended);
                record.end_time = Some(now);
            });
        }
    }

    fn now(&self) -> Timestamp {
        Timestamp::try_from(self.clock.now()).unwrap_or(Timestamp::MAX)
    }

    fn all(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How an operation ends that does not end by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ends {
    /// It was cancelled.
    pub cancelled: Ended,
    /// Its work broke.
    pub lost: Ended,
}

impl All {
    /// Forgets what was done long ago, and more when there are too many.
    fn make_room(&mut self, now: Timestamp) -> Result<(), Error> {
        let kept = SignedDuration::from_hours(DONE_KEPT_HOURS);
        self.entries.retain(|_, entry| {
            let end = entry.record.borrow().end_time;
            end.is_none_or(|end| now.duration_since(end) < kept)
        });
        if self.entries.len() < OPERATIONS_MAX {
            return Ok(());
        }
        let done = self.entries.iter().filter_map(|(name, entry)| {
            let end = entry.record.borrow().end_time?;
            Some((end, *name))
        });
        let (_, oldest) = done.min().ok_or(Error::TooMany)?;
        self.entries.remove(&oldest);
        Ok(())
    }
}

impl Work {
    /// From here on the world is changed, and the operation is not cancelled.
    pub fn commit(&self) -> Result<(), Cancelled> {
        let mut passed = self.gate.passed();
        if self.gate.cancelled.is_cancelled() {
            return Err(Cancelled);
        }
        *passed = true;
        Ok(())
    }

    /// Says what is worked on.
    pub fn describe(&self, metadata: String) {
        self.record
            .send_modify(|record| Arc::make_mut(record).metadata = metadata);
    }
}

impl Gate {
    fn cancel(&self) {
        let passed = self.passed();
        if !*passed {
            self.cancelled.cancel();
        }
    }

    fn passed(&self) -> MutexGuard<'_, bool> {
        self.passed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
