//! Telling of an operation as it goes on.

use std::pin::Pin;
use std::time::Duration;

use futures_util::{Stream, stream};
use prost_types::Any;
use tokio::sync::watch::Receiver;
use tonic::Status;

use super::operations::refusal;
use super::{Broker, Error};
use crate::names::OperationName;
use crate::operations::Ended;

/// How often to look, should nobody say that something has changed, in milliseconds.
const LOOK_MS: u64 = 500;

/// What is told of an operation, as it comes.
pub(super) type Told<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Who is told of an operation.
struct Telling<T, Now, Done> {
    broker: Broker,
    operation: OperationName,
    moves: Receiver<()>,
    operations: Receiver<()>,
    now: Now,
    done: Done,
    last: Option<T>,
    is_over: bool,
}

impl Broker {
    /// Tells of an operation each time that something of it is new: `now` says how it is,
    /// `done` how it ended.
    pub(super) fn tell<T, Now, Done>(
        &self,
        operation: OperationName,
        now: Now,
        done: Done,
    ) -> Told<T>
    where
        T: Clone + PartialEq + Send + 'static,
        Now: Fn(&Broker) -> T + Send + 'static,
        Done: Fn(&Broker, Any) -> T + Send + 'static,
    {
        let telling = Telling {
            moves: self.state.moves(),
            operations: self.state.operations(),
            broker: self.clone(),
            operation,
            now,
            done,
            last: None,
            is_over: false,
        };
        Box::pin(stream::unfold(telling, |mut telling| async {
            let next = telling.next().await?;
            Some((next, telling))
        }))
    }
}

impl<T, Now, Done> Telling<T, Now, Done>
where
    T: Clone + PartialEq,
    Now: Fn(&Broker) -> T,
    Done: Fn(&Broker, Any) -> T,
{
    /// What is new; none after the end.
    async fn next(&mut self) -> Option<Result<T, Status>> {
        while !self.is_over {
            self.moves.mark_unchanged();
            self.operations.mark_unchanged();
            let record = match self.broker.operations.find(self.operation).await {
                Ok(record) => record,
                Err(error) => {
                    self.is_over = true;
                    return Some(Err(Error::from(error).into()));
                }
            };
            if let Some(result) = record.result {
                self.is_over = true;
                return Some(match result {
                    Ended::Error(status) => Err(refusal(&status)),
                    Ended::Response(any) => Ok((self.done)(&self.broker, any)),
                });
            }
            let now = (self.now)(&self.broker);
            if self.last.as_ref() != Some(&now) {
                self.last = Some(now.clone());
                return Some(Ok(now));
            }
            let changed = async {
                tokio::select! {
                    // The state lives as long as we do.
                    _ = self.moves.changed() => {}
                    _ = self.operations.changed() => {}
                }
            };
            let _ = tokio::time::timeout(Duration::from_millis(LOOK_MS), changed).await;
        }
        None
    }
}
