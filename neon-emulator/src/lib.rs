//! The Neon API on local Postgres.
//!
//! Every branch is a Postgres data directory of its own, cloned from its
//! parent's while the parent runs; every endpoint is a Postgres process on a
//! loopback port of its own, with TLS and SCRAM. docs/ARCHITECTURE.md has the
//! rooms and the invariants.

mod account;
mod api;
mod certificates;
mod config;
mod defaults;
pub mod doctor;
mod emulator;
mod engine;
pub mod faults;
mod folder;
mod gateway;
mod limits;
mod lsn;
mod names;
mod new;
mod operations;
mod pooler;
mod postgres;
mod start_error;
mod state;
mod storage;
mod time;

pub use config::Config;
pub use emulator::Emulator;
pub use limits::Limits;
pub use pooler::PoolerProgramError;
pub use postgres::{FindError, Installation, ServerUser, UserError};
pub use start_error::StartError;
pub use storage::{
    CloneMethod, Durability, ImageError, ImageSize, StorageWish, enter_private_mounts,
    has_storage_image,
};
