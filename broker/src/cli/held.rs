//! A lease that is held for as long as something needs it.

use std::time::Duration;

use backon::{ExponentialBuilder, Retryable as _};
use proto::broker::v1 as pb;
use proto::broker::v1::lease_service_client::LeaseServiceClient;
use rpc::client::Channel;
use secrecy::SecretString;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tonic::{Code, Response, Status};

use super::client::{Error, refused};
use super::times::{between, shown};

/// How often a lease is renewed before it would end: two of three may fail.
const RENEWALS_PER_TTL: u32 = 3;
/// The least that lies between two renewals, in milliseconds.
const RENEW_MS_MIN: u64 = 200;
/// Between attempts at the same call, in milliseconds.
const RETRY_MS_MIN: u64 = 200;
const RETRY_MS_MAX: u64 = 5_000;
/// How long is waited, in all, between attempts to acquire while the broker says that
/// it cannot yet, in seconds.
const ACQUIRE_SECONDS_MAX: u64 = 60;
/// How long a renewal or a release may take, in seconds.
const CALL_SECONDS_MAX: u64 = 5;
/// How often a release is tried again: who waits for it has what they came for.
const RELEASE_RETRIES_MAX: usize = 3;

/// A lease that its owner renews and gives back.
pub(super) struct Held {
    api: LeaseServiceClient<Channel>,
    lease: pb::Lease,
    uri: SecretString,
    ttl: Option<prost_types::Duration>,
    /// When the answer came that gave it.
    begun: Instant,
}

impl Held {
    /// Acquires one. What the broker cannot do yet is asked for again for a while.
    pub(super) async fn acquire(
        api: LeaseServiceClient<Channel>,
        request: pb::AcquireLeaseRequest,
    ) -> Result<Held, Error> {
        let ttl = request.ttl;
        let acquiring = || {
            let (mut api, request) = (api.clone(), request.clone());
            async move { api.acquire_lease(request).await }
        };
        let pauses = pauses()
            .without_max_times()
            .with_total_delay(Some(Duration::from_secs(ACQUIRE_SECONDS_MAX)));
        let acquired = acquiring
            .retry(pauses)
            // The request has an id: the same lease comes, not another.
            .when(|status: &Status| status.code() == Code::Unavailable)
            .await;
        let answer = acquired.map_err(refused)?.into_inner();
        let (Some(lease), Some(connection)) = (answer.lease, answer.connection) else {
            return Err(Error::Refused {
                message: "the broker answered without a lease and its connection".to_owned(),
            });
        };
        Ok(Held {
            api,
            lease,
            uri: connection.uri.into(),
            ttl,
            begun: Instant::now(),
        })
    }

    /// The URI to connect with.
    pub(super) fn uri(&self) -> &SecretString {
        &self.uri
    }

    /// The branch that it leads to.
    pub(super) fn branch(&self) -> &str {
        &self.lease.branch
    }

    /// Renews it again and again. Returns when it cannot be kept: what to tell.
    pub(super) async fn keep(&mut self) -> String {
        loop {
            let left = self.ends_at().saturating_duration_since(Instant::now());
            let pause = left / RENEWALS_PER_TTL;
            sleep(pause.max(Duration::from_millis(RENEW_MS_MIN))).await;
            if let Err(status) = self.renew().await {
                let (lease, why) = (&self.lease.name, refused(status));
                return format!("{lease} is not renewed any more: {why}");
            }
        }
    }

    /// Gives it back. A broker that does not answer is no error: what is to be known
    /// of that.
    pub(super) async fn release(self) -> Option<String> {
        let request = pb::ReleaseLeaseRequest {
            name: self.lease.name.clone(),
            ..Default::default()
        };
        let releasing = || {
            let (mut api, request) = (self.api.clone(), request.clone());
            async move { within_limit(api.release_lease(request)).await }
        };
        let released = releasing
            .retry(pauses().with_max_times(RELEASE_RETRIES_MAX))
            .when(may_pass)
            .await;
        let why = refused(released.err()?);
        let pb::Lease { name, branch, .. } = &self.lease;
        let end = self.lease.expire_time.map(shown).unwrap_or_default();
        Some(match self.lease.branch_expire_time.map(shown) {
            None => format!("{name} was not released, and ends by itself at {end}: {why}"),
            Some(last) => format!(
                "{name} was not released: {why}; its branch {branch} goes by itself when the \
                 lease ends, at {end}, or, should no broker be there, at {last}"
            ),
        })
    }

    async fn renew(&mut self) -> Result<(), Status> {
        let request = pb::RenewLeaseRequest {
            name: self.lease.name.clone(),
            ttl: self.ttl,
            ..Default::default()
        };
        let renewing = || {
            let (mut api, request) = (self.api.clone(), request.clone());
            async move { within_limit(api.renew_lease(request)).await }
        };
        let mut last = Status::deadline_exceeded("the broker does not answer");
        let tries = renewing
            .retry(pauses().with_jitter().without_max_times())
            .when(may_pass)
            .notify(|status: &Status, _| last = status.clone());
        let renewed = match timeout_at(self.ends_at(), tries).await {
            Ok(renewed) => renewed?.into_inner().lease,
            Err(_) => return Err(last),
        };
        if let Some(lease) = renewed {
            self.lease = lease;
        }
        Ok(())
    }

    /// When it ends, by this machine's clock, which may be another than the broker's.
    fn ends_at(&self) -> Instant {
        let create = self.lease.create_time.unwrap_or_default();
        let expire = self.lease.expire_time.unwrap_or_default();
        self.begun + between(create, expire)
    }
}

fn pauses() -> ExponentialBuilder {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(RETRY_MS_MIN))
        .with_max_delay(Duration::from_millis(RETRY_MS_MAX))
}

/// Whether the same call may go well later.
fn may_pass(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable | Code::DeadlineExceeded | Code::Unknown | Code::Internal
    )
}

async fn within_limit<T>(
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<Response<T>, Status> {
    let limit = Duration::from_secs(CALL_SECONDS_MAX);
    let answered = timeout(limit, call).await;
    answered.unwrap_or_else(|_| Err(Status::deadline_exceeded("the broker does not answer")))
}
