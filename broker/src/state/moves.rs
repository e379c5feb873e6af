//! Bindings that move to another branch, and those who have a say in it.

use std::collections::BTreeSet;

use jiff::Timestamp;
use neon_api::BranchId;
use uuid::Uuid;

use super::data::Data;
use super::draft::Draft;
use crate::names::{BindingName, BranchName, LeaseId, ServiceName};

/// A binding that moves to another branch, or is held back while its own gets other
/// data. Of each binding the newest is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// Whose work it is. None for a pause.
    pub operation: Option<Uuid>,
    /// The generation that is announced: none before had it.
    pub generation: i64,
    /// Where from.
    pub source: BranchId,
    /// Where to. The same for a pause.
    pub target: BranchId,
    /// How far it is.
    pub phase: Phase,
    /// Whether the source takes no writes any more before the target does. One that was
    /// given up says so until they are let in again.
    pub fence: bool,
    /// Leases whose watch acknowledged when it was announced.
    pub voters: BTreeSet<LeaseId>,
    /// Until when consumers may acknowledge, hold back or drain, as the phase has it.
    pub deadline: Timestamp,
    /// Why it was given up, or why consumers are held back, for people.
    pub message: String,
    /// When it was announced.
    pub create_time: Timestamp,
    /// When its phase last changed.
    pub update_time: Timestamp,
}

/// How far a move is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Consumers open the new connection, and acknowledge or refuse it.
    Announced,
    /// Those who write hold back, and the old branch is closed to them.
    Fencing,
    /// The new connection is the current one; what was before is drained.
    Committed,
    /// It is over.
    Done,
    /// It was given up.
    Reverted,
    /// Everybody holds back: the branch gets other data.
    Paused,
}

impl Phase {
    const ALL: [Phase; 6] = [
        Phase::Announced,
        Phase::Fencing,
        Phase::Committed,
        Phase::Done,
        Phase::Reverted,
        Phase::Paused,
    ];

    /// As it is stored.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Phase::Announced => "announced",
            Phase::Fencing => "fencing",
            Phase::Committed => "committed",
            Phase::Done => "done",
            Phase::Reverted => "reverted",
            Phase::Paused => "paused",
        }
    }

    pub(super) fn of_stored(text: &str) -> Option<Phase> {
        Phase::ALL.into_iter().find(|phase| phase.as_str() == text)
    }

    /// Whether the binding still leads to where it came from, and may lead elsewhere
    /// next.
    pub fn is_pending(self) -> bool {
        matches!(self, Phase::Announced | Phase::Fencing)
    }
}

impl Move {
    /// The generation of its pause, which comes after that of the connection.
    pub fn pause_generation(&self) -> i64 {
        match self.phase {
            Phase::Paused => self.generation,
            _ => self.generation + 1,
        }
    }

    /// Whether it goes on. A switch does while somebody works on it.
    fn goes_on(&self, now: Timestamp, is_worked_on: impl Fn(Uuid) -> bool) -> bool {
        match self.phase {
            Phase::Done | Phase::Reverted => false,
            Phase::Paused => now < self.deadline,
            _ => self.operation.is_some_and(is_worked_on),
        }
    }

    /// Whether it may have closed that branch to the writes of its binding's service.
    fn fences(&self, binding: &BindingName, branch: &BranchId, service: &ServiceName) -> bool {
        self.fence && self.source == *branch && binding.service == *service
    }

    /// Whether a switch with a fence has reached that, and goes on.
    fn is_closed(&self, is_worked_on: impl Fn(Uuid) -> bool) -> bool {
        matches!(self.phase, Phase::Fencing | Phase::Committed)
            && self.operation.is_some_and(is_worked_on)
    }

    /// Whether consumers are held back by it then.
    pub fn holds_back(&self, now: Timestamp) -> bool {
        matches!(self.phase, Phase::Fencing | Phase::Paused) && now < self.deadline
    }
}

