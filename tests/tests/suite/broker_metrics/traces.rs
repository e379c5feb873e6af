//! Traces: from a caller to Neon.

use anyhow::Context;
use proto::broker::v1 as pb;
use proto::broker::v1::acquire_lease_request::Target;
use proto::google::longrunning::WaitOperationRequest;
use suite::{API_KEY, Collector, EmulatorProcess, Folder, Process, Recorder, Span};

use super::{BRANCHES, ONE, V1, acquire, password, start};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

/// A call of the trace.
fn traced<T>(message: T) -> anyhow::Result<tonic::Request<T>> {
    let mut request = tonic::Request::new(message);
    let parent = format!("00-{TRACE}-{CALLER}-01").parse()?;
    request.metadata_mut().insert("traceparent", parent);
    Ok(request)
}

/// What was exported of the trace under that name.
fn of_trace(collector: &Collector, name: &str) -> anyhow::Result<Span> {
    let spans = collector.spans();
    let mut found = spans.iter().filter(|span| span.name == name);
    let found = found.find(|span| span.trace == TRACE);
    found.cloned().with_context(|| format!("{name}: {spans:?}"))
}

#[tokio::test]
async fn a_trace_goes_from_a_caller_to_neon() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start_with_admin(&folder.join("data")).await?;
    let neon = emulator.url();
    let host = neon
        .trim_start_matches("http://")
        .trim_end_matches("/api/v2");
    let recorder = Recorder::start(host).await?;
    let collector = Collector::start().await?;
    let through = format!("http://{}/api/v2", recorder.address());
    let endpoint = collector.endpoint();
    let traces = ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str());
    // Far away: what is exported in time is so because the broker ends.
    let delay = ("OTEL_BSP_SCHEDULE_DELAY", "600000");
    let variables = [traces, delay, ("NEON_API_URL", through.as_str())];
    let (broker, _) = start(&folder, &emulator, &variables).await?;
    broker.is_ready().await?;

    let mut branches = broker.branches().await?;
    let name = "branches/br-none".to_owned();
    let asked = traced(pb::GetBranchRequest { name })?;
    assert!(branches.get_branch(asked).await.is_err());
    let create = traced(pb::CreateBranchRequest {
        branch: Some(pb::Branch {
            display_name: "traced".to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    })?;
    let name = branches.create_branch(create).await?.into_inner().name;
    let wait = WaitOperationRequest {
        name,
        timeout: None,
    };
    let done = broker.operations().await?.wait_operation(wait).await?;
    assert!(done.into_inner().done);
    let binding = traced(acquire(Target::Binding(V1.to_owned())))?;
    let lease = broker.leases().await?.acquire_lease(binding).await?;

    // The command line goes on with a trace of its own surroundings.
    let url = format!("http://{}", broker.address());
    let parent = format!("00-{TRACE}-{CALLER}-01");
    let environment = [traces, ("TRACEPARENT", parent.as_str())];
    let flags = ["plan", "--broker", &url];
    let log = folder.join("plan.log");
    let mut plan = Process::start("broker", &flags, &environment, &log)?;
    assert!(plan.wait().await?.success(), "{}", plan.log());

    let log = broker.process.log();
    broker.process.stop().await?;
    let call = of_trace(&collector, "broker.v1.BranchService/GetBranch")?;
    assert_eq!(
        (call.parent.as_str(), call.service.as_str()),
        (CALLER, "broker")
    );
    for (attribute, value) in [
        ("rpc.system", "grpc"),
        ("rpc.service", "broker.v1.BranchService"),
        ("rpc.method", "GetBranch"),
        ("rpc.grpc.status_code", "5"),
    ] {
        assert_eq!(call.attribute(attribute), Some(value), "{call:?}");
    }
    let spans = collector.spans();
    let of_call = spans.iter().filter(|span| span.parent == call.id);
    let of_call: Vec<_> = of_call.collect();
    let [request] = of_call[..] else {
        anyhow::bail!("one request: {of_call:?}");
    };
    for (attribute, value) in [
        ("http.request.method", "GET"),
        ("url.template", ONE),
        ("http.response.status_code", "404"),
        ("error.type", "404"),
    ] {
        assert_eq!(request.attribute(attribute), Some(value), "{request:?}");
    }
    let header = format!("traceparent: 00-{TRACE}-{}-01", request.id);
    let sent = recorder.sent();
    assert!(sent.contains(&header), "Neon is told");

    // An operation goes on behind its call.
    let made = of_trace(&collector, &format!("POST {BRANCHES}"))?;
    let above = collector.above(&made);
    let names: Vec<_> = above.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(names, ["operation", "broker.v1.BranchService/CreateBranch"]);
    assert_eq!(above[1].parent, CALLER);

    let plan = of_trace(&collector, "broker.v1.ConfigService/Plan")?;
    let above = collector.above(&plan);
    let names: Vec<_> = above
        .iter()
        .map(|span| (span.service.as_str(), span.name.as_str()))
        .collect();
    assert_eq!(names, [("broker-cli", "broker plan")]);
    assert_eq!(above[0].parent, CALLER);

    let all = format!("{spans:?}");
    for secret in [
        &password(lease.get_ref())?,
        API_KEY,
        "postgresql://",
        "npg_",
    ] {
        assert!(!all.contains(secret), "a span shows a secret");
    }
    assert!(!all.contains("grpc.health"), "probes are no traces");
    assert!(
        !log.contains("rpc.method"),
        "spans are not in the log: {log}"
    );
    emulator.stop().await
}

#[tokio::test]
async fn a_collector_that_is_away_keeps_nobody_from_anything() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start_with_admin(&folder.join("data")).await?;
    let nobody = format!("http://{}", suite::free_address()?);
    let variables = [("OTEL_EXPORTER_OTLP_ENDPOINT", nobody.as_str())];
    let (broker, probes) = start(&folder, &emulator, &variables).await?;
    broker.is_ready().await?;
    let binding = acquire(Target::Binding(V1.to_owned()));
    broker.leases().await?.acquire_lease(binding).await?;
    assert_eq!(probes.get("/readyz").await?.0, 200);
    broker.process.stop().await?;
    emulator.stop().await
}
