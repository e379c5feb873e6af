//! Switching a binding to another branch, for all its consumers or for none.
//!
//! The branch is made what the binding declares and announced; those who have a say
//! (watches.rs) open it and acknowledge. One transaction then moves the binding: it
//! looks once more that nobody has refused and nobody is waited for. Before it a switch
//! is given up by anybody's refusal, by time or by who asked for it; after it, it is
//! only drained. Each phase is written down before it is acted on, and each step can be
//! done twice: whoever takes the operation up goes on from the phase that it finds.

mod checks;
mod fence;
mod votes;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use neon_api::BranchId;

use crate::audit::{Action, Event};
use crate::bindings::{Bindings, Switched};
use crate::branches;
use crate::config::BindingSpec;
use crate::keeper::Keeper;
use crate::leases::{self, Leases};
use crate::logins::Logins;
use crate::names::{BindingName, BranchName, BranchResource};
use crate::operations::Work;
use crate::reconcile::Outcome;
use crate::state::{Data, Draft, Move, Phase, State};
use crate::text::one_line;
use crate::watches::{self, Watches};
use checks::{check_target, may_move, still};
use votes::{Alive, Counting, Tally};

pub use crate::moving::Error;
pub use checks::check_stored;
pub use votes::{Unwatched, is_of_before};

/// How often to look at the votes, should nobody say anything, in milliseconds.
const LOOK_MS: u64 = 100;

/// A switch that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Switch {
    /// The binding.
    pub binding: BindingName,
    /// Where to.
    pub branch: BranchId,
    /// Whether the old branch is to take no writes any more before the new one does.
    pub fence: bool,
    /// What becomes of leases that have no say.
    pub unwatched: Unwatched,
    /// How long consumers have to acknowledge.
    pub ack_timeout: Duration,
    /// How long they have to drain.
    pub drain_timeout: Duration,
    /// Who asks, for people.
    pub by: String,
}

/// Switches bindings.
#[derive(Debug)]
pub struct Switches {
    state: Arc<State>,
    keeper: Arc<Keeper>,
    bindings: Arc<Bindings>,
    leases: Arc<Leases>,
    logins: Arc<Logins>,
    watches: Arc<Watches>,
}

/// A switch that is under way.
struct Run<'a> {
    switches: &'a Switches,
    switch: &'a Switch,
    work: &'a Work,
    /// What broker.toml declares.
    spec: BindingSpec,
    /// The name of the new branch.
    branch_name: BranchName,
    /// It as it was made ready.
    outcome: Outcome,
}

impl Switches {
    /// For these.
    pub fn new(
        state: Arc<State>,
        keeper: Arc<Keeper>,
        bindings: Arc<Bindings>,
        leases: Arc<Leases>,
        logins: Arc<Logins>,
        watches: Arc<Watches>,
    ) -> Switches {
        Switches {
            state,
            keeper,
            bindings,
            leases,
            logins,
            watches,
        }
    }

    /// Whether the binding can be switched, as far as can be seen without doing so.
    pub async fn check(&self, switch: &Switch) -> Result<(), Error> {
        self.spec(&switch.binding)?;
        let now = self.leases.now();
        let current = |data: &Data| data.generations.get(&switch.binding).cloned();
        // That another is under way is found when this one has begun: it may be this one.
        may_move(switch, self.state.read(current).as_ref(), None)?;
        self.branch_name(&switch.branch).await?;
        self.state.read(|data| {
            let watch = |id| data.watches.get(&id);
            votes::check_unwatched(data.leases.values(), watch, switch, now)
        })
    }

