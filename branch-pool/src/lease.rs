//! The broker, as a holder of leases sees it: its calls, decoded on arrival.

use std::fmt;
use std::time::{Duration, SystemTime};

use futures_util::{StreamExt, stream};
use proto::broker::v1 as wire;
use rpc::client::{Channel, Target as Server, TargetError};
use secrecy::SecretString;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::transport::Endpoint;
use tonic::{Code, Request, Response, Status};
use tonic_types::StatusExt;
use uuid::Uuid;
use wire::acquire_lease_request::Target;
use wire::lease_service_client::LeaseServiceClient;

use crate::announcement::{Announcements, REPORTS_MAX, Reports, WATCH};
use crate::error::LeaseError;
use crate::{Access, Error, LeaseTarget, Options, clock};

/// The broker's half-open connections are found by pings this far apart …
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// … that go unanswered for this long.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Releasing is a courtesy, since leases end by themselves: nobody waits longer.
const RELEASE_TIMEOUT_MAX: Duration = Duration::from_secs(2);

/// A lease and where it leads.
#[derive(Debug)]
pub(crate) struct Grant {
    pub(crate) lease: Lease,
    pub(crate) destination: Destination,
}

/// Where a lease leads: one generation of its binding.
#[derive(Debug)]
pub(crate) struct Destination {
    pub(crate) generation: i64,
    /// Resource name of the branch.
    pub(crate) branch: String,
    /// The connection URI: a secret.
    pub(crate) uri: SecretString,
    /// The same through the branch's read-only endpoint, where it has one: a secret.
    pub(crate) replica_uri: Option<SecretString>,
    /// The most connections to keep open, where the broker says so.
    pub(crate) connection_limit: Option<usize>,
}

/// A right to connect, until it ends.
#[derive(Debug, Clone)]
pub(crate) struct Lease {
    /// Resource name: leases/{id}.
    pub(crate) name: String,
    /// When it ends, by the broker's clock.
    pub(crate) expire_time: SystemTime,
    /// When to stop counting on it.
    pub(crate) expires_at: Instant,
}

/// A client of the broker, for one target and one holder.
#[derive(Clone)]
pub(crate) struct Broker {
    client: LeaseServiceClient<Channel>,
    target: LeaseTarget,
    options: Options,
}

impl Broker {
    /// Makes the client; it connects at its first call, and again whenever it
    /// has to.
    ///
    /// Errors: [`Error::InvalidBrokerUrl`], [`Error::InvalidCredentials`].
    pub(crate) fn new(url: &str, target: LeaseTarget, options: Options) -> Result<Self, Error> {
        let server = Server::new(url, options.credentials.clone());
        let configure = |endpoint: Endpoint| {
            endpoint
                .connect_timeout(options.call_timeout)
                .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
                .keep_alive_timeout(KEEPALIVE_TIMEOUT)
                .keep_alive_while_idle(true)
        };
        let channel = server.channel(configure).map_err(|error| match error {
            TargetError::BadAddress { address, problem } => Error::InvalidBrokerUrl {
                url: address,
                problem,
            },
            source => Error::InvalidCredentials { source },
        })?;
        Ok(Self {
            client: LeaseServiceClient::new(channel),
            target,
            options,
        })
    }

    /// Acquires a lease. The same `request_id` gives the same lease for as long
    /// as that lives.
    pub(crate) async fn acquire(&mut self, request_id: Uuid) -> Result<Grant, LeaseError> {
        const METHOD: &str = "AcquireLease";
        let request = wire::AcquireLeaseRequest {
            target: Some(match &self.target {
                LeaseTarget::Binding(binding) => Target::Binding(binding.to_string()),
                LeaseTarget::Ephemeral { parent } => Target::Ephemeral(wire::EphemeralBranch {
                    parent: parent.to_string(),
                    migrate: true,
                    ..Default::default()
                }),
            }),
            access: match self.options.access {
                Access::ReadWrite => wire::Access::ReadWrite,
                Access::ReadOnly => wire::Access::ReadOnly,
                Access::Ddl => wire::Access::Ddl,
            }
            .into(),
            ttl: self.ttl(),
            pooled: self.options.pooled,
            holder: self.options.holder.clone(),
            request_id: request_id.to_string(),
            ..Default::default()
        };
        let limit = self.options.call_timeout;
        let call = self.client.acquire_lease(with_deadline(request, limit));
        let answer = answer_of(METHOD, limit, call).await?;

        let wire = required(METHOD, "lease", answer.lease)?;
        Ok(Grant {
            destination: Destination::decode(
                METHOD,
                wire.generation,
                wire.branch.clone(),
                answer.connection,
            )?,
            lease: self.decode_lease(METHOD, wire)?,
        })
    }

    /// Renews a lease. It leads where it did: that changes in a watch alone.
    pub(crate) async fn renew(&mut self, name: &str) -> Result<Lease, LeaseError> {
        const METHOD: &str = "RenewLease";
        let request = wire::RenewLeaseRequest {
            name: name.to_owned(),
            ttl: self.ttl(),
            ..Default::default()
        };
        let limit = self.options.call_timeout;
        let call = self.client.renew_lease(with_deadline(request, limit));
        let answer = answer_of(METHOD, limit, call).await?;
        self.decode_lease(METHOD, required(METHOD, "lease", answer.lease)?)
    }

