//! A collector of traces: what an OpenTelemetry collector is to a server.

use std::sync::{Arc, Mutex, PoisonError};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// A span, as it was exported.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// Whose it is.
    pub service: String,
    /// What it is called.
    pub name: String,
    /// Its trace, in hexadecimal digits.
    pub trace: String,
    /// Its id, in hexadecimal digits.
    pub id: String,
    /// The id of the span above it; empty for none.
    pub parent: String,
    /// What is said of it, as text.
    pub attributes: Vec<(String, String)>,
}

impl Span {
    /// What is said of it under that name.
    #[must_use]
    pub fn attribute(&self, name: &str) -> Option<&str> {
        let mut all = self.attributes.iter();
        let found = all.find(|(found, _)| found == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// Takes spans by OTLP over gRPC.
#[derive(Debug)]
pub struct Collector {
    address: String,
    spans: Spans,
    serving: AbortHandle,
}

#[derive(Debug, Clone, Default)]
struct Spans(Arc<Mutex<Vec<Span>>>);

impl Collector {
    /// One that has none yet.
    ///
    /// # Errors
    /// When there is no free port.
    pub async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let spans = Spans::default();
        let service = TraceServiceServer::new(spans.clone());
        let serving = tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(TcpListenerStream::new(listener));
        Ok(Self {
            address,
            spans,
            serving: tokio::spawn(serving).abort_handle(),
        })
    }

    /// For OTEL_EXPORTER_OTLP_ENDPOINT.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What was exported so far.
    #[must_use]
    pub fn spans(&self) -> Vec<Span> {
        self.spans.all().clone()
    }

    /// The spans above one, the nearest first, as far as they were exported.
    #[must_use]
    pub fn above(&self, span: &Span) -> Vec<Span> {
        let all = self.spans();
        let above = |below: &Span| {
            let same = all.iter().filter(|one| one.trace == below.trace);
            let mut same = same.filter(|one| one.id == below.parent);
            same.next().cloned()
        };
        std::iter::successors(above(span), above).collect()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Spans {
    fn all(&self) -> std::sync::MutexGuard<'_, Vec<Span>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[tonic::async_trait]
impl TraceService for Spans {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut all = self.all();
        for of_service in request.into_inner().resource_spans {
            let resource = of_service.resource.unwrap_or_default();
            let named = told(resource.attributes);
            let service = named.into_iter().find(|(name, _)| name == "service.name");
            let service = service.map(|(_, name)| name).unwrap_or_default();
            for span in of_service.scope_spans.into_iter().flat_map(|one| one.spans) {
                all.push(Span {
                    service: service.clone(),
                    name: span.name,
                    trace: hex(&span.trace_id),
                    id: hex(&span.span_id),
                    parent: hex(&span.parent_span_id),
                    attributes: told(span.attributes),
                });
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn told(attributes: Vec<KeyValue>) -> Vec<(String, String)> {
    let text = |value: Value| match value {
        Value::StringValue(text) => text,
        Value::IntValue(number) => number.to_string(),
        other => format!("{other:?}"),
    };
    let told = attributes.into_iter().map(|one| {
        let value = one.value.and_then(|value| value.value);
        (one.key, value.map(text).unwrap_or_default())
    });
    told.collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
