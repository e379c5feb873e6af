//! Health, reflection, deadlines, the stop.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use http_body::Frame;
use rpc::{
    client::{ConnectError, TargetError},
    health::{ProbeError, Serving, WHOLE_SERVER, WaitError, probe, wait_until_serving},
    limits::Limits,
    security::Security,
    server::{BindError, EndsByItself, Listener, ServeError, Server},
};
use tokio::{
    net::TcpStream,
    sync::{Notify, oneshot},
    task::JoinHandle,
};
use tokio_stream::StreamExt;
use tonic::{
    Code, Status,
    body::Body,
    codegen::{Bytes, Service},
    server::NamedService,
    transport::{Channel, Endpoint},
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_types::StatusExt;

/// What no step here takes, unless something is broken.
const PATIENCE: Duration = Duration::from_secs(20);

/// One service, `test.Slow`, whose every call answers OK once it is released: Wait by
/// one answer, Watch and Stream by the end of a stream, which ends by itself or not.
#[derive(Clone, Default)]
struct Slow {
    entered: Arc<Notify>,
    released: Arc<Notify>,
    dropped: Arc<Notify>,
}

impl NamedService for Slow {
    const NAME: &'static str = "test.Slow";
}

impl Service<http::Request<Body>> for Slow {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let Self {
            entered,
            released,
            dropped,
        } = self.clone();
        let dropped = NotifyOnDrop(dropped);
        let method = request.uri().path().rsplit('/').next().map(str::to_owned);
        Box::pin(async move {
            entered.notify_one();
            if method.as_deref() == Some("Wait") {
                released.notified().await;
                drop(dropped);
                return Ok(Status::ok("").into_http());
            }
            let end = async move {
                released.notified().await;
                drop(dropped);
            };
            let mut response = http::Response::new(Body::new(Silent(Some(Box::pin(end)))));
            let headers = response.headers_mut();
            headers.insert(
                "content-type",
                http::HeaderValue::from_static("application/grpc"),
            );
            if method.as_deref() == Some("Stream") {
                response.extensions_mut().insert(EndsByItself);
            }
            Ok(response)
        })
    }
}

/// A stream that says nothing until that is over, and then that all is well.
struct Silent(Option<Pin<Box<dyn Future<Output = ()> + Send>>>);

impl http_body::Body for Silent {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(end) = &mut self.0 else {
            return Poll::Ready(None);
        };
        ready!(end.as_mut().poll(cx));
        self.0 = None;
        let mut trailers = http::HeaderMap::new();
        trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }
}

struct NotifyOnDrop(Arc<Notify>);

impl Drop for NotifyOnDrop {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

struct Running {
    address: String,
    slow: Slow,
    health: rpc::health::Health,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<Result<(), ServeError>>,
}

impl Running {
    async fn start(drain: Duration) -> Result<Self> {
        Self::start_as(Server::new(&[]).drain(drain)).await
    }

    async fn start_as(server: Server) -> Result<Self> {
        let listener = Listener::bind("127.0.0.1:0".parse()?, Security::default()).await?;
        let address = listener.address().to_string();
        let slow = Slow::default();
        let server = server.add_service(slow.clone());
        let health = server.health();
        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn(server.serve(listener, async {
            let _ = stopped.await;
        }));
        Ok(Self {
            address,
            slow,
            health,
            stop,
            serving,
        })
    }

    /// Calls `test.Slow` in the background, and waits until it is running.
    async fn call(&self, timeout: Option<&'static str>) -> Result<JoinHandle<Result<Status>>> {
        self.call_method("Wait", timeout).await
    }

    async fn call_method(
        &self,
        method: &'static str,
        timeout: Option<&'static str>,
    ) -> Result<JoinHandle<Result<Status>>> {
        let call = tokio::spawn(call_slow(self.address.clone(), method, timeout));
        soon(self.slow.entered.notified()).await?;
        Ok(call)
    }

    async fn channel(&self) -> Result<Channel> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address))?;
        Ok(endpoint.connect().await?)
    }

    async fn stopped(self) -> Result<()> {
        Ok(soon(self.serving).await???)
    }
}

async fn soon<T>(what: impl Future<Output = T>) -> Result<T> {
    tokio::time::timeout(PATIENCE, what)
        .await
        .context("took too long")
}

