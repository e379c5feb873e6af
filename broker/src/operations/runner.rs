//! Running operations, and taking up those whose runner is gone.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use proto::google::longrunning::operation::Result as Ended;
use rpc::traces;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use super::{Error, Operations, Record, Work, stored};
use crate::names::OperationName;
use crate::state::{self, Draft, Operation};
use crate::text::one_line;

/// How often a runner says that it is there, in seconds.
const HEARTBEAT_SECONDS: u64 = 5;
/// After how long without a word a runner is taken to be gone, in seconds: some
/// heartbeats may get lost.
const GONE_SECONDS: u64 = 15;
/// How often to look for operations whose runner is gone, in milliseconds.
const LOOK_MS: u64 = 1_000;

impl Operations {
    /// Takes up operations whose runner is gone, for ever: for who works in the
    /// background.
    pub async fn take_up<W>(
        self: &Arc<Self>,
        perform: impl Fn(Record, Work) -> W + Clone + Send + 'static,
    ) where
        W: Future<Output = Ended> + Send + 'static,
    {
        let mut interval = tokio::time::interval(Duration::from_millis(LOOK_MS));
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            for name in self.left() {
                match self.take(name).await {
                    Ok(None) => {}
                    Ok(Some(left)) => {
                        let (method, committed) = (&left.method, left.committed);
                        tracing::info!(operation = %name, method, committed, "taken up");
                        let record = Record::of(name, &left);
                        let work = Work::new(self, name, Some(left));
                        self.run(record, work, perform.clone());
                    }
                    Err(error) => {
                        let error = one_line(&error);
                        tracing::debug!(operation = %name, error, "cannot be taken up yet");
                    }
                }
            }
        }
    }

    /// Does the work of an operation that is this process's, in tasks of its own.
    pub(super) fn run<W>(
        self: &Arc<Self>,
        record: Record,
        work: Work,
        perform: impl FnOnce(Record, Work) -> W,
    ) where
        W: Future<Output = Ended> + Send + 'static,
    {
        let (operations, name) = (Arc::clone(self), record.name);
        self.here().insert(name);
        let work_done = perform(record, work.clone()).instrument(traces::behind("operation"));
        let working = tokio::spawn(work_done);
        tokio::spawn(async move {
            // Aborted when this ends first: the operation is not ours any more.
            let mut working = AbortOnDropHandle::new(working);
            tokio::select! {
                biased;
                ended = &mut working => {
                    let ended = ended.unwrap_or_else(|_| operations.ends.lost.clone());
                    operations.end(name, &ended, work.branch()).await;
                }
                () = operations.until_lost(name) => {}
            }
            drop(working);
            operations.here().remove(&name);
        });
    }

    /// Says that the work goes on, until it is somebody else's, or nobody's.
    async fn until_lost(&self, name: OperationName) {
        let every = Duration::from_secs(HEARTBEAT_SECONDS);
        let mut interval = tokio::time::interval_at(Instant::now() + every, every);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = self.state.operations();
        let mut heard = Instant::now();
        loop {
            let is_ours = self.state.read(|data| {
                let operation = data.operations.get(&name.uuid());
                operation.is_some_and(|one| one.is_run_by(self.runner))
            });
            if !is_ours {
                return;
            }
            tokio::select! {
                // The state lives as long as we do.
                _ = told.changed() => {}
                _ = interval.tick() => match self.beat(name).await {
                    Ok(true) => heard = Instant::now(),
                    Ok(false) => return,
                    Err(error) => {
                        tracing::debug!(operation = %name, error = %one_line(&error), "no heartbeat");
                        // Another may take it up any moment, and we would not hear.
                        if heard.elapsed() >= Duration::from_secs(GONE_SECONDS - HEARTBEAT_SECONDS) {
                            tracing::warn!(operation = %name, "left to whoever takes it up");
                            return;
                        }
                    }
                },
            }
        }
    }

    async fn beat(&self, name: OperationName) -> Result<bool, state::Error> {
        let (id, runner, now) = (name.uuid(), self.runner, self.now());
        let change = move |draft: &mut Draft<'_>| {
            let ours = draft.operation(id).filter(|one| one.is_run_by(runner));
            let Some(mut operation) = ours.cloned() else {
                return false;
            };
            operation.heartbeat_time = Some(now);
            draft.operation_put(id, operation);
            true
        };
        self.state.change(change).await
    }

    pub(super) async fn end(&self, name: OperationName, ended: &Ended, branch: Option<String>) {
        let (id, runner, now) = (name.uuid(), self.runner, self.now());
        let result = stored(ended);
        let change = move |draft: &mut Draft<'_>| {
            let ours = draft.operation(id).filter(|one| one.is_run_by(runner));
            if let Some(mut operation) = ours.cloned() {
                operation.branch = branch.clone().unwrap_or(operation.branch);
                draft.operation_put(id, operation.ended(result.clone(), now));
            }
        };
        if let Err(error) = self.state.change_by_all_means(change).await {
            // Who takes it up finds that it was done.
            let error = one_line(&error);
            tracing::warn!(operation = %name, error, "the end of an operation is not stored");
        }
    }

    /// Operations whose runner is gone.
    fn left(&self) -> Vec<OperationName> {
        let now = self.now();
        let left = self.state.read(|data| {
            let left = data.running().filter(|(_, one)| is_left(one, now));
            let names = left.map(|(id, _)| OperationName::of_stored(id));
            names.collect::<Vec<_>>()
        });
        let here = self.here();
        left.into_iter()
            .filter(|name| !here.contains(name))
            .collect()
    }

    /// Makes an operation this process's, if its runner is gone. It as it was left.
    async fn take(&self, name: OperationName) -> Result<Option<Operation>, Error> {
        let (id, runner, now) = (name.uuid(), self.runner, self.now());
        let change = move |draft: &mut Draft<'_>| {
            let found = draft.operation(id);
            let left = found.filter(|one| !one.done && is_left(one, now)).cloned();
            if let Some(left) = left.clone() {
                let taken = Operation {
                    runner: Some(runner),
                    heartbeat_time: Some(now),
                    ..left
                };
                draft.operation_put(id, taken);
            }
            left
        };
        Ok(self.state.change_in_background(change).await?)
    }
}

fn is_left(operation: &Operation, now: Timestamp) -> bool {
    let gone = SignedDuration::from_secs(GONE_SECONDS.cast_signed());
    let silent = |since| now.duration_since(since) >= gone;
    operation.heartbeat_time.is_none_or(silent)
}
