//! Operations: the work of a call that goes on after the call was answered, and
//! after the broker that began it.
//!
//! What is stored here, and who may change it: the operations of the state, which
//! this module alone changes. Each has a runner, a process that does the work and
//! says every few seconds that it does. Who works in the background takes up those
//! whose runner says nothing any more; from then on the other's writes are refused.
//! Work that is taken up looks first at what was done. Any broker finds, follows
//! and cancels an operation, whoever runs it.

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

    /// Begins work, or finds what the same request began before, or the same that
    /// the same caller has under way. It is begun even if nobody waits to hear so.
    pub async fn begin<W>(
        self: &Arc<Self>,
        asked: Asked,
        perform: impl FnOnce(Record, Work) -> W + Send + 'static,
    ) -> Result<Record, Error>
    where
        W: Future<Output = Ended> + Send + 'static,
    {
        let operations = Arc::clone(self);
        let beginning = tokio::spawn(async move {
            let name = OperationName::random();
            let begun = operations.begun(name, asked).await?;
            if begun.name == name {
                operations.run(begun.clone(), Work::new(&operations, name, None), perform);
            }
            Ok(begun)
        });
        beginning.await.map_err(|_| Error::Broken)?
    }

    async fn begun(&self, name: OperationName, asked: Asked) -> Result<Record, Error> {
        let (now, runner) = (self.now(), self.runner);
        let change = move |draft: &mut Draft<'_>| {
            if let Some(before) = repeated_in(draft, &asked, now)? {
                return Ok(before);
            }
            let same = |one: &Operation| {
                one.caller == asked.caller
                    && one.method == asked.method
                    && one.request == asked.request
            };
            let mut running = draft.running();
            let shared = running.find(|(_, one)| same(one));
            let shared = shared.map(|(id, one)| (id, one.clone()));
            drop(running);
            let (id, operation) = match shared {
                Some(shared) => shared,
                None => {
                    make_room(draft, now)?;
                    (name.uuid(), asked.begin(runner, now))
                }
            };
            let record = Record::of(OperationName::of_stored(id), &operation);
            let resource = record.name.to_string();
            request_ids::remember(draft, asked.id.as_ref(), resource, now)?;
            if id == name.uuid() {
                draft.operation_put(id, operation);
            }
            Ok(record)
        };
        self.state.change(change).await?
    }

    /// What a request began when it came before, as far as this broker has heard.
    pub fn repeated(&self, asked: &Asked) -> Result<Option<Record>, Error> {
        let now = self.now();
        self.state.read(|data| {
            let id = asked.id.as_ref();
            let answered = id.and_then(|id| Some((id, data.requests.get(&id.key)?)));
            let name = request_ids::repeated(answered, now)?;
            again(name, asked, now, |id| data.operations.get(&id))
        })
    }

    /// As [`Operations::repeated`], whichever broker it came to.
    pub async fn repeated_anywhere(&self, asked: &Asked) -> Result<Option<Record>, Error> {
        if asked.id.is_none() {
            return Ok(None);
        }
        let (asked, now) = (asked.clone(), self.now());
        let look = move |draft: &mut Draft<'_>| repeated_in(draft, &asked, now);
        self.state.change(look).await?
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

impl Asked {
    fn begin(&self, runner: Uuid, now: Timestamp) -> Operation {
        Operation {
            caller: self.caller.clone(),
            method: self.method.to_owned(),
            request: self.request.clone(),
            branch: self.branch.clone(),
            result: None,
            done: false,
            create_time: now,
            update_time: now,
            runner: Some(runner),
            heartbeat_time: Some(now),
            committed: false,
            note: None,
        }
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

fn repeated_in(draft: &Draft<'_>, asked: &Asked, now: Timestamp) -> Result<Option<Record>, Error> {
    let name = request_ids::repeated_in(draft, asked.id.as_ref(), now)?;
    again(name, asked, now, |id| draft.operation(id))
}

/// What is answered to a request that was about `name` when it came before.
fn again<'a>(
    name: Option<&str>,
    asked: &Asked,
    now: Timestamp,
    find: impl FnOnce(Uuid) -> Option<&'a Operation>,
) -> Result<Option<Record>, Error> {
    // Written by us: it is an operation's name.
    let Some(name) = name.and_then(|name| name.parse::<OperationName>().ok()) else {
        return Ok(None);
    };
    let found = find(name.uuid()).filter(|one| is_kept(one, now));
    let record = Record::of(name, found.ok_or(Error::NotFound(name))?);
    let failed = matches!(record.result, Some(Ended::Error(_)));
    Ok((!(asked.is_waited_for && failed)).then_some(record))
}

/// Forgets the one that ended first when there are too many.
fn make_room(draft: &mut Draft<'_>, now: Timestamp) -> Result<(), Error> {
    let kept = |one: &Operation| is_kept(one, now);
    if draft.operations().filter(|(_, one)| kept(one)).count() < OPERATIONS_MAX {
        return Ok(());
    }
    let done = draft.operations().filter(|(_, one)| one.done && kept(one));
    let oldest = done.min_by_key(|(_, one)| one.update_time);
    let (id, oldest) = oldest.ok_or(Error::TooMany)?;
    let forgotten = oldest.clone().forgotten();
    draft.operation_put(id, forgotten);
    Ok(())
}

#[cfg(test)]
mod tests;
