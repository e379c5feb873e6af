//! Direct connections to branches, as their owner.
//!
//! TLS is what the URI's sslmode asks for and no more, as libpq has it: without
//! a root certificate, `require` encrypts and does not verify. What keeps a man
//! in the middle out is the URI's channel_binding=require: SCRAM then fails
//! unless both ends see the same certificate.

mod tls;

use std::fmt;
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable as _};
use secrecy::{ExposeSecret as _, SecretString};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Connection, Socket};

pub use postgres_protocol::escape::{escape_identifier, escape_literal};

/// How long one attempt to connect may take, in milliseconds. A suspended
/// compute wakes in a few hundred.
const CONNECT_MS_MAX: u64 = 10_000;
/// How often a connection that may come about is tried, beyond the first time.
const CONNECT_RETRIES_MAX: usize = 5;
/// Pauses between attempts, in milliseconds.
const CONNECT_BACKOFF_MS_MIN: u64 = 100;
const CONNECT_BACKOFF_MS_MAX: u64 = 2_000;

/// How long a connection may be silent before it is probed, how often it is
/// then probed, in seconds, and how many probes may stay unanswered. Work that
/// takes long is silent too; what a dead host is asked is not answered.
const KEEPALIVE_IDLE_SECONDS: u64 = 30;
const KEEPALIVE_INTERVAL_SECONDS: u64 = 10;
const KEEPALIVE_RETRIES: u32 = 3;
/// How long what was sent may stay unacknowledged, in seconds.
const UNACKNOWLEDGED_SECONDS_MAX: u64 = 30;
/// How long one statement of a [`session`] may take, in milliseconds. What may
/// take longer says so: a migration runs in a session of its own, a seed lifts
/// this for its transaction.
const STATEMENT_MS_MAX: u64 = 60_000;

/// The owner's connection URI of one database on one branch. A credential of
/// the worst kind: it leaves the broker for no one.
#[derive(Clone)]
pub struct OwnerUri(SecretString);

/// Why a database did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is no URI that this broker understands.
    #[error("read the connection URI")]
    BadUri(#[source] tokio_postgres::Error),
    /// TLS could not be set up.
    #[error("set up TLS")]
    FailedTls(#[source] rustls::Error),
    /// No session.
    #[error("connect to Postgres at {address}")]
    FailedConnect {
        /// Host and port.
        address: String,
        /// What came instead.
        #[source]
        source: tokio_postgres::Error,
    },
    /// No answer in time.
    #[error("connect to Postgres at {address}: no answer within {CONNECT_MS_MAX} ms")]
    NoAnswer {
        /// Host and port.
        address: String,
    },
    /// Longer than it may.
    #[error("{what}: not done within {} s", limit.as_secs())]
    TooSlow {
        /// What was attempted.
        what: String,
        /// How long it was given.
        limit: Duration,
    },
    /// A statement failed.
    #[error("{what}")]
    FailedStatement {
        /// What it was for: "read the migration history".
        what: String,
        /// What Postgres said.
        #[source]
        source: tokio_postgres::Error,
    },
}

impl Error {
    /// Whether the same may work in a moment: nobody answered, the session
    /// broke, the server is starting or full, somebody else held a lock.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::BadUri(_) | Error::FailedTls(_) => false,
            Error::NoAnswer { .. } | Error::TooSlow { .. } => true,
            Error::FailedConnect { source, .. } | Error::FailedStatement { source, .. } => {
                may_pass(source)
            }
        }
    }
}

impl Error {
    /// Whether it was the role or its password that was refused.
    pub fn is_login_refused(&self) -> bool {
        let Error::FailedConnect { source, .. } = self else {
            return false;
        };
        let refused = [
            SqlState::INVALID_PASSWORD,
            SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
        ];
        source.code().is_some_and(|code| refused.contains(code))
    }

    /// Whether a lock was not to be had in time.
    pub fn is_lock_timeout(&self) -> bool {
        use tokio_postgres::error::SqlState;
        let Error::FailedStatement { source, .. } = self else {
            return false;
        };
        source.code() == Some(&SqlState::LOCK_NOT_AVAILABLE)
    }
}

impl OwnerUri {
    /// Takes what Neon gave.
    pub fn new(uri: impl Into<SecretString>) -> OwnerUri {
        OwnerUri(uri.into())
    }

    /// The text itself. Never for a log line, an error or an answer.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// Whether it leads through a pooler, where a session is nobody's own: as Neon names
    /// its endpoints.
    pub fn is_pooled(&self) -> bool {
        let host = url::Url::parse(self.expose()).ok();
        let host = host.as_ref().and_then(|uri| uri.host_str());
        host.is_some_and(|host| {
            host.split('.')
                .next()
                .unwrap_or_default()
                .ends_with("-pooler")
        })
    }

    /// Whether it is the same.
    pub fn is(&self, other: &OwnerUri) -> bool {
        self.expose() == other.expose()
    }
}

impl fmt::Debug for OwnerUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OwnerUri([redacted])")
    }
}

/// A connection that somebody has to drive.
pub(crate) type Driven = Connection<Socket, tls::Stream>;

/// Opens a session, which a task of its own drives. It ends with the client.
/// What may pass is tried some more times. No statement takes longer than
/// a minute, unless it says that it may, and none takes anything from a schema that
/// somebody on the branch may have made, unless it names it.
pub async fn session(uri: &OwnerUri) -> Result<Client, Error> {
    let (client, connection) = open(uri).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            // Whoever uses the client gets an error too; this is for the rest.
            tracing::debug!(error = %crate::text::one_line(&error), "a session ended");
        }
    });
    client
        .batch_execute(&format!(
            "SET statement_timeout = {STATEMENT_MS_MAX}; SET search_path = pg_catalog"
        ))
        .await
        .attempted("prepare a session")?;
    Ok(client)
}