    /// Switches a binding, or goes on with a switch that was left.
    pub async fn run(&self, switch: &Switch, work: &Work) -> Result<(), Error> {
        work.describe(BranchResource(switch.branch.clone()).to_string());
        let spec = self.spec(&switch.binding)?;
        let left = self.left(switch, work);
        match left.as_ref().map(|left| (left, left.phase)) {
            Some((over, Phase::Committed)) => return self.drain(switch, work, over).await,
            Some((_, Phase::Done)) => return Ok(()),
            Some((left, Phase::Reverted)) => {
                let why = Error::GivenUp(left.message.clone());
                return Err(self.revert(switch, work, left, why).await);
            }
            _ => {}
        }
        let prepared = async {
            let branch_name = self.branch_name(&switch.branch).await?;
            let outcome = Box::pin(self.keeper.prepare(&spec, &branch_name)).await?;
            Ok((branch_name, outcome))
        };
        let (branch_name, outcome) = match (prepared.await, &left) {
            (Ok(prepared), _) => prepared,
            (Err(error), None) => return Err(error),
            (Err(error), Some(left)) => {
                return Err(self.revert(switch, work, left, error).await);
            }
        };
        let run = Run {
            switches: self,
            switch,
            work,
            spec,
            branch_name,
            outcome,
        };
        let announced = match left {
            Some(left) => left,
            None => run.announce().await?,
        };
        match Box::pin(run.until_committed(announced.clone())).await {
            Ok(committed) => self.drain(switch, work, &committed).await,
            Err(error) => Err(self.revert(switch, work, &announced, error).await),
        }
    }

    /// What this operation has announced already.
    fn left(&self, switch: &Switch, work: &Work) -> Option<Move> {
        self.state.read(|data| {
            let last = data.moves.get(&switch.binding);
            last.filter(|last| last.operation == Some(work.id()))
                .cloned()
        })
    }

    /// What broker.toml declares.
    pub fn spec(&self, binding: &BindingName) -> Result<BindingSpec, Error> {
        let known = self.bindings.get(binding);
        let known = known.ok_or_else(|| Error::BindingNotFound(binding.clone()))?;
        Ok(known.spec.clone())
    }

    /// The name of the branch, if a binding may live on it.
    async fn branch_name(&self, id: &BranchId) -> Result<BranchName, Error> {
        let found = self.keeper.neon().branch(id).await?;
        let not_found = || branches::Error::NotFound {
            field: "branch",
            name: BranchResource(id.clone()),
        };
        let branch = found.ok_or_else(not_found)?.branch;
        if branch.expires_at.is_some() {
            return Err(Error::BranchExpires(branch.name));
        }
        let name = branch.name.parse();
        name.map_err(|_| Error::BranchNotNameable(branch.name))
    }

    /// Waits until what was before is drained, and lets go of it.
    async fn drain(&self, switch: &Switch, work: &Work, committed: &Move) -> Result<(), Error> {
        let mut alive = Alive::new(self.watches.broker());
        let mut told = self.state.moves();
        loop {
            let tally = self.tally(&switch.binding, committed, &mut alive);
            if tally.draining.is_empty() || self.leases.now() >= committed.deadline {
                break;
            }
            let _ = tokio::time::timeout(Duration::from_millis(LOOK_MS), told.changed()).await;
        }
        let (now, by) = (self.leases.now(), switch.by.clone());
        let (binding, committed) = (switch.binding.clone(), committed.clone());
        let done = move |draft: &mut Draft<'_>| {
            let holders = votes::drained(draft, &binding, &committed, now);
            let (source, service) = (&committed.source, &binding.service);
            leases::drained(draft, source, service, &holders, now);
            let done = Move {
                phase: Phase::Done,
                update_time: now,
                ..committed.clone()
            };
            draft.move_put(binding.clone(), done);
            draft.audit(event(&binding, &committed, &by, now, "is done"));
            Ok::<_, Error>(())
        };
        match work.step(done).await {
            // The binding has moved all the same; roles go by themselves.
            Err(Error::State(error)) => {
                let (binding, error) = (&switch.binding, one_line(&error));
                tracing::warn!(%binding, error, "that a switch is done is not stored");
                Ok(())
            }
            ended => ended,
        }
    }

    /// Gives a switch up. The error that it was given up for, unless it cannot be.
    async fn revert(&self, switch: &Switch, work: &Work, announced: &Move, why: Error) -> Error {
        if let Error::Stopped = why {
            return why;
        }
        let (binding, by, now) = (switch.binding.clone(), switch.by.clone(), self.leases.now());
        let (message, fence) = (one_line(&why), announced.fence);
        let one = announced.clone();
        let reverted = move |draft: &mut Draft<'_>| {
            // Who refused it has given it up already.
            let is_ours = |last: &&Move| last.operation == one.operation;
            let last = draft.last_move(&binding).filter(is_ours);
            if !last.is_some_and(|last| last.phase.is_pending()) {
                let what = format!("was given up: {message}");
                draft.audit(event(&binding, &one, &by, now, &what));
                return Ok(());
            }
            let reverted = Move {
                phase: Phase::Reverted,
                message: message.clone(),
                update_time: now,
                ..one.clone()
            };
            draft.move_put(binding.clone(), reverted);
            let what = format!("was given up: {message}");
            draft.audit(event(&binding, &one, &by, now, &what));
            Ok::<_, Error>(())
        };
        if let Err(error) = work.step(reverted).await {
            return error;
        }
        // Not before: none are let in while it may still be committed.
        if fence && let Err(error) = Box::pin(self.let_in(&switch.binding, announced)).await {
            let (binding, error) = (&switch.binding, one_line(&error));
            tracing::warn!(%binding, error, "the old branch does not take writes again yet");
        }
        why
    }

    fn tally(&self, binding: &BindingName, one: &Move, alive: &mut Alive) -> Tally {
        let (now, grace) = (self.leases.now(), self.leases.ack_grace());
        self.state.read(|data| {
            alive.look(data, grace);
            let counting = Counting {
                binding,
                one,
                alive,
                now,
                grace,
            };
            counting.of(data)
        })
    }
}

