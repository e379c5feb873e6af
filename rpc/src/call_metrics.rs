//! What is counted of each call: by method and code, under the names that
//! Prometheus's dashboards for gRPC expect.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
    time::Instant,
};

use prometheus_client::encoding::EncodeLabelSet;
use prost::Message as _;
use prost_types::{FileDescriptorSet, MethodDescriptorProto};
use tonic::Code;

use crate::{
    limits::{Gate, Gates},
    metrics::{self, Counter, Family, Histogram, Metrics},
};

/// The label of what no descriptor knows: whatever somebody calls, there is one.
const UNKNOWN: &str = "unknown";
/// What a method is called that has one request and one answer.
const UNARY: &str = "unary";
/// How many codes there are.
const CODES: usize = 17;

/// The name of a code, as it is written.
pub fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MethodLabels {
    grpc_type: &'static str,
    grpc_service: String,
    grpc_method: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HandledLabels {
    grpc_type: &'static str,
    grpc_service: String,
    grpc_method: String,
    grpc_code: &'static str,
}

/// What a server counts. Clones count together.
#[derive(Debug, Clone)]
pub(crate) struct CallMetrics {
    handled: Family<HandledLabels, Counter>,
    seconds: Family<MethodLabels, Histogram>,
}

impl CallMetrics {
    pub(crate) fn register(&self, to: &Metrics) {
        to.register(
            "grpc_server_handled",
            "Calls that have ended, by code",
            self.handled.clone(),
        );
        to.register(
            "grpc_server_handling_seconds",
            "How long calls took, streams to their end",
            self.seconds.clone(),
        );
    }

    /// The methods that those descriptors describe, each behind the gate of its kind.
    /// Those beside them are behind none.
    pub(crate) fn methods<'a>(
        &self,
        descriptors: &[u8],
        gates: &Gates,
        beside: impl IntoIterator<Item = &'a [u8]>,
    ) -> Methods {
        let mut known = HashMap::new();
        for set in beside {
            self.describe(set, &Gates::default(), &mut known);
        }
        self.describe(descriptors, gates, &mut known);
        Methods {
            known: Arc::new(known),
            unknown: self.method(UNKNOWN, UNKNOWN, UNKNOWN, gates.calls.clone()),
        }
    }

    fn describe(
        &self,
        descriptors: &[u8],
        gates: &Gates,
        known: &mut HashMap<String, Arc<MethodMetrics>>,
    ) {
        // Reflection has refused malformed ones.
        let set = FileDescriptorSet::decode(descriptors).unwrap_or_default();
        for file in &set.file {
            for service in &file.service {
                let service_name = format!("{}.{}", file.package(), service.name());
                for method in &service.method {
                    let kind = kind(method);
                    let gate = match kind {
                        UNARY => gates.calls.clone(),
                        _ => gates.streams.clone(),
                    };
                    let path = format!("/{service_name}/{}", method.name());
                    known.insert(path, self.method(kind, &service_name, method.name(), gate));
                }
            }
        }
    }

    fn method(
        &self,
        kind: &'static str,
        service: &str,
        method: &str,
        gate: Option<Arc<Gate>>,
    ) -> Arc<MethodMetrics> {
        Arc::new(MethodMetrics {
            gate,
            labels: MethodLabels {
                grpc_type: kind,
                grpc_service: service.to_owned(),
                grpc_method: method.to_owned(),
            },
            of: self.clone(),
            handled: std::array::from_fn(|_| OnceLock::new()),
            seconds: OnceLock::new(),
        })
    }
}

impl Default for CallMetrics {
    fn default() -> Self {
        Self {
            handled: Family::default(),
            seconds: Family::new_with_constructor(metrics::seconds),
        }
    }
}

/// The methods of a server, by path.
#[derive(Debug, Clone)]
pub(crate) struct Methods {
    known: Arc<HashMap<String, Arc<MethodMetrics>>>,
    unknown: Arc<MethodMetrics>,
}

impl Methods {
    pub(crate) fn of(&self, path: &str) -> Arc<MethodMetrics> {
        Arc::clone(self.known.get(path).unwrap_or(&self.unknown))
    }
}

/// One method. What it counts with is made when it is first needed, and is at hand
/// from then on.
#[derive(Debug)]
pub(crate) struct MethodMetrics {
    /// What calls of it have to pass.
    gate: Option<Arc<Gate>>,
    labels: MethodLabels,
    of: CallMetrics,
    handled: [OnceLock<Counter>; CODES],
    seconds: OnceLock<Histogram>,
}

