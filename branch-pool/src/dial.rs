//! From the hosts of a URI to an open socket.

use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::time::timeout;
use tokio_postgres::config::{Config, Host};

use crate::socket::Socket;

/// Postgres's port, where the URI names none.
const PORT_DEFAULT: u16 = 5432;

/// Opens a socket to the first host of the URI that takes one. Also returns the host's
/// name, for TLS: empty for a Unix socket.
///
/// Errors: the last host's; for a URI without any, that there is none.
pub(crate) async fn dial(config: &Config) -> io::Result<(Socket, String)> {
    let none = || io::Error::new(io::ErrorKind::InvalidInput, "the URI names no host");
    let mut outcome = Err(none());
    let addresses = config.get_hostaddrs();
    let hosts = config.get_hosts();
    for index in 0..hosts.len().max(addresses.len()) {
        let ports = config.get_ports();
        let port = ports.get(index).or(ports.first());
        let port = port.copied().unwrap_or(PORT_DEFAULT);
        outcome = match (addresses.get(index), hosts.get(index)) {
            (Some(address), host) => {
                let name = match host {
                    Some(Host::Tcp(name)) => name.clone(),
                    _ => address.to_string(),
                };
                connect_to(config, *address, port)
                    .await
                    .map(|one| (one, name))
            }
            (None, Some(Host::Tcp(name))) => resolve_and_connect(config, name, port)
                .await
                .map(|one| (one, name.clone())),
            (None, Some(Host::Unix(folder))) => connect_in(config, folder, port)
                .await
                .map(|one| (one, String::new())),
            (None, None) => Err(none()),
        };
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

async fn resolve_and_connect(config: &Config, name: &str, port: u16) -> io::Result<Socket> {
    let mut outcome = Err(io::Error::new(
        io::ErrorKind::NotFound,
        "the host's name has no address",
    ));
    for address in bounded(config, lookup_host((name, port))).await? {
        outcome = connect_to(config, address.ip(), port).await;
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

async fn connect_to(config: &Config, address: IpAddr, port: u16) -> io::Result<Socket> {
    let stream = bounded(config, TcpStream::connect((address, port))).await?;
    stream.set_nodelay(true)?;
    let socket = SockRef::from(&stream);
    if config.get_keepalives() {
        let mut keepalive = TcpKeepalive::new().with_time(config.get_keepalives_idle());
        if let Some(interval) = config.get_keepalives_interval() {
            keepalive = keepalive.with_interval(interval);
        }
        if let Some(retries) = config.get_keepalives_retries() {
            keepalive = keepalive.with_retries(retries);
        }
        socket.set_tcp_keepalive(&keepalive)?;
    }
    #[cfg(target_os = "linux")]
    if let Some(limit) = config.get_tcp_user_timeout() {
        socket.set_tcp_user_timeout(Some(*limit))?;
    }
    Ok(Socket::tcp(stream))
}

async fn connect_in(config: &Config, folder: &Path, port: u16) -> io::Result<Socket> {
    let path = folder.join(format!(".s.PGSQL.{port}"));
    bounded(config, UnixStream::connect(path))
        .await
        .map(Socket::unix)
}

/// Within the URI's connect_timeout.
async fn bounded<T>(
    config: &Config,
    attempt: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    let limit = config.get_connect_timeout().copied();
    match timeout(limit.unwrap_or(Duration::MAX), attempt).await {
        Ok(outcome) => outcome,
        Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut)),
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;
    use tokio::net::TcpListener;

    use super::*;
    use crate::Options;
    use crate::uri::{KEEPALIVE_IDLE, KEEPALIVE_RETRIES, Uri};

    /// A socket to a server here, dialled as by a pool whose URI has these parameters.
    async fn dialled(query: &str) -> anyhow::Result<(TcpListener, Socket)> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let uri = Uri::split(&format!("postgresql://role@{address}/neondb?{query}"))?;
        let mut config: Config = uri.rest.expose_secret().parse()?;
        uri.set_defaults(&mut config, &Options::default());
        let (socket, _) = dial(&config).await?;
        Ok((listener, socket))
    }

    #[tokio::test]
    async fn what_is_written_is_sent_at_once() -> anyhow::Result<()> {
        let (_listener, socket) = dialled("").await?;
        assert!(socket.tap().kernel().tcp_nodelay()?);
        Ok(())
    }

    #[tokio::test]
    async fn a_quiet_server_is_probed() -> anyhow::Result<()> {
        let (_listener, socket) = dialled("").await?;
        let tap = socket.tap();
        let kernel = tap.kernel();
        assert!(kernel.keepalive()?);
        assert_eq!(kernel.tcp_keepalive_time()?, KEEPALIVE_IDLE);
        assert_eq!(kernel.tcp_keepalive_retries()?, KEEPALIVE_RETRIES);
        Ok(())
    }

    #[tokio::test]
    async fn a_quiet_server_is_probed_as_the_uri_says() -> anyhow::Result<()> {
        let query = "keepalives_idle=77&keepalives_interval=7&keepalives_retries=5";
        let (_listener, socket) = dialled(query).await?;
        let tap = socket.tap();
        let kernel = tap.kernel();
        assert_eq!(kernel.tcp_keepalive_time()?, Duration::from_secs(77));
        assert_eq!(kernel.tcp_keepalive_interval()?, Duration::from_secs(7));
        assert_eq!(kernel.tcp_keepalive_retries()?, 5);

        let (_listener, socket) = dialled("keepalives=0").await?;
        assert!(!socket.tap().kernel().keepalive()?);
        Ok(())
    }
}