/// A call over bare HTTP/2, which leaves the deadline to the server.
async fn call_slow(
    address: String,
    method: &'static str,
    timeout: Option<&'static str>,
) -> Result<Status> {
    let (client, connection) = h2::client::handshake(TcpStream::connect(&address).await?).await?;
    tokio::spawn(connection);
    let mut request = http::Request::post(format!("http://{address}/test.Slow/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    if let Some(timeout) = timeout {
        request = request.header("grpc-timeout", timeout);
    }
    let (response, _) = client
        .ready()
        .await?
        .send_request(request.body(())?, true)?;
    let mut response = response.await?;
    if let Some(status) = Status::from_header_map(response.headers()) {
        return Ok(status);
    }
    let trailers = response.body_mut().trailers().await?;
    let status = trailers.as_ref().and_then(Status::from_header_map);
    status.context("a response without a status")
}

#[tokio::test]
async fn reflection_names_the_services_in_both_versions() -> Result<()> {
    use tonic_reflection::pb::{v1, v1alpha};
    let running = Running::start(PATIENCE).await?;
    let channel = running.channel().await?;

    let request = v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(v1::server_reflection_request::MessageRequest::ListServices(
            String::new(),
        )),
    };
    let mut answers = v1::server_reflection_client::ServerReflectionClient::new(channel.clone())
        .server_reflection_info(tokio_stream::once(request))
        .await?
        .into_inner();
    let answer = answers.message().await?.context("no answer")?;
    let Some(v1::server_reflection_response::MessageResponse::ListServicesResponse(list)) =
        answer.message_response
    else {
        bail!("not a list: {answer:?}");
    };
    let names: Vec<_> = list.service.into_iter().map(|s| s.name).collect();
    assert!(names.contains(&"test.Slow".to_owned()), "{names:?}");
    assert!(
        names.contains(&"grpc.health.v1.Health".to_owned()),
        "{names:?}"
    );

    let request = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(
            v1alpha::server_reflection_request::MessageRequest::FileContainingSymbol(
                "grpc.health.v1.Health".to_owned(),
            ),
        ),
    };
    let mut answers = v1alpha::server_reflection_client::ServerReflectionClient::new(channel)
        .server_reflection_info(tokio_stream::once(request))
        .await?
        .into_inner();
    let answer = answers.message().await?.context("no answer")?;
    assert!(
        matches!(
            answer.message_response,
            Some(v1alpha::server_reflection_response::MessageResponse::FileDescriptorResponse(_))
        ),
        "{answer:?}"
    );
    Ok(())
}

#[tokio::test]
async fn health_is_as_it_was_said() -> Result<()> {
    let running = Running::start(PATIENCE).await?;
    let at = running.address.as_str();
    for service in [WHOLE_SERVER, "test.Slow"] {
        assert_eq!(probe(at, service, PATIENCE).await?, Serving::NotServing);
    }
    let refused = wait_until_serving(at, "test.Slow", Duration::from_millis(500)).await;
    assert!(
        matches!(refused, Err(WaitError::NotServing { .. })),
        "{refused:?}"
    );
    let waiting = tokio::spawn({
        let at = at.to_owned();
        async move { wait_until_serving(&at, "test.Slow", PATIENCE).await }
    });
    running.health.set("test.Slow", Serving::Serving).await;
    soon(waiting).await???;
    assert_eq!(
        probe(&format!("http://{at}"), WHOLE_SERVER, PATIENCE).await?,
        Serving::NotServing,
        "one service does not speak for the whole"
    );
    let unknown = probe(at, "test.Unknown", PATIENCE).await;
    assert!(
        matches!(unknown, Err(ProbeError::UnknownService { .. })),
        "{unknown:?}"
    );
    Ok(())
}

