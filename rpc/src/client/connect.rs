//! Connections with TLS.

use std::{io, sync::Arc};

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::{
    AlertDescription, ClientConfig, InvalidMessage, RootCertStore, crypto::ring,
    pki_types::ServerName,
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tower::Service;

use super::{Credentials, TargetError};
use crate::pem;

/// Where https:// leads when no port is named.
const HTTPS_PORT: u16 = 443;

/// How to connect to one server with TLS.
pub(super) struct Tls {
    host: String,
    port: u16,
    name: ServerName<'static>,
    credentials: Credentials,
}

/// What keeps [`Tls`] from being made.
pub(super) enum Problem {
    Name,
    Target(TargetError),
}

impl Problem {
    pub(super) fn of(self, address: &str) -> TargetError {
        match self {
            Problem::Name => TargetError::BadAddress {
                address: super::without_user(address),
                problem: "no certificate can name this host".to_owned(),
            },
            Problem::Target(error) => error,
        }
    }
}

impl Tls {
    /// Reads the files once, to say at once what is wrong with them.
    pub(super) fn new(host: &str, uri: &Uri, credentials: &Credentials) -> Result<Self, Problem> {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned()).map_err(|_| Problem::Name)?;
        config(credentials).map_err(Problem::Target)?;
        Ok(Self {
            host: host.to_owned(),
            port: uri.port_u16().unwrap_or(HTTPS_PORT),
            name,
            credentials: credentials.clone(),
        })
    }

    async fn connect(&self) -> io::Result<TlsStream<TcpStream>> {
        let config = config(&self.credentials).map_err(told)?;
        let socket = TcpStream::connect((self.host.as_str(), self.port)).await?;
        socket.set_nodelay(true)?;
        let connector = TlsConnector::from(Arc::new(config));
        let stream = connector
            .connect(self.name.clone(), socket)
            .await
            .map_err(|error| self.explained(&error))?;
        match stream.get_ref().1.alpn_protocol() {
            Some(b"h2") => Ok(stream),
            _ => Err(io::Error::other(format!(
                "{}:{} speaks TLS, and no HTTP/2",
                self.host, self.port
            ))),
        }
    }

    fn explained(&self, error: &io::Error) -> io::Error {
        let hint = match error.get_ref().and_then(|inner| inner.downcast_ref()) {
            Some(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)) => {
                "; it does not speak TLS: write http://"
            }
            Some(rustls::Error::InvalidCertificate(_)) => "; see to the CA file and to the host",
            Some(rustls::Error::AlertReceived(AlertDescription::ProtocolVersion)) => {
                "; it speaks another version of TLS"
            }
            _ => "",
        };
        let (host, port) = (&self.host, self.port);
        io::Error::other(format!("TLS with {host}:{port}: {error}{hint}"))
    }
}

/// What tonic asks for a new connection.
pub(super) fn connector(
    tls: Arc<Tls>,
) -> impl Service<
    Uri,
    Response = TokioIo<TlsStream<TcpStream>>,
    Error = io::Error,
    Future = impl Future<Output = io::Result<TokioIo<TlsStream<TcpStream>>>> + Send,
> + Send
+ 'static {
    tower::service_fn(move |_: Uri| {
        let tls = Arc::clone(&tls);
        async move { Ok(TokioIo::new(tls.connect().await?)) }
    })
}

fn config(credentials: &Credentials) -> Result<ClientConfig, TargetError> {
    const CA: &str = "CA file";
    const CERTIFICATE: &str = "client certificate";
    const KEY: &str = "client key";
    let roots = match &credentials.ca_file {
        Some(path) => pem::authorities(CA, path, &pem::read(CA, path)?)?,
        None => RootCertStore {
            roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
        },
    };
    let failed = |error: rustls::Error| TargetError::FailedTls(error.to_string());
    // Named here, so that no process-wide default is needed or disturbed.
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(failed)?
        .with_root_certificates(roots);
    let pair = (&credentials.client_cert_file, &credentials.client_key_file);
    let mut config = match pair {
        (None, None) => builder.with_no_client_auth(),
        (Some(certificate), Some(key)) => {
            let text = pem::read(CERTIFICATE, certificate)?;
            let chain = pem::certificates(CERTIFICATE, certificate, &text)?;
            builder
                .with_client_auth_cert(chain, pem::private_key(KEY, key)?)
                .map_err(failed)?
        }
        _ => return Err(TargetError::HalfAPair),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// An error with its cause, in one text.
fn told(error: TargetError) -> io::Error {
    let text = match std::error::Error::source(&error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    io::Error::other(text)
}
