//! broker.toml against the world.
//!
//! [`plan`] says which steps would make the world match, [`apply`] takes them.
//! A binding's steps come in one order: its branch, its endpoints, its
//! revisions, its seed, its rights. A binding whose branch is another's parent
//! comes first and whole, so that a fork starts with what its parent was
//! declared to have. Every step looks before it acts: applying again changes
//! nothing, and an apply that was interrupted is finished by the next.

mod apply;
mod budget;
mod gate;
mod lineage;
mod look;
mod steps;

use std::fmt;

use crate::names::{BindingName, BranchName};
use crate::neon::EndpointKind;
use crate::{migrate, neon, postgres, roles, seed, state};

pub use apply::{Applied, Outcome, Report, apply, prepare};
pub use budget::{CONNECTIONS_RESERVED, Limits};
pub use gate::NotTried;
pub use look::{LOOK_LIMIT, check_parents, look};
pub use steps::{Inside, World, plan};

/// One thing that apply does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The binding it is for.
    pub binding: BindingName,
    /// The branch it is done on.
    pub branch: BranchName,
    /// What is done.
    pub action: Action,
}

/// What a step does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Fork the branch, with a read-write endpoint.
    CreateBranch {
        /// From this one; the project's default branch when not said.
        parent: Option<BranchName>,
    },
    /// Give the branch an endpoint.
    CreateEndpoint {
        /// Of this kind.
        kind: EndpointKind,
    },
    /// Run a revision.
    Migrate {
        /// Its folder's name.
        revision: String,
        /// False for a branch that cannot be looked into before it has an
        /// endpoint: the revision may be there already.
        certain: bool,
    },
    /// Run the binding's seed.
    Seed {
        /// The file, as broker.toml names it.
        file: String,
    },
    /// Make the service's groups, give them their rights, drop inherited lease
    /// roles.
    Grant,
    /// Delete the branch: its binding is declared no more. branches/prune.rs does that,
    /// when it is asked for and everything else is done.
    DeleteBranch,
}

/// What is otherwise than declared, and stays so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remark {
    /// The binding that it is about.
    pub binding: BindingName,
    /// What it is, for people.
    pub text: String,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let branch = &self.branch;
        match &self.action {
            Action::CreateBranch {
                parent: Some(parent),
            } => {
                write!(f, "create branch {branch} from {parent}")
            }
            Action::CreateBranch { parent: None } => {
                write!(
                    f,
                    "create branch {branch} from the project's default branch"
                )
            }
            Action::CreateEndpoint { kind } => write!(f, "create a {kind} endpoint for {branch}"),
            Action::Migrate {
                revision,
                certain: true,
            } => {
                write!(f, "migrate {branch} to {revision}")
            }
            Action::Migrate {
                revision,
                certain: false,
            } => {
                write!(
                    f,
                    "migrate {branch} to {revision}, unless it is there already"
                )
            }
            Action::Seed { file } => write!(f, "seed {branch} with {file}"),
            Action::Grant => {
                let service = &self.binding.service;
                write!(f, "grant the rights of the service {service} on {branch}")
            }
            Action::DeleteBranch => {
                write!(f, "delete branch {branch}, which is declared no more")
            }
        }
    }
}

impl Step {
    /// The revision that it runs.
    fn revision(&self) -> Option<&str> {
        match &self.action {
            Action::Migrate { revision, .. } => Some(revision),
            _ => None,
        }
    }
}

