//! Handing out: a branch that waits becomes a lease's, in one change of the state.
//!
//! Where the login role that waits on it is of the access that is asked for, the lease
//! is given in that change, and nothing else is waited for. Neon hears later that the
//! branch has another name: until then its row has both, what it was in its pool and the
//! lease.

use std::time::Duration;

use jiff::Timestamp;
use neon_api::BranchId;

use super::ephemeral::{self, Making, Taken, branch_name};
use super::warm::why_stale;
use super::{Error, Grant, LEASES_MAX, Lease, Leases, Request, requests, roles};
use crate::audit::{Action, Event};
use crate::config::PoolSpec;
use crate::credentials::KeyId;
use crate::names::{BranchName, LeaseId};
use crate::state::{self, Draft, ForLease, Intent, OwnBranch, RoleKey, Warm};

/// A branch that somebody wants a lease on.
#[derive(Debug, Clone)]
pub struct Take {
    /// What is asked for.
    pub request: Request,
    /// For how long.
    pub ttl: Option<Duration>,
    /// What of it is to be written down, should it be made for it.
    pub making: Making,
    /// What it is to be forked from.
    pub parent: BranchId,
    /// The pools that have such branches, the best first.
    pub pools: Vec<PoolSpec>,
    /// The key that its role's password is derived from.
    pub key: KeyId,
}

impl Leases {
    /// Hands out a branch that waits; none if none does that would do.
    pub async fn warm_take(&self, take: Take) -> Result<Option<Taken>, Error> {
        let now = self.now();
        let until = self.granted(now, take.ttl);
        let change = move |draft: &mut Draft<'_>| hand_out(draft, &take, until, now);
        self.state.change(change).await?
    }

    /// Hands out a branch that waits, or writes down that one is about to be made. The
    /// same request, asked again, goes on with what there is for it.
    pub async fn ephemeral_take(&self, take: Take) -> Result<Taken, Error> {
        let now = self.now();
        let until = self.granted(now, take.ttl);
        let max = self.settings().ephemeral_branches_max;
        let change = move |draft: &mut Draft<'_>| match hand_out(draft, &take, until, now)? {
            Some(taken) => Ok(taken),
            None => ephemeral::intend(draft, &take.making, max, now),
        };
        self.state.change(change).await?
    }

    /// Gives back what nobody waits for any more, and what was just taken.
    pub async fn untake(&self, taken: Taken) -> Result<(), Error> {
        match taken {
            Taken::Given { is_new: false, .. } => Ok(()),
            Taken::Given { lease, .. } => self.release(lease.id, None).await.map(drop),
            Taken::Warm { lease, .. } => Ok(self.making_over(lease).await?),
            Taken::Cold(lease) => {
                let now = self.now();
                let change = move |draft: &mut Draft<'_>| never_made(draft, lease, now);
                Ok(self.state.change(change).await?)
            }
        }
    }

    /// Branches that were handed out, and of which Neon has not heard: the lease, and the
    /// branch.
    pub fn handed_out(&self) -> Vec<(LeaseId, BranchId)> {
        self.state.read(|data| {
            let all = data.branches.values();
            let unnamed = all.filter(|own| own.warm.is_some() && own.intent == Intent::Own);
            unnamed
                .filter_map(|own| Some((own.lease.as_ref()?.id, own.branch.clone()?)))
                .collect()
        })
    }

    /// Notes that a branch that was handed out has its new name.
    pub async fn handed_out_named(&self, lease: LeaseId) -> Result<(), state::Error> {
        let change = move |draft: &mut Draft<'_>| {
            let name = branch_name(lease);
            if let Some(mut own) = draft.branch(&name).cloned() {
                own.warm = None;
                draft.branch_put(name, own);
            }
        };
        self.state.change_in_background(change).await
    }
}

