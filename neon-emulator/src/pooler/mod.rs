//! PgBouncer, as this emulator runs it: one process for each endpoint that is
//! reached by its pooled address, in transaction mode, with the settings that
//! Neon has. It knows no password: it asks Postgres for what a login needs.

mod configuration;
mod process;
mod program;

pub(crate) use configuration::Settings;
pub(crate) use process::{Pooler, end_leftovers};
pub use program::PoolerProgramError;
pub(crate) use program::Program;
