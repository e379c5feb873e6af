//! Ordinary Postgres, as this emulator runs it: where its programs are, which
//! user runs them, what a data directory holds, how one is cloned, and the
//! life of one server process.

pub(crate) mod admin;
mod archive;
pub(crate) mod child;
mod cluster;
mod copy;
pub(crate) mod empty;
mod install;
pub(crate) mod log;
mod process;
pub(crate) mod replica;
pub(crate) mod schema;
mod server;
pub(crate) mod slots;
mod user;
pub(crate) mod values;

pub use install::{FindError, Installation};
pub use user::{ServerUser, UserError};

pub(crate) use archive::{Archive, ArchiveMethod, Recovery, RecoveryTarget};
pub(crate) use cluster::{Cluster, ClusterError, Listen, MAX_CONNECTIONS, Settings};
pub(crate) use copy::{
    CloneError, ForkPoint, begin_recovery_again, checkpoint_lsn, clone_idle, clone_running,
    forget_label,
};
pub(crate) use process::{LeftoverError, end_servers_below, processes_below, remove_leftovers};
pub(crate) use server::{Server, ServerError};

/// The one superuser of every branch. Nobody but the emulator can be it: it
/// logs in over a Unix socket by peer authentication, and TCP refuses it.
pub(crate) const SUPERUSER: &str = "cloud_admin";
