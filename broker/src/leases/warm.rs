//! Ephemeral branches that are kept ready: what is written down of them while they are
//! made, and which of them are to go.
//!
//! A branch of a pool is written down before it is made, with the lease that it will go
//! with: its annotation names that, and is not changed when the branch is handed out.
//! Who works in the background makes it, moves `making_until` on meanwhile, and takes
//! that away when it is ready. One that is not ready and that nobody makes is deleted.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use neon_api::BranchId;

use super::ephemeral::{MAKING_SECONDS, branches_count, is_counted};
use super::{Error, Leases, RoleFor, roles};
use crate::config::PoolSpec;
use crate::credentials::KeyId;
use crate::names::{BindingName, BranchName, LeaseId};
use crate::state::{self, Data, Draft, Generation, Intent, OwnBranch, RoleKey, Warm};

/// A branch that is to be made for a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WarmMaking {
    /// Its name.
    pub name: BranchName,
    /// The lease that it will go with.
    pub lease: LeaseId,
    /// What it is forked from.
    pub parent: BranchId,
    /// When Neon is to delete it by itself.
    pub end: Timestamp,
}

/// How a pool is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PoolCount {
    /// Branches that may be handed out.
    pub ready: usize,
    /// Branches that are being made.
    pub making: usize,
}

/// The name of a branch that waits for its lease.
pub(crate) fn warm_name(lease: LeaseId) -> BranchName {
    let name = format!("warm/{}", lease.uuid());
    name.parse()
        .expect("letters, digits and - are a branch name")
}

/// All that decides whether a branch is what somebody wants who asks now, in words: two
/// are the same if these are.
fn made_as(pool: &PoolSpec, parent: &Generation, key: &KeyId) -> String {
    let PoolSpec {
        service, migrate, ..
    } = pool;
    let revision = parent.revision.as_deref().unwrap_or("none");
    let reset = parent.reset_at.map(|time| time.to_string());
    let newest = migrate.as_ref().map(|all| {
        let newest = all.last().map(|revision| revision.name.as_str());
        newest.unwrap_or("none")
    });
    format!(
        "of {} at revision {revision}, last reset {}; service {} in {}/{}, migrated to {}, role \
         {} of key {key}",
        parent.branch,
        reset.as_deref().unwrap_or("never"),
        service.name,
        service.database,
        service.schema,
        newest.unwrap_or("nothing more"),
        pool.access.as_str(),
    )
}

/// Why a branch of a pool is to be handed out to nobody; none if it may be.
pub(super) fn why_stale<'a>(
    own: &OwnBranch,
    warm: &Warm,
    pool: &PoolSpec,
    parent: impl FnOnce(&BindingName) -> Option<&'a Generation>,
    key: &KeyId,
    now: Timestamp,
) -> Option<&'static str> {
    if own.intent != Intent::Own {
        return Some("it is being deleted");
    }
    let Some(parent) = parent(&pool.parent) else {
        return Some("its parent is there no more");
    };
    if warm.made_as != made_as(pool, parent, key) {
        return Some("its parent was changed, or its pool is declared otherwise");
    }
    let age = now.duration_since(warm.fork_time);
    if Duration::try_from(age).unwrap_or_default() >= pool.max_age {
        return Some("it is as old as it may get");
    }
    None
}

/// Whether a branch waits for its lease, or is made to.
fn waits(own: &OwnBranch) -> Option<&Warm> {
    own.warm
        .as_ref()
        .filter(|_| own.lease.is_none() && own.goes_on())
}

/// How a pool is, of those branches.
fn count<'a>(
    branches: impl Iterator<Item = &'a OwnBranch>,
    pool: &PoolSpec,
    now: Timestamp,
) -> PoolCount {
    let mut count = PoolCount::default();
    for own in branches {
        let Some(warm) = waits(own).filter(|warm| warm.pool == pool.name) else {
            continue;
        };
        match warm.making_until {
            None => count.ready += 1,
            Some(until) if until > now => count.making += 1,
            // It is to go.
            Some(_) => {}
        }
    }
    count
}

impl PoolCount {
    fn is_short_of(self, size: usize) -> bool {
        self.ready + self.making < size
    }
}

/// Writes down that another branch of a pool is about to be made; none if it has
/// enough, or there is no room, or its parent is not there.
fn begin(
    draft: &mut Draft<'_>,
    lease: LeaseId,
    pool: &PoolSpec,
    key: &KeyId,
    branches_max: Option<usize>,
    now: Timestamp,
) -> Option<BranchId> {
    let parent = draft.generation(&pool.parent)?;
    if draft.is_held(&parent.branch) || branches_max.is_some_and(|max| branches_count(draft) >= max)
    {
        return None;
    }
    let all = draft.branches().map(|(_, own)| own);
    if !count(all, pool, now).is_short_of(pool.size) {
        return None;
    }
    let (branch, made_as) = (parent.branch.clone(), made_as(pool, parent, key));
    let own = OwnBranch {
        branch: None,
        intent: Intent::Create,
        update_time: now,
        lease: None,
        warm: Some(Warm {
            pool: pool.name.clone(),
            lease,
            made_as,
            fork_time: now,
            expire_time: None,
            role: None,
            making_until: Some(later(now, MAKING_SECONDS)),
        }),
    };
    draft.branch_put(warm_name(lease), own);
    Some(branch)
}

