//! A proxy that keeps what clients send.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

/// Forwards every connection, and remembers the bytes from its client.
#[derive(Debug)]
pub struct Recorder {
    address: String,
    sent: Arc<Mutex<Vec<u8>>>,
    accepting: AbortHandle,
}

impl Recorder {
    /// One in front of that server: host and port.
    ///
    /// # Errors
    /// When there is no free port.
    pub async fn start(server: &str) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let sent = Arc::new(Mutex::new(Vec::new()));
        let (server, kept) = (server.to_owned(), Arc::clone(&sent));
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if let Ok(server) = TcpStream::connect(&server).await {
                    tokio::spawn(forward(client, server, Arc::clone(&kept)));
                }
            }
        });
        Ok(Self {
            address,
            sent,
            accepting: accepting.abort_handle(),
        })
    }

    /// Where it listens: host and port.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// What was sent so far, on all connections.
    #[must_use]
    pub fn sent(&self) -> String {
        let sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&sent).into_owned()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn forward(client: TcpStream, server: TcpStream, kept: Arc<Mutex<Vec<u8>>>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let sending = async {
        let mut bytes = vec![0; 16 * 1024];
        while let Ok(count @ 1..) = from_client.read(&mut bytes).await {
            let bytes = &bytes[..count];
            kept.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .extend_from_slice(bytes);
            if to_server.write_all(bytes).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = sending => {}
        _ = copy(&mut from_server, &mut to_client) => {}
    }
}
