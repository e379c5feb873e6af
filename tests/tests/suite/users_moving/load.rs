//! Calls at an even pace, each of which has to be right, and what became of them.

mod caller;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, ensure};
use proto::users::v1::user_service_client::UserServiceClient;
use suite::UserService;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use caller::{Call, Caller};

/// What becomes of the branch under the load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Meanwhile {
    /// What was written is there.
    Stays,
    /// The binding moves between branches, each of which gives its new users ids of its
    /// own, by the branch's mark: a user may be at the other one.
    Moves(BTreeMap<String, Range<i32>>),
    /// What was written may be taken back, and its ids be given to others.
    TakenBack,
}

/// Callers, each with one call under way at most.
pub(super) const CALLERS: usize = 24;
/// HTTP/2 connections that they share.
const CHANNELS: usize = 4;
/// Rows that say which branch they are of: ids from 1.
pub(super) const MARKED: i32 = 20;

/// Calls under way.
pub(super) struct Load {
    shared: Arc<Shared>,
    callers: JoinSet<anyhow::Result<()>>,
}

/// What became of them.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) answered: u64,
    /// Answered calls a second, pauses included.
    pub(super) rate: f64,
    /// Those that ended without an answer. All of them ask to try again, or must not be
    /// tried again unseen.
    pub(super) failed: Vec<Failed>,
    /// By their emails: the users who were created, and are there as far as anybody knows.
    pub(super) kept: BTreeMap<String, Kept>,
    /// The emails of those who were deleted, and when that was asked for.
    pub(super) gone: BTreeMap<String, Instant>,
}

/// A call that ended without an answer.
#[derive(Debug, Clone)]
pub(super) struct Failed {
    pub(super) call: Call,
    pub(super) message: String,
}

/// A user who was created.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    /// When that was asked for.
    pub(super) asked: Instant,
    /// What the name may be: the last one that was acknowledged, and those that came
    /// after it of which nobody knows.
    pub(super) names: BTreeSet<String>,
}

struct Shared {
    running: AtomicBool,
    answered: AtomicU64,
    outcome: Mutex<Outcome>,
    /// What the marked rows have said.
    marks: Mutex<Vec<Mark>>,
    begun: Instant,
    interval: Duration,
    turn: AtomicU64,
    meanwhile: Meanwhile,
    /// What a call was answered that was wrong, if one was.
    wrong: Mutex<Option<anyhow::Error>>,
}

impl Load {
    /// So many calls a second, of every kind: see [`Call`].
    pub(super) async fn begin(
        users: &UserService,
        calls_a_second: u32,
        mark: &str,
        meanwhile: Meanwhile,
    ) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared {
            running: AtomicBool::new(true),
            answered: AtomicU64::new(0),
            outcome: Mutex::default(),
            marks: Mutex::new(vec![Mark::new(mark)]),
            begun: Instant::now(),
            interval: Duration::from_secs(1) / calls_a_second,
            turn: AtomicU64::new(0),
            meanwhile,
            wrong: Mutex::default(),
        });
        let mut callers = JoinSet::new();
        let mut channels = Vec::new();
        for _ in 0..CHANNELS {
            channels.push(suite::channel(users.address()).await?);
        }
        for number in 0..CALLERS {
            let client = UserServiceClient::new(channels[number % CHANNELS].clone());
            let caller = Caller::new(client, Arc::clone(&shared));
            let shared = Arc::clone(&shared);
            callers.spawn(async move {
                shared.run(caller).await.inspect_err(|wrong| {
                    let wrong = anyhow::anyhow!("{wrong:#}");
                    lock(&shared.wrong).get_or_insert(wrong);
                })
            });
        }
        Ok(Self { shared, callers })
    }

    /// The marked rows may say this as well from now on.
    pub(super) fn may_be(&self, mark: &str) {
        let mut marks = lock(&self.shared.marks);
        if !marks
            .iter()
            .any(|one| one.name == mark && one.until.is_none())
        {
            marks.push(Mark::new(mark));
        }
    }

    /// The marked rows say this, and nothing else, in all calls that begin from now on.
    pub(super) fn is(&self, mark: &str) {
        self.may_be(mark);
        let mut marks = lock(&self.shared.marks);
        let others = marks.iter_mut().filter(|one| one.name != mark);
        for other in others {
            other.until.get_or_insert_with(Instant::now);
        }
    }

    /// Waits until so many more calls were answered.
    pub(super) async fn goes_on(&self, calls: u64) -> anyhow::Result<()> {
        let before = self.shared.answered.load(Ordering::Relaxed);
        suite::eventually("more calls are answered", async || {
            let now = self.shared.answered.load(Ordering::Relaxed);
            let is_wrong = lock(&self.shared.wrong).is_some();
            ensure!(
                is_wrong || now >= before + calls,
                "{} of {calls}",
                now - before
            );
            Ok(())
        })
        .await?;
        match lock(&self.shared.wrong).take() {
            Some(wrong) => Err(wrong),
            None => Ok(()),
        }
    }

    /// Ends it.
    ///
    /// Errors: the first call that was answered wrongly, or failed otherwise than it may.
    pub(super) async fn end(mut self) -> anyhow::Result<Outcome> {
        self.shared.running.store(false, Ordering::Relaxed);
        while let Some(ended) = self.callers.join_next().await {
            ended??;
        }
        let mut outcome = std::mem::take(&mut *lock(&self.shared.outcome));
        outcome.answered = self.shared.answered.load(Ordering::Relaxed);
        outcome.rate = outcome.answered as f64 / self.shared.begun.elapsed().as_secs_f64();
        Ok(outcome)
    }
}

/// Something that the marked rows have said, and until when.
#[derive(Debug)]
struct Mark {
    name: String,
    until: Option<Instant>,
}

impl Mark {
    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            until: None,
        }
    }
}

impl Shared {
    /// What the marked rows said at any time since then.
    fn marks_since(&self, since: Instant) -> BTreeSet<String> {
        let marks = lock(&self.marks);
        let held = marks
            .iter()
            .filter(|one| one.until.is_none_or(|until| until >= since));
        held.map(|one| one.name.clone()).collect()
    }

    async fn run(&self, mut caller: Caller) -> anyhow::Result<()> {
        while self.running.load(Ordering::Relaxed) {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed);
            let due = u32::try_from(turn).context("fewer calls than that")?;
            sleep_until(self.begun + self.interval * due).await;
            let call = caller.call_of(turn);
            match caller.make(call, turn).await? {
                Ok(()) => {
                    self.answered.fetch_add(1, Ordering::Relaxed);
                }
                Err(status) => {
                    ensure!(may_fail_so(call, &status), "{call:?}: {status:?}");
                    let message = status.message().to_owned();
                    lock(&self.outcome).failed.push(Failed { call, message });
                }
            }
        }
        Ok(())
    }
}

/// Whether a call that comes to nothing asks to try again, or, where a second time could
/// do harm, says that nobody knows.
fn may_fail_so(call: Call, status: &Status) -> bool {
    match status.code() {
        Code::Unavailable => status.get_details_retry_info().is_some(),
        Code::Unknown => call.is_done_once() && status.get_details_retry_info().is_none(),
        _ => false,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
