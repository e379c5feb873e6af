//! The ledger of the broker's own branches: what is about to be done with one is
//! written down before it is done, so that what a crash leaves behind is known for
//! ours, and nothing else ever is.
//!
//! What is stored here, and who may change it: the branches of the state, by name.
//! This module alone changes them, but for those that go with a lease or wait for
//! one, which are leases.rs's. A branch is ours by our annotation or by a
//! row with its id.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use neon_api::BranchId;
use neon_api::types::Branch;
use rpc::clock::Clock;

use crate::names::BranchName;
use crate::state::{self, Data, Draft, Intent, OwnBranch, State};

/// The ledger of the state.
#[derive(Debug, Clone)]
pub struct Ledger {
    state: Arc<State>,
    clock: Clock,
}

/// The rows of one branch that is there. A branch that was renamed by somebody else
/// may have left one under its name of before.
fn has_id(row: &OwnBranch, id: &BranchId) -> bool {
    row.branch.as_ref() == Some(id) && !matches!(row.intent, Intent::Create | Intent::Gone)
}

/// The name under which a branch is in the ledger: its own, or its id where that is
/// a name that we would not give.
pub fn key(branch: &Branch) -> BranchName {
    let name = branch.name.parse();
    name.unwrap_or_else(|_| BranchName::of_id(&branch.id))
}

impl Ledger {
    /// That of this state.
    pub fn new(state: Arc<State>, clock: Clock) -> Ledger {
        Ledger { state, clock }
    }

    /// Whether a row says that the branch is ours.
    pub fn owns(&self, id: &BranchId) -> bool {
        let owns = |data: &Data| data.branches.values().any(|row| has_id(row, id));
        self.state.read(owns)
    }

    /// The branches that rows say are ours.
    pub fn own(&self) -> BTreeSet<BranchId> {
        let there = |row: &OwnBranch| !matches!(row.intent, Intent::Create | Intent::Gone);
        self.state.read(|data| {
            let rows = data.branches.values().filter(|row| there(row));
            rows.filter_map(|row| row.branch.clone()).collect()
        })
    }

    /// Whether a branch keeps what a restore has replaced. None: no row says so, or
    /// otherwise.
    pub fn is_kept(&self, id: &BranchId) -> Option<bool> {
        self.state.read(|data| {
            let mut rows = data.branches.values().filter(|row| has_id(row, id));
            rows.find_map(|row| match row.intent {
                Intent::Preserve => Some(true),
                Intent::Own | Intent::Retired => Some(false),
                Intent::Create | Intent::Delete | Intent::Gone => None,
            })
        })
    }

    /// A branch of that name is about to be made.
    pub async fn intend_create(&self, name: &BranchName) -> Result<(), state::Error> {
        let (name, now) = (name.clone(), self.now());
        let change = move |draft: &mut Draft<'_>| intend_create_in(draft, &name, now);
        self.state.change(change).await
    }

    /// The branch is there, and ours.
    pub async fn created(&self, name: &BranchName, id: &BranchId) -> Result<(), state::Error> {
        self.is_now(name, Some(id), Intent::Own).await
    }

    /// The branch keeps what a restore has replaced, and is ours.
    pub async fn kept(&self, name: &BranchName, id: &BranchId) -> Result<(), state::Error> {
        self.is_now(name, Some(id), Intent::Preserve).await
    }

    /// The branch is ours, and goes with the last of its children.
    pub async fn retired(&self, name: &BranchName, id: &BranchId) -> Result<(), state::Error> {
        self.is_now(name, Some(id), Intent::Retired).await
    }

    /// The branches that go with the last of their children.
    pub fn going(&self) -> Vec<(BranchName, BranchId)> {
        self.state.read(|data| {
            let rows = data.branches.iter();
            let going = rows.filter(|(_, row)| row.intent == Intent::Retired);
            let going = going.filter_map(|(name, row)| Some((name.clone(), row.branch.clone()?)));
            going.collect()
        })
    }

    /// The branch is about to be deleted.
    pub async fn intend_delete(
        &self,
        name: &BranchName,
        id: &BranchId,
    ) -> Result<(), state::Error> {
        let (name, id, now) = (name.clone(), id.clone(), self.now());
        let change = move |draft: &mut Draft<'_>| intend_delete_in(draft, &name, &id, now);
        self.state.change(change).await
    }

    /// The branch of that name was deleted, or never came to be.
    pub async fn gone(&self, name: &BranchName) -> Result<(), state::Error> {
        self.is_now(name, None, Intent::Gone).await
    }

