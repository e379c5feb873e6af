//! The task behind a pool: it holds the lease.
//!
//! What is kept here, and who may change it: the lease, the generation and what
//! is due next belong to this task alone. It tells checkouts what to use
//! ([`Current`]) and the world how it goes ([`PoolState`]) through two watch
//! channels that only it writes. Checkouts tell it through `doubts` that a
//! connection was refused.
//!
//! What comes of what:
//! - renewed: the same again at about half of what remains;
//! - not renewed: again after a back-off, while the pool goes on working;
//! - the broker knows the lease no more, it ended, or Postgres refuses its
//!   connection: a new one, under a request id that stays the same until there
//!   is an answer;
//! - the new lease's connection is another one: a new generation for every
//!   checkout from now on. The old one's idle connections are closed now, its
//!   running checkouts when they return.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};
use uuid::Uuid;

use crate::channels::{Channels, Current};
use crate::error::{LeaseError, chain};
use crate::generation::Generation;
use crate::lease::{Broker, Grant, Lease};
use crate::{Binding, Error, Options, Phase, PoolState, backoff};

/// How often the pool's sizes in [`PoolState`] are looked at.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);

/// See the module.
pub(crate) struct Upkeep {
    broker: Broker,
    binding: Binding,
    options: Options,
    channels: Channels,
    doubts: mpsc::Receiver<String>,
    doubt_sender: mpsc::Sender<String>,
    lease: Option<Lease>,
    generation: Option<Arc<Generation>>,
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
    /// Failed calls to the broker in a row.
    failures: u32,
    last_error: Option<String>,
}

impl Upkeep {
    /// Prepares the task; nothing happens until it runs.
    pub(crate) fn new(
        broker: Broker,
        binding: Binding,
        options: Options,
        channels: Channels,
    ) -> Self {
        // One is enough: a second doubt says what the first did.
        let (doubt_sender, doubts) = mpsc::channel(1);
        let now = Instant::now();
        Self {
            broker,
            binding,
            options,
            channels,
            doubts,
            doubt_sender,
            lease: None,
            generation: None,
            renew_at: None,
            acquire_at: Some(now),
            request_id: None,
            doubted: false,
            useless: 0,
            acquired_at: now,
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
            let Err(source) = self.acquire().await else {
                self.publish();
                return Ok(());
            };
            let wait = self.note_failure(&source);
            if source.is_permanent() || Instant::now() + wait > give_up_at {
                return Err(Error::FailedAcquire {
                    binding: self.binding.clone(),
                    source,
                });
            }
            sleep(wait).await;
        }
    }

    /// Keeps the lease until the pool is closed or its last clone dropped.
    pub(crate) async fn run(mut self) {
        let mut closing = self.channels.closing.clone();
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
        let (due_at, duty) = self.next_duty();
        let sample_at = Instant::now() + SAMPLE_INTERVAL;
        tokio::select! {
            // Duties first, or a flood of refused connections starves them.
            biased;
            () = sleep_until(due_at.min(sample_at)) => {
                if due_at <= sample_at {
                    self.perform(duty).await;
                }
            }
            Some(reason) = self.doubts.recv() => self.doubt(reason),
        }
    }

    fn next_duty(&self) -> (Instant, Duty) {
        // An ended lease is acted on once: after that, acquiring is due.
        let expiry = self.lease.as_ref().map(|lease| lease.expires_at);
        let expiry = expiry.filter(|_| self.acquire_at.is_none());
        let duties = [
            (self.acquire_at, Duty::Acquire),
            (self.renew_at, Duty::Renew),
            (expiry, Duty::Replace),
        ];
        duties
            .into_iter()
            .filter_map(|(at, duty)| Some((at?, duty)))
            .min_by_key(|(at, _)| *at)
            // Never so: without a lease, acquiring is due.
            .unwrap_or_else(|| (Instant::now(), Duty::Acquire))
    }

    async fn perform(&mut self, duty: Duty) {
        match duty {
            Duty::Acquire => {
                if let Err(error) = self.acquire().await {
                    let wait = self.note_failure(&error);
                    self.acquire_at = Some(Instant::now() + wait);
                }
            }
            Duty::Renew => self.renew().await,
            Duty::Replace => {
                tracing::warn!(binding = %self.binding, "the lease ended without being renewed");
                self.replace_lease();
            }
        }
    }

    async fn acquire(&mut self) -> Result<(), LeaseError> {
        let request_id = *self.request_id.get_or_insert_with(Uuid::new_v4);
        let grant = self.broker.acquire(request_id).await?;
        self.request_id = None;
        let kept = match self.turn_over(&grant) {
            Ok(kept) => kept,
            Err(error) => {
                self.release(&grant.lease.name).await;
                return Err(error);
            }
        };

        self.useless = if self.doubted && kept {
            self.useless.saturating_add(1)
        } else {
            0
        };
        self.doubted = false;
        self.acquired_at = Instant::now();
        self.acquire_at = None;
        let former = self
            .lease
            .take()
            .filter(|former| former.name != grant.lease.name);
        self.hold(grant.lease);
        // A former lease on another connection is left to end by itself:
        // checkouts still run on it.
        if let Some(former) = former.filter(|_| kept) {
            self.release(&former.name).await;
        }
        Ok(())
    }