/// A lease whose watch acknowledges.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Watching {
    /// The streams through which it does, the newest last. After a reconnect the one
    /// before may not be known to be gone yet.
    pub streams: Vec<Stream>,
    /// The highest generation that was acknowledged.
    pub acked: i64,
    /// The highest one that was refused; 0: none.
    pub refused: i64,
    /// Why, for people.
    pub refusal: String,
    /// The highest one before which nothing is used any more.
    pub drained: i64,
    /// Since when there is no stream.
    pub gone_time: Option<Timestamp>,
}

impl Watching {
    /// Whether it has a stream.
    pub fn is_there(&self) -> bool {
        self.gone_time.is_none()
    }
}

/// A stream that acknowledges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stream {
    /// It.
    pub id: Uuid,
    /// The broker that it leads to.
    pub broker: Uuid,
}

/// What a switch or a retirement made of a binding. It holds for as long as broker.toml
/// declares the branch that it declared then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Departure {
    /// The branch that broker.toml declared.
    pub declared: BranchName,
    /// The name, at that time, of the branch that the binding lives on instead. None: it
    /// is retired.
    pub switched_to: Option<BranchName>,
}

impl Data {
    /// The move of a binding that goes on: its work goes on, or its pause has not
    /// passed.
    pub fn move_of(&self, binding: &BindingName, now: Timestamp) -> Option<&Move> {
        let one = self.moves.get(binding)?;
        let is_worked_on = |id| self.operations.get(&id).is_some_and(|one| !one.done);
        one.goes_on(now, is_worked_on).then_some(one)
    }

    /// Whether a branch is closed to a service's writes: a switch away from it goes on
    /// that has reached its fence.
    pub fn is_fenced(&self, branch: &BranchId, service: &ServiceName) -> bool {
        let is_worked_on = |id| self.operations.get(&id).is_some_and(|one| !one.done);
        let mut all = self.moves.iter();
        all.any(|(binding, one)| {
            one.fences(binding, branch, service) && one.is_closed(is_worked_on)
        })
    }

    /// Whether a switch has ever closed a branch to a service's writes.
    pub fn was_fenced(&self, branch: &BranchId, service: &ServiceName) -> bool {
        let mut all = self.moves.iter();
        all.any(|(binding, one)| one.fences(binding, branch, service))
    }

    /// Switches that came to nothing, are worked on no more, and have not let the writes
    /// in again.
    pub fn fences_left(&self) -> Vec<(BindingName, Move)> {
        let is_over = |id| self.operations.get(&id).is_none_or(|one| one.done);
        let all = self.moves.iter().filter(|(_, one)| {
            let is_left = matches!(one.phase, Phase::Reverted | Phase::Fencing);
            one.fence && is_left && one.operation.is_some_and(is_over)
        });
        let all = all.map(|(binding, one)| (binding.clone(), one.clone()));
        all.collect()
    }

    /// Bindings that are on their way to that branch.
    pub fn moving_to(&self, branch: &BranchId, now: Timestamp) -> Vec<BindingName> {
        let on_their_way = self.moves.keys().filter(|binding| {
            let one = self.move_of(binding, now);
            one.is_some_and(|one| one.target == *branch && one.phase.is_pending())
        });
        on_their_way.cloned().collect()
    }
}

impl Draft<'_> {
    /// As [`Data::move_of`].
    pub fn move_of(&self, binding: &BindingName, now: Timestamp) -> Option<&Move> {
        let one = self.last_move(binding)?;
        let is_worked_on = |id| self.operation(id).is_some_and(|one| !one.done);
        one.goes_on(now, is_worked_on).then_some(one)
    }

    /// As [`Data::is_fenced`].
    pub fn is_fenced(&self, branch: &BranchId, service: &ServiceName) -> bool {
        let is_worked_on = |id| self.operation(id).is_some_and(|one| !one.done);
        let mut all = self.moves();
        all.any(|(binding, one)| {
            one.fences(binding, branch, service) && one.is_closed(is_worked_on)
        })
    }

    /// A generation of the binding that nobody was told of yet, in whatever way.
    pub fn next_generation(&self, binding: &BindingName) -> i64 {
        let current = self.generation(binding).map_or(0, |one| one.number);
        // A switch that was given up is never taken for another.
        let moved = self.last_move(binding);
        let announced = moved.map_or(0, |one| one.generation.max(one.pause_generation()));
        current.max(announced) + 1
    }
}