impl Run<'_> {
    /// Tells consumers where they are to go, and writes down who has a say.
    async fn announce(&self) -> Result<Move, Error> {
        let (switch, operation) = (self.switch.clone(), self.work.id());
        let now = self.switches.leases.now();
        let announce = move |draft: &mut Draft<'_>| {
            let source = check_stored(draft, &switch, now)?;
            check_target(draft, &switch.binding, &switch.branch)?;
            let one = Move {
                operation: Some(operation),
                generation: draft.next_generation(&switch.binding),
                source,
                target: switch.branch.clone(),
                phase: Phase::Announced,
                fence: switch.fence,
                voters: watches::voters(draft, &switch.binding, now),
                deadline: after(now, switch.ack_timeout),
                message: format!(
                    "is to move to the branch {}, by {}",
                    switch.branch, switch.by
                ),
                create_time: now,
                update_time: now,
            };
            draft.move_put(switch.binding.clone(), one.clone());
            let what = format!("begins; {} leases have a say", one.voters.len());
            draft.audit(event(&switch.binding, &one, &switch.by, now, &what));
            Ok::<_, Error>(one)
        };
        self.work.step(announce).await
    }

    /// From wherever it was left to the moment from which the binding leads elsewhere.
    async fn until_committed(&self, mut one: Move) -> Result<Move, Error> {
        let mut alive = Alive::new(self.switches.watches.broker());
        if one.phase == Phase::Announced {
            self.until_acked(&one, &mut alive).await?;
        }
        // No apply gives the rights back that are taken now.
        let mut alone = None;
        if one.fence {
            alone = Some(self.switches.keeper.alone().await);
            // From now, also for who takes it up.
            one = self.hold_back(&one).await?;
            self.fence(&one, &mut alive).await?;
        }
        let committed = loop {
            match self.commit(one.clone(), alive.clone()).await {
                // One was given meanwhile: it has until the deadline, as others had.
                Err(Error::Unwatched { .. }) => self.until_acked(&one, &mut alive).await?,
                committed => break committed,
            }
        };
        drop(alone);
        committed
    }

    /// Returns when all have acknowledged who are waited for.
    async fn until_acked(&self, one: &Move, alive: &mut Alive) -> Result<(), Error> {
        let leases = &self.switches.leases;
        self.until(one, alive, |tally| match &tally.waiting[..] {
            [] if tally.unwatched.is_empty() => Some(Ok(())),
            waiting if leases.now() >= one.deadline => {
                let waiting = waiting.iter().chain(&tally.unwatched);
                Some(Err(Error::TimedOut(waiting.copied().collect())))
            }
            _ => None,
        })
        .await
    }

    async fn until(
        &self,
        one: &Move,
        alive: &mut Alive,
        mut decide: impl FnMut(&Tally) -> Option<Result<(), Error>>,
    ) -> Result<(), Error> {
        let mut told = self.switches.state.moves();
        loop {
            let mut tally = self.switches.tally(&self.switch.binding, one, alive);
            if let Some(refused) = tally.refused.take() {
                return Err(refused);
            }
            if let Some(why) = self.given_up() {
                return Err(Error::GivenUp(why));
            }
            if self.switch.unwatched == Unwatched::Proceed {
                tally.unwatched.clear();
            }
            if let Some(decided) = decide(&tally) {
                return decided;
            }
            // The state lives as long as we do.
            let _ = tokio::time::timeout(Duration::from_millis(LOOK_MS), told.changed()).await;
        }
    }

    /// Why the switch was given up by now, if somebody refused it who is not there any
    /// more.
    fn given_up(&self) -> Option<String> {
        self.switches.state.read(|data| {
            let last = data.moves.get(&self.switch.binding)?;
            let is_ours = last.operation == Some(self.work.id());
            (is_ours && last.phase == Phase::Reverted).then(|| last.message.clone())
        })
    }

    /// Moves the binding, unless somebody has refused meanwhile.
    async fn commit(&self, one: Move, alive: Alive) -> Result<Move, Error> {
        let Run {
            switches, switch, ..
        } = self;
        let (now, grace) = (switches.leases.now(), switches.leases.ack_grace());
        let switched = Switched {
            binding: switch.binding.clone(),
            number: one.generation,
            outcome: self.outcome.clone(),
            branch_name: self.branch_name.clone(),
            declared: self.spec.branch.clone(),
            reason: format!(
                "switched to the branch {} by {}",
                self.branch_name, switch.by
            ),
        };
        let committed = Move {
            phase: Phase::Committed,
            deadline: after(now, switch.drain_timeout),
            message: String::new(),
            update_time: now,
            ..one.clone()
        };
        let (put, by) = (committed.clone(), switch.by.clone());
        let goes_without = switch.unwatched == Unwatched::Proceed;
        let change = move |draft: &mut Draft<'_>| {
            let binding = &switched.binding;
            still(draft, binding, &one)?;
            check_target(draft, binding, &one.target)?;
            let current = draft.generation(binding);
            let is_as_it_was = current.is_some_and(|current| {
                current.branch == one.source && current.number < one.generation
            });
            if !is_as_it_was {
                return Err(Error::Overtaken(binding.clone()));
            }
            let counting = Counting {
                binding,
                one: &one,
                alive: &alive,
                now,
                grace,
            };
            let tally = counting.of_draft(draft);
            if let Some(refused) = tally.refused {
                return Err(refused);
            }
            if !tally.waiting.is_empty() {
                return Err(Error::TimedOut(tally.waiting));
            }
            // One that was given since the announcement, say.
            if !goes_without && !tally.unwatched.is_empty() {
                return Err(Error::Unwatched {
                    binding: binding.clone(),
                    leases: tally.unwatched,
                });
            }
            switched.put(draft, now);
            draft.move_put(binding.clone(), put.clone());
            leases::turn_over(draft, binding, &put.target, put.generation, now);
            draft.audit(event(binding, &put, &by, now, "is committed"));
            Ok(())
        };
        self.work.commit(None, change).await?;
        let (binding, generation) = (&switch.binding, committed.generation);
        tracing::info!(%binding, generation, branch = %self.branch_name, "switched");
        Ok(committed)
    }
}

fn after(now: Timestamp, time: Duration) -> Timestamp {
    now.checked_add(time).unwrap_or(Timestamp::MAX)
}

fn event(binding: &BindingName, one: &Move, by: &str, time: Timestamp, what: &str) -> Event {
    Event {
        id: 0,
        time,
        action: Action::Switched,
        service: Some(binding.service.clone()),
        binding: Some(binding.clone()),
        branch: Some(one.target.clone()),
        lease: None,
        holder: by.to_owned(),
        message: format!("the switch to generation {} {what}", one.generation),
    }
}
