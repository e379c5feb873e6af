//! Why a call is refused.

use rpc::status::{FieldViolation, FieldViolations};

use crate::{branches, keeper, leases, leasing, migrate, moving, neon, operations, state, trials};

/// Why a call is refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request is not valid.
    #[error("the request is not valid")]
    Invalid(FieldViolations),
    /// A branch.
    #[error(transparent)]
    Branch(Box<branches::Error>),
    /// An operation.
    #[error(transparent)]
    Operation(#[from] operations::Error),
    /// An operation that a broker of another version began.
    #[error("this broker does not know what the operation is about: another version began it")]
    OperationUnknown,
    /// A watch that does not say of what.
    #[error("the watch did not say what it is for; send its first request when opening it")]
    WatchSilent,
    /// No grant allows it.
    #[error("{caller} has no grant to {missing}; add it to [grants] in broker.toml")]
    Denied {
        /// Who calls.
        caller: String,
        /// What would have to be granted.
        missing: String,
    },
    /// A lease.
    #[error(transparent)]
    Lease(#[from] leases::Error),
    /// A lease and its connection.
    #[error(transparent)]
    Leasing(leasing::Error),
    /// Neon.
    #[error(transparent)]
    Neon(#[from] neon::Error),
    /// What is stored.
    #[error(transparent)]
    State(state::Error),
    /// A plan or an apply.
    #[error(transparent)]
    Keeper(Box<keeper::Error>),
    /// Revisions.
    #[error(transparent)]
    Migrate(#[from] migrate::Error),
    /// A switch of a binding, or the end of its version.
    #[error(transparent)]
    Moving(Box<moving::Error>),
}

impl From<FieldViolations> for Error {
    fn from(violations: FieldViolations) -> Self {
        Error::Invalid(violations)
    }
}

impl From<FieldViolation> for Error {
    fn from(violation: FieldViolation) -> Self {
        let mut violations = FieldViolations::new();
        violations.add(violation);
        Error::Invalid(violations)
    }
}

impl From<branches::Error> for Error {
    fn from(error: branches::Error) -> Self {
        Error::Branch(Box::new(error))
    }
}

impl From<leasing::Error> for Error {
    fn from(error: leasing::Error) -> Self {
        match error {
            leasing::Error::Branch(error) => Error::Branch(error),
            leasing::Error::Neon(error) => Error::Neon(error),
            leasing::Error::Lease(error) => Error::Lease(error),
            error => Error::Leasing(error),
        }
    }
}

impl From<moving::Error> for Error {
    fn from(error: moving::Error) -> Self {
        match error {
            moving::Error::Branch(error) => Error::Branch(error),
            moving::Error::Keeper(error) => Error::Keeper(error),
            moving::Error::Leasing(error) => (*error).into(),
            moving::Error::Neon(error) => Error::Neon(error),
            moving::Error::State(error) => Error::State(error),
            error => Error::Moving(Box::new(error)),
        }
    }
}

impl From<trials::Error> for Error {
    fn from(error: trials::Error) -> Self {
        match error {
            trials::Error::Neon(error) => Error::Neon(error),
            trials::Error::State(error) => Error::State(error),
        }
    }
}

impl From<keeper::Error> for Error {
    fn from(error: keeper::Error) -> Self {
        Error::Keeper(Box::new(error))
    }
}
