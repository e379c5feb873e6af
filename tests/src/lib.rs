//! The whole system as a test sees it: the real binaries as processes of their
//! own, on ports and folders of their own.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! let system = suite::System::start().await?;
//! let users = system.users_v1().await?;
//! // …
//! system.finish().await
//! # }
//! ```

mod authority;
mod bank;
mod binaries;
mod broker;
mod clock;
mod collector;
mod config;
mod emulator;
mod faults;
mod folder;
mod http;
mod loop_image;
mod neon_cli;
mod other_postgres;
mod pgbouncer;
mod ports;
mod postgres;
mod probes;
mod process;
mod proxy;
mod psql;
mod recorder;
mod secured;
mod state_database;
mod system;
pub mod tools;
mod wait;

pub use authority::Authority;
pub use bank::Bank;
pub use binaries::binary;
pub use broker::Broker;
pub use clock::Clock;
pub use collector::{Collector, Span};
pub use config::{Config, example_config, repository_config};
pub use emulator::{API_KEY, EmulatorProcess};
pub use faults::{FaultId, Faults, Request, request_faults};
pub use folder::Folder;
pub use http::{Answer, Http};
pub use loop_image::LoopImage;
pub use neon_cli::{NeonCli, Said};
pub use other_postgres::other_postgres;
pub use pgbouncer::{Release, pgbouncer};
pub use ports::free_address;
pub use postgres::{connect, connect_by, connector};
pub use probes::Probes;
pub use process::Process;
pub use proxy::Proxy;
pub use psql::{Printed, Psql};
pub use recorder::Recorder;
pub use secured::{Clients, Secured};
pub use state_database::StateDatabase;
pub use system::{System, UserService, channel};
pub use wait::{PATIENCE, eventually};

/// How often the tests repeat what they repeat: a few times, or as often as
/// SUITE_COUNTS=full asks for.
#[must_use]
pub fn count(small: usize, full: usize) -> usize {
    match std::env::var("SUITE_COUNTS").as_deref() {
        Ok("full") => full,
        _ => small,
    }
}
