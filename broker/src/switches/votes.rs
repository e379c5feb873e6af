//! Counting who has acknowledged a switch.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;
use uuid::Uuid;

use super::{Error, Switch};
use crate::leases::Lease;
use crate::names::{BindingName, LeaseId};
use crate::state::{Data, Draft, Move, Phase, Stream, Watching};
use crate::watches::{self, Standing};

/// What becomes of leases on a binding that have no say in its switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unwatched {
    /// There is no switch while there is one.
    Refuse,
    /// It waits for their ends, or their acknowledgements.
    Wait,
    /// It goes on without them.
    Proceed,
}

/// By what votes are counted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counting<'a> {
    pub(super) binding: &'a BindingName,
    pub(super) one: &'a Move,
    pub(super) alive: &'a Alive,
    pub(super) now: Timestamp,
    pub(super) grace: Duration,
}

/// What those say who have a say.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Somebody has refused, who and why.
    pub(super) refused: Option<Error>,
    /// Those who have not answered yet.
    pub(super) waiting: Vec<LeaseId>,
    /// Those who have not said that they hold back.
    pub(super) holding_back: Vec<LeaseId>,
    /// Those who have not drained yet.
    pub(super) draining: Vec<LeaseId>,
    /// Leases that have no say, and would not hear of it.
    pub(super) unwatched: Vec<LeaseId>,
}

impl Counting<'_> {
    pub(super) fn of(&self, data: &Data) -> Tally {
        let mut tally = Tally::default();
        for id in &self.one.voters {
            self.count(&mut tally, *id, data.leases.get(id), data.watches.get(id));
        }
        let leases = watches::leases_of(data.leases.values(), self.binding, self.now);
        let others = leases.filter(|lease| self.is_unwatched(lease, data.watches.get(&lease.id)));
        tally.unwatched = others.map(|lease| lease.id).collect();
        tally
    }

    /// As [`Counting::of`], inside a transaction.
    pub(super) fn of_draft(&self, draft: &Draft<'_>) -> Tally {
        let mut tally = Tally::default();
        for id in &self.one.voters {
            self.count(&mut tally, *id, draft.lease(*id), draft.watch(*id));
        }
        let leases = watches::leases_of(draft.leases(), self.binding, self.now);
        let others = leases.filter(|lease| self.is_unwatched(lease, draft.watch(lease.id)));
        tally.unwatched = others.map(|lease| lease.id).collect();
        tally
    }

    /// Whether a lease has no say in the move, and would not hear of it as those do who
    /// have. Who came later begins with what is current, and is told by its watch.
    fn is_unwatched(&self, lease: &Lease, watching: Option<&Watching>) -> bool {
        let came_later = lease.create_time > self.one.create_time;
        let hears = watching.is_some_and(|watching| {
            watching.acked >= self.one.generation || (came_later && watching.is_there())
        });
        !hears && !self.one.voters.contains(&lease.id)
    }

    fn count(
        &self,
        tally: &mut Tally,
        id: LeaseId,
        lease: Option<&Lease>,
        watching: Option<&Watching>,
    ) {
        let Counting {
            one, now, grace, ..
        } = *self;
        // One whose broker is gone is away too, though nobody could say so.
        let is_away = watching.is_some_and(|watching| {
            self.alive.are_gone(&watching.streams) || watches::is_away(watching, now, grace)
        });
        let standing = |generation| {
            let standing = watches::standing(lease, watching, generation, now, grace);
            match standing {
                Standing::Waiting if is_away => Standing::Gone,
                standing => standing,
            }
        };
        match standing(one.generation) {
            Standing::Gone | Standing::Drained => {}
            // Nobody waits for what one does who is away.
            Standing::Acked if is_away => {}
            Standing::Acked => tally.draining.push(id),
            Standing::Waiting => {
                tally.waiting.push(id);
                tally.draining.push(id);
            }
            Standing::Refused(message) => {
                tally.refused = Some(Error::Refused {
                    lease: id,
                    holder: lease.map_or(String::new(), |lease| lease.request.holder.clone()),
                    message,
                });
            }
        }
        if one.phase == Phase::Fencing && standing(one.pause_generation()) == Standing::Waiting {
            tally.holding_back.push(id);
        }
    }
}

