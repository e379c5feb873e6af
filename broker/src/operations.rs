//! Operations: the work of a call that goes on after the call was answered, and
//! after the broker that began it.
//!
//! What is stored here, and who may change it: the operations of the state, which
//! this module alone changes. Each has a runner, a process that does the work and
//! says every few seconds that it does. Who works in the background takes up those
//! whose runner says nothing any more; from then on the other's writes are refused.
//! Work that is taken up looks first at what was done. Any broker finds, follows
//! and cancels an operation, whoever runs it.

mod begin;
mod runner;
mod work;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use prost::Message as _;
use proto::google::longrunning as pb;
use rpc::clock::Clock;
use uuid::Uuid;

use crate::names::OperationName;
use crate::request_ids::{self, RequestId};
use crate::state::{self, Draft, Operation, State};

pub use proto::google::longrunning::operation::Result as Ended;
pub use work::{Stopped, Work};

/// How many operations are kept, those that are done included.
const OPERATIONS_MAX: usize = 10_000;
/// How long one that is done is kept, in hours: as long as a request id, and as
/// the state keeps it.
const DONE_KEPT_HOURS: i64 = 24;

/// An operation, as it is told.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Its name.
    pub name: OperationName,
    /// Who asked; empty for somebody on this machine without a name.
    pub caller: String,
    /// The method that was called: `CreateBranch`.
    pub method: String,
    /// The request, encoded.
    pub request: Vec<u8>,
    /// The name of the branch that is worked on, once there is one.
    pub branch: String,
    /// How it ended.
    pub result: Option<Ended>,
    /// When it began.
    pub create_time: Timestamp,
    /// When it ended.
    pub end_time: Option<Timestamp>,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Who asks; empty for somebody on this machine without a name.
    pub caller: String,
    /// The method.
    pub method: &'static str,
    /// The request, encoded, without its id.
    pub request: Vec<u8>,
    /// The name of the branch that is worked on, where there is one already.
    pub branch: String,
    /// Under which the same may be asked again.
    pub id: Option<RequestId>,
    /// Whether the caller waits for the end. Such a request is not told again how
    /// it failed: it is done again.
    pub is_waited_for: bool,
}

/// Why there is no such operation, or none can begin.
#[derive(Debug, Clone, thiserror::Error)]
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
    /// Its request id is not taken.
    #[error(transparent)]
    RequestId(#[from] request_ids::Error),
    /// It could not be stored.
    #[error(transparent)]
    State(#[from] state::Error),
    /// The task that began it is gone.
    #[error("the beginning of the operation broke")]
    Broken,
}

/// How an operation ends that does not end by itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Ends {
    /// It was cancelled.
    pub cancelled: Ended,
    /// Its work broke.
    pub lost: Ended,
}

/// All operations.
#[derive(Debug)]
pub struct Operations {
    state: Arc<State>,
    clock: Clock,
    ends: Ends,
    /// This process, among those that share the state.
    runner: Uuid,
    /// What this process runs.
    here: Mutex<BTreeSet<OperationName>>,
}

impl Operations {
    /// Those that the state holds.
    pub fn new(state: Arc<State>, clock: Clock, ends: Ends) -> Operations {
        Operations {
            state,
            clock,
            ends,
            runner: Uuid::new_v4(),
            here: Mutex::default(),
        }
    }

    /// One operation, as it is now, though another broker began it just before.
    pub async fn find(&self, name: OperationName) -> Result<Record, Error> {
        match self.get(name) {
            Err(Error::NotFound(_)) => {
                // Who changes something first hears what others have changed.
                self.state.change(|_| ()).await?;
                self.get(name)
            }
            known => known,
        }
    }

    fn get(&self, name: OperationName) -> Result<Record, Error> {
        let now = self.now();
        self.state.read(|data| {
            let found = data.operations.get(&name.uuid());
            let found = found.filter(|one| is_kept(one, now));
            let found = found.map(|one| Record::of(name, one));
            found.ok_or(Error::NotFound(name))
        })
    }

