//! Where a generation's connections lead, and how to get there.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use tokio_postgres::config::{Config, Host, SslMode, SslNegotiation, TargetSessionAttrs};
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{CancelToken, Client, Connection};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::Options;
use crate::dial::dial;
use crate::error::{UriError, chain};
use crate::socket::{Socket, Tap};
use crate::tls;
use crate::uri::{Mode, Uri};

/// What the TLS library gives, by the only names it has outside.
type RustlsConnect = <MakeRustlsConnect as MakeTlsConnect<Socket>>::TlsConnect;
type RustlsStream = <RustlsConnect as TlsConnect<Socket>>::Stream;

/// Everything that opening a connection needs. Its Debug shows none of it.
pub(crate) struct Target {
    config: Config,
    tls: MakeRustlsConnect,
    /// The mode to try if the configured one fails.
    fallback: Option<SslMode>,
}

/// Why a connection could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub(crate) struct ConnectFailure {
    /// What Postgres, the network or TLS said.
    pub(crate) reason: String,
    /// True when the lease's connection may be out of date: Postgres does not
    /// know the role, the password or the database, or nobody answers there.
    pub(crate) doubts_lease: bool,
    /// True when trying again soon may do: nobody answers, Postgres is starting or
    /// stopping, or there are too many sessions.
    pub(crate) is_transient: bool,
    pub(crate) kind: FailureKind,
}

/// What kind of failure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FailureKind {
    /// There was an answer, or nobody there to give one.
    Refused,
    /// There was none in time.
    Silent,
    /// Nobody waits for one any more: the pool was closed, and another has taken its
    /// place.
    Closed,
}

/// A connection that was opened: nothing moves on it until its driver runs.
pub(crate) struct Opened {
    pub(crate) client: Client,
    pub(crate) driver: Connection<Socket, RustlsStream>,
    pub(crate) tap: Arc<Tap>,
}

impl Target {
    /// Reads the URI. What it leaves open is taken from `options`, or is as the pool has
    /// it for all.
    ///
    /// Errors: a URI that libpq would refuse, or tokio-postgres does.
    pub(crate) fn parse(uri: &SecretString, options: &Options) -> Result<Self, UriError> {
        let uri = Uri::split(uri.expose_secret())?;
        let mut config: Config = uri
            .rest
            .expose_secret()
            .parse()
            .map_err(UriError::Malformed)?;
        uri.set_defaults(&mut config, options);
        if config.get_target_session_attrs() != TargetSessionAttrs::Any {
            return Err(UriError::Unsupported {
                parameter: "target_session_attrs",
            });
        }

        let mode = Mode::of(&uri)?;
        let (first, fallback) = mode.attempts();
        config.ssl_mode(first);
        let direct = config.get_ssl_negotiation() == SslNegotiation::Direct;
        let tls = tls::connector(mode.verification(&uri)?, direct).map_err(UriError::FailedTls)?;
        let mut target = Self {
            config,
            tls,
            fallback,
        };
        if target.is_local() {
            // libpq ignores sslmode on a Unix socket.
            target.config.ssl_mode(SslMode::Disable);
            target.fallback = None;
        }
        Ok(target)
    }

    /// Opens a connection; who gets it has to drive it.
    pub(crate) async fn connect(&self) -> Result<Opened, ConnectFailure> {
        match (self.attempt(&self.config).await, self.fallback) {
            (Err(Attempt::Postgres(error)), Some(mode)) if may_fall_back(&error) => {
                tracing::debug!(error = chain(&error), ?mode, "trying the other way");
                let mut config = self.config.clone();
                config.ssl_mode(mode);
                self.attempt(&config).await
            }
            (opened, _) => opened,
        }
        .map_err(ConnectFailure::new)
    }

    /// Asks Postgres, over a connection of its own, to stop what the token's
    /// connection is busy with, and waits until it has taken that to heart: as libpq
    /// does, by waiting for the end of that connection.
    ///
    /// Errors: the network's, or TLS's.
    pub(crate) async fn cancel(&self, token: &CancelToken) -> Result<(), io::Error> {
        let (socket, host) = dial(&self.config).await?;
        let tap = socket.tap();
        let tls = self.tls_for(&host);
        token
            .cancel_query_raw(socket, tls)
            .await
            .map_err(io::Error::other)?;
        tap.hung_up().await;
        Ok(())
    }

