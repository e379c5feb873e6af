//! Long-running operations, and the branches that are the broker's own.

use jiff::Timestamp;
use neon_api::BranchId;
use uuid::Uuid;

use crate::names::{LeaseId, PoolName};

/// Work that a caller waits for, in data alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// Who asked: empty for a caller without an identity.
    pub caller: String,
    /// Which method was called.
    pub method: String,
    /// The request, encoded.
    pub request: Vec<u8>,
    /// The name of the branch that is worked on; empty before there is one.
    pub branch: String,
    /// What came of it, encoded.
    pub result: Option<Vec<u8>>,
    /// Whether it has ended.
    pub done: bool,
    /// When it was asked for.
    pub create_time: Timestamp,
    /// When it last changed, but for its heartbeats.
    pub update_time: Timestamp,
    /// The process that does the work.
    pub runner: Option<Uuid>,
    /// When the runner last said that it does.
    pub heartbeat_time: Option<Timestamp>,
    /// Whether the world is changed: nobody cancels it any more.
    pub committed: bool,
    /// What was known of the world just before it was changed.
    pub note: Option<String>,
}

impl Operation {
    /// Whether it gives a branch other data at the moment, or deletes it: nobody
    /// gets a lease on it meanwhile.
    pub fn holds(&self, branch: &BranchId) -> bool {
        const HOLDING: [&str; 3] = ["ResetBranch", "RestoreBranch", "DeleteBranch"];
        let is_on = || self.branch.strip_prefix("branches/") == Some(branch.as_str());
        self.committed && !self.done && HOLDING.contains(&&*self.method) && is_on()
    }
}

/// A branch that is ours, or is about to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnBranch {
    /// Its id, once Neon has told it.
    pub branch: Option<BranchId>,
    /// What is being done with it.
    pub intent: Intent,
    /// When that was written down.
    pub update_time: Timestamp,
    /// The lease that it goes with.
    pub lease: Option<ForLease>,
    /// What it is in a warm pool, or was until Neon has heard that it was handed out.
    pub warm: Option<Warm>,
}

impl OwnBranch {
    /// Whether it is there, or about to be, for as long as somebody has it.
    pub fn goes_on(&self) -> bool {
        matches!(self.intent, Intent::Create | Intent::Own)
    }

    /// Whether it goes with a lease, or is to.
    pub fn is_ephemeral(&self) -> bool {
        self.lease.is_some() || self.warm.is_some()
    }
}

/// What there is to know of a branch that goes with a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForLease {
    /// The lease.
    pub id: LeaseId,
    /// Whose it is.
    pub holder: String,
    /// Until then somebody makes it, and the lease is not there yet. Who makes it
    /// moves this on while they do.
    pub making_until: Timestamp,
}

/// What there is to know of a branch that waits for a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warm {
    /// The pool, by its name in broker.toml.
    pub pool: PoolName,
    /// The lease that it will go with: its annotation names that from the first moment
    /// on.
    pub lease: LeaseId,
    /// All that decides whether it is still what somebody wants who asks now: the
    /// parent's data and revision, and what was declared.
    pub made_as: String,
    /// When it was about to be forked.
    pub fork_time: Timestamp,
    /// When Neon deletes it by itself, as it has confirmed.
    pub expire_time: Option<Timestamp>,
    /// The login role that waits on it.
    pub role: Option<String>,
    /// Until then somebody makes it, and moves this on while they do. None: it is
    /// ready.
    pub making_until: Option<Timestamp>,
}

/// What is being done with a branch, written down before it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intent {
    /// It is being made.
    Create,
    /// It is there, and ours.
    Own,
    /// It keeps what a restore replaces: it gets to be the parent of what was
    /// restored, and has no annotation of ours.
    Preserve,
    /// It is there, ours, and goes with the last of its children.
    Retired,
    /// It is being deleted.
    Delete,
    /// It was deleted, or never came to be.
    Gone,
}

impl Intent {
    const ALL: [Intent; 6] = [
        Intent::Create,
        Intent::Own,
        Intent::Preserve,
        Intent::Retired,
        Intent::Delete,
        Intent::Gone,
    ];

    /// As it is stored.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Intent::Create => "create",
            Intent::Own => "own",
            Intent::Preserve => "preserve",
            Intent::Retired => "retired",
            Intent::Delete => "delete",
            Intent::Gone => "gone",
        }
    }

    pub(super) fn of_stored(text: &str) -> Option<Intent> {
        let mut all = Intent::ALL.into_iter();
        all.find(|intent| intent.as_str() == text)
    }
}