    /// All, newest first.
    pub fn list(&self) -> Vec<Record> {
        let now = self.now();
        let mut records: Vec<Record> = self.state.read(|data| {
            let kept = data.operations.iter().filter(|(_, one)| is_kept(one, now));
            kept.map(|(id, one)| Record::of(OperationName::of_stored(*id), one))
                .collect()
        });
        records.sort_by_key(|record| std::cmp::Reverse((record.create_time, record.name)));
        records
    }

    /// Waits until an operation is done, at most so long. It as it is then.
    pub async fn wait(&self, name: OperationName, time: Duration) -> Result<Record, Error> {
        let mut told = self.state.operations();
        self.find(name).await?;
        let waiting = async {
            loop {
                let record = self.get(name)?;
                if record.result.is_some() || told.changed().await.is_err() {
                    return Ok(record);
                }
            }
        };
        match tokio::time::timeout(time, waiting).await {
            Ok(waited) => waited,
            Err(_) => self.get(name),
        }
    }

    /// Cancels an operation that has changed nothing yet. Others go on.
    pub async fn cancel(&self, name: OperationName) -> Result<(), Error> {
        let (now, ended) = (self.now(), stored(&self.ends.cancelled));
        let change = move |draft: &mut Draft<'_>| {
            let operation = kept_in(draft, name, now)?;
            if !operation.done && !operation.committed {
                let cancelled = operation.ended(ended.clone(), now);
                draft.operation_put(name.uuid(), cancelled);
            }
            Ok(())
        };
        self.state.change(change).await?
    }

    /// Forgets an operation that is done.
    pub async fn forget(&self, name: OperationName) -> Result<(), Error> {
        let now = self.now();
        let change = move |draft: &mut Draft<'_>| {
            let operation = kept_in(draft, name, now)?;
            if !operation.done {
                return Err(Error::Running(name));
            }
            draft.operation_put(name.uuid(), operation.forgotten());
            Ok(())
        };
        self.state.change(change).await?
    }

    fn now(&self) -> Timestamp {
        state::now(&self.clock)
    }

    fn here(&self) -> MutexGuard<'_, BTreeSet<OperationName>> {
        self.here.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Record {
    fn of(name: OperationName, operation: &Operation) -> Record {
        // Written by us, so it can be read.
        let result = operation.result.as_deref();
        let result = result.map(|bytes| pb::Operation::decode(bytes).unwrap_or_default());
        Record {
            name,
            caller: operation.caller.clone(),
            method: operation.method.clone(),
            request: operation.request.clone(),
            branch: operation.branch.clone(),
            result: result.and_then(|operation| operation.result),
            create_time: operation.create_time,
            end_time: operation.done.then_some(operation.update_time),
        }
    }
}

impl Operation {
    fn ended(self, result: Vec<u8>, now: Timestamp) -> Operation {
        Operation {
            result: Some(result),
            done: true,
            update_time: now,
            ..self
        }
    }

    /// As old as can be: it is asked for no more, and removed with what is old.
    fn forgotten(self) -> Operation {
        Operation {
            update_time: Timestamp::UNIX_EPOCH,
            ..self
        }
    }
}

/// A result, as it is stored: an operation that has nothing else.
fn stored(ended: &Ended) -> Vec<u8> {
    let operation = pb::Operation {
        result: Some(ended.clone()),
        ..pb::Operation::default()
    };
    operation.encode_to_vec()
}

fn is_kept(operation: &Operation, now: Timestamp) -> bool {
    let kept = SignedDuration::from_hours(DONE_KEPT_HOURS);
    !operation.done || now.duration_since(operation.update_time) < kept
}

fn kept_in(draft: &Draft<'_>, name: OperationName, now: Timestamp) -> Result<Operation, Error> {
    let found = draft.operation(name.uuid());
    let found = found.filter(|one| is_kept(one, now));
    found.cloned().ok_or(Error::NotFound(name))
}

#[cfg(test)]
mod tests;
