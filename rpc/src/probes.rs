//! Metrics, liveness and readiness over HTTP, for whoever watches from outside:
//! `/metrics`, `/livez`, `/readyz`.
//!
//! It only reads, and nothing secret is in it. Names are: so it is reachable from
//! elsewhere where the gRPC server beside it is secured, and from this machine
//! where it is not.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{ALLOW, CONTENT_TYPE},
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

use crate::{
    health::Health,
    listener::{self, BindError},
    metrics::{self, Metrics},
    security::Security,
};

/// The flag that says where, of every server here.
const FLAG: &str = "--http-listen";
/// Connections at a time; more wait to be accepted.
const CONNECTIONS_MAX: usize = 64;
/// How long one may take, in seconds. Each is for one request.
const CONNECTION_SECONDS_MAX: u64 = 10;
/// The pause after a connection that could not be accepted, in milliseconds: the
/// process may have no file descriptors left.
const ACCEPT_PAUSE_MS: u64 = 50;
const TEXT: &str = "text/plain; charset=utf-8";

/// A bound socket for metrics and probes.
#[derive(Debug)]
pub struct ProbeListener {
    inner: TcpListener,
    address: SocketAddr,
}

impl ProbeListener {
    /// Listens on `address`, beside a gRPC server with this security; port 0 picks a
    /// free one.
    ///
    /// # Errors
    /// As those of [`Listener::bind`](crate::server::Listener::bind).
    pub async fn bind(address: SocketAddr, security: &Security) -> Result<Self, BindError> {
        let (inner, address) = listener::bind(address, security, FLAG).await?;
        Ok(Self { inner, address })
    }

    /// Where it listens, with the port that was picked.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers, for ever. A server is ready when its health is SERVING as a whole.
    pub async fn serve(self, metrics: Metrics, health: Health) -> Infallible {
        let answers = Answers { metrics, health };
        let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok(permit) = Arc::clone(&connections).acquire_owned().await else {
                return std::future::pending().await;
            };
            let socket = match self.inner.accept().await {
                Ok((socket, _)) => socket,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection for metrics and probes");
                    tokio::time::sleep(Duration::from_millis(ACCEPT_PAUSE_MS)).await;
                    continue;
                }
            };
            let answers = answers.clone();
            tokio::spawn(async move {
                let limit = Duration::from_secs(CONNECTION_SECONDS_MAX);
                // Who asks sees that there was no answer.
                let _ = tokio::time::timeout(limit, answers.on(socket)).await;
                drop(permit);
            });
        }
    }
}

#[derive(Debug, Clone)]
struct Answers {
    metrics: Metrics,
    health: Health,
}

impl Answers {
    async fn on(self, socket: TcpStream) -> hyper::Result<()> {
        let service = service_fn(|request: Request<Incoming>| {
            let answers = self.clone();
            async move {
                let answer = answers.to(request.method(), request.uri().path()).await;
                Ok::<_, Infallible>(answer)
            }
        });
        http1::Builder::new()
            .keep_alive(false)
            .serve_connection(TokioIo::new(socket), service)
            .await
    }

    async fn to(&self, method: &Method, path: &str) -> Response<String> {
        if !matches!(*method, Method::GET | Method::HEAD) {
            let mut answer = answer(StatusCode::METHOD_NOT_ALLOWED, TEXT, String::new());
            let allowed = HeaderValue::from_static("GET, HEAD");
            answer.headers_mut().insert(ALLOW, allowed);
            return answer;
        }
        match path {
            "/metrics" => answer(StatusCode::OK, metrics::CONTENT_TYPE, self.metrics.text()),
            "/livez" => answer(StatusCode::OK, TEXT, "alive\n".to_owned()),
            "/readyz" => match self.health.what_is_not_ready().await {
                None => answer(StatusCode::OK, TEXT, "ready\n".to_owned()),
                Some(missing) => {
                    let lines = missing.iter().map(|line| format!("not ready: {line}\n"));
                    answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, lines.collect())
                }
            },
            _ => {
                let paths = "/metrics, /livez, /readyz\n".to_owned();
                answer(StatusCode::NOT_FOUND, TEXT, paths)
            }
        }
    }
}

fn answer(status: StatusCode, content_type: &'static str, body: String) -> Response<String> {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    let content_type = HeaderValue::from_static(content_type);
    answer.headers_mut().insert(CONTENT_TYPE, content_type);
    answer
}
