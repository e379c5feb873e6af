//! Calling a server: where it is, how to be sure that it is the one, and how to
//! say who calls.
//!
//! Files are read when they are used: certificates and keys at each new
//! connection, a token at most once a second. Who replaces them need not restart
//! anything.

mod bearer;
mod connect;

use std::{fmt, net::IpAddr, path::PathBuf, sync::Arc};

use http::Uri;
use tonic::{service::interceptor::InterceptedService, transport::Endpoint};

pub use crate::pem::FileError;
pub use bearer::Bearer;
use connect::Tls;

/// A channel that says who calls and, in a server, for which trace.
pub type Channel = InterceptedService<tonic::transport::Channel, Bearer>;

/// What a caller trusts, and what it shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// PEM file of the authorities that the server's certificate has to come
    /// from. `None`: those that browsers trust.
    pub ca_file: Option<PathBuf>,
    /// PEM file of the caller's certificate, intermediates after it.
    pub client_cert_file: Option<PathBuf>,
    /// PEM file of that certificate's key.
    pub client_key_file: Option<PathBuf>,
    /// File of a token that goes with each call.
    pub token_file: Option<PathBuf>,
}

/// A server, and how to call it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    address: String,
    credentials: Credentials,
}

impl Target {
    /// The server at `address`: `https://broker.internal:7431`, or, on this
    /// machine, `http://127.0.0.1:7431` or `127.0.0.1:7431`.
    pub fn new(address: impl Into<String>, credentials: Credentials) -> Self {
        Self {
            address: address.into(),
            credentials,
        }
    }

    /// The address as given.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// A channel that connects at its first call, and again whenever it has to.
    /// `configure` sets what is not said here: time limits and the like.
    ///
    /// # Errors
    /// When the address is none, does not go with the credentials, or one of
    /// their files cannot be used.
    pub fn channel(
        &self,
        configure: impl FnOnce(Endpoint) -> Endpoint,
    ) -> Result<Channel, TargetError> {
        let checked = self.checked()?;
        let bearer = checked.bearer.clone();
        Ok(InterceptedService::new(checked.lazy(configure), bearer))
    }

    /// As [`Target::channel`], and says nothing of who calls.
    #[cfg(feature = "server")]
    pub(crate) fn transport(
        &self,
        configure: impl FnOnce(Endpoint) -> Endpoint,
    ) -> Result<tonic::transport::Channel, TargetError> {
        Ok(self.checked()?.lazy(configure))
    }

    /// As [`Target::channel`], connected.
    ///
    /// # Errors
    /// As [`Target::channel`], and when nobody answers there.
    pub async fn connect(
        &self,
        configure: impl FnOnce(Endpoint) -> Endpoint,
    ) -> Result<Channel, ConnectError> {
        let Checked {
            endpoint,
            tls,
            bearer,
        } = self.checked()?;
        let endpoint = configure(endpoint);
        let connected = match tls {
            Some(tls) => {
                endpoint
                    .connect_with_connector(connect::connector(tls))
                    .await
            }
            None => endpoint.connect().await,
        };
        let channel = connected.map_err(|error| ConnectError::Unreachable {
            address: self.address.clone(),
            reason: root_cause(&error),
        })?;
        Ok(InterceptedService::new(channel, bearer))
    }

