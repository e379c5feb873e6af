//! Where a generation's connections lead, and how to get there.

use std::fmt;
use std::io;

use diesel_async::AsyncPgConnection;
use secrecy::{ExposeSecret, SecretString};
use tokio_postgres::CancelToken;
use tokio_postgres::config::{Config, Host, SslMode, SslNegotiation};
use tokio_postgres::error::SqlState;
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::Options;
use crate::error::{UriError, chain};
use crate::tls;
use crate::uri::{Mode, Uri};

/// Everything that opening a connection needs. Its Debug shows none of it.
pub(crate) struct Target {
    config: Config,
    tls: MakeRustlsConnect,
    /// The mode to try if the configured one fails.
    fallback: Option<SslMode>,
}

/// Why a connection could not be opened.
#[derive(Debug)]
pub(crate) struct ConnectFailure {
    /// What Postgres, the network or TLS said.
    pub(crate) reason: String,
    /// True when the lease's connection may be out of date: Postgres does not
    /// know the role, the password or the database, or nobody answers there.
    pub(crate) doubts_lease: bool,
}

impl Target {
    /// Reads the URI. What it leaves open is taken from `options` and from the
    /// constants above.
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

    /// Opens a connection and hands its driver to the runtime.
    pub(crate) async fn connect(&self) -> Result<AsyncPgConnection, ConnectFailure> {
        let opened = self.config.connect(self.tls.clone()).await;
        let (client, driver) = match (opened, self.fallback) {
            (Err(error), Some(mode)) if may_fall_back(&error) => {
                tracing::debug!(error = chain(&error), ?mode, "trying the other way");
                let mut config = self.config.clone();
                config.ssl_mode(mode);
                config.connect(self.tls.clone()).await
            }
            (opened, _) => opened,
        }
        .map_err(ConnectFailure::new)?;
        // Driven here rather than by diesel-async, which does not tell how a
        // connection ended.
        tokio::spawn(async move {
            match driver.await {
                Ok(()) => tracing::trace!("closed a connection"),
                Err(error) => tracing::debug!(error = chain(&error), "a connection ended"),
            }
        });
        AsyncPgConnection::try_from(client)
            .await
            .map_err(|error| ConnectFailure {
                reason: chain(&error),
                doubts_lease: false,
            })
    }

    /// Asks Postgres, over a connection of its own, to stop what the token's
    /// connection is busy with.
    pub(crate) async fn cancel(&self, token: &CancelToken) -> Result<(), tokio_postgres::Error> {
        token.cancel_query(self.tls.clone()).await
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

impl ConnectFailure {
    fn new(error: tokio_postgres::Error) -> Self {
        Self {
            reason: chain(&error),
            doubts_lease: match error.code() {
                Some(code) => [
                    SqlState::INVALID_PASSWORD,
                    SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
                    SqlState::INVALID_CATALOG_NAME,
                    SqlState::UNDEFINED_OBJECT,
                ]
                .contains(code),
                None => network_error(&error).is_some(),
            },
        }
    }
}

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
