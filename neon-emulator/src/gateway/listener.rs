//! One endpoint's listener.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use tracing::warn;

use super::session::{House, serve};

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: u32 = 1_024;
/// Connections of one address at a time; beyond, they wait in the kernel. A
/// pooler has 10,000.
const CONNECTIONS_MAX: usize = 11_000;
/// How long to wait when the emulator has no file descriptor left, say.
const ACCEPT_RETRY_MS: u64 = 100;

/// Takes the address.
pub(super) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    // Sessions of an earlier run may still linger in the kernel.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves whoever comes, until it is aborted.
pub(super) async fn accept(listener: TcpListener, house: Arc<House>, sessions: TaskTracker) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        // The semaphore is never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((client, _)) => {
                let house = Arc::clone(&house);
                sessions.spawn(async move {
                    serve(client, &house).await;
                    drop(place);
                });
            }
            Err(error) => {
                warn!(endpoint = %house.address.endpoint, %error, "could not accept a connection");
                tokio::time::sleep(Duration::from_millis(ACCEPT_RETRY_MS)).await;
            }
        }
    }
}
