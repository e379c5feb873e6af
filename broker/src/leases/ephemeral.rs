//! Leases that own their branch: what is written down of the branch.
//!
//! The branch is written down, with the lease that it is for, before it is made. Who
//! makes it moves `making_until` on while they do; a branch whose lease does not live
//! and whose making is over is deleted, whoever began it. The lease promises less
//! than Neon does, which deletes the branch at its `expires_at` by itself.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use neon_api::BranchId;

use super::{Error, Lease, Leases, RequestId, requests, roles};
use crate::names::{BranchName, LeaseId};
use crate::state::{self, Draft, ForLease, Intent, OwnBranch};

/// How long a branch that is being made is left alone after its maker last said so,
/// in seconds.
pub(super) const MAKING_SECONDS: i64 = 30;
/// How long after its making is over a branch may still come, in seconds.
const LATE_SECONDS: i64 = 120;
/// What lies between the end of a lease and Neon's end of its branch when that is set,
/// in seconds: half the longest ttl, within these.
const MARGIN_SECONDS_MIN: u64 = 120;
const MARGIN_SECONDS_MAX: u64 = 24 * 3_600;
/// What has to lie there at least: a lease is not promised for longer, in seconds.
const MARGIN_SECONDS_LEFT: i64 = 60;
/// How far ahead Neon takes the end of a branch, in hours: 30 days, less an hour for
/// clocks that differ.
const AHEAD_HOURS_MAX: i64 = 30 * 24 - 1;

/// A branch that is to be made for a lease.
#[derive(Debug, Clone)]
pub struct Making {
    /// The lease.
    pub lease: LeaseId,
    /// Whose it will be.
    pub holder: String,
    /// How many the holder may have; none: any number.
    pub max: Option<u32>,
    /// The id of the request that asks.
    pub request_id: Option<RequestId>,
}

/// Where the branch of a lease comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum Taken {
    /// It waited with its login role, and the lease is given.
    Given {
        /// The lease.
        lease: Box<Lease>,
        /// Whether it is given just now: otherwise the same request was given it before.
        is_new: bool,
    },
    /// It waited, and its role is yet to be made.
    Warm {
        /// The lease that is to be given.
        lease: LeaseId,
        /// The branch.
        branch: BranchId,
        /// When Neon deletes it by itself.
        end: Option<Timestamp>,
    },
    /// It is yet to be made, for that lease.
    Cold(LeaseId),
}

/// The name of a lease's branch.
pub(crate) fn branch_name(lease: LeaseId) -> BranchName {
    let name = format!("lease/{}", lease.uuid());
    name.parse()
        .expect("letters, digits and - are a branch name")
}

