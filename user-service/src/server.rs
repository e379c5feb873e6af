//! Both API versions on one address.

use std::time::Duration;

use branch_pool::{Binding, BranchPool, Credentials, Options, Phase, PoolState};
use proto::users::{
    v1::user_service_server::UserServiceServer as V1Server,
    v2::user_service_server::UserServiceServer as V2Server,
};
use rpc::{
    health::{Health, Serving, WHOLE_SERVER},
    limits::Limits,
    metrics::Metrics,
    page::PageTokens,
    probes::ProbeListener,
    server::{Listener, ServeError, Server},
};
use tokio::sync::watch;

use crate::{
    metrics,
    users::{Users, V1, V2, Version},
};

/// The service's name in bindings.
const SERVICE: &str = "users";

/// The most calls at once, when nobody says: some ten for each connection that the two
/// leases of broker.toml allow. They wait for one a few milliseconds at most while the
/// database answers, and hold some megabytes while it does not.
pub const CALLS_MAX: u32 = 1_024;
/// The most streams at once, when nobody says: each keeps a connection until it ends,
/// and a lease allows 24, most of which are for calls.
pub const STREAMS_MAX: u32 = 8;

/// How long a call waits for a branch that wakes up, in seconds, if its deadline lets it.
const COLD_START_SECONDS_MAX: u64 = 60;

/// The largest request, in bytes: a thousand ids take 5 KiB, a user 2 KiB, a filter
/// 8 KiB.
const REQUEST_BYTES_MAX: usize = 64 * 1024;

/// What the server needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The broker, as in `http://127.0.0.1:7431` or `https://broker.internal:7431`.
    pub broker_url: String,
    /// What is shown to the broker.
    pub credentials: Credentials,
    /// The most connections to each branch; a lease may allow fewer. `None`: as
    /// many as it allows.
    pub pool_size: Option<usize>,
    /// Hands out page tokens. Servers that stand in for each other share a key.
    pub tokens: PageTokens,
    /// What is served at once, at most.
    pub limits: Limits,
}

/// Why the server does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There can be no pool with these settings.
    #[error("cannot make the connection pool for {SERVICE}/{version}")]
    FailedPool {
        /// The API version.
        version: &'static str,
        /// What the pool says.
        source: Box<branch_pool::Error>,
    },
    /// Serving ended.
    #[error("cannot go on serving")]
    FailedServe(#[source] ServeError),
}

/// Both API versions, each with the pool of its branch.
#[derive(Debug)]
pub struct UserServer {
    v1: BranchPool,
    v2: BranchPool,
    tokens: PageTokens,
    limits: Limits,
}

impl UserServer {
    /// Starts to ask the broker for leases. It need not be there: until a
    /// version has its lease, its health is NOT_SERVING and its calls are
    /// answered UNAVAILABLE. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`Error::FailedPool`] for a broker address that is none, or credentials
    /// that cannot be used.
    pub fn new(settings: Settings) -> Result<Self, Error> {
        Ok(Self {
            v1: pool::<V1>(&settings)?,
            v2: pool::<V2>(&settings)?,
            tokens: settings.tokens,
            limits: settings.limits,
        })
    }

    /// Serves until `stop` resolves, then lets calls finish and gives the leases
    /// back; metrics and probes too, if there is where. The server as a whole is
    /// SERVING when both versions are.
    ///
    /// # Errors
    /// [`Error::FailedServe`] for a transport that gave up.
    pub async fn serve(
        self,
        listener: Listener,
        probes: Option<ProbeListener>,
        stop: impl Future<Output = ()>,
    ) -> Result<(), Error> {
        let v1 = Users::<V1>::new(self.v1.clone(), self.tokens.clone());
        let v2 = Users::<V2>::new(self.v2.clone(), self.tokens);
        let metrics = Metrics::default();
        let server = Server::new(proto::DESCRIPTORS)
            .metrics(&metrics)
            .limits(self.limits)
            .add_service(V1Server::new(v1).max_decoding_message_size(REQUEST_BYTES_MAX))
            .add_service(V2Server::new(v2).max_decoding_message_size(REQUEST_BYTES_MAX));
        let pools = vec![(V1::NAME, self.v1.state()), (V2::NAME, self.v2.state())];
        metrics::tell(pools, &metrics);
        let follower = tokio::spawn(follow(
            server.health(),
            [
                (V1::SERVICE, self.v1.state()),
                (V2::SERVICE, self.v2.state()),
            ],
        ));
        let answering = probes.map(|probes| {
            let answering = probes.serve(metrics, server.health());
            tokio::spawn(answering).abort_handle()
        });
        let served = server.serve(listener, stop).await;
        follower.abort();
        if let Some(answering) = answering {
            answering.abort();
        }
        tokio::join!(self.v1.close(), self.v2.close());
        served.map_err(Error::FailedServe)
    }
}

fn pool<V: Version>(settings: &Settings) -> Result<BranchPool, Error> {
    // Callers have deadlines; nobody without one waits for longer.
    let options = Options::default()
        .credentials(settings.credentials.clone())
        .connect_timeout(Duration::from_secs(COLD_START_SECONDS_MAX))
        // Whoever finds all connections being opened waits for one as long.
        .wait_timeout(Duration::from_secs(COLD_START_SECONDS_MAX));
    let options = match settings.pool_size {
        Some(connections) => options.max_size(connections),
        None => options,
    };
    BranchPool::spawn(
        &settings.broker_url,
        Binding::new(SERVICE, V::NAME),
        options,
    )
    .map_err(|source| Error::FailedPool {
        version: V::NAME,
        source: Box::new(source),
    })
}

/// Keeps the health of each service what its pool's state says.
async fn follow(health: Health, mut states: [(&'static str, watch::Receiver<PoolState>); 2]) {
    // States change more often than phases, and whoever watches a health wants
    // to hear of changes only.
    let mut told = [None; 2];
    loop {
        let ready = states
            .each_mut()
            .map(|(_, state)| state.borrow_and_update().phase == Phase::Ready);
        for (index, (service, state)) in states.iter().enumerate() {
            if told[index].replace(ready[index]) != Some(ready[index]) {
                tell(&state.borrow(), service);
                health.set(service, serving(ready[index])).await;
                health.set(WHOLE_SERVER, serving(ready == [true; 2])).await;
            }
        }
        let [(_, one), (_, other)] = &mut states;
        let changed = tokio::select! {
            changed = one.changed() => changed,
            changed = other.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}

fn tell(state: &PoolState, service: &str) {
    match state.phase {
        Phase::Ready => tracing::info!(service, branch = state.branch, "SERVING"),
        Phase::Connecting => tracing::info!(service, "NOT_SERVING until the broker grants a lease"),
        Phase::Unreachable => {
            tracing::warn!(
                service,
                error = state.last_error,
                "NOT_SERVING: nobody answers at the branch"
            );
        }
        Phase::Expired => tracing::warn!(service, "NOT_SERVING: the lease has expired"),
        Phase::Closed => tracing::info!(service, "NOT_SERVING: closed"),
    }
}

fn serving(ready: bool) -> Serving {
    if ready {
        Serving::Serving
    } else {
        Serving::NotServing
    }
}
