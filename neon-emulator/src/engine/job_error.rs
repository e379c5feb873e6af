//! Why an operation failed.

use std::path::PathBuf;

use thiserror::Error;

use super::ports::FreePortError;
use crate::gateway::AddressError;
use crate::postgres::admin::AdminError;
use crate::postgres::{CloneError, ClusterError, LeftoverError, ServerError};
use crate::state::StoreError;
use crate::storage::StorageError;

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
    #[error("could not change the branch's folder")]
    Storage(#[from] StorageError),
    #[error("could not put the label of a backup right in {}", path.display())]
    Label {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("could not read or write {} of the history", path.display())]
    Archive {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("could not go back in the history: {0}")]
    History(String),
    #[error("could not take the endpoint's address")]
    Address(#[from] AddressError),
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
