//! A network between a program and a server, which a test can cut.

use std::net::SocketAddr;

use tokio::io::copy;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// Forwards every connection until it is cut.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    cuts: watch::Sender<()>,
    accepting: AbortHandle,
}

impl Proxy {
    /// One in front of that server: host and port.
    ///
    /// # Errors
    /// When there is no free port.
    pub async fn start(server: &str) -> anyhow::Result<Self> {
        Self::start_at("127.0.0.1:0", server).await
    }

    /// As [`Proxy::start`], at this address: until then nobody was there.
    ///
    /// # Errors
    /// When the port is taken.
    pub async fn start_at(listen: &str, server: &str) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let cuts = watch::Sender::new(());
        let server = server.to_owned();
        let cut = cuts.subscribe();
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if let Ok(server) = TcpStream::connect(&server).await {
                    tokio::spawn(forward(client, server, cut.clone()));
                }
            }
        });
        Ok(Self {
            address,
            cuts,
            accepting: accepting.abort_handle(),
        })
    }

    /// Host and port of a URI, for [`Proxy::start`].
    ///
    /// # Errors
    /// When the URI names no host.
    pub fn before(uri: &str) -> anyhow::Result<&str> {
        let rest = uri.split_once('@').map(|(_, rest)| rest);
        let host = rest.and_then(|rest| rest.split_once('/'));
        host.map(|(host, _)| host)
            .ok_or_else(|| anyhow::anyhow!("a URI with a host"))
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Ends every connection for its client. Its server hears nothing of that: it
    /// finishes what it was asked, and its answers are lost. New ones are taken.
    pub fn cut(&self) {
        self.cuts.send_replace(());
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn forward(mut client: TcpStream, mut server: TcpStream, mut cut: watch::Receiver<()>) {
    cut.mark_unchanged();
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    tokio::select! {
        _ = copy(&mut from_client, &mut to_server) => return,
        _ = copy(&mut from_server, &mut to_client) => return,
        _ = cut.changed() => {}
    }
    drop(client);
    // Until the server ends it.
    let _ = copy(&mut from_server, &mut tokio::io::sink()).await;
}
