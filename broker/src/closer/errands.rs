//! Errands on branches, done until they are done: side by side, but one after the
//! other on each branch.
//!
//! What holds: on no branch there are two at once. What fails ends its branch's turn,
//! since it is most often the branch that does not answer, and is tried again after a
//! pause; what takes too long has failed. What failed least often goes first, and what has
//! failed never takes all the places, so that however many branches never answer, one
//! that does is not held up by them; urgent errands have a lead, and no more.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use neon_api::BranchId;
use tokio::time::Instant;

use crate::tries::Tries;

/// On how many branches at once there is work, and how many errands on each before it
/// is looked again which are due.
const BRANCHES_AT_ONCE_MAX: usize = 16;
const OF_BRANCH_MAX: usize = 16;
/// On how many of them work that has failed before: the other places are for what most
/// often is done in a moment.
const FAILED_AT_ONCE_MAX: usize = 12;
/// How long one errand may take, in seconds: longer than what it does, of which each
/// part has a limit, and Neon asked in between.
const ERRAND_SECONDS_MAX: u64 = 120;
/// How many times more an urgent errand may have failed than another that it still
/// goes before.
const URGENT_LEAD: u32 = 2;

/// What is to be done on a branch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Errand<K> {
    /// The branch.
    pub(super) branch: BranchId,
    /// What it is known by when it is looked for again: it has pauses of its own.
    pub(super) key: K,
    /// Whether it goes before those that are not.
    pub(super) is_urgent: bool,
}

/// Whether an errand that is due may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum May {
    /// It may.
    Begin,
    /// It may not, and is asked about again the next time.
    NotYet,
    /// It may not, and is not asked about before then.
    NotBefore(Instant),
}

/// How a branch's turn ended.
struct Ended<K> {
    branch: BranchId,
    failed: Option<K>,
    /// Not begun, because of the one that failed.
    held_up: Vec<K>,
}

/// Does errands for ever: those that are there (`all`) whenever something may have
/// changed (`woken`). `work` says whether it is done.
pub(super) async fn run<K: Ord + Clone>(
    mut woken: impl AsyncFnMut(),
    mut all: impl FnMut() -> Vec<Errand<K>>,
    mut may: impl FnMut(&Errand<K>) -> May,
    work: impl AsyncFn(&K) -> bool,
) {
    let mut tries = Tries::default();
    // And whether the work there has failed before.
    let mut busy = BTreeMap::new();
    let mut under_way = FuturesUnordered::new();
    loop {
        tokio::select! {
            Some(ended) = under_way.next(), if !under_way.is_empty() => {
                let Ended { branch, failed, held_up } = ended;
                busy.remove(&branch);
                let now = Instant::now();
                if let Some(key) = failed {
                    tries.failed(key, now);
                }
                for key in held_up {
                    tries.held_up(key, now);
                }
            }
            () = woken() => {}
        }
        let all = all();
        tries.retain(&all.iter().map(|errand| &errand.key).collect());
        let idle = all
            .into_iter()
            .filter(|one| !busy.contains_key(&one.branch));
        let due = due(idle, &mut may, &mut tries);
        for (branch, errands) in turns(due, &tries) {
            let first = errands.first();
            let has_failed = first.is_some_and(|first| tries.failures(&first.key) > 0);
            let failed_at_once = busy.values().filter(|failed| **failed).count();
            let is_place = under_way.len() < BRANCHES_AT_ONCE_MAX
                && (!has_failed || failed_at_once < FAILED_AT_ONCE_MAX);
            if is_place {
                busy.insert(branch.clone(), has_failed);
                under_way.push(turn(&work, branch, errands));
            }
        }
    }
}

/// Those that are due and may begin.
fn due<K: Ord + Clone>(
    all: impl Iterator<Item = Errand<K>>,
    may: &mut impl FnMut(&Errand<K>) -> May,
    tries: &mut Tries<K>,
) -> Vec<Errand<K>> {
    let now = Instant::now();
    let mut due = Vec::new();
    for errand in all {
        if !tries.is_due(&errand.key, now) {
            continue;
        }
        match may(&errand) {
            May::Begin => due.push(errand),
            May::NotYet => {}
            May::NotBefore(time) => tries.wait(errand.key, time),
        }
    }
    due
}

/// The errands of each branch, in the order in which branches and errands have their
/// turn.
fn turns<K: Ord>(due: Vec<Errand<K>>, tries: &Tries<K>) -> Vec<(BranchId, Vec<Errand<K>>)> {
    let rank = |errand: &Errand<K>| {
        let failures = tries.failures(&errand.key);
        let lead = if errand.is_urgent { URGENT_LEAD } else { 0 };
        let failures = failures.saturating_sub(lead);
        // Of those that fail alike each has its turn: one that always fails is not
        // tried again before the others.
        let tried = tries.tried(&errand.key);
        (failures, Reverse(errand.is_urgent), tried)
    };
    let mut branches: BTreeMap<BranchId, Vec<Errand<K>>> = BTreeMap::new();
    for errand in due {
        let of_branch = branches.entry(errand.branch.clone()).or_default();
        of_branch.push(errand);
    }
    for errands in branches.values_mut() {
        errands.sort_by_key(rank);
        errands.truncate(OF_BRANCH_MAX);
    }
    let mut branches: Vec<_> = branches.into_iter().collect();
    branches.sort_by_key(|(_, errands)| errands.first().map(rank));
    branches
}

/// One branch's turn: its errands up to the first that fails.
async fn turn<K>(
    work: &impl AsyncFn(&K) -> bool,
    branch: BranchId,
    errands: Vec<Errand<K>>,
) -> Ended<K> {
    let limit = Duration::from_secs(ERRAND_SECONDS_MAX);
    let mut keys = errands.into_iter().map(|errand| errand.key);
    let mut failed = None;
    while failed.is_none()
        && let Some(key) = keys.next()
    {
        let is_done = tokio::time::timeout(limit, work(&key)).await;
        if !is_done.unwrap_or(false) {
            failed = Some(key);
        }
    }
    Ended {
        branch,
        failed,
        held_up: keys.collect(),
    }
}

#[cfg(test)]
mod tests;
