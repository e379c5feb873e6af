//! The task behind a pool: it keeps a lease and follows where it leads.
//!
//! What is kept here, and who may change it: what is due next belongs to this
//! task alone, as do the [`Turns`]. It tells the world how it goes
//! ([`PoolState`]) through a watch channel that only it writes.
//!
//! What comes of what:
//! - renewed: the same again at about half of what remains;
//! - not renewed: again after a back-off, while the pool goes on working;
//! - the broker knows the lease no more, it ended, or Postgres refuses its
//!   connection: a new one, under a request id that stays the same until there
//!   is an answer;
//! - the lease's [`Follower`] hears something: [`Turns`] follows it.

use std::future::pending;
use std::pin::Pin;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use uuid::Uuid;

use crate::channels::Channels;
use crate::error::{LeaseError, chain};
use crate::follower::{Follower, News};
use crate::holding::Holding;
use crate::lease::{Broker, Grant, Lease};
use crate::turns::{Happening, Turns};
use crate::usage::Usage;

use crate::{Error, LeaseTarget, Options, Phase, PoolState, backoff};

/// How often the pool's sizes in [`PoolState`] are looked at.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);

/// See the module.
pub(crate) struct Upkeep {
    broker: Broker,
    target: LeaseTarget,
    options: Options,
    state: watch::Sender<PoolState>,
    closing: watch::Receiver<bool>,
    turns: Turns,
    follower: Follower,
    /// What the broker was asked and has not answered: nothing else is due meanwhile, and
    /// everything is heard.
    call: Option<Call>,
    /// True when other connections were announced since the last acquisition began: what
    /// it grants may be older.
    overtaken: bool,
    /// `None`: nothing to renew.
    renew_at: Option<Instant>,
    /// `None`: the lease will do.
    acquire_at: Option<Instant>,
    /// The id of the acquisition whose answer is not known yet.
    request_id: Option<Uuid>,
    /// True when the next acquisition is due to a doubt.
    doubted: bool,
    /// Leases in a row that were acquired for a doubt and changed nothing.
    useless: u32,
    acquired_at: Instant,
    /// True when the lease is lost and none takes its place.
    lost: bool,
    /// Failed calls to the broker in a row.
    failures: u32,
    last_error: Option<String>,
}

impl Upkeep {
    /// Prepares the task; nothing happens until it runs.
    pub(crate) fn new(
        broker: Broker,
        target: LeaseTarget,
        options: Options,
        usage: Usage,
        channels: Channels,
    ) -> Self {
        let now = Instant::now();
        let holding = Holding::new(target.clone(), options.clone(), channels.current);
        Self {
            broker,
            turns: Turns::new(target.clone(), options.clone(), usage, holding),
            target,
            options,
            state: channels.state,
            closing: channels.closing,
            follower: Follower::idle(),
            call: None,
            overtaken: false,
            renew_at: None,
            acquire_at: Some(now),
            request_id: None,
            doubted: false,
            useless: 0,
            acquired_at: now,
            lost: false,
            failures: 0,
            last_error: None,
        }
    }

    /// Gets the first lease in the foreground, for as long as the options say.
    ///
    /// Errors: [`Error::FailedAcquire`].
    pub(crate) async fn first_lease(&mut self) -> Result<(), Error> {
        let give_up_at = Instant::now() + self.options.acquire_timeout;
        loop {
            let request_id = self.request_id();
            let outcome = match self.broker.acquire(request_id).await {
                Err(error) => Err(error),
                Ok(grant) => {
                    let name = grant.lease.name.clone();
                    let taken = self.take(grant);
                    if taken.is_err() {
                        // Awaited: who cannot be given a pool may end the program.
                        release(self.broker.clone(), name).await;
                    }
                    taken
                }
            };
            let Err(source) = outcome else {
                self.publish();
                return Ok(());
            };
            let wait = self.note_failure(&source);
            if source.is_permanent() || Instant::now() + wait > give_up_at {
                return Err(Error::FailedAcquire {
                    target: self.target.clone(),
                    source,
                });
            }
            sleep(wait).await;
        }
    }

    /// Keeps the lease until the pool is closed or its last clone dropped.
    pub(crate) async fn run(mut self) {
        let mut closing = self.closing.clone();
        loop {
            tokio::select! {
                biased;
                () = stop_asked(&mut closing) => break,
                () = self.step() => self.publish(),
            }
        }
        self.stop().await;
    }

