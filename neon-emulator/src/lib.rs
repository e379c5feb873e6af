//! The Neon API on local Postgres.
//!
//! Every branch is a Postgres data directory of its own, cloned from its
//! parent's while the parent runs; every endpoint is a Postgres process on a
//! loopback port of its own, with TLS and SCRAM. docs/ARCHITECTURE.md has the
//! rooms and the invariants.

mod account;
mod api;
mod certificates;
mod defaults;
mod emulator;
mod engine;
pub mod faults;
mod gateway;
mod limits;
mod names;
mod new;
mod operations;
mod pooler;
mod postgres;
mod state;
mod time;

pub use emulator::{Config, Emulator, StartError};
pub use limits::Limits;
pub use pooler::PoolerProgramError;
pub use postgres::{FindError, Installation, ServerUser, UserError};
