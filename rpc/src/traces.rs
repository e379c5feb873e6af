//! Traces by OpenTelemetry: from a caller's `traceparent` to the spans here, and on to
//! whom is asked for it.
//!
//! Spans of traces have a target of their own. Without an exporter nobody listens to
//! it, so that they cost a look at a flag, and the log never shows them. No span says
//! more than the log may.

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::{
    Context,
    propagation::{Extractor, Injector, TextMapPropagator as _},
    trace::TraceContextExt as _,
};
use opentelemetry_otlp::{SpanExporter, WithTonicConfig as _};
use opentelemetry_sdk::{Resource, propagation::TraceContextPropagator, trace::SdkTracerProvider};
use tonic::Code;
use tracing::{Span, field::Empty};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use crate::{
    call_metrics::MethodMetrics,
    client::{Credentials, Target, TargetError},
};

/// The target of spans that are for traces.
pub const TARGET: &str = "trace";

/// Services of gRPC's own. Who probes would be most of every trace.
const UNTRACED: &str = "grpc.";

/// Why there are no traces although they are asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("the collector of OTEL_EXPORTER_OTLP_ENDPOINT cannot be reached as it is named")]
    Target(#[from] TargetError),
    #[error("traces cannot be exported")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
    #[error(
        "traces are exported by gRPC alone: set OTEL_EXPORTER_OTLP_PROTOCOL to grpc and name a \
         port that takes it, most often 4317, not {0:?}"
    )]
    Protocol(String),
}

/// What exports traces; `None` where nobody asked for that. The variables are
/// OpenTelemetry's own. Needs a tokio runtime.
pub(crate) fn provider(service: &'static str) -> Result<Option<SdkTracerProvider>, Error> {
    let Some(endpoint) = exporter_variable("ENDPOINT") else {
        return Ok(None);
    };
    if variable("OTEL_SDK_DISABLED").is_some_and(|text| text.eq_ignore_ascii_case("true")) {
        return Ok(None);
    }
    if let Some(protocol) = exporter_variable("PROTOCOL").filter(|name| name != "grpc") {
        return Err(Error::Protocol(protocol));
    }
    let file = |name| exporter_variable(name).map(Into::into);
    let credentials = Credentials {
        ca_file: file("CERTIFICATE"),
        client_cert_file: file("CLIENT_CERTIFICATE"),
        client_key_file: file("CLIENT_KEY"),
        token_file: None,
    };
    let channel = Target::new(endpoint, credentials).transport(|endpoint| endpoint)?;
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_channel(channel)
        .build()?;
    let mut resource = Resource::builder();
    if variable("OTEL_SERVICE_NAME").is_none() {
        resource = resource.with_service_name(service);
    }
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource.build())
        .build();
    Ok(Some(provider))
}

/// Adds the trace that goes on here to the headers of a request: `traceparent`.
pub fn inject(headers: &mut HeaderMap) {
    let span = Span::current();
    if !span.is_disabled() {
        let context = span.context();
        TraceContextPropagator::new().inject_context(&context, &mut Headers(headers));
    }
}

/// A span for work that goes on behind the answer to the call that asked for it: of
/// its trace, and with an end of its own.
pub fn behind(name: &'static str) -> Span {
    let span = tracing::info_span!(target: TARGET, parent: None, "behind", otel.name = name);
    if !span.is_disabled() {
        let current = Span::current().context().span().span_context().clone();
        // The only error: nobody listens.
        let _ = span.set_parent(Context::new().with_remote_span_context(current));
    }
    span
}

/// The span of a command: of the trace that TRACEPARENT names, if it does.
pub fn of_command(name: &str) -> Span {
    let kind = "client";
    let span = tracing::info_span!(target: TARGET, parent: None, "command", otel.name = name, otel.kind = kind);
    if let (false, Some(parent)) = (span.is_disabled(), variable("TRACEPARENT")) {
        let mut headers = HeaderMap::new();
        Headers(&mut headers).set("traceparent", parent);
        // The only error: nobody listens.
        let _ = span.set_parent(TraceContextPropagator::new().extract(&Shown(&headers)));
    }
    span
}

/// The span of a call that has arrived.
pub(crate) fn of_call(method: &MethodMetrics, headers: &HeaderMap) -> Span {
    let (service, name) = (method.service(), method.name());
    if service.starts_with(UNTRACED) {
        return Span::none();
    }
    let span = tracing::info_span!(
        target: TARGET,
        parent: None,
        "call",
        otel.name = %format_args!("{service}/{name}"),
        otel.kind = "server",
        otel.status_code = Empty,
        rpc.system = "grpc",
        rpc.service = service,
        rpc.method = name,
        rpc.grpc.status_code = Empty,
    );
    if !span.is_disabled() {
        let parent = TraceContextPropagator::new().extract(&Shown(headers));
        // The only error: nobody listens.
        let _ = span.set_parent(parent);
    }
    span
}

/// Says how a call has ended. Errors are what is the server's fault.
pub(crate) fn ended(span: &Span, code: Code) {
    if span.is_disabled() {
        return;
    }
    span.record("rpc.grpc.status_code", code as i64);
    let is_ours = matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    );
    if is_ours {
        span.record("otel.status_code", "ERROR");
    }
}

struct Headers<'a>(&'a mut HeaderMap);

impl Injector for Headers<'_> {
    fn set(&mut self, key: &str, value: String) {
        let name = HeaderName::from_bytes(key.as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::try_from(value)) {
            self.0.insert(name, value);
        }
    }
}

struct Shown<'a>(&'a HeaderMap);

impl Extractor for Shown<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

/// A variable of the exporter: that of traces before that of everything.
fn exporter_variable(name: &str) -> Option<String> {
    let of_traces = variable(&format!("OTEL_EXPORTER_OTLP_TRACES_{name}"));
    of_traces.or_else(|| variable(&format!("OTEL_EXPORTER_OTLP_{name}")))
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.is_empty())
}