    /// Waits for the next thing to do and does it. Dropped half-way when the
    /// pool is closed: an answer that is then lost leaves a lease that ends by
    /// itself.
    async fn step(&mut self) {
        let sample_at = Instant::now() + SAMPLE_INTERVAL;
        let due = self.next_duty().filter(|(due_at, _)| *due_at <= sample_at);
        tokio::select! {
            // Duties first, or a flood of refused connections starves them.
            biased;
            () = sleep_until(due.map_or(sample_at, |(due_at, _)| due_at)) => match due {
                Some((_, duty)) => self.perform(duty),
                None => self.turns.tend(),
            },
            answer = answer_of(&mut self.call) => {
                self.call = None;
                self.answered(answer);
            }
            news = self.follower.news() => self.hear(news),
            happening = self.turns.happening() => match happening {
                Happening::Done(done) => self.turns.done(done),
                Happening::Doubt(reason) => self.doubt(reason),
            },
        }
    }

    /// `None`: the lease is lost for good, or the broker is being asked.
    fn next_duty(&self) -> Option<(Instant, Duty)> {
        if self.call.is_some() {
            return None;
        }
        // An ended lease is acted on once: after that, acquiring is due.
        let expiry = self.turns.lease().map(|lease| lease.expires_at);
        let expiry = expiry.filter(|_| self.acquire_at.is_none() && !self.lost);
        let duties = [
            (self.acquire_at, Duty::Acquire),
            (self.renew_at, Duty::Renew),
            (expiry, Duty::Replace),
        ];
        duties
            .into_iter()
            .filter_map(|(at, duty)| Some((at?, duty)))
            .min_by_key(|(at, _)| *at)
    }

    fn perform(&mut self, duty: Duty) {
        match duty {
            Duty::Acquire => {
                self.overtaken = false;
                let (mut broker, request_id) = (self.broker.clone(), self.request_id());
                self.call = Some(Box::pin(async move {
                    Answer::Acquired(broker.acquire(request_id).await)
                }));
            }
            Duty::Renew => {
                let Some(name) = self.turns.lease().map(|lease| lease.name.clone()) else {
                    return self.replace_lease(Instant::now());
                };
                let mut broker = self.broker.clone();
                self.call = Some(Box::pin(async move {
                    Answer::Renewed(broker.renew(&name).await)
                }));
            }
            Duty::Replace => {
                tracing::warn!(target = %self.target, "the lease ended without being renewed");
                self.replace_lease(Instant::now());
            }
        }
    }

    fn answered(&mut self, answer: Answer) {
        match answer {
            Answer::Acquired(Ok(grant)) if self.overtaken => {
                self.request_id = None;
                self.release(grant.lease.name);
            }
            Answer::Acquired(Ok(grant)) => {
                let name = grant.lease.name.clone();
                if let Err(error) = self.take(grant) {
                    self.release(name);
                    self.not_acquired(&error);
                }
            }
            Answer::Acquired(Err(error)) => self.not_acquired(&error),
            Answer::Renewed(Ok(lease)) => {
                self.note_success(&lease);
                self.turns.renew(lease);
            }
            Answer::Renewed(Err(error)) => {
                let wait = self.note_failure(&error);
                if error.is_permanent() {
                    self.replace_lease(Instant::now());
                } else {
                    self.renew_at = Some(Instant::now() + wait);
                }
            }
        }
    }

    fn not_acquired(&mut self, error: &LeaseError) {
        let wait = self.note_failure(error);
        // `None`: none is needed any more.
        if let Some(at) = &mut self.acquire_at {
            *at = Instant::now() + wait;
        }
    }

    /// Under which the next acquisition is asked for.
    fn request_id(&mut self) -> Uuid {
        *self.request_id.get_or_insert_with(Uuid::new_v4)
    }

    /// Holds a new lease.
    ///
    /// Errors: one that cannot be used, and has to be given back.
    fn take(&mut self, grant: Grant) -> Result<(), LeaseError> {
        self.request_id = None;
        let lease = grant.lease.clone();
        let taken = self.turns.take(grant).map_err(LeaseError::InvalidUri)?;

        self.useless = if self.doubted && !taken.turned_over {
            self.useless.saturating_add(1)
        } else {
            0
        };
        self.doubted = false;
        self.acquired_at = Instant::now();
        self.acquire_at = None;
        self.follower = Follower::of(self.broker.clone(), lease.name.clone());
        self.note_success(&lease);
        // A former lease on another connection is left to end by itself:
        // checkouts still run on it.
        if let Some(former) = taken.former.filter(|_| !taken.turned_over) {
            self.release(former.name);
        }
        Ok(())
    }

