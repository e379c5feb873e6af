//! Leases that get another role, and the roles that they leave.

use std::collections::{BTreeSet, HashMap};

use jiff::{SignedDuration, Timestamp};
use neon_api::BranchId;

use super::Lease;
use super::roles::{Made, given};
use crate::audit::{Action, Event};
use crate::names::{BindingName, ServiceName};
use crate::roles::Access;
use crate::state::{Draft, Phase, Role, RoleKey, RoleStatus, Watching};

/// How long a role is left alone whose last lease has moved on, in seconds: what runs
/// on it may come to its end.
const DRAIN_SECONDS: i64 = 60;

/// Gives a lease another role, and says how it is then; none if the role is not open.
pub(super) fn moved(
    draft: &mut Draft<'_>,
    mut lease: Lease,
    role: &Made,
    generation: i64,
    now: Timestamp,
) -> Option<Lease> {
    let valid_until = given(draft, role, now)?;
    let grant = role.grant(generation);
    if lease.grant != grant {
        left(draft, &lease, now);
        let message = match lease.grant.generation == generation {
            true => format!("to the role {}", grant.role),
            false => format!("to generation {generation} of its binding"),
        };
        lease.grant = grant;
        lease.expire_time = lease.expire_time.min(valid_until);
        draft.audit(Event::of_lease(&lease, Action::Moved, now, message));
        draft.lease_put(lease.clone());
    }
    Some(lease)
}

/// Moves the leases of a binding along with it that are watched, to where their holders'
/// roles are there by now: all at the moment at which the binding moves. The others
/// follow one by one: nobody would tell them that their old role is about to go.
pub fn turn_over(
    draft: &mut Draft<'_>,
    binding: &BindingName,
    branch: &BranchId,
    generation: i64,
    now: Timestamp,
) {
    let roles = draft
        .roles_on(branch)
        .filter(|(_, role)| role.status == RoleStatus::Open && role.service == binding.service);
    let made: HashMap<(String, Access), Made> = roles
        .map(|(key, role)| {
            let made = Made {
                role: key.clone(),
                key: role.key.clone(),
                valid_until: role.valid_until,
            };
            ((role.holder.clone(), role.access), made)
        })
        .collect();
    let is_watched = |lease: &Lease| draft.watch(lease.id).is_some_and(Watching::is_there);
    let leases = draft.leases().filter(|lease| {
        lease.request.target.binding() == Some(binding) && lease.lives(now) && is_watched(lease)
    });
    for lease in leases.cloned().collect::<Vec<_>>() {
        let of = (lease.request.holder.clone(), lease.request.access);
        let outlasts = |made: &&Made| made.valid_until >= Some(lease.expire_time);
        if let Some(made) = made.get(&of).filter(outlasts) {
            moved(draft, lease, made, generation, now);
        }
    }
}

/// Has the holders of a service's leases on a branch get other roles from now on: the
/// `next` ones where they are there. Who has one keeps it until they are moved, or their
/// leases end.
pub fn retire_roles(
    draft: &mut Draft<'_>,
    branch: &BranchId,
    binding: &BindingName,
    next: &[Made],
    by: &str,
    now: Timestamp,
) {
    for made in next {
        if let Some(mut role) = draft.role(&made.role).cloned() {
            role.valid_until = made.valid_until;
            draft.role_put(made.role.clone(), role);
        }
    }
    let next: BTreeSet<&RoleKey> = next.iter().map(|made| &made.role).collect();
    let roles = draft.roles_on(branch);
    let open = roles.filter(|(key, role)| {
        role.status == RoleStatus::Open && role.service == binding.service && !next.contains(key)
    });
    let open: Vec<(RoleKey, Role)> = open
        .map(|(key, role)| (key.clone(), role.clone()))
        .collect();
    let message = format!("{} roles are given no more", open.len());
    for (key, mut role) in open {
        role.status = RoleStatus::Retired;
        role.update_time = now;
        draft.role_put(key, role);
    }
    draft.audit(Event {
        id: 0,
        time: now,
        action: Action::Rotated,
        service: Some(binding.service.clone()),
        binding: Some(binding.clone()),
        branch: Some(branch.clone()),
        lease: None,
        holder: by.to_owned(),
        message,
    });
}

/// Notes that a lease has left its role: it stays for as long as what runs on it may
/// take, which a switch of the binding may know better.
pub(super) fn left(draft: &mut Draft<'_>, lease: &Lease, now: Timestamp) {
    let key = lease.grant.role_key();
    let until = now.checked_add(SignedDuration::from_secs(DRAIN_SECONDS));
    let until = until.unwrap_or(Timestamp::MAX);
    let moved = lease.request.target.binding();
    let moved = moved.and_then(|binding| draft.move_of(binding, now));
    let moved = moved.filter(|one| one.phase == Phase::Committed && one.source == key.branch);
    let until = moved.map_or(until, |one| one.deadline.max(until));
    if let Some(mut role) = draft.role(&key).cloned()
        && role.status.is_usable()
    {
        role.reserved_until = until;
        draft.role_put(key, role);
    }
}

/// Lets go of the roles that these holders had of a service on a branch, and that no
/// lease has any more: nothing runs on them.
pub fn drained(
    draft: &mut Draft<'_>,
    branch: &BranchId,
    service: &ServiceName,
    holders: &BTreeSet<String>,
    now: Timestamp,
) {
    let roles = draft.roles_on(branch);
    let left = roles.filter(|(key, role)| {
        role.service == *service
            && holders.contains(&role.holder)
            && role.status.is_usable()
            && role.reserved_until > now
            && !draft.is_used(key, now)
    });
    let left: Vec<(RoleKey, Role)> = left
        .map(|(key, role)| (key.clone(), role.clone()))
        .collect();
    for (key, mut role) in left {
        role.reserved_until = now;
        draft.role_put(key, role);
    }
}