    /// The branch was deleted, whatever its name was.
    pub async fn deleted(&self, id: &BranchId) -> Result<(), state::Error> {
        let (id, now) = (id.clone(), self.now());
        let change = move |draft: &mut Draft<'_>| {
            for name in names_of(draft, &id) {
                put(draft, &name, None, Intent::Gone, now);
            }
        };
        self.state.change_by_all_means(change).await
    }

    /// What the ledger says under that name.
    pub fn row(&self, name: &BranchName) -> Option<OwnBranch> {
        self.state.read(|data| data.branches.get(name).cloned())
    }

    /// Puts back what the ledger said under that name before a deletion that was
    /// refused.
    pub async fn undone(
        &self,
        name: &BranchName,
        before: Option<OwnBranch>,
    ) -> Result<(), state::Error> {
        match before {
            None => self.gone(name).await,
            Some(row) => {
                let intent = match row.intent {
                    // Of a deletion before.
                    Intent::Delete => Intent::Own,
                    intent => intent,
                };
                self.is_now(name, row.branch.as_ref(), intent).await
            }
        }
    }

    /// The branch has another name.
    pub async fn renamed(&self, id: &BranchId, to: &BranchName) -> Result<(), state::Error> {
        let (id, to, now) = (id.clone(), to.clone(), self.now());
        let change = move |draft: &mut Draft<'_>| {
            for from in names_of(draft, &id) {
                if let Some(row) = draft.branch(&from).filter(|_| from != to).cloned() {
                    put(draft, &from, None, Intent::Gone, now);
                    put(draft, &to, row.branch, row.intent, now);
                }
            }
        };
        self.state.change_by_all_means(change).await
    }

    /// What was about to be done and is not known to be done, since before then.
    pub fn unsettled(&self, since: Timestamp) -> Vec<(BranchName, OwnBranch)> {
        self.rows(since, |row| match row.intent {
            Intent::Create | Intent::Delete => true,
            Intent::Preserve => row.branch.is_none(),
            Intent::Own | Intent::Retired | Intent::Gone => false,
        })
    }

    /// The branches that are there and ours, since before then.
    pub fn owned(&self, since: Timestamp) -> Vec<(BranchName, OwnBranch)> {
        self.rows(since, |row| match row.intent {
            Intent::Own | Intent::Preserve | Intent::Retired => row.branch.is_some(),
            Intent::Create | Intent::Delete | Intent::Gone => false,
        })
    }

    /// For who works in the background: writes what became of a row, unless somebody else has meanwhile.
    pub async fn settled(
        &self,
        name: &BranchName,
        was: &OwnBranch,
        branch: Option<BranchId>,
        intent: Intent,
    ) -> Result<(), state::Error> {
        let (name, was, now) = (name.clone(), was.clone(), self.now());
        let change = move |draft: &mut Draft<'_>| {
            if draft.branch(&name) == Some(&was) {
                put(draft, &name, branch.clone(), intent, now);
            }
        };
        self.state.change_in_background(change).await
    }

    async fn is_now(
        &self,
        name: &BranchName,
        id: Option<&BranchId>,
        intent: Intent,
    ) -> Result<(), state::Error> {
        let (name, id, now) = (name.clone(), id.cloned(), self.now());
        let change = move |draft: &mut Draft<'_>| {
            let row = draft.branch(&name);
            let is_so = match row {
                // What is not in the ledger is not gone from it.
                None => intent == Intent::Gone,
                Some(row) => row.branch == id && row.intent == intent,
            };
            if !is_so {
                put(draft, &name, id.clone(), intent, now);
            }
        };
        self.state.change_by_all_means(change).await
    }

    fn rows(
        &self,
        since: Timestamp,
        is_wanted: impl Fn(&OwnBranch) -> bool,
    ) -> Vec<(BranchName, OwnBranch)> {
        self.state.read(|data| {
            let rows = data.branches.iter();
            let rows = rows.filter(|(_, row)| {
                // What goes with a lease is the reaper's.
                !row.is_ephemeral() && is_wanted(row) && row.update_time <= since
            });
            rows.map(|(name, row)| (name.clone(), row.clone()))
                .collect()
        })
    }

    /// Where it is kept.
    pub fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// The broker's time.
    pub fn now(&self) -> Timestamp {
        state::now(&self.clock)
    }
}

/// As [`Ledger::intend_create`], with what else changes.
pub fn intend_create_in(draft: &mut Draft<'_>, name: &BranchName, now: Timestamp) {
    let is_there = |row: &OwnBranch| !matches!(row.intent, Intent::Gone);
    if !draft.branch(name).is_some_and(is_there) {
        put(draft, name, None, Intent::Create, now);
    }
}

/// A branch of that name is about to be made by a restore, and keeps what that
/// replaces.
pub fn intend_keep_in(draft: &mut Draft<'_>, name: &BranchName, now: Timestamp) {
    put(draft, name, None, Intent::Preserve, now);
}

/// As [`Ledger::intend_delete`], with what else changes.
pub fn intend_delete_in(draft: &mut Draft<'_>, name: &BranchName, id: &BranchId, now: Timestamp) {
    put(draft, name, Some(id.clone()), Intent::Delete, now);
}

/// Whether a branch is about to be deleted. Nobody gets a lease on it then.
pub fn is_going(draft: &Draft<'_>, id: &BranchId) -> bool {
    let mut rows = draft.branches();
    rows.any(|(_, row)| row.intent == Intent::Delete && row.branch.as_ref() == Some(id))
}

fn names_of(draft: &Draft<'_>, id: &BranchId) -> Vec<BranchName> {
    let rows = draft.branches().filter(|(_, row)| has_id(row, id));
    rows.map(|(name, _)| name.clone()).collect()
}

fn put(
    draft: &mut Draft<'_>,
    name: &BranchName,
    branch: Option<BranchId>,
    intent: Intent,
    update_time: Timestamp,
) {
    let row = OwnBranch {
        branch,
        intent,
        update_time,
        // Whoever makes one for a lease says so: leases.rs.
        lease: None,
        warm: None,
    };
    draft.branch_put(name.clone(), row);
}