#[tokio::test]
async fn nobody_there_is_no_answer() -> Result<()> {
    let free = Listener::bind("127.0.0.1:0".parse()?, Security::default())
        .await?
        .address();
    let result = wait_until_serving(&free.to_string(), "", Duration::from_millis(100)).await;
    let error = result.err().context("healthy")?;
    let message = format!("{:#}", anyhow::Error::from(error));
    assert!(
        message.starts_with(&format!(
            "{free} is not healthy after 0.1 s: no gRPC server answers at {free}"
        )),
        "{message}"
    );
    for bad in ["", "http://", "ftp//x y", "not an address"] {
        let result = wait_until_serving(bad, "", PATIENCE).await;
        let Err(WaitError::Unanswered { last, .. }) = result else {
            bail!("{bad}: {result:?}");
        };
        assert!(
            matches!(
                last,
                ProbeError::Unreachable(ConnectError::Target(TargetError::BadAddress { .. }))
            ),
            "{last:?}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_deadline_answers_deadline_exceeded_and_drops_the_handler() -> Result<()> {
    let running = Running::start(PATIENCE).await?;
    // One answer, and streams that have begun.
    for method in ["Wait", "Watch", "Stream"].into_iter().cycle().take(60) {
        let call = running.call_method(method, Some("5m")).await?;
        let status = soon(call).await???;
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
        let info = status.get_details_error_info().context("no ErrorInfo")?;
        assert_eq!(info.reason, "DEADLINE_EXCEEDED");
        soon(running.slow.dropped.notified()).await?;
    }
    Ok(())
}

#[tokio::test]
async fn what_is_too_much_is_refused_at_once_and_health_is_asked_all_the_same() -> Result<()> {
    let limits = Limits {
        calls_max: 2,
        streams_max: 1,
    };
    let running = Running::start_as(Server::new(&[]).limits(limits)).await?;
    let (one, other) = (running.call(None).await?, running.call(None).await?);
    for _ in 0..3 {
        let status = soon(call_slow(running.address.clone(), "Wait", None)).await??;
        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
        let info = status.get_details_error_info().context("no ErrorInfo")?;
        assert_eq!(info.reason, "TOO_MANY_CALLS");
        assert!(status.get_details_retry_info().is_some(), "{status:?}");
    }
    let health = probe(&running.address, WHOLE_SERVER, PATIENCE).await?;
    assert_eq!(health, Serving::NotServing);
    // Nor are those streams of the limit that watch the health.
    let mut client = HealthClient::new(running.channel().await?);
    let mut watches = Vec::new();
    for _ in 0..3 {
        let watch = client.watch(HealthCheckRequest::default()).await?;
        watches.push(watch.into_inner());
    }
    for watch in &mut watches {
        soon(watch.next()).await?.context("no first message")??;
    }

    // Each that ends makes place for another, however it ends.
    // Who waits longest is released first.
    running.slow.released.notify_one();
    assert_eq!(soon(one).await???.code(), Code::Ok);
    for _ in 0..3 {
        let call = running.call(Some("5m")).await?;
        assert_eq!(soon(call).await???.code(), Code::DeadlineExceeded);
    }
    let third = running.call(None).await?;
    let status = soon(call_slow(running.address.clone(), "Wait", None)).await??;
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    for call in [other, third] {
        running.slow.released.notify_one();
        assert_eq!(soon(call).await???.code(), Code::Ok);
    }
    Ok(())
}

#[tokio::test]
async fn a_graceful_stop_lets_a_running_call_finish() -> Result<()> {
    let running = Running::start(PATIENCE).await?;
    let call = running.call(None).await?;
    let mut watch = HealthClient::new(running.channel().await?)
        .watch(HealthCheckRequest::default())
        .await?
        .into_inner();
    soon(watch.next()).await?.context("no first message")??;

    let Running {
        address,
        slow,
        stop,
        serving,
        ..
    } = running;
    stop.send(()).ok().context("the server is gone")?;
    // The stream has nothing to say, so it ends, and its end says that the stop
    // has begun: the call is still running then.
    let end = loop {
        match soon(watch.next()).await? {
            Some(Ok(_)) => continue,
            Some(Err(status)) => break status,
            None => bail!("a stream that ended as if complete"),
        }
    };
    assert_eq!(end.code(), Code::Unavailable, "{end:?}");
    assert!(end.get_details_retry_info().is_some());
    assert!(
        TcpStream::connect(&address).await.is_err(),
        "still takes connections"
    );
    assert!(!serving.is_finished());

    slow.released.notify_one();
    assert_eq!(soon(call).await???.code(), Code::Ok);
    soon(serving).await???;
    Ok(())
}

#[tokio::test]
async fn a_stop_lets_a_stream_finish_that_ends_by_itself() -> Result<()> {
    let running = Running::start(PATIENCE).await?;
    let watch = running.call_method("Watch", None).await?;
    let stream = running.call_method("Stream", None).await?;
    let Running {
        slow,
        stop,
        serving,
        ..
    } = running;
    stop.send(()).ok().context("the server is gone")?;
    assert_eq!(soon(watch).await???.code(), Code::Unavailable);
    soon(slow.dropped.notified()).await?;
    assert!(!stream.is_finished() && !serving.is_finished());
    slow.released.notify_one();
    assert_eq!(soon(stream).await???.code(), Code::Ok);
    soon(serving).await???;

    // If it does so in time.
    let running = Running::start(Duration::from_millis(20)).await?;
    let stream = running.call_method("Stream", None).await?;
    running.stop.send(()).ok().context("the server is gone")?;
    assert_eq!(soon(stream).await???.code(), Code::Unavailable);
    Ok(())
}

#[tokio::test]
async fn a_stop_ends_what_does_not_finish() -> Result<()> {
    let mut running = Running::start(Duration::from_millis(20)).await?;
    let call = running.call(None).await?;
    let stop = std::mem::replace(&mut running.stop, oneshot::channel().0);
    stop.send(()).ok().context("the server is gone")?;
    let status = soon(call).await???;
    assert_eq!(status.code(), Code::Unavailable);
    let info = status.get_details_error_info().context("no ErrorInfo")?;
    assert_eq!(info.reason, "SERVER_STOPPING");
    running.stopped().await
}

#[tokio::test]
async fn a_listener_says_in_a_sentence_what_is_wrong() -> Result<()> {
    let taken = Listener::bind("127.0.0.1:0".parse()?, Security::default()).await?;
    let address = taken.address();
    let error = Listener::bind(address, Security::default())
        .await
        .err()
        .context("bound twice")?;
    assert!(matches!(error, BindError::PortTaken { .. }));
    assert_eq!(
        error.to_string(),
        format!(
            "cannot listen on {address}: the port is taken; stop what listens there or give \
             another address with --listen"
        )
    );
    for open in ["0.0.0.0:7431", "192.0.2.1:7431", "[::]:7431"] {
        let error = Listener::bind(open.parse()?, Security::default())
            .await
            .err()
            .context(open)?;
        assert_eq!(
            error.to_string(),
            format!(
                "will not listen on {open}: without TLS and caller identity only loopback \
                 addresses are safe, as in 127.0.0.1:7431; see --tls-cert-file and \
                 --tls-client-ca-file"
            )
        );
    }
    Ok(())
}
