//! Beginning operations, and knowing requests again.

use std::sync::Arc;

use jiff::Timestamp;
use proto::google::longrunning::operation::Result as Ended;
use tracing::Instrument as _;
use uuid::Uuid;

use super::{Asked, Error, OPERATIONS_MAX, Operations, Record, Work, is_kept};
use crate::names::OperationName;
use crate::request_ids;
use crate::state::{Draft, Operation};

impl Operations {
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
        let beginning = async move {
            let name = OperationName::random();
            let begun = operations.begun(name, asked).await?;
            if begun.name == name {
                operations.run(begun.clone(), Work::new(&operations, name, None), perform);
            }
            Ok(begun)
        };
        let beginning = tokio::spawn(beginning.in_current_span());
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
