//! Why an emulator does not start, and what to do about it.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use thiserror::Error;

use crate::pooler::PoolerProgramError;
use crate::postgres::{FindError, UserError};
use crate::storage::ImageError;

/// Why the emulator did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {reason}; choose another with --listen")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        reason: io::Error,
    },
    /// The address is open to others.
    #[error(
        "{address} is no loopback address: the emulator is for one machine; choose another with --listen"
    )]
    NotLoopback {
        /// The address.
        address: SocketAddr,
    },
    /// The API key is empty.
    #[error("NEON_API_KEY is empty: set it to the key that callers will show")]
    NoKey,
    /// The data folder cannot be used.
    #[error("cannot use the data folder {}: {reason}", path.display())]
    Folder {
        /// What could not be made or opened.
        path: PathBuf,
        /// What the system said.
        reason: io::Error,
    },
    /// The data folder is somebody else's.
    #[error("{} has files in it and is no emulator's data folder (it has no state.json); choose an empty or a new one with --data", path.display())]
    NotOurs {
        /// The folder.
        path: PathBuf,
    },
    /// Another emulator has the data folder.
    #[error("the data folder {} is in use by another emulator; stop it, or choose another with --data", path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// There is no Postgres.
    #[error(transparent)]
    Postgres(#[from] FindError),
    /// Postgres cannot be run as the user it should run as.
    #[error(transparent)]
    User(#[from] UserError),
    /// The PgBouncer that was asked for cannot be run.
    #[error(transparent)]
    Pooler(#[from] PoolerProgramError),
    /// The storage image cannot be used.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// There is no way to clone branches.
    #[error("{0}")]
    Storage(String),
    /// There is no certificate for the endpoints.
    #[error("cannot make the endpoints' certificate: {0}")]
    Certificate(String),
    /// There is no thread for the endpoints' addresses.
    #[error("cannot start the thread that listens for the endpoints: {reason}")]
    Gateway {
        /// What the system said.
        reason: io::Error,
    },
    /// The state cannot be read or written.
    #[error("cannot use the state: {0}")]
    State(String),
    /// The first project could not be made.
    #[error("cannot make the first project: {0}")]
    Project(String),
}
