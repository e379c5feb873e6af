//! A gRPC server with the manners of this house.

use std::{convert::Infallible, time::Duration};

use http::{Request, Response};
use tokio_util::sync::CancellationToken;
use tonic::{body::Body, server::NamedService, service::RoutesBuilder};
use tower::Service;

use crate::{
    call_metrics::CallMetrics,
    caller::CallerLayer,
    calls::{CallLayer, Stop},
    connection,
    health::Health,
    limits::{Gates, Limits},
    metrics::Metrics,
};

pub use crate::{
    calls::EndsByItself,
    listener::{BindError, Listener},
};

/// How long running calls may take to finish after the stop was asked for, in
/// seconds: less than what supervisors wait before they kill (Kubernetes 30).
pub const DRAIN_SECONDS_MAX: u64 = 10;

/// After every call was ended, how long connections may take to close, in
/// milliseconds. A peer that does not read would hold them open for ever.
const CLOSE_MS_MAX: u64 = 1_000;

/// Pings on quiet connections, in seconds: a peer that vanished is noticed
/// after both, and its streams end.
const KEEPALIVE_INTERVAL_SECONDS: u64 = 20;
/// How long the answer to one may take.
const KEEPALIVE_TIMEOUT_SECONDS: u64 = 10;

/// Why serving ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The descriptors given to [`Server::new`] are none.
    #[error("the API descriptors for reflection are malformed")]
    BadDescriptors(#[source] tonic_reflection::server::Error),
    /// The transport gave up.
    #[error("the gRPC server failed")]
    FailedServe(#[source] tonic::transport::Error),
}

/// Services with what every server here has beside them: health, reflection (v1
/// and v1alpha, naming the services added), deadlines that answer
/// DEADLINE_EXCEEDED, who calls ([`Caller`](crate::caller::Caller)), what is counted
/// and traced of each call, keepalive, and a stop that lets calls finish. Messages
/// are bounded by what their service says: where it says nothing, 4 MiB each.
#[derive(Debug)]
pub struct Server {
    routes: RoutesBuilder,
    names: Vec<&'static str>,
    descriptors: &'static [u8],
    health: Health,
    calls: CallMetrics,
    gates: Gates,
    drain: Duration,
}

impl Server {
    /// A server without services. `descriptors`: the encoded FileDescriptorSet
    /// that describes them (and may describe more).
    pub fn new(descriptors: &'static [u8]) -> Self {
        let (reporter, service) = tonic_health::server::health_reporter();
        let mut routes = RoutesBuilder::default();
        routes.add_service(service);
        Self {
            routes,
            names: Vec::new(),
            descriptors,
            health: Health::new(reporter),
            calls: CallMetrics::default(),
            gates: Gates::default(),
            drain: Duration::from_secs(DRAIN_SECONDS_MAX),
        }
    }

    /// Adds a service. Its health is NOT_SERVING until [`Server::health`] is
    /// told otherwise, and so is the whole server's.
    #[must_use]
    pub fn add_service<S>(mut self, service: S) -> Self
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        self.routes.add_service(service);
        self.names.push(S::NAME);
        self
    }

    /// How long running calls may take to finish after the stop was asked for;
    /// [`DRAIN_SECONDS_MAX`] when not said.
    #[must_use]
    pub fn drain(mut self, drain: Duration) -> Self {
        self.drain = drain;
        self
    }

    /// Refuses at once, with RESOURCE_EXHAUSTED and RetryInfo, what comes while so much
    /// runs. Without it everything is taken.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.gates = Gates::new(limits);
        self
    }

    /// Counts calls there.
    #[must_use]
    pub fn metrics(self, metrics: &Metrics) -> Self {
        self.calls.register(metrics);
        self
    }

    /// Where to say which services take calls.
    pub fn health(&self) -> Health {
        self.health.clone()
    }

    /// Serves until `stop` resolves, and then until running calls are done or
    /// the drain time is over: from `stop` on no connection is taken, health
    /// is NOT_SERVING and streams with nothing to say end with UNAVAILABLE, unless they
    /// [end by themselves](EndsByItself); after the drain time every call does.
    ///
    /// # Errors
    /// Malformed descriptors; a transport that gave up.
    pub async fn serve(
        mut self,
        listener: Listener,
        stop: impl Future<Output = ()>,
    ) -> Result<(), ServeError> {
        self.add_reflection().map_err(ServeError::BadDescriptors)?;
        self.health.start(&self.names).await;
        let state = Stop::default();
        let bound = drained(self.drain, state.clone());
        let Listener {
            inner, security, ..
        } = listener;
        let _reloading = security.keep_up();
        let closing = CancellationToken::new();
        let (incoming, accepting) =
            connection::accept(inner, security.tls.clone(), closing.clone());
        let asked = {
            let (state, health) = (state.clone(), self.health.clone());
            async move {
                stop.await;
                health.stop().await;
                // Nobody is told of the stop before the socket is closed.
                closing.cancel();
                let _ = accepting.await;
                state.asked.cancel();
            }
        };
        let beside = [
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        ];
        let methods = self.calls.methods(self.descriptors, &self.gates, beside);
        let stop = state;
        let serving = tonic::transport::Server::builder()
            .layer(CallLayer { stop, methods })
            .layer(CallerLayer { security })
            .http2_keepalive_interval(Some(Duration::from_secs(KEEPALIVE_INTERVAL_SECONDS)))
            .http2_keepalive_timeout(Some(Duration::from_secs(KEEPALIVE_TIMEOUT_SECONDS)))
            .add_routes(self.routes.routes())
            .serve_with_incoming_shutdown(incoming, asked);
        tokio::select! {
            served = serving => served.map_err(ServeError::FailedServe),
            () = bound => {
                tracing::warn!("stopped with connections open that did not close");
                Ok(())
            }
        }
    }

    fn add_reflection(&mut self) -> Result<(), tonic_reflection::server::Error> {
        let builder = || {
            let mut builder = tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(self.descriptors)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
                .with_service_name("grpc.health.v1.Health")
                .with_service_name("grpc.reflection.v1.ServerReflection")
                .with_service_name("grpc.reflection.v1alpha.ServerReflection");
            for &name in &self.names {
                builder = builder.with_service_name(name);
            }
            // Each version of reflection describes both, as it names both.
            builder
                .register_encoded_file_descriptor_set(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(
                    tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
                )
        };
        let v1 = builder().build_v1()?;
        let v1alpha = builder().build_v1alpha()?;
        self.routes.add_service(v1).add_service(v1alpha);
        Ok(())
    }
}

/// Resolves when a stop that was asked for takes longer than it may.
async fn drained(drain: Duration, stop: Stop) {
    stop.asked.cancelled().await;
    tokio::time::sleep(drain).await;
    tracing::warn!(seconds = drain.as_secs_f32(), "ending calls that still run");
    stop.forced.cancel();
    tokio::time::sleep(Duration::from_millis(CLOSE_MS_MAX)).await;
}