    /// Opens a watch of where a lease leads. It says so at once, and again
    /// whenever that changes.
    pub(crate) async fn watch(
        &mut self,
        name: &str,
    ) -> Result<(Announcements, Reports), LeaseError> {
        let first = wire::WatchBindingRequest {
            lease: name.to_owned(),
            ..Default::default()
        };
        let (reports, later) = mpsc::channel(REPORTS_MAX);
        let later = stream::unfold(later, |mut later| async {
            Some((later.recv().await?, later))
        });
        // No deadline travels with it, which would end the watch and not only
        // its opening.
        let call = self
            .client
            .watch_binding(stream::once(std::future::ready(first)).chain(later));
        let answers = answer_of(WATCH, self.options.call_timeout, call).await?;
        Ok((Announcements::new(answers), Reports::new(reports)))
    }

    /// Releases a lease.
    pub(crate) async fn release(&mut self, name: &str) -> Result<(), LeaseError> {
        let request = wire::ReleaseLeaseRequest {
            name: name.to_owned(),
            ..Default::default()
        };
        let limit = self.options.call_timeout.min(RELEASE_TIMEOUT_MAX);
        let call = self.client.release_lease(with_deadline(request, limit));
        answer_of("ReleaseLease", limit, call).await.map(|_| ())
    }

    fn ttl(&self) -> Option<prost_types::Duration> {
        // More than 292 billion years does not fit; the broker cuts it anyway.
        self.options.ttl.and_then(|ttl| ttl.try_into().ok())
    }

    fn decode_lease(&self, method: &'static str, lease: wire::Lease) -> Result<Lease, LeaseError> {
        if lease.name.is_empty() {
            return Err(invalid(method, "lease.name"));
        }
        let expire_time = required(method, "lease.expire_time", lease.expire_time)?;
        let expire_time =
            SystemTime::try_from(expire_time).map_err(|_| invalid(method, "lease.expire_time"))?;
        Ok(Lease {
            name: lease.name,
            expire_time,
            expires_at: Instant::now() + clock::remaining(expire_time, self.options.ttl),
        })
    }
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker")
            .field("target", &self.target)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Destination {
    pub(crate) fn decode(
        method: &'static str,
        generation: i64,
        branch: String,
        connection: Option<wire::Connection>,
    ) -> Result<Self, LeaseError> {
        let connection = required(method, "connection", connection)?;
        if connection.uri.is_empty() {
            return Err(invalid(method, "connection.uri"));
        }
        Ok(Self {
            generation,
            branch,
            uri: SecretString::from(connection.uri),
            replica_uri: Some(connection.replica_uri)
                .filter(|uri| !uri.is_empty())
                .map(SecretString::from),
            connection_limit: usize::try_from(connection.connection_limit)
                .ok()
                .filter(|limit| *limit > 0),
        })
    }
}

impl LeaseError {
    /// True when the broker knows the lease, or its binding, no more.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::FailedCall { status, .. } if status.code() == Code::NotFound)
    }

    /// True when asking the same again gives the same answer, as long as nobody
    /// changes what the broker is told.
    pub(crate) fn is_permanent(&self) -> bool {
        match self {
            Self::FailedCall { status, .. } => matches!(
                status.code(),
                Code::InvalidArgument
                    | Code::NotFound
                    | Code::FailedPrecondition
                    | Code::PermissionDenied
                    | Code::Unauthenticated
                    | Code::Unimplemented
            ),
            Self::InvalidAnswer { .. } | Self::InvalidUri(_) => true,
        }
    }

    /// How long the broker asks to wait before trying again.
    pub(crate) fn retry_delay(&self) -> Option<Duration> {
        match self {
            Self::FailedCall { status, .. } => status.get_details_retry_info()?.retry_delay,
            Self::InvalidAnswer { .. } | Self::InvalidUri(_) => None,
        }
    }
}

/// The caller's deadline travels with the call, for the broker to honour.
fn with_deadline<T>(message: T, limit: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(limit);
    request
}

/// Waits for the answer, `limit` at most: tonic's own deadline does not cover
/// the time it takes to connect.
async fn answer_of<T>(
    method: &'static str,
    limit: Duration,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, LeaseError> {
    let outcome = tokio::time::timeout(limit, call).await.unwrap_or_else(|_| {
        let message = format!("no answer within {limit:?}");
        Err(Status::deadline_exceeded(message))
    });
    match outcome {
        Ok(response) => Ok(response.into_inner()),
        Err(status) => Err(LeaseError::FailedCall {
            method,
            status: Box::new(status),
        }),
    }
}

pub(crate) fn required<T>(
    method: &'static str,
    field: &'static str,
    value: Option<T>,
) -> Result<T, LeaseError> {
    value.ok_or(LeaseError::InvalidAnswer { method, field })
}

pub(crate) fn invalid(method: &'static str, field: &'static str) -> LeaseError {
    LeaseError::InvalidAnswer { method, field }
}