impl Leases {
    /// Says that a lease's branch is being made still, and which it is once that is
    /// known.
    pub async fn making(&self, lease: LeaseId, branch: Option<BranchId>) -> Result<(), Error> {
        let now = self.now();
        let change = move |draft: &mut Draft<'_>| {
            let own = draft.branch(&branch_name(lease)).cloned();
            let Some(mut own) = own.filter(OwnBranch::goes_on) else {
                return Err(Error::BranchGone);
            };
            if let Some(branch) = &branch {
                own.branch = Some(branch.clone());
                own.intent = Intent::Own;
            }
            put_making(draft, lease, own, now);
            Ok(())
        };
        self.state.change(change).await?
    }

    /// Says that nobody makes a lease's branch any more: it goes if the lease does not
    /// live.
    pub async fn making_over(&self, lease: LeaseId) -> Result<(), state::Error> {
        let now = self.now();
        let change = move |draft: &mut Draft<'_>| over(draft, lease, now);
        self.state.change(change).await
    }

    /// When Neon is to delete the branch of a lease that ends then.
    pub fn branch_end(&self, expire_time: Timestamp) -> Timestamp {
        let last = self
            .now()
            .checked_add(SignedDuration::from_hours(AHEAD_HOURS_MAX))
            .unwrap_or(Timestamp::MAX);
        let end = expire_time
            .checked_add(self.margin())
            .unwrap_or(Timestamp::MAX)
            .min(last);
        // Neon keeps whole seconds.
        Timestamp::from_second(end.as_second()).unwrap_or(end)
    }

    /// When a lease that is asked for now would end.
    pub fn end_of(&self, ttl: Option<Duration>) -> Timestamp {
        self.granted(self.now(), ttl)
    }

    /// Whether half of what lies between a lease's end and its branch's is used.
    pub fn branch_runs_out(&self, lease: &Lease) -> bool {
        lease.branch_expire_time.is_some_and(|end| {
            let left = end.duration_since(lease.expire_time);
            Duration::try_from(left).unwrap_or_default() < self.margin() / 2
        })
    }

    /// Notes when Neon deletes a lease's branch, as it has confirmed.
    pub async fn branch_prolonged(
        &self,
        lease: LeaseId,
        end: Timestamp,
    ) -> Result<(), state::Error> {
        let change = move |draft: &mut Draft<'_>| {
            if let Some(mut lease) = draft.lease(lease).cloned() {
                lease.branch_expire_time = Some(end);
                draft.lease_put(lease);
            }
        };
        self.state.change(change).await
    }

    /// Branches whose lease does not live, or that wait for none any more, and that
    /// nobody makes: they are to go.
    pub fn orphans(&self) -> Vec<(BranchName, OwnBranch)> {
        let now = self.now();
        self.state.read(|data| {
            let lives = |id| data.leases.get(&id).is_some_and(|lease| lease.lives(now));
            let all = data.branches.iter();
            let orphans = all.filter(|(_, own)| is_orphan(own, lives, now));
            orphans
                .map(|(name, own)| (name.clone(), own.clone()))
                .collect()
        })
    }

    /// Writes down that an orphan is about to be deleted, or is gone; false if it is
    /// none by now.
    pub async fn orphan_note(
        &self,
        name: BranchName,
        intent: Intent,
    ) -> Result<bool, state::Error> {
        let now = self.now();
        let change = move |draft: &mut Draft<'_>| {
            let lives = |id| draft.lease(id).is_some_and(|lease| lease.lives(now));
            let own = draft.branch(&name).filter(|own| is_orphan(own, lives, now));
            let Some(mut own) = own.cloned() else {
                return false;
            };
            if let (Intent::Gone, Some(branch)) = (intent, &own.branch) {
                roles::reserved_gone(draft, branch, now);
            }
            own.intent = intent;
            own.update_time = now;
            draft.branch_put(name.clone(), own);
            true
        };
        self.state.change_in_background(change).await
    }

    /// Whether a branch that is not there may come yet: a request of a broker that was
    /// cut off may still be on its way.
    pub fn may_come(&self, own: &OwnBranch) -> bool {
        let late = SignedDuration::from_secs(LATE_SECONDS);
        let lease = own.lease.as_ref().map(|of| of.making_until);
        let until = lease.or_else(|| own.warm.as_ref()?.making_until);
        until.is_some_and(|until| self.now().duration_since(until) < late)
    }

    pub(super) fn margin(&self) -> Duration {
        let half = self.max_ttl() / 2;
        half.clamp(
            Duration::from_secs(MARGIN_SECONDS_MIN),
            Duration::from_secs(MARGIN_SECONDS_MAX),
        )
    }
}

/// Writes down that a branch is about to be made for a lease. The same request, asked
/// again, goes on with the same lease and what there is for it.
pub(super) fn intend(
    draft: &mut Draft<'_>,
    making: &Making,
    branches_max: Option<usize>,
    now: Timestamp,
) -> Result<Taken, Error> {
    let request_id = making.request_id.as_ref();
    if let Some((before, own)) = begun_before(draft, request_id, now)? {
        put_making(draft, before, own.clone(), now);
        return Ok(match (own.branch, own.warm) {
            // It has its name of before, by which nobody would find it.
            (Some(branch), Some(warm)) => Taken::Warm {
                lease: before,
                branch,
                end: warm.expire_time,
            },
            _ => Taken::Cold(before),
        });
    }
    may_have_another(draft, making)?;
    if let Some(max) = branches_max
        && branches_count(draft) >= max
    {
        return Err(Error::EphemeralFull { max });
    }
    requests::remember(draft, request_id, making.lease, now)?;
    let own = OwnBranch {
        branch: None,
        intent: Intent::Create,
        update_time: now,
        lease: Some(ForLease {
            id: making.lease,
            holder: making.holder.clone(),
            making_until: now,
        }),
        warm: None,
    };
    put_making(draft, making.lease, own, now);
    Ok(Taken::Cold(making.lease))
}

