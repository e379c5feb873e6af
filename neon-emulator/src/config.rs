//! How an emulator is started.

use std::net::SocketAddr;
use std::path::PathBuf;

use neon_api::Secret;

use crate::limits::Limits;
use crate::storage::{Durability, ImageSize, StorageWish};

/// How to start.
#[derive(Debug)]
pub struct Config {
    /// Where the API listens. Loopback: the API key is its only guard.
    pub listen: SocketAddr,
    /// The folder for everything that is kept.
    pub data: PathBuf,
    /// The key that callers have to show.
    pub key: Secret,
    /// The folder of `postgres` and `initdb`. `None`: found by itself, or
    /// installed.
    pub postgres_bin: Option<PathBuf>,
    /// Who runs Postgres where the emulator is root. `None`: postgres, else
    /// nobody.
    pub postgres_user: Option<String>,
    /// The PgBouncer that serves pooled addresses. `None`: found by itself; where
    /// there is none, or an old one, they lead to Postgres itself.
    pub pgbouncer: Option<PathBuf>,
    /// For tests: use a PgBouncer that loses prepared statements.
    pub use_old_pgbouncer: bool,
    /// How branches are to be cloned.
    pub storage: StorageWish,
    /// Keep the branches in a file system of their own, in a file of this size.
    /// Needs [`enter_private_mounts`](crate::enter_private_mounts).
    pub storage_image: Option<ImageSize>,
    /// What data are to survive.
    pub durability: Durability,
    /// How much of everything there may be.
    pub limits: Limits,
    /// For tests: the clock is moved by the seconds that this file holds.
    pub test_clock: Option<PathBuf>,
    /// Whether there are routes to ask for faults, at `/admin/v1`.
    pub admin: bool,
}

impl Config {
    /// What has to be said; the rest is as the command line has it when nothing
    /// is given.
    #[must_use]
    pub fn new(listen: SocketAddr, data: PathBuf, key: Secret) -> Self {
        Self {
            listen,
            data,
            key,
            postgres_bin: None,
            postgres_user: None,
            pgbouncer: None,
            use_old_pgbouncer: false,
            storage: StorageWish::default(),
            storage_image: None,
            durability: Durability::default(),
            limits: Limits::default(),
            admin: false,
            test_clock: None,
        }
    }
}