impl MethodMetrics {
    pub(crate) fn service(&self) -> &str {
        &self.labels.grpc_service
    }

    pub(crate) fn name(&self) -> &str {
        &self.labels.grpc_method
    }

    pub(crate) fn gate(&self) -> Option<&Gate> {
        self.gate.as_deref()
    }

    pub(crate) fn ended(&self, begun: Instant, code: Code) {
        if let Some(handled) = self.handled.get(code as usize) {
            handled.get_or_init(|| self.handled_as(code)).inc();
        }
        let family = || self.of.seconds.get_or_create_owned(&self.labels);
        let seconds = self.seconds.get_or_init(family);
        seconds.observe(begun.elapsed().as_secs_f64());
    }

    fn handled_as(&self, code: Code) -> Counter {
        let labels = self.labels.clone();
        self.of.handled.get_or_create_owned(&HandledLabels {
            grpc_type: labels.grpc_type,
            grpc_service: labels.grpc_service,
            grpc_method: labels.grpc_method,
            grpc_code: code_name(code),
        })
    }
}

fn kind(method: &MethodDescriptorProto) -> &'static str {
    match (method.client_streaming(), method.server_streaming()) {
        (false, false) => UNARY,
        (true, false) => "client_stream",
        (false, true) => "server_stream",
        (true, true) => "bidi_stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Limits;

    #[test]
    fn calls_are_counted_by_method_and_what_nobody_knows_is_one() {
        let metrics = Metrics::default();
        let calls = CallMetrics::default();
        calls.register(&metrics);
        let methods = calls.methods(tonic_health::pb::FILE_DESCRIPTOR_SET, &Gates::default(), []);
        let check = methods.of("/grpc.health.v1.Health/Check");
        check.ended(Instant::now(), Code::Ok);
        check.ended(Instant::now(), Code::Unauthenticated);
        let made_up = ["/a/b", "/grpc.health.v1.Health/None", ""];
        for path in made_up {
            methods.of(path).ended(Instant::now(), Code::Unimplemented);
        }
        let text = metrics.text();
        let of_check = "grpc_type=\"unary\",grpc_service=\"grpc.health.v1.Health\",\
                        grpc_method=\"Check\"";
        let unknown = "grpc_type=\"unknown\",grpc_service=\"unknown\",grpc_method=\"unknown\"";
        for line in [
            format!("grpc_server_handled_total{{{of_check},grpc_code=\"OK\"}} 1"),
            format!("grpc_server_handled_total{{{of_check},grpc_code=\"UNAUTHENTICATED\"}} 1"),
            format!("grpc_server_handled_total{{{unknown},grpc_code=\"UNIMPLEMENTED\"}} 3"),
            format!("grpc_server_handling_seconds_count{{{of_check}}} 2"),
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
    }

    #[test]
    fn calls_and_streams_have_a_gate_each_and_what_is_beside_has_none() {
        let gates = Gates::new(Limits {
            calls_max: 1,
            streams_max: 1,
        });
        let health = tonic_health::pb::FILE_DESCRIPTOR_SET;
        let gate_of = |methods: &Methods, path: &str| {
            let method = methods.of(path);
            let gate = method.gate.clone();
            gate.map(|gate| Arc::ptr_eq(&gate, gates.calls.as_ref().unwrap()))
        };
        let (check, watch) = (
            "/grpc.health.v1.Health/Check",
            "/grpc.health.v1.Health/Watch",
        );
        let behind = CallMetrics::default().methods(health, &gates, []);
        assert_eq!(gate_of(&behind, check), Some(true));
        assert_eq!(gate_of(&behind, watch), Some(false), "that of streams");
        assert_eq!(gate_of(&behind, "/made/up"), Some(true));
        let beside = CallMetrics::default().methods(&[], &gates, [health]);
        assert_eq!(gate_of(&beside, check), None);
        assert_eq!(gate_of(&beside, watch), None);
    }

    #[test]
    fn every_code_has_its_name_and_its_place() {
        let codes: Vec<Code> = (0..CODES as i32).map(Code::from_i32).collect();
        let names = codes.iter().map(|code| code_name(*code));
        assert_eq!(
            names.collect::<std::collections::BTreeSet<_>>().len(),
            CODES
        );
    }
}
