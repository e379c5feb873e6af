//! Tests of the crate from outside: what goes over the wire, and what the client
//! makes of servers that behave and of servers that do not.
#![allow(clippy::unwrap_used)]

mod ids;
mod requests;
mod samples;
mod secrets;
mod wire;

#[cfg(feature = "client")]
mod answers;
#[cfg(feature = "client")]
mod paging;
#[cfg(feature = "client")]
mod routes;
#[cfg(feature = "client")]
mod server;
#[cfg(feature = "client")]
mod setup;
#[cfg(feature = "client")]
mod transport;
