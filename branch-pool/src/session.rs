//! One session with Postgres, and how a pool opens and keeps them.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use deadpool::managed::{self, Manager, Metrics, RecycleError, RecycleResult};
use diesel_async::pooled_connection::PoolableConnection;
use diesel_async::{AsyncPgConnection, SimpleAsyncConnection};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Options;
use crate::backoff;
use crate::error::chain;
use crate::reach::Reach;
use crate::socket::Tap;
use crate::target::{ConnectFailure, Target};

/// How often Postgres is asked to stop what nobody waits for any more. More than
/// once: a request that overtakes its statement has no effect.
const CANCELS_MAX: u32 = 3;
/// How long one such request, or the end of the statement after it, may take.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(2);

/// What a session is given to come to rest by itself: what it is busy with may be no
/// more than the end of a statement that was prepared for one use.
const GRACE: Duration = Duration::from_millis(100);

/// Whether what a session is busy with is known to be wanted no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Urgency {
    Now,
    Grace,
}

/// A pool of sessions.
pub(crate) type Pool = managed::Pool<Connector>;

/// A session that is checked out.
pub(crate) type Object = managed::Object<Connector>;

/// One session.
pub(crate) struct Session {
    pub(crate) connection: AsyncPgConnection,
    pub(crate) tap: Arc<Tap>,
    target: Arc<Target>,
    /// When it is too old to be used again.
    age_max: Duration,
    life: Life,
    epoch: u64,
    /// Ends it, whatever it is busy with.
    ended: CancellationToken,
}

