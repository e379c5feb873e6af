//! Real servers on loopback ports, called over TCP.

mod authority;
mod identity;
mod server;