    fn checked(&self) -> Result<Checked, TargetError> {
        let url = match self.address.contains("://") {
            true => self.address.clone(),
            false => format!("http://{}", self.address),
        };
        let bad = |problem: &str| TargetError::BadAddress {
            address: without_user(&self.address),
            problem: problem.to_owned(),
        };
        let uri: Uri = url
            .parse()
            .map_err(|error: http::uri::InvalidUri| bad(&error.to_string()))?;
        let host = uri.host().filter(|host| !host.is_empty());
        let host = host.ok_or_else(|| bad("it names no host"))?;
        let bearer = Bearer::new(self.credentials.token_file.as_deref())?;
        let (endpoint, tls) = match uri.scheme_str() {
            Some("http") => {
                self.refuse_in_the_clear(host)?;
                (Endpoint::from(uri), None)
            }
            Some("https") => {
                let tls = Tls::new(host, &uri, &self.credentials)
                    .map_err(|problem| problem.of(&self.address))?;
                // tonic's own TLS stays out: the connector does it, so that
                // files are read again.
                let bare = format!("http://{}", uri.authority().map_or(host, |a| a.as_str()));
                let bare: Uri = bare.parse().map_err(|_| bad("it names no host"))?;
                (Endpoint::from(bare).origin(uri), Some(Arc::new(tls)))
            }
            _ => return Err(bad("it has to begin with https:// or http://")),
        };
        Ok(Checked {
            endpoint,
            tls,
            bearer,
        })
    }

    /// What http:// cannot carry.
    fn refuse_in_the_clear(&self, host: &str) -> Result<(), TargetError> {
        let Credentials {
            ca_file,
            client_cert_file,
            client_key_file,
            token_file,
        } = &self.credentials;
        if ca_file.is_some() || client_cert_file.is_some() || client_key_file.is_some() {
            return Err(TargetError::NotTls {
                address: without_user(&self.address),
            });
        }
        match token_file {
            Some(_) if !is_loopback(host) => Err(TargetError::TokenInTheClear {
                address: without_user(&self.address),
            }),
            _ => Ok(()),
        }
    }
}

impl From<&str> for Target {
    fn from(address: &str) -> Self {
        Self::new(address, Credentials::default())
    }
}

impl From<&String> for Target {
    fn from(address: &String) -> Self {
        Self::from(address.as_str())
    }
}

impl From<&Target> for Target {
    fn from(target: &Target) -> Self {
        target.clone()
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&without_user(&self.address))
    }
}

/// Why a server cannot even be tried.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// Not an address.
    #[error("{address:?} is not the address of a server, as https://host:7431 is: {problem}")]
    BadAddress {
        /// As given, without user and password.
        address: String,
        /// What is wrong.
        problem: String,
    },
    /// Certificates for a connection without TLS.
    #[error("{address} is without TLS, which certificates are for: write https://")]
    NotTls {
        /// As given.
        address: String,
    },
    /// A token that anybody on the way could read.
    #[error("will not send a token to {address} in the clear: write https://")]
    TokenInTheClear {
        /// As given.
        address: String,
    },
    /// Half of a pair.
    #[error("a client certificate goes with its key: give both files or none")]
    HalfAPair,
    /// A file that cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// rustls refuses the files.
    #[error("TLS cannot be set up with these certificates: {0}")]
    FailedTls(String),
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// It was not even tried.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// Nobody answers, or not as a gRPC server does.
    #[error("no gRPC server answers at {address}: {reason}")]
    Unreachable {
        /// As given.
        address: String,
        /// What the system says: the root of the transport's error, whose layers
        /// repeat each other.
        reason: String,
    },
}

struct Checked {
    endpoint: Endpoint,
    tls: Option<Arc<Tls>>,
    bearer: Bearer,
}

impl Checked {
    fn lazy(self, configure: impl FnOnce(Endpoint) -> Endpoint) -> tonic::transport::Channel {
        let endpoint = configure(self.endpoint);
        match self.tls {
            Some(tls) => endpoint.connect_with_connector_lazy(connect::connector(tls)),
            None => endpoint.connect_lazy(),
        }
    }
}

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut root = error;
    while let Some(source) = root.source() {
        root = source;
    }
    root.to_string()
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || bare
            .parse()
            .is_ok_and(|ip: IpAddr| ip.to_canonical().is_loopback())
}

fn without_user(address: &str) -> String {
    match (address.find("://"), address.rfind('@')) {
        (Some(scheme), Some(at)) if at > scheme => {
            format!("{}://{}", &address[..scheme], &address[at + 1..])
        }
        (None, Some(at)) => address[at + 1..].to_owned(),
        _ => address.to_owned(),
    }
}
