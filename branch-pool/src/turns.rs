//! Following what is announced: together with all other consumers, or not at all.
//!
//! What comes of what (the protocol is WatchBinding's, in lease_service.proto):
//! - `pending`: its generation is opened and warmed, and acknowledged, or refused with
//!   the reason; nothing else is sent there;
//! - `current` is another: new checkouts use it, what runs on the one before finishes
//!   within [`drain_timeout`](crate::Options::drain_timeout) and is ended after that;
//!   when nothing is left, that is reported;
//! - `pause`: checkouts wait for its end, for its deadline at most, whatever has become
//!   of the broker; when nothing runs any more that it concerns, it is acknowledged.
//!
//! What is to be reported follows from what is so; [`Voice`] sees to it that each watch
//! hears it once.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::announcement::{Announcement, Report, Reports};
use crate::error::{UriError, chain};
use crate::generation::Generation;
use crate::holding::{Holding, Opened};
use crate::lease::{Destination, Grant, Lease};
use crate::usage::{Hold, Usage};
use crate::voice::Voice;
use crate::{LeaseTarget, Options};

/// See the module.
pub(crate) struct Turns {
    target: LeaseTarget,
    options: Options,
    usage: Usage,
    holding: Holding,
    next: Option<Next>,
    /// The generation of the pause that nothing concerns any more.
    quiet: Option<i64>,
    /// Generations that still drain.
    draining: usize,
    /// Whether an errand is trying to connect.
    trying: bool,
    /// How often another generation was turned over to.
    turnovers: u64,
    /// What is done behind: warming, draining, waiting for quiet, trying to connect.
    errands: JoinSet<Done>,
    voice: Voice,
}

/// What is `pending`.
struct Next {
    generation: i64,
    /// `None`: it cannot be used, or is the next no more.
    opened: Option<Opened>,
    /// `None`: it is being warmed.
    outcome: Option<Result<(), String>>,
}

/// What an errand was for.
#[derive(Debug)]
pub(crate) enum Done {
    Warmed {
        generation: i64,
        outcome: Result<(), String>,
    },
    Quiet {
        generation: i64,
    },
    Drained,
    Tried,
}

/// What happens by itself.
#[derive(Debug)]
pub(crate) enum Happening {
    /// An errand is done.
    Done(Done),
    /// Why a connection is refused that puts the lease in doubt.
    Doubt(String),
}

/// What a new lease changed.
#[derive(Debug)]
pub(crate) struct Taken {
    /// True when it leads elsewhere than the one before.
    pub(crate) turned_over: bool,
    /// The lease before, if it was another one.
    pub(crate) former: Option<Lease>,
}

impl Turns {
    pub(crate) fn new(
        target: LeaseTarget,
        options: Options,
        usage: Usage,
        holding: Holding,
    ) -> Self {
        Self {
            target,
            options,
            usage,
            holding,
            next: None,
            quiet: None,
            draining: 0,
            trying: false,
            turnovers: 0,
            errands: JoinSet::new(),
            voice: Voice::default(),
        }
    }

    /// The lease.
    pub(crate) fn lease(&self) -> Option<&Lease> {
        self.holding.lease()
    }

    /// The generation in use.
    pub(crate) fn generation(&self) -> Option<&Arc<Generation>> {
        self.holding.generation()
    }

    /// Since when new checkouts use it.
    pub(crate) fn began(&self) -> Option<Instant> {
        self.holding.began()
    }

    /// The generation that is being prepared, or is ready to be turned over to.
    pub(crate) fn pending(&self) -> Option<i64> {
        self.next.as_ref().map(|next| next.generation)
    }

    /// How often new checkouts were turned over to another generation.
    pub(crate) fn turnovers(&self) -> u64 {
        self.turnovers
    }

    /// While checkouts wait: not beyond the deadline, when nobody says that it is over.
    pub(crate) fn hold(&self) -> Option<Hold> {
        let hold = self.holding.hold();
        hold.filter(|hold| Instant::now() < hold.until)
    }

    /// Holds a new lease instead of the one there was.
    ///
    /// Errors: a URI that cannot be used. All is as before, then.
    pub(crate) fn take(&mut self, grant: Grant) -> Result<Taken, UriError> {
        let former = self.lease().cloned();
        let former = former.filter(|former| former.name != grant.lease.name);
        let other = self.holding.other(&grant.destination, None)?;
        self.holding.keep(grant.lease);
        Ok(Taken {
            turned_over: self.turn_over(other),
            former,
        })
    }

    /// Holds the lease as it was renewed.
    pub(crate) fn renew(&mut self, lease: Lease) {
        self.holding.keep(lease);
    }

    /// Acts on what the broker says: true when new checkouts go elsewhere from now on.
    ///
    /// Errors: a URI that cannot be used. What is in use stays so.
    pub(crate) fn announced(
        &mut self,
        announcement: Announcement,
        reports: Reports,
    ) -> Result<bool, UriError> {
        self.voice.on(reports);
        let turned_over = match &announcement.current {
            Some(current) => self.follow(current),
            None => Ok(false),
        };
        self.prepare(announcement.pending.as_ref());
        self.pause(announcement.pause);
        self.report();
        turned_over
    }

    /// What happens next by itself. Safe to drop and to call again.
    pub(crate) async fn happening(&mut self) -> Happening {
        tokio::select! {
            done = next_of(&mut self.errands) => Happening::Done(done),
            reason = self.holding.doubt() => Happening::Doubt(reason),
        }
    }

