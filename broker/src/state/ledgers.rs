//! Long-running operations, and the branches that are the broker's own.

use jiff::Timestamp;
use neon_api::BranchId;

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
    /// What there is to know while it goes on, encoded.
    pub metadata: Vec<u8>,
    /// What came of it, encoded.
    pub result: Option<Vec<u8>>,
    /// Whether it has ended.
    pub done: bool,
    /// When it was asked for.
    pub create_time: Timestamp,
    /// When it last changed.
    pub update_time: Timestamp,
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
    /// It is being deleted.
    Delete,
    /// It was deleted, or never came to be.
    Gone,
}

impl Intent {
    const ALL: [Intent; 5] = [
        Intent::Create,
        Intent::Own,
        Intent::Preserve,
        Intent::Delete,
        Intent::Gone,
    ];

    /// As it is stored.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Intent::Create => "create",
            Intent::Own => "own",
            Intent::Preserve => "preserve",
            Intent::Delete => "delete",
            Intent::Gone => "gone",
        }
    }

    pub(super) fn of_stored(text: &str) -> Option<Intent> {
        let mut all = Intent::ALL.into_iter();
        all.find(|intent| intent.as_str() == text)
    }
}