impl Session {
    /// It has died under its work: those that were opened before now are not used
    /// again, for what ended this one may end them as well.
    pub(crate) fn died(&self) {
        let next = self.epoch + 1;
        // An error: another one of them was first.
        let _ =
            self.life
                .epoch
                .compare_exchange(self.epoch, next, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// Has Postgres stop what the session is busy with, and waits until it has: true,
    /// then the session is at rest. Where Postgres does not stop for some seconds, or
    /// it is not certain that each request to stop has come to its end, false.
    pub(crate) async fn stop(&mut self, urgency: Urgency) -> bool {
        if urgency == Urgency::Grace && self.comes_to_rest(GRACE).await == Some(true) {
            return !self.connection.is_broken();
        }
        let token = self.connection.cancel_token();
        let mut certain = true;
        for _ in 0..CANCELS_MAX {
            match timeout(CANCEL_TIMEOUT, self.target.cancel(&token)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::debug!(error = chain(&error), "could not ask Postgres to stop");
                    certain = false;
                }
                Err(_) => {
                    tracing::debug!("could not ask Postgres to stop in time");
                    certain = false;
                }
            }
            // A cancel that came late hits this and nobody's statement.
            if self.comes_to_rest(CANCEL_TIMEOUT).await.is_some() {
                return certain && !self.connection.is_broken();
            }
        }
        false
    }

    /// Waits until everything that was asked is answered, for so long at most: an empty
    /// statement has an answer when everything before it has. One that is not well
    /// (false) may be the session's end, or a cancel that came late.
    async fn comes_to_rest(&mut self, limit: Duration) -> Option<bool> {
        let rest = self.connection.batch_execute("");
        let answer = timeout(limit, rest).await.ok()?;
        Some(answer.is_ok())
    }

    /// Ends it now. Dropped alone, one that is busy would go on until it is answered.
    pub(crate) fn end(&self) {
        self.ended.cancel();
    }

    /// Whether the next one can have it, without a query to find out: but where something
    /// was said to it that nobody has read yet.
    async fn is_usable(&mut self, metrics: &Metrics) -> bool {
        // A session of which the driver has seen the end, be it 57P01, a closed socket
        // or a TLS close, is broken; one of which it has not yet is not quiet.
        if self.connection.is_broken()
            || metrics.age() >= self.age_max
            || self.epoch != self.life.epoch()
        {
            return false;
        }
        self.tap.is_quiet() || self.comes_to_rest(GRACE).await == Some(true)
    }
}

/// For how long the sessions of a generation live.
#[derive(Debug, Clone)]
pub(crate) struct Life {
    /// Has a token for each session that is open or being opened.
    pub(crate) sessions: TaskTracker,
    /// Ends them all, whatever they are busy with.
    pub(crate) ended: CancellationToken,
    /// There are to be no more of them: those that are being opened are given up.
    pub(crate) closed: CancellationToken,
    /// Goes up when one has died under its work.
    epoch: Arc<AtomicU64>,
}

impl Life {
    fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    pub(crate) fn new() -> Self {
        let sessions = TaskTracker::new();
        // Closed, it can be waited for; it counts all the same.
        sessions.close();
        Self {
            sessions,
            ended: CancellationToken::new(),
            closed: CancellationToken::new(),
            epoch: Arc::default(),
        }
    }
}

/// Opens sessions with one target.
pub(crate) struct Connector {
    target: Arc<Target>,
    life: Life,
    /// Told what puts the lease in doubt.
    doubts: mpsc::Sender<String>,
    /// Told how each attempt ends.
    reach: Arc<Reach>,
    connect_timeout: Duration,
    age_max: Duration,
}

impl Connector {
    /// A pool of sessions with this target: none yet.
    pub(crate) fn pool(
        target: Arc<Target>,
        life: Life,
        doubts: mpsc::Sender<String>,
        reach: Arc<Reach>,
        size: usize,
        options: &Options,
    ) -> Pool {
        let connector = Self {
            target,
            life,
            doubts,
            reach,
            connect_timeout: options.connect_timeout,
            age_max: options.max_age,
        };
        Pool::builder(connector)
            .max_size(size)
            // Those that are not needed come to rest, and go.
            .queue_mode(managed::QueueMode::Lifo)
            .wait_timeout(Some(options.wait_timeout))
            .runtime(deadpool::Runtime::Tokio1)
            .build()
            .expect("deadpool refuses nothing but timeouts without a runtime")
    }
}

impl Connector {
    /// Opens a session. Dropped half-way, nothing is left of it.
    async fn open(&self) -> Result<Session, ConnectFailure> {
        let opening = self.life.sessions.token();
        let epoch = self.life.epoch();
        let opened = self.target.connect().await?;
        let ended = self.life.ended.child_token();
        let unless_done = ended.clone().drop_guard();
        let (target, asked_to_end) = (Arc::clone(&self.target), ended.clone());
        let token = opened.client.cancel_token();
        self.life.sessions.spawn(async move {
            // Driven here rather than by diesel-async, which does not tell how a
            // connection ended, and ends none before its time.
            let outcome = tokio::select! {
                outcome = opened.driver => outcome,
                () = asked_to_end.cancelled() => {
                    // Or Postgres goes on with what nobody waits for.
                    let _ = timeout(CANCEL_TIMEOUT, target.cancel(&token)).await;
                    Ok(())
                }
            };
            match outcome {
                Ok(()) => tracing::trace!("closed a connection"),
                Err(error) => tracing::debug!(error = chain(&error), "a connection ended"),
            }
        });
        drop(opening);
        let connection = AsyncPgConnection::try_from(opened.client).await;
        let connection = connection.map_err(|error| ConnectFailure::of_setup(&error))?;
        unless_done.disarm();
        Ok(Session {
            connection,
            tap: opened.tap,
            target: Arc::clone(&self.target),
            age_max: backoff::age_max(self.age_max),
            life: self.life.clone(),
            epoch,
            ended,
        })
    }
}

impl Manager for Connector {
    type Type = Session;
    type Error = ConnectFailure;

    async fn create(&self) -> Result<Session, ConnectFailure> {
        let attempt = self.reach.attempt();
        // Boxed: seldom, and large; every checkout would carry the room for it.
        let opening = Box::pin(timeout(self.connect_timeout, self.open()));
        let opened = tokio::select! {
            biased;
            () = self.life.closed.cancelled() => return Err(ConnectFailure::closed()),
            opened = opening => opened,
        };
        let silence = |_| Err(ConnectFailure::silence(self.connect_timeout));
        match opened.unwrap_or_else(silence) {
            Ok(session) => {
                attempt.answered();
                Ok(session)
            }
            Err(failure) => {
                attempt.failed(&failure.reason);
                if failure.doubts_lease {
                    // Full: the upkeep has one to act on already.
                    let _ = self.doubts.try_send(failure.reason.clone());
                }
                Err(failure)
            }
        }
    }

    async fn recycle(
        &self,
        session: &mut Session,
        metrics: &Metrics,
    ) -> RecycleResult<ConnectFailure> {
        if session.is_usable(metrics).await {
            Ok(())
        } else {
            Err(RecycleError::message("it has ended, or is too old"))
        }
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector")
            .field("target", &self.target)
            .finish_non_exhaustive()
    }
}
