//! What happens to every call of a server: it is let in or refused, it is counted and
//! traced, and it ends when its caller's deadline passes or when the server stops.
//!
//! tonic drops a handler when grpc-timeout has passed, too, but answers
//! CANCELLED, which tells a caller that somebody gave up rather than that time
//! ran out. The layer here is inside tonic's and comes first.

use std::{
    convert::Infallible,
    future::{poll_fn, ready},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{HeaderMap, Request, Response};
use http_body::{Frame, SizeHint};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, body::Body, codegen::Bytes};
use tower::{Layer, Service};
use tracing::{Instrument as _, Span};

use crate::{
    call_metrics::{MethodMetrics, Methods},
    status, traces,
};

/// How tonic begins what it says of a message that is larger than a server takes, with
/// OUT_OF_RANGE and nothing that a caller could go by.
const TOO_LARGE: &str = "Error, decoded message length too large";

/// What a stream ends with whose deadline passed.
const LATE_STREAM: &str = "the deadline passed before the end of the stream";

/// What a caller of a stopping server waits before it tries the next: the time
/// that a restart takes at best.
const RETRY_AFTER_STOP_MS: u64 = 500;

/// Put into the extensions of a stream's response by who knows that it comes to its end
/// soon: a stop lets it, for as long as it lets calls finish. Other streams end when
/// they have nothing to say.
#[derive(Debug, Clone, Copy)]
pub struct EndsByItself;

/// How far the stop of a server is. Clones are of the same server.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stop {
    /// The stop was asked for: streams that have nothing to say end.
    pub(crate) asked: CancellationToken,
    /// The time to finish is over: every call ends.
    pub(crate) forced: CancellationToken,
}

/// Ends calls, as the module says.
#[derive(Debug, Clone)]
pub(crate) struct CallLayer {
    pub(crate) stop: Stop,
    pub(crate) methods: Methods,
}

impl<S> Layer<S> for CallLayer {
    type Service = Calls<S>;

    fn layer(&self, inner: S) -> Calls<S> {
        Calls {
            inner,
            stop: self.stop.clone(),
            methods: self.methods.clone(),
        }
    }
}

/// A service whose calls end.
#[derive(Debug, Clone)]
pub(crate) struct Calls<S> {
    inner: S,
    stop: Stop,
    methods: Methods,
}

impl<S> Service<Request<Body>> for Calls<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // An instant past what the clock can show is no deadline.
        let deadline =
            grpc_timeout(request.headers()).and_then(|left| Instant::now().checked_add(left));
        let mut call = match Call::begin(&self.methods, &request) {
            Ok(call) => call,
            Err(refusal) => return Box::pin(ready(Ok(refusal.into_http()))),
        };
        let answer = self.inner.call(request).instrument(call.span.clone());
        let stop = self.stop.clone();
        Box::pin(async move {
            let refusal = tokio::select! {
                biased;
                answer = answer => {
                    return answer.map(|response| {
                        endable(in_our_words(response), deadline, &stop, call)
                    });
                }
                () = passed(deadline) => late("the deadline passed before the answer was there"),
                () = stop.forced.cancelled() => stopping(),
            };
            call.end(refusal.code());
            Ok(refusal.into_http())
        })
    }
}

/// One call, from its arrival to the end of its answer.
struct Call {
    method: Arc<MethodMetrics>,
    begun: std::time::Instant,
    span: Span,
    /// Whether it was counted.
    ended: bool,
}

impl Call {
    /// Errors: the refusal of a call for which there is no place.
    fn begin(methods: &Methods, request: &Request<Body>) -> Result<Self, Status> {
        let begun = std::time::Instant::now();
        let method = methods.of(request.uri().path());
        if let Some(gate) = method.gate()
            && let Err(refusal) = gate.enter()
        {
            method.ended(begun, refusal.code());
            return Err(refusal);
        }
        Ok(Self {
            span: traces::of_call(&method, request.headers()),
            method,
            begun,
            ended: false,
        })
    }

    fn end(&mut self, code: Code) {
        if !std::mem::replace(&mut self.ended, true) {
            self.method.ended(self.begun, code);
            traces::ended(&self.span, code);
            self.span = Span::none();
        }
    }