/// Hands out a branch that waits; none if none does that would do, or the request has
/// begun with another.
fn hand_out(
    draft: &mut Draft<'_>,
    take: &Take,
    until: Timestamp,
    now: Timestamp,
) -> Result<Option<Taken>, Error> {
    let making = &take.making;
    let request_id = making.request_id.as_ref();
    if let Some(before) = requests::repeated_in(draft, request_id, now)?
        && let Some(lease) = draft.lease(before).filter(|lease| lease.lives(now))
    {
        let (lease, is_new) = (Box::new(lease.clone()), false);
        return Ok(Some(Taken::Given { lease, is_new }));
    }
    if ephemeral::begun_before(draft, request_id, now)?.is_some() {
        return Ok(None);
    }
    let Some((name, branch, warm)) = ready(draft, take, now) else {
        return Ok(None);
    };
    ephemeral::may_have_another(draft, making)?;
    if draft.leases_count() >= LEASES_MAX {
        return Err(Error::TooMany);
    }
    let id = warm.lease;
    requests::remember(draft, request_id, id, now)?;
    let mut own = OwnBranch {
        branch: Some(branch.clone()),
        intent: Intent::Own,
        update_time: now,
        lease: Some(ForLease {
            id,
            holder: making.holder.clone(),
            making_until: now,
        }),
        warm: Some(warm.clone()),
    };
    draft.branch_put(branch_name(id), own.clone());
    own = OwnBranch {
        branch: None,
        intent: Intent::Gone,
        lease: None,
        warm: None,
        ..own
    };
    draft.branch_put(name, own);
    let role = warm.role.as_ref().map(|role| RoleKey {
        branch: branch.clone(),
        role: role.clone(),
    });
    if let Some(lease) = role
        .as_ref()
        .and_then(|role| given(draft, take, &warm, role, until, now))
    {
        return Ok(Some(Taken::Given {
            lease: Box::new(lease),
            is_new: true,
        }));
    }
    if let Some(role) = &role {
        roles::reserved_unused(draft, role, now);
    }
    if let Some(own) = draft.branch(&branch_name(id)).cloned() {
        ephemeral::put_making(draft, id, own, now);
    }
    Ok(Some(Taken::Warm {
        lease: id,
        branch,
        end: warm.expire_time,
    }))
}

/// The lease, with the role that waits; none if that is of no use.
fn given(
    draft: &mut Draft<'_>,
    take: &Take,
    warm: &Warm,
    role: &RoleKey,
    until: Timestamp,
    now: Timestamp,
) -> Option<Lease> {
    let Request { holder, access, .. } = &take.request;
    let valid_until = roles::unreserve(draft, role, holder, *access, now)?;
    let mut lease = Lease {
        id: warm.lease,
        request: take.request.clone(),
        grant: Grant {
            branch: role.branch.clone(),
            generation: 0,
            role: role.role.clone(),
            key: take.key.clone(),
        },
        create_time: now,
        expire_time: until.min(valid_until),
        renewals: 0,
        note_time: now,
        branch_expire_time: warm.expire_time,
        revoked: None,
    };
    if let Some(last) = ephemeral::last(&lease) {
        lease.expire_time = lease.expire_time.min(last);
    }
    draft.lease_put(lease.clone());
    let message = format!(
        "until {}, as {}, on a branch of the pool {}",
        lease.expire_time, lease.grant.role, warm.pool
    );
    draft.audit(Event::of_lease(&lease, Action::Acquired, now, message));
    Some(lease)
}

/// The oldest branch that waits and would do, of the first pool that has one.
fn ready(draft: &Draft<'_>, take: &Take, now: Timestamp) -> Option<(BranchName, BranchId, Warm)> {
    take.pools.iter().find_map(|pool| {
        let parent = draft.generation(&pool.parent)?;
        if parent.branch != take.parent || draft.is_held(&parent.branch) {
            return None;
        }
        let fitting = draft.branches().filter_map(|(name, own)| {
            let warm = own.warm.as_ref().filter(|warm| {
                own.lease.is_none() && warm.pool == pool.name && warm.making_until.is_none()
            })?;
            let branch = own
                .branch
                .as_ref()
                .filter(|branch| !draft.is_held(branch))?;
            let why = why_stale(own, warm, pool, |_| Some(parent), &take.key, now);
            why.is_none().then_some((name, branch, warm))
        });
        let (name, branch, warm) = fitting.min_by_key(|(.., warm)| warm.fork_time)?;
        Some((name.clone(), branch.clone(), warm.clone()))
    })
}

/// A branch that was to be made, and that nobody asked Neon for.
fn never_made(draft: &mut Draft<'_>, lease: LeaseId, now: Timestamp) {
    let name = branch_name(lease);
    let own = draft.branch(&name);
    let own = own.filter(|own| own.intent == Intent::Create && own.branch.is_none());
    if let Some(mut own) = own.cloned() {
        own.intent = Intent::Gone;
        own.update_time = now;
        draft.branch_put(name, own);
    }
}
