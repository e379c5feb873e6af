//! Watches that acknowledge: who has a say in what becomes of a binding, and what they
//! have said.
//!
//! What is stored here, and who may change it: the watches of the state, and that this
//! process is there; this module alone changes them. A lease has a say from the first
//! acknowledgement on that comes through its watch, until the stream was away for
//! `leases.ack_grace`, or its caller has said that it says no more, or the lease ends.
//! A report is about one lease and one generation. One that is about neither what the
//! binding leads to, nor what it is to lead to next, nor a pause, is late, and ignored.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use rpc::clock::Clock;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use uuid::Uuid;

use crate::leases::Lease;
use crate::names::{BindingName, LeaseId};
use crate::state::{self, Draft, Phase, State, Stream, Watching};
use crate::text::one_line;

/// How often a broker says that it is there while a binding moves, in milliseconds.
pub const BEAT_MS: u64 = 1_000;

/// How many streams of a lease are remembered. A lease is one consumer's: more are left
/// of brokers that died.
const STREAMS_MAX: usize = 4;

/// What a consumer says of a generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// It is taken over, or can be.
    Ack,
    /// It cannot be, and why.
    Nack(String),
    /// Nothing uses what was before it any more.
    Drained,
}

/// What is known of a consumer and a generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Nothing yet.
    Waiting,
    /// It has acknowledged it.
    Acked,
    /// It has refused it, and why.
    Refused(String),
    /// It has taken it over, and drained what was before.
    Drained,
    /// It is not waited for: its lease ended, or its watch was away for too long.
    Gone,
}

/// The watches of this process, and what they say.
#[derive(Debug)]
pub struct Watches {
    state: Arc<State>,
    clock: Clock,
    /// This process, among those that share the state.
    broker: Uuid,
    open: AtomicUsize,
    /// Told when callers may no more what they could.
    rights: watch::Sender<()>,
}

/// A watch that is open.
#[derive(Debug)]
pub struct Open(Arc<Watches>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Watches {
    /// None yet.
    pub fn new(state: Arc<State>, clock: Clock) -> Watches {
        Watches {
            state,
            clock,
            broker: Uuid::new_v4(),
            open: AtomicUsize::new(0),
            rights: watch::Sender::new(()),
        }
    }

    /// Counts a watch for as long as it is open.
    pub fn open(self: &Arc<Self>) -> Open {
        self.open.fetch_add(1, Ordering::Relaxed);
        Open(Arc::clone(self))
    }

    /// Has all of them look whether their callers still may.
    pub fn rights_changed(&self) {
        self.rights.send_replace(());
    }

    /// Told when they are to look.
    pub fn rights(&self) -> watch::Receiver<()> {
        self.rights.subscribe()
    }

    /// How many are open here.
    pub fn count(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// The newest generation that a lease's consumer has acknowledged; 0 while it has no
    /// say.
    pub fn acked(&self, lease: LeaseId) -> i64 {
        self.state.read(|data| {
            let watching = data.watches.get(&lease);
            let there = watching.filter(|one| one.is_there());
            there.map_or(0, |one| one.acked)
        })
    }

    /// Notes what a lease's consumer says, through that stream.
    pub async fn report(
        &self,
        lease: LeaseId,
        stream: Uuid,
        generation: i64,
        report: Report,
    ) -> Result<(), state::Error> {
        let (broker, now) = (self.broker, state::now(&self.clock));
        let change = move |draft: &mut Draft<'_>| {
            let Some(about) = about(draft, lease, generation, now) else {
                return;
            };
            let before = draft.watch(lease).cloned();
            let mut watching = match (&before, &report) {
                (Some(before), _) => before.clone(),
                (None, Report::Ack) => Watching::default(),
                // Only who acknowledges has a say.
                (None, _) => return,
            };
            acknowledges_by(&mut watching, Stream { id: stream, broker });
            match &report {
                Report::Ack => watching.acked = watching.acked.max(generation),
                Report::Nack(why) if about == About::Pending => {
                    watching.refused = generation;
                    watching.refusal = why.clone();
                    give_up(draft, lease, why, now);
                }
                Report::Nack(_) => {}
                Report::Drained => {
                    watching.acked = watching.acked.max(generation);
                    watching.drained = watching.drained.max(generation);
                }
            }
            if before.as_ref() != Some(&watching) {
                draft.watch_put(lease, watching);
            }
        };
        self.state.change_with_others(change).await
    }

    /// Notes that a stream through which a lease had a say is away. `for_good`: its
    /// caller has said all it will say.
    pub async fn away(&self, lease: LeaseId, stream: Uuid, for_good: bool) {
        let gone = match for_good {
            true => Timestamp::UNIX_EPOCH,
            false => state::now(&self.clock),
        };
        let change = move |draft: &mut Draft<'_>| {
            let Some(mut watching) = draft.watch(lease).cloned() else {
                return;
            };
            let before = watching.streams.len();
            watching.streams.retain(|one| one.id != stream);
            if watching.streams.len() < before {
                watching.gone_time = watching.streams.is_empty().then_some(gone);
                draft.watch_put(lease, watching);
            }
        };
        if let Err(error) = self.state.change_by_all_means(change).await {
            let error = one_line(&error);
            tracing::debug!(%lease, error, "that a watch is away is not stored");
        }
    }

    /// This process, among those that share the state.
    pub fn broker(&self) -> Uuid {
        self.broker
    }

    /// Says that this process is there while a binding moves, for ever.
    pub async fn beat(&self) {
        let mut interval = tokio::time::interval(Duration::from_millis(BEAT_MS));
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = self.state.generations();
        loop {
            tokio::select! {
                _ = interval.tick() => {}
                // The state lives as long as we do.
                _ = told.changed() => {}
            }
            let (broker, now) = (self.broker, state::now(&self.clock));
            let is_due = self.state.read(|data| {
                let moves = || {
                    let mut all = data.moves.keys();
                    all.any(|binding| data.move_of(binding, now).is_some())
                };
                let is_told = data.brokers.get(&broker).is_some_and(|seen| {
                    let since = now.duration_since(*seen).unsigned_abs();
                    since < Duration::from_millis(BEAT_MS / 2)
                });
                !is_told && moves()
            });
            if is_due {
                let change = move |draft: &mut Draft<'_>| draft.broker_put(broker, now);
                if let Err(error) = self.state.change(change).await {
                    tracing::debug!(error = %one_line(&error), "that this broker is there is not stored");
                }
            }
        }
    }
}

