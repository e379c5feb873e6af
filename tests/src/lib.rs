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

mod bank;
mod binaries;
mod config;
mod emulator;
mod faults;
mod folder;
mod http;
mod loop_image;
#[cfg(feature = "clients")]
mod neon_cli;
mod ports;
mod postgres;
mod process;
mod system;
#[cfg(feature = "clients")]
pub mod tools;
mod wait;

pub use bank::Bank;
pub use binaries::binary;
pub use config::Config;
pub use emulator::{API_KEY, EmulatorProcess};
pub use faults::{FaultId, Faults, Request};
pub use folder::Folder;
pub use http::{Answer, Http};
pub use loop_image::LoopImage;
#[cfg(feature = "clients")]
pub use neon_cli::{NeonCli, Said};
pub use ports::free_address;
pub use postgres::connect;
pub use process::Process;
pub use system::{Broker, System, UserService, channel, example_config};
pub use wait::eventually;

/// How often the tests repeat what they repeat: a few times, or as often as
/// SUITE_COUNTS=full asks for.
#[must_use]
pub fn count(small: usize, full: usize) -> usize {
    match std::env::var("SUITE_COUNTS").as_deref() {
        Ok("full") => full,
        _ => small,
    }
}
