//! Long-running operations, and the branches that are the broker's own.

use jiff::Timestamp;
use neon_api::BranchId;
use uuid::Uuid;

use crate::names::LeaseId;

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
