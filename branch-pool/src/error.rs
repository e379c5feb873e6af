//! Everything that can go wrong. Nothing here holds a connection URI.

use std::error::Error as StdError;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use rpc::client::TargetError;

use crate::LeaseTarget;

/// Why there is no pool, or no connection from it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The name is no binding's resource name.
    #[error("`{name}` is not of the form services/{{service}}/versions/{{version}}")]
    InvalidBinding {
        /// What was given.
        name: String,
    },
    /// The broker's address cannot be used.
    #[error("the broker's address `{url}` cannot be used: {problem}")]
    InvalidBrokerUrl {
        /// What was given, without user and password.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The credentials for the broker do not go with its address, or one of
    /// their files cannot be used.
    #[error("the broker cannot be called with these credentials")]
    InvalidCredentials {
        /// What is wrong.
        #[source]
        source: TargetError,
    },
    /// No first lease: the broker refused it, or could not be reached within
    /// [`acquire_timeout`](crate::Options::acquire_timeout).
    #[error("could not get a lease on {target}")]
    FailedAcquire {
        /// What it was for.
        target: LeaseTarget,
        /// Why the last attempt failed.
        #[source]
        source: LeaseError,
    },
    /// There was no first lease yet; the pool keeps trying for one.
    #[error("no lease on {target} yet{}", because(last_error.as_deref()))]
    NotReady {
        /// What the lease is for.
        target: LeaseTarget,
        /// Why the last attempt failed. `None`: none has failed yet.
        last_error: Option<String>,
    },
    /// The lease ended and could not be renewed or replaced; the pool keeps
    /// trying.
    #[error("the lease on {target} has expired{}", because(last_error.as_deref()))]
    LeaseExpired {
        /// What the lease was for.
        target: LeaseTarget,
        /// When it ended, by the broker's clock.
        expire_time: SystemTime,
        /// Why the last attempt to renew or replace it failed.
        last_error: Option<String>,
    },
    /// All connections stayed in use for as long as the caller was to wait.
    #[error("no connection of the pool for {target} came free within {waited:?}")]
    CheckoutTimeout {
        /// What the pool's lease is for.
        target: LeaseTarget,
        /// [`wait_timeout`](crate::Options::wait_timeout).
        waited: Duration,
    },
    /// Opening a connection took too long.
    #[error("Postgres for {target} did not open a connection within {waited:?}")]
    ConnectTimeout {
        /// What the pool's lease is for.
        target: LeaseTarget,
        /// [`connect_timeout`](crate::Options::connect_timeout).
        waited: Duration,
    },
    /// Opening a connection failed.
    #[error("could not open a connection to Postgres for {target}: {reason}")]
    FailedConnect {
        /// What the pool's lease is for.
        target: LeaseTarget,
        /// What Postgres, the network or TLS said.
        reason: String,
    },
    /// The pool was closed.
    #[error("the pool for {target} is closed")]
    Closed {
        /// What the pool's lease is for.
        target: LeaseTarget,
    },
}

/// Why a call to the broker gave no usable lease.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LeaseError {
    /// The broker refused, or could not be reached.
    #[error("{method} failed: {}", status_text(status))]
    FailedCall {
        /// `AcquireLease`, say.
        method: &'static str,
        /// What came back.
        status: Box<tonic::Status>,
    },
    /// The broker's answer lacks something.
    #[error("the broker's answer to {method} has no valid {field}")]
    InvalidAnswer {
        /// `AcquireLease`, say.
        method: &'static str,
        /// The field.
        field: &'static str,
    },
    /// The lease's connection URI cannot be used.
    #[error("the connection URI of the lease cannot be used")]
    InvalidUri(#[source] UriError),
}

/// What is wrong with a connection URI. Names the parameter, never shows the
/// URI.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UriError {
    /// Neither `postgresql://` nor `postgres://`.
    #[error("it does not begin with postgresql://")]
    NotPostgres,
    /// tokio-postgres cannot read it.
    #[error("it is malformed")]
    Malformed(#[source] tokio_postgres::Error),
    /// A value that libpq does not know.
    #[error("{parameter}={value} is not a value that libpq knows")]
    UnknownValue {
        /// The parameter.
        parameter: &'static str,
        /// What it is set to.
        value: String,
    },
    /// A parameter of libpq's that this pool has no use for: a lease leads to one
    /// server, and says which.
    #[error("{parameter} is not supported")]
    Unsupported {
        /// The parameter.
        parameter: &'static str,
    },
    /// `sslrootcert=system` with less than `verify-full`: anybody can get a
    /// certificate from a public authority.
    #[error("sslrootcert=system asks for sslmode=verify-full, not sslmode={sslmode}")]
    WeakSslMode {
        /// What sslmode is.
        sslmode: &'static str,
    },
    /// `verify-ca` without an authority to verify against.
    #[error("sslmode=verify-ca asks for sslrootcert, the file of the authority to trust")]
    MissingRootCertificate,
    /// The file that `sslrootcert` names cannot be read.
    #[error("sslrootcert={} cannot be read", path.display())]
    FailedRead {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file that `sslrootcert` names holds no certificate, or a broken one.
    #[error("sslrootcert={} is not a PEM file of certificates: {problem}", path.display())]
    InvalidRootCertificate {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// rustls refuses the settings.
    #[error("TLS cannot be set up")]
    FailedTls(#[source] rustls::Error),
}

/// The error and its sources in one line, each text once: libraries differ in
/// whether their Display has the source in it already.
pub(crate) fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        source = error.source();
    }
    text
}

fn because(last_error: Option<&str>) -> String {
    last_error.map_or_else(String::new, |error| format!(": {error}"))
}

fn status_text(status: &tonic::Status) -> String {
    let message = match (status.message(), status.source()) {
        ("", None) => status.code().description().to_owned(),
        (message, None) => message.to_owned(),
        (_, Some(source)) => chain(source),
    };
    format!("{:?}: {message}", status.code())
}
