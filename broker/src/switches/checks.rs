//! Whether a binding can be switched, by what is stored.

use jiff::Timestamp;
use neon_api::BranchId;

use super::{Error, Switch, votes};
use crate::ledger;
use crate::names::BindingName;
use crate::state::{Draft, Generation, Move, Phase};

/// Whether a switch is as it was left: nobody has refused it meanwhile.
pub(super) fn still(draft: &Draft<'_>, binding: &BindingName, one: &Move) -> Result<(), Error> {
    match draft.last_move(binding) {
        Some(last) if last == one => Ok(()),
        Some(last) if last.phase == Phase::Reverted => Err(Error::GivenUp(last.message.clone())),
        _ => Err(Error::Overtaken(binding.clone())),
    }
}

/// A binding does not move to what is being changed or deleted, or takes no writes of its
/// service.
pub(super) fn check_target(
    draft: &Draft<'_>,
    binding: &BindingName,
    target: &BranchId,
) -> Result<(), Error> {
    let is_fenced = draft.is_fenced(target, &binding.service);
    match is_fenced || draft.is_held(target) || ledger::is_going(draft, target) {
        true => Err(Error::BranchHeld(target.clone())),
        false => Ok(()),
    }
}

/// A fence takes the writes of a service from a branch, whichever binding has them.
pub(super) fn check_fence(
    draft: &Draft<'_>,
    switch: &Switch,
    source: &BranchId,
) -> Result<(), Error> {
    let binding = &switch.binding;
    let mut others = draft.generations().filter(|(other, generation)| {
        *other != binding
            && other.service == binding.service
            && generation.branch == *source
            && !generation.is_retired()
    });
    match others.next().filter(|_| switch.fence) {
        None => Ok(()),
        Some((other, _)) => Err(Error::FenceShared {
            binding: binding.clone(),
            other: other.clone(),
        }),
    }
}

/// Whether the binding can be switched away from where it leads, by what is stored;
/// where that is.
pub fn check_stored(draft: &Draft<'_>, switch: &Switch, now: Timestamp) -> Result<BranchId, Error> {
    let current = draft.generation(&switch.binding);
    let source = may_move(switch, current, draft.move_of(&switch.binding, now))?;
    check_fence(draft, switch, &source)?;
    votes::check_unwatched(draft.leases(), |id| draft.watch(id), switch, now)?;
    Ok(source)
}

pub(super) fn may_move(
    switch: &Switch,
    current: Option<&Generation>,
    moving: Option<&Move>,
) -> Result<BranchId, Error> {
    let binding = &switch.binding;
    if let Some(moving) = moving {
        return Err(Error::of_move(binding, moving));
    }
    let current = current.ok_or_else(|| Error::NotReady(binding.clone()))?;
    if current.is_retired() {
        return Err(Error::Retired(binding.clone()));
    }
    let source = current.branch.clone();
    match source == switch.branch {
        false => Ok(source),
        true => Err(Error::LivesThere {
            binding: binding.clone(),
            branch: source,
        }),
    }
}