/// Notes the stream as the newest one of its lease.
fn acknowledges_by(watching: &mut Watching, stream: Stream) {
    watching.gone_time = None;
    if watching.streams.last() != Some(&stream) {
        // Who comes to another broker has lost the one before, which may be gone itself.
        watching
            .streams
            .retain(|one| one.id != stream.id && one.broker == stream.broker);
        watching.streams.push(stream);
        let left = watching.streams.len().saturating_sub(STREAMS_MAX);
        watching.streams.drain(..left);
    }
}

/// What a generation is to a lease's binding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum About {
    Current,
    Pending,
    Pause,
}

/// None: a report on it comes too late, or the lease is of no binding.
fn about(draft: &Draft<'_>, lease: LeaseId, generation: i64, now: Timestamp) -> Option<About> {
    let lease = draft.lease(lease).filter(|lease| lease.lives(now))?;
    let binding = lease.request.target.binding()?;
    if draft
        .generation(binding)
        .is_some_and(|one| one.number == generation)
    {
        return Some(About::Current);
    }
    let moving = draft.move_of(binding, now)?;
    if moving.phase.is_pending() && moving.generation == generation {
        return Some(About::Pending);
    }
    (moving.holds_back(now) && moving.pause_generation() == generation).then_some(About::Pause)
}

/// Gives a switch up that a lease which has a say refuses: here, where it says so, since
/// the lease may have ended before anybody looks.
fn give_up(draft: &mut Draft<'_>, lease: LeaseId, why: &str, now: Timestamp) {
    let Some(known) = draft.lease(lease) else {
        return;
    };
    let holder = known.request.holder.clone();
    let Some(binding) = known.request.target.binding().cloned() else {
        return;
    };
    let moving = draft.last_move(&binding);
    let moving = moving.filter(|one| one.phase.is_pending() && one.voters.contains(&lease));
    if let Some(mut one) = moving.cloned() {
        one.phase = Phase::Reverted;
        one.message = format!("{holder} cannot use the new branch ({lease}): {why}");
        one.update_time = now;
        draft.move_put(binding, one);
    }
}

/// The leases of a binding that have a say now.
pub fn voters(draft: &Draft<'_>, binding: &BindingName, now: Timestamp) -> BTreeSet<LeaseId> {
    let leases = leases_of(draft.leases(), binding, now);
    let voting = leases.filter(|lease| {
        let watching = draft.watch(lease.id);
        watching.is_some_and(Watching::is_there)
    });
    voting.map(|lease| lease.id).collect()
}

/// The leases of a binding that live then.
pub fn leases_of<'a>(
    leases: impl Iterator<Item = &'a Lease>,
    binding: &BindingName,
    now: Timestamp,
) -> impl Iterator<Item = &'a Lease> {
    leases.filter(move |lease| lease.request.target.binding() == Some(binding) && lease.lives(now))
}

/// What is known of a consumer and a generation that was announced: by its lease, if
/// that has not ended, and its watch.
pub fn standing(
    lease: Option<&Lease>,
    watching: Option<&Watching>,
    generation: i64,
    now: Timestamp,
    grace: Duration,
) -> Standing {
    let Some(watching) = lease.filter(|lease| lease.lives(now)).and(watching) else {
        return Standing::Gone;
    };
    match watching {
        one if one.refused == generation => Standing::Refused(one.refusal.clone()),
        one if one.drained >= generation => Standing::Drained,
        one if one.acked >= generation => Standing::Acked,
        one if is_away(one, now, grace) => Standing::Gone,
        _ => Standing::Waiting,
    }
}

/// Whether a watch is away for too long.
pub fn is_away(watching: &Watching, now: Timestamp, grace: Duration) -> bool {
    watching.gone_time.is_some_and(|since| {
        let away = now.duration_since(since);
        !away.is_negative() && away.unsigned_abs() >= grace
    })
}
