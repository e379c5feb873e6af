//! gRPC manners that every server here shares: TLS and who calls, health,
//! reflection, deadlines, limits, status details, filters and pages of lists, request
//! ids, metrics and probes, traces, a clock that tests can move, graceful stop. Nothing
//! in here knows what a branch or a user is.
//!
//! Without the feature `server` it is [`client`] alone: how to call such a
//! server.

pub mod client;

#[cfg(feature = "server")]
pub mod caller;
#[cfg(feature = "server")]
pub mod clock;
#[cfg(feature = "server")]
pub mod filter;
#[cfg(feature = "server")]
pub mod health;
#[cfg(feature = "server")]
pub mod limits;
#[cfg(feature = "server")]
pub mod metrics;
#[cfg(feature = "server")]
pub mod page;
#[cfg(feature = "server")]
pub mod probes;
#[cfg(feature = "server")]
pub mod reload;
#[cfg(feature = "server")]
pub mod request_id;
#[cfg(feature = "server")]
pub mod security;
#[cfg(feature = "server")]
pub mod server;
#[cfg(feature = "server")]
pub mod shutdown;
#[cfg(feature = "server")]
pub mod status;
#[cfg(feature = "server")]
pub mod telemetry;
#[cfg(feature = "server")]
pub mod tokens;
#[cfg(feature = "server")]
pub mod traces;

#[cfg(feature = "server")]
mod call_metrics;
#[cfg(feature = "server")]
mod calls;
#[cfg(feature = "server")]
mod connection;
#[cfg(feature = "server")]
mod listener;
mod pem;
#[cfg(feature = "server")]
mod tls;
