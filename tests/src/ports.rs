//! Addresses that a process under test can have again after a restart.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::bail;

/// Below the ports of outgoing connections, and apart from those that the
/// emulator gives to endpoints: between a kill and a restart nobody takes it.
const FIRST: u16 = 10_000;
const COUNT: u16 = 9_000;

/// An address on 127.0.0.1 that nobody listens on.
///
/// # Errors
/// When all of them are taken.
pub fn free_address() -> anyhow::Result<String> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Each test process begins somewhere else.
    let process = std::process::id() as u16;
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + process.wrapping_mul(97).wrapping_add(step) % COUNT;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(format!("127.0.0.1:{port}"));
        }
    }
    bail!("no free port from {FIRST} on")
}