/// Why the world does not match, or cannot be compared.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neon.
    #[error(transparent)]
    Neon(#[from] neon::Error),
    /// What is about to be made could not be written down, and is not made.
    #[error(transparent)]
    State(#[from] state::Error),
    /// A branch's database.
    #[error("look into the branch {branch}")]
    FailedLook {
        /// The branch.
        branch: BranchName,
        /// What came instead.
        #[source]
        source: postgres::Error,
    },
    /// A branch's revisions.
    #[error("migrate the branch {branch}")]
    FailedMigrate {
        /// The branch.
        branch: BranchName,
        /// What came instead.
        #[source]
        source: migrate::Error,
    },
    /// A branch's seed.
    #[error("seed the branch {branch}")]
    FailedSeed {
        /// The branch.
        branch: BranchName,
        /// What came instead.
        #[source]
        source: seed::Error,
    },
    /// A branch's roles.
    #[error("set up the roles of the branch {branch}")]
    FailedGrant {
        /// The branch.
        branch: BranchName,
        /// What came instead.
        #[source]
        source: roles::Error,
    },
    /// A parent that is neither declared nor there.
    #[error(
        "the parent {parent} of {branch} is neither declared in broker.toml nor a branch of the \
         project; correct the name or create it"
    )]
    ParentNotFound {
        /// The branch.
        branch: BranchName,
        /// Its parent.
        parent: BranchName,
    },
    /// A branch that is to be there.
    #[error("the branch {branch} is there no more")]
    BranchNotFound {
        /// The branch.
        branch: BranchName,
    },
    /// A branch has a revision that its binding does not declare.
    #[error(
        "the branch {branch} has the revision {revision}, which broker.toml does not \
         ask for; declare a later revision (a branch is never migrated down)"
    )]
    Ahead {
        /// The branch.
        branch: BranchName,
        /// Its version, as Diesel records it.
        revision: String,
    },
    /// A person is to run its revisions.
    #[error(
        "{branch} does not have {} yet, and auto_migrate is off for it: `broker migrate up`",
        revisions.join(", ")
    )]
    Behind {
        /// The branch.
        branch: BranchName,
        /// The revisions.
        revisions: Vec<String>,
    },
    /// A gate keeps its revisions out.
    #[error(
        "{branch} does not get {}: they were rehearsed and did not pass: {}",
        revisions.join(", "), reasons.join("; ")
    )]
    NotRehearsed {
        /// The branch.
        branch: BranchName,
        /// The revisions.
        revisions: Vec<String>,
        /// Why they did not pass.
        reasons: Vec<String>,
    },
    /// What a gate asks for could not be tried.
    #[error("rehearse what {branch} does not have yet")]
    FailedRehearsal {
        /// The branch.
        branch: BranchName,
        /// What came instead.
        #[source]
        source: Box<NotTried>,
    },
    /// The declared connections do not fit a branch.
    #[error(
        "{branch}: its bindings may open {asked} connections together, `connections` by leases \
         that write and as many by leases that read, and the branch has {available} for them (max_connections {max}, less {reserved} that Postgres and the \
         broker keep); lower `connections` in broker.toml or give the branch a larger compute",
        available = limits.available(), max = limits.max_connections, reserved = limits.reserved()
    )]
    BudgetExceeded {
        /// The branch.
        branch: BranchName,
        /// What the bindings on it declare together.
        asked: u32,
        /// What the branch has.
        limits: Limits,
    },
    /// Its parent's branch is not as declared, so it was not forked.
    #[error("waits for {parent}, which {branch} is to be forked from")]
    ParentNotReady {
        /// The branch.
        branch: BranchName,
        /// The binding on the parent.
        parent: BindingName,
        /// Whether the parent failed for a reason that may pass.
        transient: bool,
    },
}

impl Error {
    /// Whether work that Neon had taken on failed.
    pub fn is_failed_operation(&self) -> bool {
        matches!(self, Error::Neon(neon::Error::OperationFailed { .. }))
    }

    /// Whether the same may work in a moment.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Neon(error) => error.is_transient(),
            Error::State(_) => true,
            Error::FailedLook { source, .. } => source.is_transient(),
            Error::FailedMigrate { source, .. } => source.is_transient(),
            Error::FailedRehearsal { source, .. } => source.is_transient(),
            Error::FailedSeed { source, .. } => source.is_transient(),
            Error::FailedGrant { source, .. } => source.is_transient(),
            Error::ParentNotReady { transient, .. } => *transient,
            Error::ParentNotFound { .. }
            | Error::BranchNotFound { .. }
            | Error::Ahead { .. }
            | Error::Behind { .. }
            | Error::NotRehearsed { .. }
            | Error::BudgetExceeded { .. } => false,
        }
    }
}
