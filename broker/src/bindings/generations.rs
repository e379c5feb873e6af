//! Generations: what is stored of a binding before anybody hears of it.

use jiff::Timestamp;

use super::{Bindings, Target};
use crate::audit::{Action, Event};
use crate::config::BindingSpec;
use crate::connection;
use crate::leases::{self, Made, RequestId};
use crate::names::{BindingName, BranchName};
use crate::neon::OwnerUris;
use crate::postgres::OwnerUri;
use crate::reconcile::Outcome;
use crate::state::{self, Departure, Draft, Generation, Move, Phase};

/// What comes before the read-only endpoint's part of an address.
const READ_ONLY: &str = " read-only ";

/// What an apply found of a binding.
#[derive(Debug, Clone)]
pub struct Found {
    /// Its branch.
    pub outcome: Outcome,
    /// The binding's generation when the apply began to look: if it leads elsewhere by
    /// now, what was found is old.
    pub seen: Option<i64>,
    /// Why it has other data, where that is known.
    pub renewed: Option<String>,
    /// Whether nobody asked for it.
    pub in_background: bool,
}

/// A binding that is switched.
#[derive(Debug, Clone)]
pub struct Switched {
    /// The binding.
    pub binding: BindingName,
    /// The generation that was announced.
    pub number: i64,
    /// Its new branch, as it was made ready.
    pub outcome: Outcome,
    /// The name of that branch.
    pub branch_name: BranchName,
    /// The branch that broker.toml declares.
    pub declared: BranchName,
    /// Why, for people.
    pub reason: String,
}

/// A rotation of a binding's credentials.
#[derive(Debug, Clone)]
pub struct Rotated {
    /// The binding.
    pub name: BindingName,
    /// Roles that holders get instead of those that they have.
    pub next: Vec<Made>,
    /// Who asks, for people.
    pub by: String,
    /// The request's id.
    pub request_id: Option<RequestId>,
}

impl Bindings {
    /// The binding's branch is as declared. Its generation goes up when it
    /// leads elsewhere than before, or to other data, and is stored before this is
    /// told.
    pub async fn ready(&self, spec: &BindingSpec, found: Found) -> Result<(), state::Error> {
        let uris = found.outcome.uris.clone();
        if let Some(generation) = self.generation(&spec.name, found).await? {
            self.announce(spec, generation, uris);
        }
        Ok(())
    }

    /// Gives the holders of a binding other roles: those that they have are given no
    /// more, its generation goes up, and leases whose holder's next role is there have
    /// it. The same request does so once.
    pub async fn rotate(&self, target: &Target, rotated: Rotated) -> Result<(), leases::Error> {
        let now = state::now(&self.clock);
        let branch = target.branch.clone();
        let change = move |draft: &mut Draft<'_>| {
            let Rotated {
                name: binding,
                next,
                by,
                request_id,
            } = &rotated;
            let leads_elsewhere = draft
                .generation(binding)
                .is_some_and(|last| last.branch != branch);
            if leads_elsewhere && !leases::is_answered(draft, request_id.as_ref(), now)? {
                // It was switched while the roles were made.
                return Err(leases::Error::BindingOvertaken(binding.clone()));
            }
            if leases::is_repeated(draft, request_id.as_ref(), now)? {
                return Ok(None);
            }
            let Some(last) = draft.generation(binding).cloned() else {
                return Ok(None);
            };
            let generation = Generation {
                number: draft.next_generation(binding),
                since: now,
                reason: format!("credentials were rotated by {by}"),
                ..last
            };
            leases::retire_roles(draft, &branch, binding, next, by, now);
            draft.generation_put(binding.clone(), generation.clone());
            draft.audit(announced(binding, &generation));
            leases::turn_over(draft, binding, &branch, generation.number, now);
            Ok::<_, leases::Error>(Some(generation))
        };
        if let Some(generation) = self.state.change(change).await?? {
            self.follow(&target.spec, generation, target.uris.clone());
        }
        Ok(())
    }

    /// None: what was found is old, and the binding leads elsewhere by now.
    async fn generation(
        &self,
        binding: &BindingName,
        found: Found,
    ) -> Result<Option<Generation>, state::Error> {
        let now = state::now(&self.clock);
        let declared = self.get(binding).map(|binding| binding.spec.branch.clone());
        let Found {
            outcome,
            seen,
            renewed,
            in_background,
        } = found;
        let name = binding.clone();
        let (branch, address) = (outcome.branch.clone(), address(&outcome.uris));
        let (revision, reset_at) = (outcome.revision.clone(), outcome.reset_at);
        let change = move |draft: &mut Draft<'_>| {
            let last = draft.generation(&name).cloned();
            let leads_elsewhere = |last: &Generation| last.branch != branch;
            if last.as_ref().is_some_and(leads_elsewhere)
                && seen != last.as_ref().map(|last| last.number)
            {
                return None;
            }
            let next = draft.next_generation(&name);
            let (number, reason) = match &last {
                None => (next, format!("the branch {branch} is ready")),
                Some(last) if last.branch != branch => {
                    (next, format!("moved to the branch {branch}"))
                }
                Some(last) if last.address != address => {
                    let what = other_address(&last.address, &address);
                    (next, format!("the branch {branch} has {what}"))
                }
                Some(last) => match &renewed {
                    Some(reason) => (next, reason.clone()),
                    None => (last.number, last.reason.clone()),
                },
            };
            let is_new = last.as_ref().is_none_or(|last| last.number != number);
            let since = last.as_ref().map_or(now, |last| last.since);
            let departs = |last: &Generation| {
                let departure = last.departs(declared.as_ref()?)?;
                (last.branch == branch).then(|| departure.clone())
            };
            let generation = Generation {
                number,
                branch: branch.clone(),
                address: address.clone(),
                revision: revision.clone(),
                reset_at,
                since: if is_new { now } else { since },
                reason,
                departure: last.as_ref().and_then(departs),
            };
            if last.as_ref() != Some(&generation) {
                draft.generation_put(name.clone(), generation.clone());
            }
            if is_new {
                draft.audit(announced(&name, &generation));
                end_pause(draft, &name, now);
            }
            Some((generation, is_new))
        };
        let changed = match in_background {
            true => self.state.change_in_background(change).await?,
            false => self.state.change(change).await?,
        };
        let Some((generation, is_new)) = changed else {
            return Ok(None);
        };
        if is_new {
            let Generation { number, reason, .. } = &generation;
            tracing::info!(binding = %binding, generation = number, %reason, "ready");
        }
        Ok(Some(generation))
    }
}

