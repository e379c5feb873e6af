//! Why a branch is not changed.

use crate::names::{BindingName, BranchName, BranchResource, LeaseId};
use crate::neon::{self, Point};
use crate::operations::Stopped;
use crate::{keeper, state, text};

/// Why a branch is not changed, or not looked into.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The project has no such branch.
    #[error("the project has no branch {name}")]
    NotFound {
        /// The field that named it.
        field: &'static str,
        /// The name.
        name: BranchResource,
    },
    /// The name is another branch's.
    #[error(
        "the project has a branch {name} already, which this request did not make; choose another name"
    )]
    Exists {
        /// The field that named it.
        field: &'static str,
        /// The name.
        name: BranchName,
    },
    /// The caller's etag is another one.
    #[error("the branch {name} was changed since its etag was read; read it again")]
    Changed {
        /// The branch's name.
        name: String,
    },
    /// The broker did not make it.
    #[error(
        "the broker did not make the branch {name}: neither an annotation nor its ledger says so; it is left alone"
    )]
    NotOurs {
        /// The branch's name.
        name: String,
    },
    /// It is the default branch.
    #[error("{name} is the default branch; make another one default first")]
    Default {
        /// The branch's name.
        name: String,
    },
    /// It is protected.
    #[error("the branch {name} is protected; end its protection first")]
    Protected {
        /// The branch's name.
        name: String,
    },
    /// A binding needs it.
    #[error(
        "{binding} lives on the branch {name}; move or remove the binding in broker.toml first"
    )]
    InUse {
        /// The branch's name.
        name: String,
        /// The binding.
        binding: BindingName,
    },
    /// A lease leads to it.
    #[error("{lease} leads to the branch {name}; release it, or wait for its end, first")]
    Leased {
        /// The branch's name.
        name: String,
        /// The lease.
        lease: LeaseId,
    },
    /// It has children.
    #[error("the branch {name} has children: {}; {advice}", children.join(", "))]
    HasChildren {
        /// The branch's name.
        name: String,
        /// Their names.
        children: Vec<String>,
        /// What can be done.
        advice: &'static str,
    },
    /// It has no parent.
    #[error("the branch {name} has no parent that it could be reset to")]
    NoParent {
        /// The branch's name.
        name: String,
    },
    /// A parent that expires.
    #[error(
        "the branch {name} expires, and Neon gives such a branch no children; take its end away first"
    )]
    ParentExpires {
        /// The field that named it.
        field: &'static str,
        /// The branch's name.
        name: String,
    },
    /// A default branch that would expire.
    #[error("the branch {name} expires, and cannot be the default one; take its end away first")]
    Expires {
        /// The branch's name.
        name: String,
    },
    /// A branch would become its own ancestor.
    #[error(
        "{source_name} descends from {name}, which would become its own ancestor; keep the old data with preserve_under_name"
    )]
    Cycle {
        /// The branch's name.
        name: String,
        /// The source's name.
        source_name: String,
    },
    /// A point that the history does not have.
    #[error("the branch's history does not have this {field}")]
    Point {
        /// The field that named it.
        field: &'static str,
        /// What Neon said.
        #[source]
        source: Box<neon::Error>,
    },
    /// A database that the branch does not have.
    #[error("the branch {name} has no database {database:?}")]
    NoDatabase {
        /// The field that named it.
        field: &'static str,
        /// The branch.
        name: BranchResource,
        /// The database.
        database: String,
    },
    /// Nothing to compare with.
    #[error("the branch {name} has no parent to compare it with; name a base")]
    NoBase {
        /// The branch's name.
        name: String,
    },
    /// Cancelled before anything was changed.
    #[error("it was cancelled before it changed anything")]
    Cancelled,
    /// What is about to be done could not be written down, and is not done.
    #[error(transparent)]
    State(state::Error),
    /// Neon.
    #[error(transparent)]
    Neon(Box<neon::Error>),
    /// The branch has other data, and the bindings on it are not ready.
    #[error("the branch has its new data, but the bindings on it are not ready: {}", text::one_line(&**.0))]
    Bindings(Box<keeper::Error>),
}

impl Error {
    pub(super) fn point(point: &Point, source: neon::Error) -> Error {
        let field = match point {
            Point::Lsn(_) => "lsn",
            Point::Time(_) => "time",
        };
        let source = Box::new(source);
        Error::Point { field, source }
    }

    /// Whether the same may work in a moment.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::State(_) => true,
            Error::Neon(error) => error.is_transient(),
            Error::Bindings(error) => error.is_transient(),
            _ => false,
        }
    }

    /// The same of the base of a comparison.
    pub(super) fn of_base(self) -> Error {
        match self {
            Error::Point {
                field: "lsn",
                source,
            } => Error::Point {
                field: "base_lsn",
                source,
            },
            Error::Point { source, .. } => Error::Point {
                field: "base_time",
                source,
            },
            other => other,
        }
    }
}

impl From<neon::Error> for Error {
    fn from(error: neon::Error) -> Self {
        Error::Neon(Box::new(error))
    }
}

impl From<keeper::Error> for Error {
    fn from(error: keeper::Error) -> Self {
        Error::Bindings(Box::new(error))
    }
}

impl From<Stopped> for Error {
    fn from(_: Stopped) -> Self {
        Error::Cancelled
    }
}

impl From<state::Error> for Error {
    fn from(error: state::Error) -> Self {
        Error::State(error)
    }
}