/// Opens a session for a caller that drives it. What may pass is tried some more
/// times.
pub(crate) async fn open(uri: &OwnerUri) -> Result<(Client, Driven), Error> {
    let backoff = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(CONNECT_BACKOFF_MS_MIN))
        .with_max_delay(Duration::from_millis(CONNECT_BACKOFF_MS_MAX))
        .with_max_times(CONNECT_RETRIES_MAX)
        .with_jitter();
    (|| open_once(uri))
        .retry(backoff)
        .when(Error::is_transient)
        .await
}

/// As [`open`], tried once.
pub(crate) async fn open_once(uri: &OwnerUri) -> Result<(Client, Driven), Error> {
    let mut config: tokio_postgres::Config = uri.expose().parse().map_err(Error::BadUri)?;
    config
        .keepalives(true)
        .keepalives_idle(Duration::from_secs(KEEPALIVE_IDLE_SECONDS))
        .keepalives_interval(Duration::from_secs(KEEPALIVE_INTERVAL_SECONDS))
        .keepalives_retries(KEEPALIVE_RETRIES)
        .tcp_user_timeout(Duration::from_secs(UNACKNOWLEDGED_SECONDS_MAX));
    let tls = tls::connector().map_err(Error::FailedTls)?;
    connect(&config, tls).await
}

/// Gives work on a database that long and no longer: a server that hangs keeps
/// its connections alive.
pub(crate) async fn bounded<T, E: From<Error>>(
    limit: Duration,
    what: impl Into<String>,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    match tokio::time::timeout(limit, work).await {
        Ok(done) => done,
        Err(_) => Err(Error::TooSlow {
            what: what.into(),
            limit,
        }
        .into()),
    }
}

async fn connect(
    config: &tokio_postgres::Config,
    tls: tls::Connector,
) -> Result<(Client, Driven), Error> {
    let limit = Duration::from_millis(CONNECT_MS_MAX);
    match tokio::time::timeout(limit, config.connect(tls)).await {
        Ok(Ok(opened)) => Ok(opened),
        Ok(Err(source)) => Err(Error::FailedConnect {
            address: address_of(config),
            source,
        }),
        Err(_) => Err(Error::NoAnswer {
            address: address_of(config),
        }),
    }
}

/// Names what a statement was for in its error.
pub(crate) trait Attempted<T> {
    /// Says what was attempted.
    fn attempted(self, what: impl Into<String>) -> Result<T, Error>;
}

impl<T> Attempted<T> for Result<T, tokio_postgres::Error> {
    fn attempted(self, what: impl Into<String>) -> Result<T, Error> {
        self.map_err(|source| Error::FailedStatement {
            what: what.into(),
            source,
        })
    }
}

fn address_of(config: &tokio_postgres::Config) -> String {
    let host = match config.get_hosts().first() {
        Some(tokio_postgres::config::Host::Tcp(host)) => host.as_str(),
        _ => "an unnamed host",
    };
    let port = config.get_ports().first().copied().unwrap_or(5432);
    format!("{host}:{port}")
}

/// Whether what Postgres said may be otherwise in a moment.
pub(crate) fn may_pass(error: &tokio_postgres::Error) -> bool {
    let Some(state) = error.code() else {
        // Not from the server: a socket that closed, or a handshake that broke.
        return error.is_closed() || is_io(error);
    };
    // Connection exceptions, insufficient resources, operator intervention.
    let class = state.code().get(..2).unwrap_or_default();
    matches!(class, "08" | "53" | "57")
        || [
            SqlState::T_R_SERIALIZATION_FAILURE,
            SqlState::T_R_DEADLOCK_DETECTED,
            SqlState::LOCK_NOT_AVAILABLE,
        ]
        .contains(state)
}

fn is_io(error: &tokio_postgres::Error) -> bool {
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        if cause.is::<std::io::Error>() {
            return true;
        }
        next = cause.source();
    }
    false
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_owners_uri_is_not_printed() {
        let uri = OwnerUri::new("postgresql://owner:hunter2@127.0.0.1/neondb");
        assert_eq!(format!("{uri:?}"), "OwnerUri([redacted])");
    }

    /// A server that hangs: its kernel takes the connection, nobody answers.
    #[tokio::test]
    async fn a_server_that_hangs_holds_nobody_for_long() {
        let hanging = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = hanging.local_addr().unwrap();
        let uri = OwnerUri::new(format!("postgresql://o:hunter2@{address}/neondb"));
        let limit = Duration::from_millis(50);
        let opened = bounded(limit, "look", session(&uri)).await;
        let error = opened.err().unwrap();
        assert!(matches!(error, Error::TooSlow { .. }), "{error}");
        assert!(error.is_transient());
    }

    #[tokio::test]
    async fn a_uri_that_is_none_is_not_repeated_in_the_error() {
        let uri = OwnerUri::new("postgresql://owner:hunter2@127.0.0.1/neondb?sslmode=sometimes");
        let Err(error) = session(&uri).await else {
            panic!("connected");
        };
        let line = crate::text::one_line(&error);
        assert!(line.contains("sslmode"), "{line}");
        assert!(!line.contains("hunter2"), "{line}");
        assert!(!error.is_transient());
    }
}