    async fn attempt(&self, config: &Config) -> Result<Opened, Attempt> {
        let (socket, host) = dial(config).await.map_err(Attempt::Network)?;
        let tap = socket.tap();
        let tls = self.tls_for(&host);
        let (client, driver) = config
            .connect_raw(socket, tls)
            .await
            .map_err(Attempt::Postgres)?;
        Ok(Opened {
            client,
            driver,
            tap,
        })
    }

    fn tls_for(&self, host: &str) -> RustlsConnect {
        let Ok(tls) = MakeTlsConnect::<Socket>::make_tls_connect(&mut self.tls.clone(), host);
        tls
    }

    fn is_local(&self) -> bool {
        let hosts = self.config.get_hosts();
        !hosts.is_empty() && hosts.iter().all(|host| matches!(host, Host::Unix(_)))
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Target([redacted])")
    }
}

/// How one attempt failed.
enum Attempt {
    /// There was no socket.
    Network(io::Error),
    /// There was one, and nothing came of it.
    Postgres(tokio_postgres::Error),
}

impl ConnectFailure {
    fn new(attempt: Attempt) -> Self {
        let error = match attempt {
            Attempt::Network(error) => {
                return Self {
                    reason: chain(&error),
                    doubts_lease: true,
                    is_transient: true,
                    kind: FailureKind::Refused,
                };
            }
            Attempt::Postgres(error) => error,
        };
        let is_network = network_error(&error).is_some();
        Self {
            reason: chain(&error),
            doubts_lease: match error.code() {
                Some(code) => DOUBTFUL.contains(code),
                None => is_network,
            },
            is_transient: match error.code() {
                Some(code) => TRANSIENT.contains(code),
                // Hung up on in the middle of it, as by a server that is going down.
                None => is_network || error.is_closed(),
            },
            kind: FailureKind::Refused,
        }
    }

    /// Nobody has said anything for so long.
    pub(crate) fn silence(waited: Duration) -> Self {
        Self {
            reason: format!("no answer within {waited:?}"),
            doubts_lease: false,
            is_transient: false,
            kind: FailureKind::Silent,
        }
    }

    /// Its pool was closed meanwhile.
    pub(crate) fn closed() -> Self {
        Self {
            reason: "the pool was closed".to_owned(),
            doubts_lease: false,
            is_transient: false,
            kind: FailureKind::Closed,
        }
    }

    /// Of a session that was opened, and did not take its settings.
    pub(crate) fn of_setup(error: &diesel::ConnectionError) -> Self {
        Self {
            reason: chain(error),
            doubts_lease: false,
            is_transient: true,
            kind: FailureKind::Refused,
        }
    }
}

/// What says that role, password or database are no more.
const DOUBTFUL: [SqlState; 4] = [
    SqlState::INVALID_PASSWORD,
    SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
    SqlState::INVALID_CATALOG_NAME,
    SqlState::UNDEFINED_OBJECT,
];

/// What a server says that is starting or stopping, or has not seen yet that a session
/// of the role has ended.
const TRANSIENT: [SqlState; 4] = [
    SqlState::TOO_MANY_CONNECTIONS,
    SqlState::CANNOT_CONNECT_NOW,
    SqlState::ADMIN_SHUTDOWN,
    SqlState::CRASH_SHUTDOWN,
];

/// libpq tries the other mode when TLS fails or the server will not have the
/// role over this kind of connection, not when the password is wrong or nobody
/// listens.
fn may_fall_back(error: &tokio_postgres::Error) -> bool {
    match error.code() {
        Some(code) => *code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
        None => !network_error(error).is_some_and(|error| {
            matches!(
                error.kind(),
                io::ErrorKind::ConnectionRefused | io::ErrorKind::TimedOut
            )
        }),
    }
}

/// The network's error, if it is one: rustls's come as I/O errors as well.
fn network_error(error: &tokio_postgres::Error) -> Option<&io::Error> {
    let error = std::error::Error::source(error)?.downcast_ref::<io::Error>()?;
    let from_tls = error
        .get_ref()
        .is_some_and(|inner| inner.is::<rustls::Error>());
    (!from_tls).then_some(error)
}

#[cfg(test)]
mod tests;