    /// Ends it if these headers, or trailers, say how.
    fn end_as_said(&mut self, headers: &HeaderMap) {
        if let Some(code) = headers.get("grpc-status") {
            self.end(Code::from_bytes(code.as_bytes()));
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        // Unless it has ended: nobody waits for the rest of the answer.
        self.end(Code::Cancelled);
        if let Some(gate) = self.method.gate() {
            gate.leave();
        }
    }
}

/// A stream of answers that has nothing to say when the server stops would hold
/// the stop up for as long as its caller listens, so it ends then, or, if it
/// [ends by itself](EndsByItself), with the time to finish; and with its caller's
/// deadline in any case. Answers that are there already go out: a single answer is never
/// cut, nor what a stream has to say before its deadline or the end of the time to
/// finish. Of a stream whose reader takes nothing, nothing is asked: who makes it sees to
/// its end.
struct Endable {
    inner: Option<Body>,
    /// Made when there is first something to wait for, which a single answer never has.
    end: Option<Pin<Box<dyn Future<Output = Status> + Send>>>,
    deadline: Option<Instant>,
    token: CancellationToken,
    /// Ends it whatever it has to say.
    forced: CancellationToken,
    /// Pieces that went out, each of one message or more: after the second it is no
    /// single answer.
    pieces: u8,
    call: Call,
}

impl Endable {
    /// Why nothing more of a stream goes out, though it has more to say.
    fn cut(&self) -> Option<Status> {
        if self.pieces < 2 {
            return None;
        }
        if self
            .deadline
            .is_some_and(|deadline| Instant::now() >= deadline)
        {
            return Some(late(LATE_STREAM));
        }
        self.forced.is_cancelled().then(stopping)
    }

    /// The end of what goes out.
    fn refuse(&mut self, refusal: &Status) -> Result<Frame<Bytes>, Status> {
        self.inner = None;
        self.call.end(refusal.code());
        let mut trailers = HeaderMap::new();
        refusal.add_header(&mut trailers)?;
        Ok(Frame::trailers(trailers))
    }
}

impl http_body::Body for Endable {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        if this.inner.is_some()
            && let Some(refusal) = this.cut()
        {
            return Poll::Ready(Some(this.refuse(&refusal)));
        }
        let Some(inner) = &mut this.inner else {
            return Poll::Ready(None);
        };
        let polled = {
            let _inside = this.call.span.enter();
            Pin::new(inner).poll_frame(cx)
        };
        if let Poll::Ready(frame) = polled {
            if let Some(Ok(frame)) = &frame {
                match frame.trailers_ref() {
                    Some(trailers) => this.call.end_as_said(trailers),
                    None => this.pieces = this.pieces.saturating_add(1),
                }
            }
            return Poll::Ready(frame);
        }
        let end = this
            .end
            .get_or_insert_with(|| Box::pin(end(this.token.clone(), this.deadline)));
        let refusal = ready!(end.as_mut().poll(cx));
        Poll::Ready(Some(this.refuse(&refusal)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner
            .as_ref()
            .map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}

async fn end(stop: CancellationToken, deadline: Option<Instant>) -> Status {
    tokio::select! {
        biased;
        () = passed(deadline) => late(LATE_STREAM),
        () = stop.cancelled() => stopping(),
    }
}

fn endable(
    response: Response<Body>,
    deadline: Option<Instant>,
    stop: &Stop,
    mut call: Call,
) -> Response<Body> {
    call.end_as_said(response.headers());
    let token = match response.extensions().get::<EndsByItself>() {
        Some(EndsByItself) => stop.forced.clone(),
        None => stop.asked.clone(),
    };
    response.map(|inner| {
        Body::new(Endable {
            inner: Some(inner),
            end: None,
            deadline,
            token,
            forced: stop.forced.clone(),
            pieces: 0,
            call,
        })
    })
}

/// The answer, unless it is tonic's to a message that is too large: that one with a
/// reason, and the code that other gRPC servers have for it.
fn in_our_words(response: Response<Body>) -> Response<Body> {
    let headers = response.headers();
    let code = headers.get("grpc-status").map(|code| code.as_bytes());
    if code.map(Code::from_bytes) != Some(Code::OutOfRange) {
        return response;
    }
    match Status::from_header_map(headers) {
        Some(said) if said.message().starts_with(TOO_LARGE) => {
            status::resource_exhausted("MESSAGE_TOO_LARGE", said.message(), None).into_http()
        }
        _ => response,
    }
}

fn late(message: &str) -> Status {
    status::deadline_exceeded("DEADLINE_EXCEEDED", message)
}

fn stopping() -> Status {
    status::unavailable(
        "SERVER_STOPPING",
        "this server is stopping",
        Duration::from_millis(RETRY_AFTER_STOP_MS),
    )
}

/// Waits for the deadline, for ever without one. It looks at the clock itself
/// rather than at its timer alone: tonic's timer, started a moment later, must
/// never be seen first.
async fn passed(deadline: Option<Instant>) {
    let Some(deadline) = deadline else {
        return std::future::pending().await;
    };
    let mut timer = pin!(tokio::time::sleep_until(deadline));
    poll_fn(|cx| {
        if Instant::now() >= deadline {
            return Poll::Ready(());
        }
        timer.as_mut().poll(cx)
    })
    .await;
}

/// The grpc-timeout header: at most 8 digits and a unit. What is none is passed
/// over, as tonic does.
fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{call_metrics::CallMetrics, limits::Gates};

    #[test]
    fn timeouts_are_read_as_the_protocol_has_them() {
        let read = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", http::HeaderValue::from_static(text));
            grpc_timeout(&headers)
        };
        assert_eq!(read("2H"), Some(Duration::from_secs(7200)));
        assert_eq!(read("3M"), Some(Duration::from_secs(180)));
        assert_eq!(read("4S"), Some(Duration::from_secs(4)));
        assert_eq!(read("99999999m"), Some(Duration::from_millis(99_999_999)));
        assert_eq!(read("5u"), Some(Duration::from_micros(5)));
        assert_eq!(read("6n"), Some(Duration::from_nanos(6)));
        for refused in ["", "S", "100000000S", "1", "-1S", "+1S", "1s", "1 S"] {
            assert_eq!(read(refused), None, "{refused:?}");
        }
        assert_eq!(grpc_timeout(&HeaderMap::new()), None);
    }

