//! Addresses for endpoints.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;

use rand::RngExt;
use thiserror::Error;

/// Below the ports that Linux and macOS give to outgoing connections: the port
/// of a suspended endpoint is not lost to one of those.
const PORTS: Range<u16> = 20_000..32_000;
const ATTEMPTS_MAX: usize = 200;

/// There was no port to be had.
#[derive(Debug, Error)]
#[error("no free port from {} to {} on 127.0.0.1", PORTS.start, PORTS.end - 1)]
pub(crate) struct FreePortError(#[source] Option<io::Error>);

/// A loopback port for one run of a server. It is one of those that the system
/// gives to outgoing connections: never an endpoint's address.
pub(super) fn port_for_a_run() -> Result<u16, FreePortError> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|error| FreePortError(Some(error)))
}

/// A loopback port that nobody listens on, and that is not `taken`.
pub(crate) fn free_port(taken: impl Fn(u16) -> bool) -> Result<u16, FreePortError> {
    let mut last = None;
    for _ in 0..ATTEMPTS_MAX {
        let port = rand::rng().random_range(PORTS);
        if taken(port) {
            continue;
        }
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(_) => return Ok(port),
            Err(error) => last = Some(error),
        }
    }
    Err(FreePortError(last))
}