/// The branch that is being made for the same request, and the lease that it is for.
pub(super) fn begun_before(
    draft: &Draft<'_>,
    request_id: Option<&RequestId>,
    now: Timestamp,
) -> Result<Option<(LeaseId, OwnBranch)>, Error> {
    let Some(before) = requests::repeated_in(draft, request_id, now)? else {
        return Ok(None);
    };
    // Not one whose lease was given: that has ended.
    let is_made = |own: &&OwnBranch| {
        own.goes_on() && own.lease.as_ref().is_some_and(|of| of.making_until > now)
    };
    let own = draft.branch(&branch_name(before)).filter(is_made);
    Ok(own.map(|own| (before, own.clone())))
}

/// Whether the holder may have another ephemeral branch.
pub(super) fn may_have_another(draft: &Draft<'_>, making: &Making) -> Result<(), Error> {
    let Some(max) = making.max else {
        return Ok(());
    };
    let has = draft.branches().filter(|(_, own)| {
        let of_holder = |lease: &ForLease| lease.holder == making.holder;
        own.goes_on() && own.lease.as_ref().is_some_and(of_holder)
    });
    match has.count() < max as usize {
        true => Ok(()),
        false => Err(Error::TooManyEphemeral {
            holder: making.holder.clone(),
            max,
        }),
    }
}

/// How many ephemeral branches there are, or may be: one that is to be deleted is there
/// until it is gone.
pub(super) fn branches_count(draft: &Draft<'_>) -> usize {
    let all = draft.branches().map(|(_, own)| own);
    all.filter(|own| is_counted(own)).count()
}

/// Whether a branch counts among the ephemeral ones.
pub(super) fn is_counted(own: &OwnBranch) -> bool {
    own.intent != Intent::Gone && own.is_ephemeral()
}

/// Whether a branch is to go: its lease does not live, or it waits for none any more,
/// and nobody makes it.
fn is_orphan(own: &OwnBranch, lives: impl FnOnce(LeaseId) -> bool, now: Timestamp) -> bool {
    if own.intent == Intent::Gone {
        return false;
    }
    let is_deleted = own.intent == Intent::Delete;
    match (&own.lease, &own.warm) {
        (Some(of), _) => (is_deleted || of.making_until <= now) && !lives(of.id),
        (None, Some(warm)) => is_deleted || warm.making_until.is_some_and(|until| until <= now),
        (None, None) => false,
    }
}

/// The last moment that a lease may be promised until, by what Neon has confirmed of
/// its branch.
pub(super) fn last(lease: &Lease) -> Option<Timestamp> {
    let left = SignedDuration::from_secs(MARGIN_SECONDS_LEFT);
    lease.branch_expire_time.map(|end| end - left)
}

/// A lease is given on the branch that was made for it, unless that is gone.
pub(super) fn given(draft: &mut Draft<'_>, lease: &mut Lease, now: Timestamp) -> Result<(), Error> {
    let own = draft.branch(&branch_name(lease.id));
    let is_its = |own: &&OwnBranch| {
        own.intent == Intent::Own && own.branch.as_ref() == Some(&lease.grant.branch)
    };
    if own.filter(is_its).is_none() {
        return Err(Error::BranchGone);
    }
    over(draft, lease.id, now);
    if let Some(last) = last(lease) {
        lease.expire_time = lease.expire_time.min(last);
    }
    Ok(())
}

pub(super) fn over(draft: &mut Draft<'_>, lease: LeaseId, now: Timestamp) {
    let name = branch_name(lease);
    if let Some(mut own) = draft.branch(&name).cloned() {
        if let Some(of) = &mut own.lease {
            of.making_until = now;
        }
        own.update_time = now;
        draft.branch_put(name, own);
    }
}

pub(super) fn put_making(
    draft: &mut Draft<'_>,
    lease: LeaseId,
    mut own: OwnBranch,
    now: Timestamp,
) {
    let until = now.checked_add(SignedDuration::from_secs(MAKING_SECONDS));
    if let Some(of) = &mut own.lease {
        of.making_until = until.unwrap_or(Timestamp::MAX);
    }
    own.update_time = now;
    draft.branch_put(branch_name(lease), own);
}
