//! Bound sockets.

use std::{io, net::SocketAddr};

use tokio::net::TcpListener;

use crate::security::Security;

/// A bound socket, and how it is secured: what fails at the start of a server
/// fails here, before anything else is made.
#[derive(Debug)]
pub struct Listener {
    pub(crate) inner: TcpListener,
    pub(crate) security: Security,
    address: SocketAddr,
}

impl Listener {
    /// Listens on `address`; port 0 picks a free one. Without TLS and caller
    /// identity only loopback addresses are allowed.
    ///
    /// # Errors
    /// Each says in one sentence what is wrong and what to do.
    pub async fn bind(address: SocketAddr, security: Security) -> Result<Self, BindError> {
        let (inner, address) = bind(address, &security, "--listen").await?;
        security.announce(address);
        Ok(Self {
            inner,
            security,
            address,
        })
    }

    /// Where it listens, with the port that was picked.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Binds where a server with this security may, as that flag says.
pub(crate) async fn bind(
    address: SocketAddr,
    security: &Security,
    flag: &'static str,
) -> Result<(TcpListener, SocketAddr), BindError> {
    if !address.ip().to_canonical().is_loopback() && !security.is_for_others() {
        return Err(BindError::NotLoopback { address });
    }
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => BindError::PortTaken { address, flag },
        _ => BindError::FailedBind { address, source },
    };
    let inner = TcpListener::bind(address).await.map_err(failed)?;
    let address = inner.local_addr().map_err(failed)?;
    Ok((inner, address))
}

/// Why a server cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Others than this machine could reach it.
    #[error(
        "will not listen on {address}: without TLS and caller identity only loopback \
         addresses are safe, as in 127.0.0.1:{}; see --tls-cert-file and --tls-client-ca-file",
        address.port()
    )]
    NotLoopback {
        /// As given.
        address: SocketAddr,
    },
    /// Somebody else listens there.
    #[error(
        "cannot listen on {address}: the port is taken; stop what listens there or give \
         another address with {flag}"
    )]
    PortTaken {
        /// As given.
        address: SocketAddr,
        /// The flag that gave it.
        flag: &'static str,
    },
    /// The system refuses.
    #[error("cannot listen on {address}")]
    FailedBind {
        /// As given.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
}