/// Branches that are ready and that nobody is to have, and why: stale ones, those of
/// pools that are declared no more, and the oldest of those that are too many.
fn unwanted(
    data: &Data,
    pools: &[PoolSpec],
    key: &KeyId,
    now: Timestamp,
) -> Vec<(BranchName, &'static str)> {
    let mut unwanted = Vec::new();
    let mut wanted: Vec<(&PoolSpec, Timestamp, &BranchName)> = Vec::new();
    for (name, own) in &data.branches {
        let Some(warm) = waits(own).filter(|warm| warm.making_until.is_none()) else {
            continue;
        };
        match pools.iter().find(|pool| pool.name == warm.pool) {
            None => unwanted.push((name.clone(), "its pool is declared no more")),
            Some(pool) => {
                let parent = |binding: &BindingName| data.generations.get(binding);
                match why_stale(own, warm, pool, parent, key, now) {
                    Some(why) => unwanted.push((name.clone(), why)),
                    None => wanted.push((pool, warm.fork_time, name)),
                }
            }
        }
    }
    wanted.sort_by_key(|(_, fork_time, _)| std::cmp::Reverse(*fork_time));
    for pool in pools {
        let of_it = wanted.iter().filter(|(of, ..)| of.name == pool.name);
        let surplus = of_it.skip(pool.size);
        unwanted.extend(surplus.map(|(.., name)| ((*name).clone(), "its pool has enough")));
    }
    unwanted
}

impl Leases {
    /// Writes down that another branch of a pool is about to be made; none if none is
    /// to be.
    pub async fn warm_intend(
        &self,
        pool: PoolSpec,
        key: KeyId,
    ) -> Result<Option<WarmMaking>, state::Error> {
        let (now, lease) = (self.now(), LeaseId::random());
        let max = self.settings().ephemeral_branches_max;
        let end = now
            .checked_add(pool.max_age)
            .and_then(|aged| aged.checked_add(self.max_ttl()))
            .unwrap_or(Timestamp::MAX);
        let end = self.branch_end(end);
        let change = move |draft: &mut Draft<'_>| begin(draft, lease, &pool, &key, max, now);
        let parent = self.state.change_in_background(change).await?;
        Ok(parent.map(|parent| WarmMaking {
            name: warm_name(lease),
            lease,
            parent,
            end,
        }))
    }

    /// Says that a branch of a pool is being made still, and which it is, and when Neon
    /// deletes it, once that is known.
    pub async fn warm_making(
        &self,
        name: &BranchName,
        made: Option<(BranchId, Option<Timestamp>)>,
    ) -> Result<(), Error> {
        let now = self.now();
        let change = move |own: &mut OwnBranch, warm: &mut Warm| {
            warm.making_until = Some(later(now, MAKING_SECONDS));
            if let Some((branch, end)) = made.clone() {
                own.branch = Some(branch);
                own.intent = Intent::Own;
                warm.expire_time = end;
            }
        };
        self.warm_change(name, change).await
    }

