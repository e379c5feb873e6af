//! Why an operation failed.

use std::path::PathBuf;

use thiserror::Error;

use super::ports::FreePortError;
use crate::gateway::AddressError;
use crate::postgres::admin::AdminError;
use crate::postgres::{CloneError, ClusterError, LeftoverError, ServerError};
use crate::state::StoreError;

/// Why an operation failed.
#[derive(Debug, Error)]
pub(crate) enum JobError {
    #[error("could not prepare the data directory")]
    Cluster(#[from] ClusterError),
    #[error("could not clone the parent")]
    Clone(#[from] CloneError),
    #[error("could not run Postgres")]
    Server(#[from] ServerError),
    #[error("could not change the branch")]
    Admin(#[from] AdminError),
    #[error("could not end what an earlier run left")]
    Leftover(#[from] LeftoverError),
    #[error("could not record the change")]
    Store(#[from] StoreError),
    #[error("could not give the endpoint an address")]
    Port(#[from] FreePortError),
    #[error("could not take the endpoint's address")]
    Address(#[from] AddressError),
    #[error("could not remove {}", path.display())]
    Remove {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("could not rename {} to {}", from.display(), to.display())]
    Rename {
        from: PathBuf,
        to: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("could not make {} a replica's", path.display())]
    Standby {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("what it was for is gone")]
    Gone,
    #[error("the replica does not answer")]
    NoAnswer,
    #[error("its task ended early")]
    Cancelled,
    #[error("{0}")]
    AskedFor(String),
}