/// How many of the others' words may get lost before one is taken to be gone.
const BEATS_LOST_MAX: u64 = 4;

/// Which brokers are gone that watches lead to: they say that they are there while a
/// binding moves. By how long this process has heard nothing, whatever clocks say; and
/// only while it hears itself: otherwise it is the state database that is away.
#[derive(Debug, Clone)]
pub(super) struct Alive {
    here: Uuid,
    heard: BTreeMap<Uuid, (Option<Timestamp>, Instant)>,
    gone: BTreeSet<Uuid>,
}

impl Alive {
    pub(super) fn new(here: Uuid) -> Alive {
        Alive {
            here,
            heard: BTreeMap::new(),
            gone: BTreeSet::new(),
        }
    }

    pub(super) fn look(&mut self, data: &Data, grace: Duration) {
        let now = Instant::now();
        let grace = grace.max(Duration::from_millis(watches::BEAT_MS * BEATS_LOST_MAX));
        let streams = data.watches.values().flat_map(|one| &one.streams);
        let mut brokers: BTreeSet<Uuid> = streams.map(|one| one.broker).collect();
        brokers.insert(self.here);
        for broker in &brokers {
            let said = data.brokers.get(broker).copied();
            let (last, since) = self.heard.entry(*broker).or_insert((said, now));
            if *last != said {
                (*last, *since) = (said, now);
            }
        }
        let ours = self.heard.get(&self.here);
        let hears_itself = ours.is_some_and(|(_, since)| {
            now.duration_since(*since) < Duration::from_millis(watches::BEAT_MS * 2)
        });
        if !hears_itself {
            self.heard.retain(|broker, _| *broker == self.here);
            self.gone.clear();
            return;
        }
        self.gone = brokers;
        self.gone.retain(|broker| {
            let heard = self.heard.get(broker);
            heard.is_some_and(|(_, since)| now.duration_since(*since) >= grace)
        });
    }

    /// Whether all of a lease's streams went with their brokers.
    fn are_gone(&self, streams: &[Stream]) -> bool {
        let mut brokers = streams.iter().map(|stream| stream.broker);
        !streams.is_empty() && brokers.all(|broker| self.gone.contains(&broker))
    }
}

/// Refuses a switch that leases have no say in, if that is wanted.
pub(super) fn check_unwatched<'a, 'b>(
    leases: impl Iterator<Item = &'a Lease>,
    watch: impl Fn(LeaseId) -> Option<&'b Watching>,
    switch: &Switch,
    now: Timestamp,
) -> Result<(), Error> {
    if switch.unwatched != Unwatched::Refuse {
        return Ok(());
    }
    let leases = watches::leases_of(leases, &switch.binding, now);
    let unwatched = leases.filter(|lease| {
        let watching = watch(lease.id);
        !watching.is_some_and(Watching::is_there)
    });
    let leases: Vec<LeaseId> = unwatched.map(|lease| lease.id).collect();
    match leases.is_empty() {
        true => Ok(()),
        false => Err(Error::Unwatched {
            binding: switch.binding.clone(),
            leases,
        }),
    }
}

/// Whether a lease lived when a move was announced, and has no say in it. Those that
/// came later begin with what is current.
pub fn is_of_before(lease: &Lease, one: &Move) -> bool {
    lease.create_time <= one.create_time && !one.voters.contains(&lease.id)
}

/// The holders of those who voted, and who have nothing on what was before any more: all
/// of their leases on the binding say so.
pub(super) fn drained(
    draft: &Draft<'_>,
    binding: &BindingName,
    one: &Move,
    now: Timestamp,
) -> BTreeSet<String> {
    let has_drained = |lease: &&Lease| {
        let watching = draft.watch(lease.id);
        watching.is_some_and(|watching| watching.drained >= one.generation)
    };
    let all: Vec<&Lease> = watches::leases_of(draft.leases(), binding, now).collect();
    let holder = |lease: &&Lease| lease.request.holder.clone();
    let mut holders: BTreeSet<String> = all
        .iter()
        .copied()
        .filter(|lease| one.voters.contains(&lease.id))
        .map(|lease| holder(&lease))
        .collect();
    for lease in all.iter().copied().filter(|lease| !has_drained(lease)) {
        holders.remove(&lease.request.holder);
    }
    holders
}
