//! Requests that are made once, however often they are sent.
//!
//! What is stored here, and who may change it: what a request id was answered
//! with, in memory, until its time is up. It is the one place that knows of
//! request ids of branches.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use moka::future::Cache;
use rpc::clock::Clock;
use tonic::Status;
use uuid::Uuid;

use super::Error;

/// How long an answer is kept, in hours.
const KEPT_HOURS: i64 = 24;
/// How many are kept.
const ANSWERS_MAX: u64 = 100_000;

/// Answers by request id.
#[derive(Debug, Clone)]
pub struct Answers {
    clock: Clock,
    kept: Cache<Key, Arc<Answer>>,
}

/// Ids are each caller's own, for each method.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) caller: Option<String>,
    pub(super) method: &'static str,
    pub(super) id: Uuid,
}

#[derive(Debug)]
struct Answer {
    request: Vec<u8>,
    answer: Vec<u8>,
    until: Timestamp,
}

impl Answers {
    /// None yet.
    pub fn new(clock: Clock) -> Answers {
        Answers {
            clock,
            kept: Cache::new(ANSWERS_MAX),
        }
    }

    /// Does it, unless that was done: then its answer. Who repeats it while it is
    /// done waits. A refusal is not kept. `request`: all of it, encoded.
    pub(super) async fn once(
        &self,
        key: Option<Key>,
        request: &[u8],
        work: impl Future<Output = Result<Vec<u8>, Status>> + Send,
    ) -> Result<Vec<u8>, Status> {
        let Some(key) = key else {
            return work.await;
        };
        let now = || Timestamp::try_from(self.clock.now()).unwrap_or(Timestamp::MAX);
        if let Some(kept) = self.kept.get(&key).await
            && kept.until <= now()
        {
            self.kept.invalidate(&key).await;
        }
        let working = async {
            let answer = work.await?;
            let until = now().checked_add(SignedDuration::from_hours(KEPT_HOURS));
            Ok(Arc::new(Answer {
                request: request.to_vec(),
                answer,
                until: until.unwrap_or(Timestamp::MAX),
            }))
        };
        let kept = self.kept.try_get_with(key, Box::pin(working)).await;
        let kept = kept.map_err(|status: Arc<Status>| Status::clone(&status))?;
        match kept.request == request {
            true => Ok(kept.answer.clone()),
            false => Err(Error::RequestIdReused.into()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn key(caller: &str, id: u128) -> Option<Key> {
        Some(Key {
            caller: Some(caller.to_owned()),
            method: "UpdateBranch",
            id: Uuid::from_u128(id),
        })
    }

    async fn answer(text: &str) -> Result<Vec<u8>, Status> {
        Ok(text.as_bytes().to_vec())
    }

    #[tokio::test]
    async fn an_id_is_one_callers_and_one_requests() {
        let answers = Answers::new(Clock::system());
        let first = answers.once(key("a", 1), b"x", answer("1")).await.unwrap();
        let again = answers.once(key("a", 1), b"x", answer("2")).await.unwrap();
        assert_eq!((&*first, &*again), (&b"1"[..], &b"1"[..]));
        let other = answers.once(key("b", 1), b"x", answer("3")).await.unwrap();
        assert_eq!(other, b"3");
        let reused = answers.once(key("a", 1), b"y", answer("4")).await;
        assert_eq!(reused.unwrap_err().code(), tonic::Code::InvalidArgument);
        let without = answers.once(None, b"x", answer("5")).await.unwrap();
        assert_eq!(without, b"5");
    }

    #[tokio::test]
    async fn a_refusal_is_not_kept_and_an_end_comes() {
        let folder = tempfile::tempdir().unwrap();
        let offset = folder.path().join("offset");
        let answers = Answers::new(Clock::with_offset_file(&offset).unwrap());
        let refused = async { Err(Status::unavailable("later")) };
        answers.once(key("a", 1), b"x", refused).await.unwrap_err();
        let done = answers.once(key("a", 1), b"x", answer("1")).await.unwrap();
        assert_eq!(done, b"1");
        let day = (KEPT_HOURS * 3_600 + 1).to_string();
        std::fs::write(&offset, day).unwrap();
        let anew = answers.once(key("a", 1), b"y", answer("2")).await.unwrap();
        assert_eq!(anew, b"2");
    }
}
