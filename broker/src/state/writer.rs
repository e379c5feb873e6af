//! The one task that writes. What comes together shares a transaction.
//!
//! A write takes the head first: until it ends no other broker writes. So it
//! reads what others have written since it last looked, and what a change then
//! sees is what is true. Memory is changed after the commit. A commit whose
//! answer is lost is looked up: nobody is told of what is not stored, and nobody
//! is told that what is stored is not.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rpc::clock::Clock;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior};

use super::database::{self, Begun, Head, Session};
use super::draft::{Changes, Draft};
use super::{ENDED_HOURS, Error, Shared, clocks};
use crate::postgres::OwnerUri;
use crate::text::one_line;

/// How many changes share a transaction at most.
const TOGETHER_MAX: usize = 1_024;
/// How many changes that can wait do so for others, and how long at most, in
/// milliseconds: if something was written that many milliseconds ago or less.
const ENOUGH: usize = 3;
const GATHER_MS_MAX: u64 = 8;
const BUSY_MS: u64 = 20;
/// How often to look whether others have written, in milliseconds: they tell, and
/// what they tell may get lost.
const LOOK_MS: u64 = 1_000;
/// How often to remove what nobody asks for any more, in seconds.
const PURGE_SECONDS: u64 = 600;
/// How long audit events are kept, in hours: 30 days.
const TOLD_HOURS: i64 = 30 * 24;
/// Pauses between tries to reach the database, in milliseconds.
const REACH_MS_MIN: u64 = 50;
const REACH_MS_MAX: u64 = 1_000;
/// How long whoever asks waits for a database that is away, before they hear that
/// it is, in milliseconds.
const PATIENCE_MS: u64 = 1_000;
/// Pauses between looks at a write of ours that still runs, in milliseconds.
const UNDECIDED_MS: u64 = 50;
/// How often a write is tried: a session may have ended while nothing was asked.
const TRIES_MAX: u32 = 2;

