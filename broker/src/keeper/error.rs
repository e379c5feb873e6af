//! Why the world is not as declared.

use std::sync::Arc;

use neon_api::BranchId;

use crate::config::ConfigError;
use crate::names::BindingName;
use crate::{reconcile, roles, state};

/// Why an apply or a plan came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// broker.toml is not valid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Another apply runs.
    #[error("another apply is running")]
    Running,
    /// The world could not be looked at or changed.
    #[error(transparent)]
    Reconcile(#[from] reconcile::Error),
    /// Some bindings are not as declared; the first of them.
    #[error("{binding}")]
    Binding {
        /// The binding.
        binding: BindingName,
        /// Why.
        #[source]
        source: reconcile::Error,
    },
    /// A binding's generation could not be stored, so it is not announced.
    #[error(transparent)]
    State(#[from] state::Error),
    /// A branch's lease roles could not be put right, so it is not announced.
    #[error("put the lease roles of the branch {branch} right")]
    Roles {
        /// The branch.
        branch: BranchId,
        /// What came instead.
        #[source]
        source: Arc<roles::Error>,
    },
    /// The binding is on its way to another branch.
    #[error("{binding} is being switched to the branch {target}; wait until it is, or cancel that")]
    Moving {
        /// The binding.
        binding: BindingName,
        /// Where to.
        target: BranchId,
    },
    /// The task that applied is gone.
    #[error("the apply ended early")]
    Interrupted(#[source] tokio::task::JoinError),
}

impl Error {
    /// Whether the same may work in a moment.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Config(_) | Error::Moving { .. } => false,
            Error::Running | Error::State(_) | Error::Interrupted(_) => true,
            Error::Reconcile(error) => error.is_transient(),
            Error::Binding { source, .. } => source.is_transient(),
            Error::Roles { source, .. } => source.is_transient(),
        }
    }

    /// Whether Neon will not have us. While we serve, that may be a mistake
    /// which somebody corrects.
    pub(super) fn is_access_denied(&self) -> bool {
        matches!(self, Error::Reconcile(reconcile::Error::Neon(error)) if error.is_fatal())
    }
}
