//! One client, from its first byte to its last.

use std::io;
use std::net::Ipv4Addr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing::debug;

use super::opening::{self, Opening, Wish};
use super::refusal::{self, Refusal};
use super::{Address, Traffic, forward};
use crate::engine::Engine;

/// How long a client may take to say what it wants, and to hear that it does
/// not get it. Postgres gives it as long for its login.
const OPENING_SECONDS_MAX: u64 = 60;
/// A server that has just died, or stops, refuses until the engine knows.
const CONNECT_ATTEMPTS_MAX: usize = 50;
const CONNECT_RETRY_MS: u64 = 20;

/// What the sessions of an address share.
#[derive(Debug)]
pub(super) struct House {
    pub(super) address: Address,
    pub(super) engine: Weak<Engine>,
    pub(super) tls: Arc<ServerConfig>,
    pub(super) traffic: Arc<Traffic>,
}

/// Serves a client to its end.
pub(super) async fn serve(client: TcpStream, house: &House) {
    let endpoint = &house.address.endpoint;
    if let Err(error) = attend(client, house).await {
        // Clients come and go as they like: a port scan is no error.
        debug!(%endpoint, %error, "a session was cut off");
    }
}

async fn attend(mut client: TcpStream, house: &House) -> io::Result<()> {
    client.set_nodelay(true)?;
    let opening_time = Duration::from_secs(OPENING_SECONDS_MAX);
    let opening = timeout(opening_time, opening::read(&mut client)).await??;
    if opening.wish == Wish::NoSession {
        let Some(engine) = house.engine.upgrade() else {
            return Ok(());
        };
        let Some(port) = engine.running(&house.address).await else {
            return Ok(());
        };
        drop(engine);
        let server = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        return forward::run(client, server, &opening.bytes).await;
    }
    house.traffic.note(&house.address.endpoint);
    let outcome = open(client, &opening, house).await;
    house.traffic.note(&house.address.endpoint);
    outcome
}

async fn open(client: TcpStream, opening: &Opening, house: &House) -> io::Result<()> {
    let server = tokio::select! {
        server = reach(house) => server,
        () = is_gone(&client, opening) => return Ok(()),
    };
    match server {
        Ok(server) => {
            server.set_nodelay(true)?;
            forward::run(client, server, &opening.bytes).await
        }
        Err(refusal) => {
            debug!(endpoint = %house.address.endpoint, ?refusal, "a client is turned away");
            let telling = refusal::tell(client, opening, &house.tls, &refusal);
            timeout(Duration::from_secs(OPENING_SECONDS_MAX), telling).await?
        }
    }
}

/// A connection to the endpoint's server, which is started for it.
async fn reach(house: &House) -> Result<TcpStream, Refusal> {
    let mut last = String::new();
    for _ in 0..CONNECT_ATTEMPTS_MAX {
        // Not held while waiting longer than that: the engine may go away.
        let engine = house.engine.upgrade().ok_or(Refusal::Stopping)?;
        let port = engine.upstream(&house.address).await?;
        drop(engine);
        match TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await {
            Ok(server) => return Ok(server),
            Err(error) => last = error.to_string(),
        }
        tokio::time::sleep(Duration::from_millis(CONNECT_RETRY_MS)).await;
    }
    Err(Refusal::NotStarted(last))
}

/// Resolves when a client that waits has hung up. One that waits for the answer
/// to its request for TLS sends nothing meanwhile; of the others, whose next
/// bytes are there already, it is seen later.
async fn is_gone(client: &TcpStream, opening: &Opening) {
    if opening.wish != Wish::Tls {
        return std::future::pending().await;
    }
    match client.peek(&mut [0]).await {
        Ok(0) | Err(_) => {}
        Ok(_) => std::future::pending().await,
    }
}