impl Switched {
    /// Moves the binding, with what else changes.
    pub fn put(&self, draft: &mut Draft<'_>, now: Timestamp) {
        let Switched {
            binding, outcome, ..
        } = self;
        let is_as_declared = self.branch_name == self.declared;
        let generation = Generation {
            number: self.number,
            branch: outcome.branch.clone(),
            address: address(&outcome.uris),
            revision: outcome.revision.clone(),
            reset_at: outcome.reset_at,
            since: now,
            reason: self.reason.clone(),
            departure: (!is_as_declared).then(|| Departure {
                declared: self.declared.clone(),
                switched_to: Some(self.branch_name.clone()),
            }),
        };
        draft.audit(announced(binding, &generation));
        draft.generation_put(binding.clone(), generation);
    }
}

/// Lets the consumers of a binding go on, whose branch has got other data, or none.
pub(crate) fn end_pause(draft: &mut Draft<'_>, binding: &BindingName, now: Timestamp) {
    let last = draft.last_move(binding);
    let paused = last.filter(|last| last.phase == Phase::Paused);
    if let Some(mut paused) = paused.cloned() {
        paused.phase = Phase::Done;
        paused.update_time = now;
        draft.move_put(binding.clone(), paused);
    }
}

/// Notes that a branch takes the writes of a binding's service again, whose switch away
/// from it was given up.
pub(crate) fn end_fence(draft: &mut Draft<'_>, binding: &BindingName, now: Timestamp) {
    let last = draft.last_move(binding);
    let may_be_left = |last: &&Move| matches!(last.phase, Phase::Reverted | Phase::Fencing);
    let left = last.filter(|last| last.fence).filter(may_be_left);
    if let Some(mut left) = left.cloned() {
        left.phase = Phase::Reverted;
        left.fence = false;
        left.update_time = now;
        draft.move_put(binding.clone(), left);
    }
}

fn announced(binding: &BindingName, generation: &Generation) -> Event {
    Event {
        id: 0,
        time: generation.since,
        action: Action::Announced,
        service: Some(binding.service.clone()),
        binding: Some(binding.clone()),
        branch: Some(generation.branch.clone()),
        lease: None,
        holder: String::new(),
        message: format!("generation {}: {}", generation.number, generation.reason),
    }
}

/// Where the URIs lead, without who connects and how.
fn address(uris: &OwnerUris) -> String {
    let writing = address_of(&uris.direct, &uris.pooled);
    match &uris.replica {
        None => writing,
        Some(replica) => {
            let reading = address_of(&replica.direct, &replica.pooled);
            format!("{writing}{READ_ONLY}{reading}")
        }
    }
}

fn address_of(direct: &OwnerUri, pooled: &OwnerUri) -> String {
    let [direct, pooled] = [direct, pooled].map(connection::address_of);
    match direct == pooled {
        true => direct,
        false => format!("{direct} {pooled}"),
    }
}

/// What a branch has whose address was another, for people.
fn other_address(before: &str, now: &str) -> &'static str {
    let ((was, had), (is, has)) = (parts(before), parts(now));
    match (had, has) {
        _ if was != is => "another address",
        (None, _) => "a read-only endpoint now",
        (Some(_), None) => "no read-only endpoint any more",
        (Some(_), Some(_)) => "another read-only endpoint",
    }
}

/// An address without its read-only endpoint's part, and that.
fn parts(address: &str) -> (&str, Option<&str>) {
    match address.split_once(READ_ONLY) {
        None => (address, None),
        Some((writing, reading)) => (writing, Some(reading)),
    }
}