    /// Sees to it that the generation is the grant's. True: it was already.
    fn turn_over(&mut self, grant: &Grant) -> Result<bool, LeaseError> {
        if let Some(generation) = self.generation.as_ref().filter(|old| old.serves(grant)) {
            generation.resize(grant, &self.options);
            return Ok(true);
        }
        let new = Generation::open(grant, &self.options, self.doubt_sender.clone())
            .map_err(LeaseError::InvalidUri)?;
        tracing::info!(
            binding = %self.binding, generation = new.number, branch = grant.lease.branch,
            "connecting through a new lease"
        );
        let new = Arc::new(new);
        let old = self.generation.replace(Arc::clone(&new));
        // First the new one, then close: who waits on the old one looks again.
        self.channels.current.send_replace(Current::Leased {
            generation: new,
            expires_at: grant.lease.expires_at,
            expire_time: grant.lease.expire_time,
        });
        if let Some(old) = old {
            old.pool.close();
        }
        Ok(false)
    }

    async fn renew(&mut self) {
        let Some(lease) = &self.lease else {
            self.replace_lease();
            return;
        };
        let generation = lease.generation;
        match self.broker.renew(&lease.name.clone()).await {
            Ok(lease) => {
                if lease.generation != generation && self.acquire_at.is_none() {
                    // Its connection stays as it was: only a new lease has the
                    // new one.
                    self.acquire_at = Some(Instant::now());
                }
                self.hold(lease);
            }
            Err(error) => {
                let wait = self.note_failure(&error);
                if error.is_permanent() {
                    self.replace_lease();
                } else {
                    self.renew_at = Some(Instant::now() + wait);
                }
            }
        }
    }

    /// Holds a lease that was just given or renewed.
    fn hold(&mut self, lease: Lease) {
        if self.failures > 0 {
            tracing::info!(binding = %self.binding, "the broker answers again");
        }
        self.failures = 0;
        self.last_error = None;
        let remaining = lease.expires_at.saturating_duration_since(Instant::now());
        self.renew_at = Some(Instant::now() + backoff::until_renewal(remaining));
        if let Some(generation) = &self.generation {
            self.channels.current.send_replace(Current::Leased {
                generation: Arc::clone(generation),
                expires_at: lease.expires_at,
                expire_time: lease.expire_time,
            });
        }
        self.lease = Some(lease);
    }

    /// Makes a new lease due now. What there is goes on until it ends.
    fn replace_lease(&mut self) {
        self.renew_at = None;
        self.acquire_at.get_or_insert_with(Instant::now);
    }

    /// Postgres refused the lease's connection: a new lease may know better.
    fn doubt(&mut self, reason: String) {
        self.last_error = Some(reason);
        if self.acquire_at.is_none() {
            let earliest = self.acquired_at + backoff::after_doubts(self.useless);
            self.acquire_at = Some(earliest.max(Instant::now()));
            self.doubted = true;
        }
    }

    /// Counts and logs a failed call. Returns how long to wait.
    fn note_failure(&mut self, error: &LeaseError) -> Duration {
        let text = chain(error);
        self.failures = self.failures.saturating_add(1);
        // Once an outage; the state has the rest.
        if self.failures == 1 {
            tracing::warn!(binding = %self.binding, error = text, "no answer to count on from the broker");
        } else {
            tracing::debug!(binding = %self.binding, error = text, failures = self.failures, "still none");
        }
        self.last_error = Some(text);
        backoff::after_failures(self.failures, error.retry_delay())
    }

    async fn release(&mut self, name: &str) {
        if let Err(error) = self.broker.release(name).await {
            tracing::debug!(
                lease = name,
                error = chain(&error),
                "left a lease to end by itself"
            );
        }
    }

    async fn stop(mut self) {
        self.channels.current.send_replace(Current::Closed);
        if let Some(generation) = &self.generation {
            generation.pool.close();
        }
        if let Some(lease) = self.lease.take() {
            self.release(&lease.name).await;
        }
        self.channels.state.send_modify(|state| {
            state.phase = Phase::Closed;
            (state.size, state.available, state.waiting) = (0, 0, 0);
        });
    }

    fn publish(&self) {
        let state = PoolState::of(
            self.lease.as_ref(),
            self.generation.as_deref(),
            self.last_error.clone(),
        );
        self.channels.state.send_if_modified(|published| {
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

async fn stop_asked(closing: &mut watch::Receiver<bool>) {
    // An error is a dropped sender: the last clone of the pool is gone.
    let _ = closing.wait_for(|asked| *asked).await.is_ok();
}