    /// This many messages, or for ever, and then that all is well.
    struct Talk(Option<u32>);

    impl http_body::Body for Talk {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            let frame = match &mut self.0 {
                Some(0) => {
                    let mut trailers = HeaderMap::new();
                    let headers = Status::ok("").add_header(&mut trailers);
                    return Poll::Ready(Some(headers.map(|()| Frame::trailers(trailers))));
                }
                Some(left) => {
                    *left -= 1;
                    Frame::data(Bytes::from_static(b"more"))
                }
                None => Frame::data(Bytes::from_static(b"more")),
            };
            Poll::Ready(Some(Ok(frame)))
        }
    }

    /// How an answer ends.
    async fn end_of(talk: Talk, deadline: Instant, stop: &Stop) -> Code {
        let methods = CallMetrics::default().methods(&[], &Gates::default(), []);
        let call = Call::begin(&methods, &Request::new(Body::empty())).unwrap();
        let answer = endable(Response::new(Body::new(talk)), Some(deadline), stop, call);
        let mut answer = answer.into_body();
        let begun = Instant::now();
        loop {
            let frame = poll_fn(|cx| http_body::Body::poll_frame(Pin::new(&mut answer), cx)).await;
            if let Some(trailers) = frame.unwrap().unwrap().trailers_ref() {
                return Status::from_header_map(trailers).unwrap().code();
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "it goes on");
        }
    }

    #[tokio::test]
    async fn who_always_has_more_to_say_is_cut_off_and_one_answer_is_not() {
        let (now, later) = (Instant::now(), Instant::now() + Duration::from_secs(3600));
        let soon = now + Duration::from_millis(10);
        let forced = Stop::default();
        forced.forced.cancel();
        for (talk, deadline, stop, expected) in [
            (Talk(None), soon, &Stop::default(), Code::DeadlineExceeded),
            (Talk(None), later, &forced, Code::Unavailable),
            (Talk(Some(1)), now, &forced, Code::Ok),
            (Talk(Some(3)), later, &Stop::default(), Code::Ok),
        ] {
            assert_eq!(end_of(talk, deadline, stop).await, expected);
        }
    }
}
