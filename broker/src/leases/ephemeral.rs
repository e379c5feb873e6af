//! Leases that own their branch: what is written down of the branch.
//!
//! The branch is written down, with the lease that it is for, before it is made. Who
//! makes it moves `making_until` on while they do; a branch whose lease does not live
//! and whose making is over is deleted, whoever began it. The lease promises less
//! than Neon does, which deletes the branch at its `expires_at` by itself.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use neon_api::BranchId;

use super::{Error, Lease, Leases, RequestId, requests};
use crate::names::{BranchName, LeaseId};
use crate::state::{self, Draft, ForLease, Intent, OwnBranch};

/// How long a branch that is being made is left alone after its maker last said so,
/// in seconds.
const MAKING_SECONDS: i64 = 30;
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

/// The name of a lease's branch.
pub(crate) fn branch_name(lease: LeaseId) -> BranchName {
    let name = format!("lease/{}", lease.uuid());
    name.parse()
        .expect("letters, digits and - are a branch name")
}

impl Leases {
    /// Writes down that a branch is about to be made for a lease. The same request,
    /// asked again, goes on with the same lease: which it is.
    pub async fn making_intend(&self, making: Making) -> Result<LeaseId, Error> {
        let now = self.now();
        let change = move |draft: &mut Draft<'_>| {
            let request_id = making.request_id.as_ref();
            if let Some(before) = requests::repeated_in(draft, request_id, now)?
                && let Some(own) = draft.branch(&branch_name(before)).cloned()
                && matches!(own.intent, Intent::Create | Intent::Own)
                // Not one whose lease was given: that has ended.
                && own.lease.as_ref().is_some_and(|of| of.making_until > now)
            {
                put_making(draft, before, own, now);
                return Ok(before);
            }
            let all = draft.branches();
            let has = all.filter(|(_, own)| {
                let goes_on = matches!(own.intent, Intent::Create | Intent::Own);
                let of_holder = |lease: &ForLease| lease.holder == making.holder;
                goes_on && own.lease.as_ref().is_some_and(of_holder)
            });
            let has = has.count();
            if let Some(max) = making.max
                && has >= max as usize
            {
                return Err(Error::TooManyEphemeral {
                    holder: making.holder.clone(),
                    max,
                });
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
            };
            put_making(draft, making.lease, own, now);
            Ok(making.lease)
        };
        self.state.change(change).await?
    }

    /// Says that a lease's branch is being made still, and which it is once that is
    /// known.
    pub async fn making(&self, lease: LeaseId, branch: Option<BranchId>) -> Result<(), Error> {
        let now = self.now();
        let change = move |draft: &mut Draft<'_>| {
            let own = draft.branch(&branch_name(lease)).cloned();
            let goes_on = |own: &OwnBranch| matches!(own.intent, Intent::Create | Intent::Own);
            let Some(mut own) = own.filter(goes_on) else {
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

    /// Branches whose lease does not live, and that nobody makes: they are to go.
    pub fn orphans(&self) -> Vec<(BranchName, OwnBranch)> {
        let now = self.now();
        self.state.read(|data| {
            let all = data.branches.iter();
            let orphans = all.filter(|(_, own)| {
                let Some(of) = &own.lease else { return false };
                let lease = data.leases.get(&of.id);
                let is_made = own.intent != Intent::Delete && of.making_until > now;
                own.intent != Intent::Gone
                    && !is_made
                    && !lease.is_some_and(|lease| lease.lives(now))
            });
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
            let Some(mut own) = draft.branch(&name).cloned() else {
                return false;
            };
            let Some(of) = &own.lease else { return false };
            let lease = draft.lease(of.id);
            let is_made = own.intent != Intent::Delete && of.making_until > now;
            if is_made || lease.is_some_and(|lease| lease.lives(now)) {
                return false;
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
        own.lease
            .as_ref()
            .is_some_and(|of| self.now().duration_since(of.making_until) < late)
    }

    fn margin(&self) -> Duration {
        let half = self.max_ttl() / 2;
        half.clamp(
            Duration::from_secs(MARGIN_SECONDS_MIN),
            Duration::from_secs(MARGIN_SECONDS_MAX),
        )
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

fn over(draft: &mut Draft<'_>, lease: LeaseId, now: Timestamp) {
    let name = branch_name(lease);
    if let Some(mut own) = draft.branch(&name).cloned() {
        if let Some(of) = &mut own.lease {
            of.making_until = now;
        }
        own.update_time = now;
        draft.branch_put(name, own);
    }
}

fn put_making(draft: &mut Draft<'_>, lease: LeaseId, mut own: OwnBranch, now: Timestamp) {
    let until = now.checked_add(SignedDuration::from_secs(MAKING_SECONDS));
    if let Some(of) = &mut own.lease {
        of.making_until = until.unwrap_or(Timestamp::MAX);
    }
    own.update_time = now;
    draft.branch_put(branch_name(lease), own);
}
