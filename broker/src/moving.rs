//! Why a binding is not moved to another branch, or its version not ended.

use neon_api::BranchId;

use crate::names::{BindingName, BranchName, LeaseId};
use crate::operations::Stopped;
use crate::state::{Move, Phase};
use crate::{branches, keeper, leasing, neon, roles, state};

/// How many leases an error names.
const NAMED_MAX: usize = 5;

/// Why a binding is not switched, or not retired.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// broker.toml declares no such binding.
    #[error("broker.toml does not declare {0}")]
    BindingNotFound(BindingName),
    /// It leads nowhere yet.
    #[error("{0} is not ready yet")]
    NotReady(BindingName),
    /// It is there already.
    #[error("{binding} lives on the branch {branch} already")]
    LivesThere {
        /// The binding.
        binding: BindingName,
        /// The branch.
        branch: BranchId,
    },
    /// The branch ends by itself.
    #[error("the branch {0} expires, and no binding can live on it; take its end away")]
    BranchExpires(String),
    /// broker.toml could not name the branch.
    #[error("the branch {0:?} has a name that broker.toml cannot have; rename it")]
    BranchNotNameable(String),
    /// Another switch is under way.
    #[error("{binding} is being switched to the branch {target} already")]
    Moving {
        /// The binding.
        binding: BindingName,
        /// Where to.
        target: BranchId,
    },
    /// Its branch is given other data.
    #[error("the branch of {0} is being reset or restored")]
    Paused(BindingName),
    /// It leads elsewhere by now, or to other data.
    #[error("{0} was changed meanwhile; look at it, and ask again")]
    Overtaken(BindingName),
    /// Leases have no say, and that is not wanted.
    #[error(
        "{} live on {binding} without a watch that acknowledges: {}; say with `unwatched` what \
         becomes of them",
        count(.leases.len()), names(.leases)
    )]
    Unwatched {
        /// The binding.
        binding: BindingName,
        /// The leases.
        leases: Vec<LeaseId>,
    },
    /// A consumer refused.
    #[error("{holder} cannot use the new branch ({lease}): {message}")]
    Refused {
        /// Its lease.
        lease: LeaseId,
        /// Who.
        holder: String,
        /// Why.
        message: String,
    },
    /// Leases live on what is to be retired.
    #[error(
        "{} on {binding}: {}; release or revoke them, or give them a `drain_timeout`",
        live(.leases.len()), names(.leases)
    )]
    LeasesLive {
        /// The binding.
        binding: BindingName,
        /// The leases.
        leases: Vec<LeaseId>,
    },
    /// It was retired.
    #[error("{0} is retired; declare another branch for it in broker.toml")]
    Retired(BindingName),
    /// The new branch is being reset, restored or deleted.
    #[error("the branch {0} is being reset, restored or deleted")]
    BranchHeld(BranchId),
    /// There is nothing that it could catch up with.
    #[error("broker.toml declares no `parent` for {0}, so there is nothing to refresh it from")]
    NoParent(BindingName),
    /// What lives on its parent leads to several branches.
    #[error(
        "{binding} is a fork of {parent}, and the versions that are declared to live there lead to \
         several branches: {}", bindings_text(.bindings)
    )]
    ParentUnclear {
        /// The binding.
        binding: BindingName,
        /// The declared parent of its branch.
        parent: BranchName,
        /// Those who lead to several branches.
        bindings: Vec<BindingName>,
    },
    /// Writes would be taken from another binding too.
    #[error(
        "{other} lives on the branch that {binding} is switched from, and a fence would take its \
         writes too; switch it first, or switch without a fence"
    )]
    FenceShared {
        /// The binding.
        binding: BindingName,
        /// The other.
        other: BindingName,
    },
    /// It was given up, and why.
    #[error("the switch was given up: {0}")]
    GivenUp(String),
    /// Some did not answer.
    #[error("{} did not acknowledge in time: {}", count(.0.len()), names(.0))]
    TimedOut(Vec<LeaseId>),
    /// The old branch could not be closed to writes.
    #[error("close the old branch to writes")]
    Fence(#[source] roles::Error),
    /// The operation was cancelled, or is another broker's by now.
    #[error("it was cancelled, or another broker has taken it up")]
    Stopped,
    /// A branch.
    #[error(transparent)]
    Branch(Box<branches::Error>),
    /// The branch could not be made what the binding declares.
    #[error(transparent)]
    Keeper(Box<keeper::Error>),
    /// Leases that are left on what is retired.
    #[error(transparent)]
    Leasing(Box<leasing::Error>),
    /// Neon.
    #[error(transparent)]
    Neon(#[from] neon::Error),
    /// It could not be stored.
    #[error(transparent)]
    State(#[from] state::Error),
}

impl Error {
    /// What is in the way of a binding that is moving already.
    pub(crate) fn of_move(binding: &BindingName, moving: &Move) -> Error {
        match moving.phase {
            Phase::Paused => Error::Paused(binding.clone()),
            _ => Error::Moving {
                binding: binding.clone(),
                target: moving.target.clone(),
            },
        }
    }
}

impl Error {
    /// Whether the work is not this broker's any more, or nobody's.
    pub(crate) fn is_stopped(&self) -> bool {
        match self {
            Error::Stopped => true,
            Error::Branch(error) => matches!(**error, branches::Error::Cancelled),
            _ => false,
        }
    }

    /// Whether something could not be stored, and nobody knows whether it was.
    pub(crate) fn is_of_state(&self) -> bool {
        match self {
            Error::State(_) => true,
            Error::Branch(error) => matches!(**error, branches::Error::State(_)),
            Error::Keeper(error) => matches!(**error, keeper::Error::State(_)),
            _ => false,
        }
    }
}

impl From<Stopped> for Error {
    fn from(_: Stopped) -> Error {
        Error::Stopped
    }
}

impl From<branches::Error> for Error {
    fn from(error: branches::Error) -> Error {
        Error::Branch(Box::new(error))
    }
}

impl From<keeper::Error> for Error {
    fn from(error: keeper::Error) -> Error {
        Error::Keeper(Box::new(error))
    }
}

fn bindings_text(bindings: &[BindingName]) -> String {
    let named = bindings.iter().take(NAMED_MAX).map(ToString::to_string);
    named.collect::<Vec<_>>().join(", ")
}

fn live(leases: usize) -> String {
    match leases {
        1 => "1 lease lives".to_owned(),
        more => format!("{more} leases live"),
    }
}

fn count(leases: usize) -> String {
    match leases {
        1 => "1 lease".to_owned(),
        more => format!("{more} leases"),
    }
}

fn names(leases: &[LeaseId]) -> String {
    let named = leases.iter().take(NAMED_MAX).map(ToString::to_string);
    let named: Vec<String> = named.collect();
    let others = if leases.len() > NAMED_MAX {
        ", …"
    } else {
        ""
    };
    format!("{}{others}", named.join(", "))
}