/// A change that somebody waits for.
pub(super) trait Asked: Send {
    /// The epoch that it belongs to, if only who works in the background may do
    /// it.
    fn epoch(&self) -> Option<i64>;
    /// Whether it may wait a moment for others to share a transaction with.
    fn may_wait(&self) -> bool;
    /// Does it. May be asked again: what was done before is then forgotten.
    fn make(&mut self, draft: &mut Draft<'_>);
    /// Tells who waits what became of it.
    fn answer(self: Box<Self>, stored: Result<(), Error>);
}

/// A change, what it gave, and who waits for that.
pub(super) struct Change<F, T> {
    pub(super) epoch: Option<i64>,
    pub(super) may_wait: bool,
    pub(super) change: F,
    pub(super) made: Option<T>,
    pub(super) waits: oneshot::Sender<Result<T, Error>>,
}

impl<F, T> Asked for Change<F, T>
where
    F: FnMut(&mut Draft<'_>) -> T + Send,
    T: Send,
{
    fn epoch(&self) -> Option<i64> {
        self.epoch
    }

    fn may_wait(&self) -> bool {
        self.may_wait
    }

    fn make(&mut self, draft: &mut Draft<'_>) {
        self.made = Some((self.change)(draft));
    }

    fn answer(self: Box<Self>, stored: Result<(), Error>) {
        let answer = match (stored, self.made) {
            (Ok(()), Some(made)) => Ok(made),
            (Ok(()), None) => Err(Error::Gone),
            (Err(error), _) => Err(error),
        };
        // Who asked may have gone away meanwhile; what is stored stands.
        let _ = self.waits.send(answer);
    }
}

/// What is asked of the writer.
pub(super) type Job = Box<dyn Asked>;

/// Writes for as long as somebody may ask.
pub(super) struct Writer {
    uri: OwnerUri,
    clock: Clock,
    shared: Arc<Shared>,
    queue: mpsc::Receiver<Job>,
    session: Option<Session>,
    /// When something was written last.
    wrote_at: Option<Instant>,
    /// When to remove next what nobody asks for any more.
    purge_at: Instant,
}

/// How a write failed.
enum Failed {
    /// It is not stored.
    Unstored(database::Error),
    /// It may be.
    Unknown {
        error: database::Error,
        transaction: String,
        version: i64,
        changes: Box<Changes>,
    },
}

impl From<database::Error> for Failed {
    fn from(error: database::Error) -> Failed {
        Failed::Unstored(error)
    }
}

impl Writer {
    /// On a session whose tables are right, if there is one already.
    pub(super) fn new(
        uri: OwnerUri,
        clock: Clock,
        shared: Arc<Shared>,
        queue: mpsc::Receiver<Job>,
        opened: Option<Session>,
    ) -> Writer {
        Writer {
            uri,
            clock,
            shared,
            queue,
            session: opened,
            wrote_at: None,
            purge_at: Instant::now(),
        }
    }

    /// Until nobody can ask any more.
    pub(super) async fn run(mut self) {
        let mut look = tokio::time::interval(Duration::from_millis(LOOK_MS));
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut jobs = Vec::new();
        while !self.queue.is_closed() || !self.queue.is_empty() {
            let Some(session) = &mut self.session else {
                self.reach().await;
                continue;
            };
            tokio::select! {
                count = self.queue.recv_many(&mut jobs, TOGETHER_MAX) => match count {
                    0 => return,
                    _ => {
                        self.gather(&mut jobs).await;
                        self.write(std::mem::take(&mut jobs)).await;
                        self.wrote_at = Some(Instant::now());
                    }
                },
                _ = look.tick() => self.look().await,
                heard = session.heard() => match heard {
                    // Our own writes are told of too, once memory has them.
                    Ok(Some(version)) if version <= self.shared.seen() => {}
                    Ok(Some(_)) => self.look().await,
                    Ok(None) => self.session = None,
                    Err(error) => {
                        tracing::debug!(error = %one_line(&error), "the session ended");
                        self.session = None;
                    }
                },
            }
        }
    }

    /// Waits for more, while all that there is can wait, and more is likely to come. A
    /// transaction costs the same for several as for one.
    async fn gather(&mut self, jobs: &mut Vec<Job>) {
        let now = Instant::now();
        let busy = Duration::from_millis(BUSY_MS);
        let is_busy = self.wrote_at.is_some_and(|at| now - at < busy);
        let until = now + Duration::from_millis(GATHER_MS_MAX);
        while is_busy && jobs.len() < ENOUGH && jobs.iter().all(|job| job.may_wait()) {
            let more = self.queue.recv_many(jobs, TOGETHER_MAX);
            match tokio::time::timeout_at(until, more).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => return,
            }
        }
    }

    /// Opens a session, for as long as that takes. Meanwhile whoever asks hears
    /// that nothing can be stored.
    async fn reach(&mut self) {
        let uri = self.uri.clone();
        let was_read = self.shared.is_loaded();
        let shared = Arc::clone(&self.shared);
        let reaching = async move {
            let mut pause = Duration::from_millis(REACH_MS_MIN);
            loop {
                match open(&uri, &shared).await {
                    Ok(opened) => return opened,
                    Err(error) => {
                        tracing::warn!(error = %one_line(&error), "the state database is away");
                    }
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_millis(REACH_MS_MAX));
            }
        };
        tokio::pin!(reaching);
        // A session may just have ended: who asks meanwhile waits for the next.
        let soon = Duration::from_millis(PATIENCE_MS);
        let opened = match tokio::time::timeout(soon, &mut reaching).await {
            Ok(opened) => opened,
            Err(_) => tokio::select! {
                opened = reaching => opened,
                () = refuse(&mut self.queue) => return,
            },
        };
        if was_read {
            tracing::info!("the state database is back");
        }
        self.session = Some(opened);
    }

    /// Takes over what others have written.
    async fn look(&mut self) {
        let Some(session) = &mut self.session else {
            return;
        };
        let looked = async {
            let asked = clocks::of_machine();
            let (head, time) = session.look().await?;
            self.shared.compare_clocks(asked, time);
            if self.purge_at <= Instant::now() {
                let now = Timestamp::try_from(self.clock.now()).unwrap_or(Timestamp::MAX);
                let ago = |hours| now - SignedDuration::from_hours(hours);
                let purging = session.purge(now, ago(ENDED_HOURS), ago(TOLD_HOURS));
                if purging.await? {
                    self.purge_at = Instant::now() + Duration::from_secs(PURGE_SECONDS);
                }
            }
            if head.version != self.shared.seen() {
                let (changes, head) = session.since(self.shared.seen()).await?;
                self.shared.apply(changes, head.version);
            }
            Ok::<_, database::Error>(())
        };
        match looked.await {
            Ok(()) => {}
            Err(error) => {
                tracing::warn!(error = %one_line(&error), "look at the state database");
                self.session = None;
            }
        }
    }

    async fn write(&mut self, mut jobs: Vec<Job>) {
        let mut tried = 0;
        loop {
            tried += 1;
            if self.session.is_none() {
                match open(&self.uri, &self.shared).await {
                    Ok(session) => self.session = Some(session),
                    Err(error) => return answer(jobs, Err(Error::away(error))),
                }
            }
            match self.write_once(&mut jobs).await {
                Ok(()) => return answer(jobs, Ok(())),
                Err(Failed::Unstored(error)) => {
                    self.session = None;
                    if tried == TRIES_MAX || !error.is_transient() {
                        tracing::warn!(error = %one_line(&error), "a write is not stored");
                        return answer(jobs, Err(Error::away(error)));
                    }
                }
                Err(Failed::Unknown {
                    error,
                    transaction,
                    version,
                    changes,
                }) => {
                    tracing::warn!(
                        error = %one_line(&error),
                        "the end of a write was not heard; looking whether it is stored"
                    );
                    self.session = None;
                    match self.is_stored(&transaction).await {
                        true => {
                            self.shared.apply(*changes, version);
                            return answer(jobs, Ok(()));
                        }
                        false if tried == TRIES_MAX => {
                            return answer(jobs, Err(Error::away(error)));
                        }
                        false => {}
                    }
                }
            }
        }
    }

    async fn write_once(&mut self, jobs: &mut Vec<Job>) -> Result<(), Failed> {
        let Some(session) = &mut self.session else {
            return Err(Failed::Unstored(database::Error::NoHead));
        };
        let Begun { head, transaction } = session.begin().await?;
        let Head { version, epoch } = head;
        if version - 1 > self.shared.seen() {
            let missed = session.changes_since(self.shared.seen()).await?;
            self.shared.apply(missed, version - 1);
        }
        let is_fenced = |job: &Job| job.epoch().is_some_and(|of| of != epoch);
        let (fenced, unfenced) = std::mem::take(jobs).into_iter().partition(is_fenced);
        *jobs = unfenced;
        if !fenced.is_empty() {
            self.shared.leads(None);
            answer(fenced, Err(Error::Fenced));
        }
        let changes = self.shared.draft(version, |draft| {
            for job in jobs.iter_mut() {
                job.make(draft);
            }
        });
        if changes.is_empty() {
            return Ok(session.rollback().await?);
        }
        session.write(&changes, version).await?;
        match session.commit(version).await {
            Ok(()) => {
                self.shared.apply(changes, version);
                Ok(())
            }
            Err(error) => Err(Failed::Unknown {
                error,
                transaction,
                version,
                changes: Box::new(changes),
            }),
        }
    }

    /// Asks until there is an answer. Meanwhile whoever else asks hears that
    /// nothing can be stored.
    async fn is_stored(&mut self, transaction: &str) -> bool {
        let uri = self.uri.clone();
        let looking = async {
            loop {
                let asked = async { Session::open(&uri).await?.is_stored(transaction).await };
                match asked.await {
                    Ok(Some(stored)) => return stored,
                    Ok(None) => {}
                    Err(error) => {
                        tracing::warn!(error = %one_line(&error), "the state database is away");
                    }
                }
                tokio::time::sleep(Duration::from_millis(UNDECIDED_MS)).await;
            }
        };
        tokio::pin!(looking);
        tokio::select! {
            stored = &mut looking => stored,
            // Nobody asks any more, and somebody still waits.
            () = refuse(&mut self.queue) => looking.await,
        }
    }
}

/// Opens a session, and brings memory up to what the database has.
pub(super) async fn open(uri: &OwnerUri, shared: &Shared) -> Result<Session, database::Error> {
    let mut session = Session::open(uri).await?;
    if !shared.is_loaded() {
        session = session.migrate().await?;
    }
    session.listen().await?;
    let asked = clocks::of_machine();
    let (_, time) = session.look().await?;
    shared.compare_clocks(asked, time);
    let (changes, head) = session.since(shared.seen()).await?;
    shared.apply(changes, head.version);
    shared.loaded();
    Ok(session)
}

/// Answers who asks while nothing can be stored. Ends when nobody can ask any
/// more.
async fn refuse(queue: &mut mpsc::Receiver<Job>) {
    while let Some(job) = queue.recv().await {
        job.answer(Err(Error::Away(None)));
    }
}

fn answer(jobs: Vec<Job>, stored: Result<(), Error>) {
    for job in jobs {
        job.answer(stored.clone());
    }
}