    /// Writes down that the role that is to wait on a branch is about to be made. Which
    /// it is.
    pub async fn warm_role(&self, name: &BranchName, of: RoleFor) -> Result<RoleKey, Error> {
        let (name, now) = (name.clone(), self.now());
        let change = move |draft: &mut Draft<'_>| {
            let own = draft.branch(&name).filter(|own| waits(own).is_some());
            let Some(mut own) = own.cloned() else {
                return Err(Error::BranchGone);
            };
            let role = roles::reserve(draft, &of, now);
            if let Some(warm) = &mut own.warm {
                warm.role = Some(role.role.clone());
            }
            draft.branch_put(name.clone(), own);
            Ok(role)
        };
        self.state.change_in_background(change).await?
    }

    /// The branch is ready, and the role that waits on it good until then.
    pub async fn warm_ready(
        &self,
        name: &BranchName,
        role: RoleKey,
        valid_until: Timestamp,
    ) -> Result<(), Error> {
        let (name, now) = (name.clone(), self.now());
        let change = move |draft: &mut Draft<'_>| {
            let own = draft.branch(&name).filter(|own| waits(own).is_some());
            let Some(mut own) = own.cloned() else {
                return Err(Error::BranchGone);
            };
            if let Some(warm) = &mut own.warm {
                warm.making_until = None;
            }
            own.update_time = now;
            draft.branch_put(name.clone(), own);
            if let Some(mut made) = draft.role(&role).cloned() {
                made.valid_until = Some(valid_until);
                made.update_time = now;
                draft.role_put(role.clone(), made);
            }
            Ok(())
        };
        self.state.change_in_background(change).await?
    }

    /// Says that nobody makes a branch any more: it goes.
    pub async fn warm_making_over(&self, name: &BranchName) -> Result<(), Error> {
        let now = self.now();
        let over = move |_: &mut OwnBranch, warm: &mut Warm| warm.making_until = Some(now);
        self.warm_change(name, over).await
    }

    /// For who begins to work in the background: nobody makes any more what another
    /// began to make.
    pub async fn warm_makings_over(&self) -> Result<(), state::Error> {
        let now = self.now();
        let change = move |draft: &mut Draft<'_>| {
            let all = draft.branches();
            let making = all.filter(|(_, own)| {
                let until = waits(own).and_then(|warm| warm.making_until);
                until.is_some_and(|until| until > now)
            });
            let making: Vec<(BranchName, OwnBranch)> = making
                .map(|(name, own)| (name.clone(), own.clone()))
                .collect();
            for (name, mut own) in making {
                if let Some(warm) = &mut own.warm {
                    warm.making_until = Some(now);
                }
                draft.branch_put(name, own);
            }
        };
        self.state.change_in_background(change).await
    }

    /// Whether a pool is to have another branch, and there is room for it.
    pub fn warm_is_short(&self, pool: &PoolSpec) -> bool {
        let (now, max) = (self.now(), self.settings().ephemeral_branches_max);
        self.state.read(|data| {
            let all = || data.branches.values();
            let is_full = max.is_some_and(|max| all().filter(|own| is_counted(own)).count() >= max);
            !is_full && count(all(), pool, now).is_short_of(pool.size)
        })
    }

    /// How a pool is.
    pub fn warm_count(&self, pool: &PoolSpec) -> PoolCount {
        let now = self.now();
        self.state
            .read(|data| count(data.branches.values(), pool, now))
    }

    /// How many ephemeral branches there are, and how many there may be.
    pub fn ephemeral_count(&self) -> (usize, Option<usize>) {
        let max = self.settings().ephemeral_branches_max;
        let count = |data: &Data| {
            let all = data.branches.values();
            all.filter(|own| is_counted(own)).count()
        };
        (self.state.read(count), max)
    }

    /// Branches that are ready and that nobody is to have, and why.
    pub fn warm_unwanted(
        &self,
        pools: &[PoolSpec],
        key: &KeyId,
    ) -> Vec<(BranchName, &'static str)> {
        let now = self.now();
        self.state.read(|data| unwanted(data, pools, key, now))
    }

    /// Branches that wait for a lease, ready.
    pub fn warm_ready_ones(&self) -> Vec<(BranchName, OwnBranch)> {
        self.state.read(|data| {
            let all = data.branches.iter();
            let ready = all.filter(|(_, own)| {
                let warm = waits(own);
                warm.is_some_and(|warm| warm.making_until.is_none())
            });
            ready
                .map(|(name, own)| (name.clone(), own.clone()))
                .collect()
        })
    }

    /// Has a branch that waits deleted; false if it waits no more.
    pub async fn warm_retire(&self, name: &BranchName) -> Result<bool, state::Error> {
        let (name, now) = (name.clone(), self.now());
        let change = move |draft: &mut Draft<'_>| {
            let own = draft.branch(&name).filter(|own| waits(own).is_some());
            let Some(mut own) = own.cloned() else {
                return false;
            };
            own.intent = Intent::Delete;
            own.update_time = now;
            draft.branch_put(name.clone(), own);
            true
        };
        self.state.change_in_background(change).await
    }

    async fn warm_change(
        &self,
        name: &BranchName,
        change: impl Fn(&mut OwnBranch, &mut Warm) + Send + 'static,
    ) -> Result<(), Error> {
        let (name, now) = (name.clone(), self.now());
        let change = move |draft: &mut Draft<'_>| {
            let own = draft.branch(&name).filter(|own| waits(own).is_some());
            let Some((mut own, mut warm)) =
                own.and_then(|own| Some((own.clone(), own.warm.clone()?)))
            else {
                return Err(Error::BranchGone);
            };
            change(&mut own, &mut warm);
            own.warm = Some(warm);
            own.update_time = now;
            draft.branch_put(name.clone(), own);
            Ok(())
        };
        self.state.change_in_background(change).await?
    }
}

fn later(now: Timestamp, seconds: i64) -> Timestamp {
    let later = now.checked_add(SignedDuration::from_secs(seconds));
    later.unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests;