    /// Acts on what is heard of the lease.
    fn hear(&mut self, news: News) {
        match news {
            News::Announced(said, reports) => match self.turns.announced(said, reports) {
                Ok(true) => {
                    self.overtaken = true;
                    // What was refused is no longer what is used.
                    if std::mem::take(&mut self.doubted) {
                        self.acquire_at = None;
                    }
                }
                Ok(false) => {}
                Err(error) => {
                    let text = chain(&LeaseError::InvalidUri(error));
                    tracing::warn!(target = %self.target, error = text, "staying on the old branch");
                    self.last_error = Some(text);
                }
            },
            News::Gone => {
                tracing::info!(target = %self.target, "the broker knows the lease no more");
                // Not at once, or a broker that grants what it does not keep is
                // asked without end.
                self.replace_lease(self.acquired_at + backoff::after_doubts(0));
            }
        }
    }

    /// Makes a new lease due, not before then. What there is goes on until it ends.
    fn replace_lease(&mut self, earliest: Instant) {
        self.renew_at = None;
        if self.target.is_replaceable() {
            self.acquire_at
                .get_or_insert_with(|| earliest.max(Instant::now()));
        } else {
            tracing::warn!(target = %self.target, "it is lost, and not replaced");
            self.lost = true;
        }
    }

    /// Postgres refused the lease's connection: a new lease may know better.
    fn doubt(&mut self, reason: String) {
        // It is known that nobody answers there.
        if self.turns.hold().is_some() {
            return;
        }
        self.last_error = Some(reason);
        if self.acquire_at.is_none() && self.target.is_replaceable() {
            let earliest = self.acquired_at + backoff::after_doubts(self.useless);
            self.acquire_at = Some(earliest.max(Instant::now()));
            self.doubted = true;
        }
    }

    /// The broker gave or renewed a lease.
    fn note_success(&mut self, lease: &Lease) {
        if self.failures > 0 {
            tracing::info!(target = %self.target, "the broker answers again");
        }
        self.failures = 0;
        self.last_error = None;
        let remaining = lease.expires_at.saturating_duration_since(Instant::now());
        self.renew_at = Some(Instant::now() + backoff::until_renewal(remaining));
    }

    /// Counts and logs a failed call. Returns how long to wait.
    fn note_failure(&mut self, error: &LeaseError) -> Duration {
        let text = chain(error);
        self.failures = self.failures.saturating_add(1);
        // Once an outage; the state has the rest.
        if self.failures == 1 {
            tracing::warn!(target = %self.target, error = text, "no answer to count on from the broker");
        } else {
            tracing::debug!(target = %self.target, error = text, failures = self.failures, "still none");
        }
        self.last_error = Some(text);
        backoff::after_failures(self.failures, error.retry_delay())
    }

    /// Gives a lease back, in the background.
    fn release(&self, name: String) {
        tokio::spawn(release(self.broker.clone(), name));
    }

    async fn stop(mut self) {
        self.follower = Follower::idle();
        self.call = None;
        if let Some(lease) = self.turns.close() {
            release(self.broker.clone(), lease.name).await;
        }
        self.state.send_modify(|state| {
            state.phase = Phase::Closed;
            (state.size, state.available, state.waiting) = (0, 0, 0);
            (state.pending, state.paused_until) = (None, None);
        });
    }

    fn publish(&self) {
        let state = PoolState::of(&self.turns, self.last_error.clone());
        self.state.send_if_modified(|published| {
            let changed = *published != state;
            *published = state;
            changed
        });
    }
}

#[derive(Debug, Clone, Copy)]
enum Duty {
    Acquire,
    Renew,
    /// The lease ended.
    Replace,
}

/// What the broker was asked.
type Call = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// What it says to that.
enum Answer {
    Acquired(Result<Grant, LeaseError>),
    Renewed(Result<Lease, LeaseError>),
}

/// Safe to drop and to call again, until there is one.
async fn answer_of(call: &mut Option<Call>) -> Answer {
    match call {
        Some(call) => call.await,
        None => pending().await,
    }
}

async fn release(mut broker: Broker, name: String) {
    if let Err(error) = broker.release(&name).await {
        tracing::debug!(
            lease = name,
            error = chain(&error),
            "left a lease to end by itself"
        );
    }
}

async fn stop_asked(closing: &mut watch::Receiver<bool>) {
    // An error is a dropped sender: the last clone of the pool is gone.
    let _ = closing.wait_for(|asked| *asked).await.is_ok();
}