    /// Acts on an errand's end.
    pub(crate) fn done(&mut self, done: Done) {
        match done {
            Done::Warmed {
                generation,
                outcome,
            } => {
                let next = self.next.as_mut();
                if let Some(next) = next.filter(|next| next.generation == generation) {
                    if let Err(reason) = &outcome {
                        tracing::warn!(
                            target = %self.target, generation, reason,
                            "the next branch cannot be used; staying on this one"
                        );
                    }
                    next.outcome = Some(outcome);
                }
            }
            Done::Quiet { generation } => self.quiet = Some(generation),
            Done::Drained => self.draining -= 1,
            Done::Tried => self.trying = false,
        }
        self.report();
    }

    /// Closes connections that nobody has needed for as long as they may rest. Where
    /// nobody could be reached, tries again: a service that says so may have no callers
    /// who would.
    pub(crate) fn tend(&mut self) {
        let Some(generation) = self.holding.generation() else {
            return;
        };
        generation.close_idle(self.options.idle_timeout);
        if self.is_held_back() || !self.is_leased() {
            return generation.forget_failures();
        }
        if generation.is_doubtful() && !self.trying {
            let generation = Arc::clone(generation);
            self.trying = true;
            self.errands.spawn(async move {
                generation.attempt().await;
                Done::Tried
            });
        }
    }

    /// Whether nobody expects an answer from the branch before a pause is over.
    pub(crate) fn is_held_back(&self) -> bool {
        self.hold().is_some_and(|hold| !hold.writes_only)
    }

    fn is_leased(&self) -> bool {
        let lease = self.lease();
        lease.is_some_and(|lease| Instant::now() < lease.expires_at)
    }

    /// No more checkouts, for good. Returns the lease, to be released.
    pub(crate) fn close(&mut self) -> Option<Lease> {
        self.drop_next();
        self.holding.close()
    }

    fn follow(&mut self, current: &Destination) -> Result<bool, UriError> {
        let is_next = self.pending() == Some(current.generation);
        let prepared = if is_next { self.next.take() } else { None };
        let prepared = prepared.and_then(|next| next.opened);
        let other = self.holding.other(current, prepared)?;
        Ok(self.turn_over(other))
    }

    fn turn_over(&mut self, other: Option<Opened>) -> bool {
        let Some(new) = other else {
            return false;
        };
        if let Some(old) = self.holding.turn_over(new) {
            let bound = self.options.drain_timeout;
            self.turnovers += 1;
            self.draining += 1;
            self.errands.spawn(async move {
                old.drain(bound).await;
                Done::Drained
            });
        }
        true
    }

    fn prepare(&mut self, pending: Option<&Destination>) {
        let Some(pending) = pending else {
            self.drop_next();
            return;
        };
        if self.pending() == Some(pending.generation) {
            return;
        }
        self.drop_next();
        let generation = pending.generation;
        let (opened, outcome) = match Opened::at(pending, &self.options) {
            Ok(opened) => {
                let (new, options) = (Arc::clone(&opened.generation), self.options.clone());
                // As many as are open here: whoever turns over finds its own.
                let wanted = self.generation().map_or(0, |old| old.sizes().size);
                self.errands.spawn(async move {
                    let outcome = new.warm(wanted, &options).await;
                    Done::Warmed {
                        generation,
                        outcome,
                    }
                });
                (Some(opened), None)
            }
            Err(error) => (None, Some(Err(chain(&error)))),
        };
        self.next = Some(Next {
            generation,
            opened,
            outcome,
        });
    }

    fn drop_next(&mut self) {
        if let Some(opened) = self.next.take().and_then(|next| next.opened) {
            opened.generation.close();
        }
    }

    fn pause(&mut self, pause: Option<Hold>) {
        let before = self.holding.hold().map(|hold| hold.generation);
        if pause.is_some() || before.is_some() {
            self.holding.pause(pause);
        }
        let Some(hold) = pause.filter(|hold| before != Some(hold.generation)) else {
            return;
        };
        tracing::info!(
            target = %self.target, generation = hold.generation,
            writes_only = hold.writes_only, "holding checkouts back"
        );
        let usage = self.usage.clone();
        self.errands.spawn(async move {
            usage.quiet(hold.writes_only).await;
            Done::Quiet {
                generation: hold.generation,
            }
        });
    }

    /// Tells what is so.
    fn report(&mut self) {
        let mut so = BTreeSet::new();
        if let Some(current) = self.generation() {
            so.insert(Report::Ack(current.number));
            // Before the first turn there is nothing that is waited for.
            if self.turnovers > 0 && self.draining == 0 {
                so.insert(Report::Drained(current.number));
            }
        }
        if let Some(next) = &self.next {
            match &next.outcome {
                Some(Ok(())) => {
                    so.insert(Report::Ack(next.generation));
                }
                Some(Err(why)) => {
                    so.insert(Report::Nack(next.generation, why.clone()));
                }
                None => {}
            }
        }
        if let Some(hold) = self
            .hold()
            .filter(|hold| self.quiet == Some(hold.generation))
        {
            so.insert(Report::Ack(hold.generation));
        }
        self.voice.say(so);
    }
}

/// The next errand that is done.
async fn next_of(errands: &mut JoinSet<Done>) -> Done {
    match errands.join_next().await {
        Some(Ok(done)) => done,
        // One that panicked says nothing, and neither does nobody.
        Some(Err(_)) | None => std::future::pending().await,
    }
}
