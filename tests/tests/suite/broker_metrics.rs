//! What the broker tells of itself: metrics, probes, traces.

mod traces;

use anyhow::Context;
use proto::broker::v1 as pb;
use proto::broker::v1::acquire_lease_request::Target;
use serde_json::json;
use suite::{
    API_KEY, Broker, EmulatorProcess, Faults, Folder, Probes, Proxy, StateDatabase, eventually,
};
use tonic::Code;

const V1: &str = "services/users/versions/v1";
const HOLDER: &str = "who-is-not-in-metrics";
const BRANCHES: &str = "/projects/{project_id}/branches";
const ONE: &str = "/projects/{project_id}/branches/{branch_id}";

fn acquire(target: Target) -> pb::AcquireLeaseRequest {
    pb::AcquireLeaseRequest {
        target: Some(target),
        holder: HOLDER.to_owned(),
        ..Default::default()
    }
}

fn password(lease: &pb::AcquireLeaseResponse) -> anyhow::Result<String> {
    let uri = &lease.connection.as_ref().context("a connection")?.uri;
    let user = uri.split_once('@').context("a URI with a user")?.0;
    Ok(user.rsplit_once(':').context("a password")?.1.to_owned())
}

fn name(lease: &pb::AcquireLeaseResponse) -> anyhow::Result<String> {
    Ok(lease.lease.as_ref().context("a lease")?.name.clone())
}

/// A broker of the example that tells of itself, on an emulator with faults.
async fn start(
    folder: &Folder,
    emulator: &EmulatorProcess,
    variables: &[(&str, &str)],
) -> anyhow::Result<(Broker, Probes)> {
    let (listen, http) = (suite::free_address()?, suite::free_address()?);
    let mut all = vec![("BROKER_HTTP_LISTEN", http.as_str())];
    all.extend(variables);
    let config = suite::example_config();
    let broker = Broker::start_with(&listen, folder, emulator, &config, &all).await?;
    Ok((broker, Probes::at(&http)))
}

#[tokio::test]
async fn metrics_say_what_happened_and_what_is_and_no_secret() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start_with_admin(&folder.join("data")).await?;
    let (broker, probes) = start(&folder, &emulator, &[]).await?;
    broker.is_ready().await?;
    let mut leases = broker.leases().await?;
    let says = async |series: &str, value: f64| probes.says(series, value).await;
    let active = |on: &str| format!("broker_leases{{state=\"active\",target=\"{on}\"}}");
    says(&active("binding"), 0.0).await?;
    let leads = async || probes.says("broker_state_leader", 1.0).await;
    eventually("it works in the background", leads).await?;

    let binding = Target::Binding(V1.to_owned());
    let given = leases.acquire_lease(acquire(binding)).await?.into_inner();
    let ephemeral = Target::Ephemeral(pb::EphemeralBranch {
        parent: V1.to_owned(),
        ..Default::default()
    });
    let own = leases.acquire_lease(acquire(ephemeral)).await?.into_inner();
    let missing = Target::Binding("services/users/versions/v9".to_owned());
    let refused = leases.acquire_lease(acquire(missing)).await;
    assert_eq!(
        refused.err().map(|status| status.code()),
        Some(Code::NotFound)
    );
    let renew = pb::RenewLeaseRequest {
        name: name(&given)?,
        ..Default::default()
    };
    leases.renew_lease(renew.clone()).await?;
    leases.renew_lease(renew).await?;

    says(&active("binding"), 1.0).await?;
    says(&active("ephemeral"), 1.0).await?;
    says(&active("branch"), 0.0).await?;
    for (series, count) in [
        (
            "broker_acquire_seconds_count{target=\"binding\",outcome=\"OK\"}",
            1.0,
        ),
        (
            "broker_acquire_seconds_count{target=\"ephemeral\",outcome=\"OK\"}",
            1.0,
        ),
        (
            "broker_acquire_seconds_count{target=\"binding\",outcome=\"NOT_FOUND\"}",
            1.0,
        ),
        (
            "broker_binding_generation{binding=\"services/users/versions/v1\"}",
            1.0,
        ),
        (
            "broker_binding_ready{binding=\"services/users/versions/v2\"}",
            1.0,
        ),
        ("broker_state_open", 1.0),
        ("broker_operations_running", 0.0),
        ("broker_watchers", 0.0),
    ] {
        says(series, count).await?;
    }
    let handled = |method: &str, code: &str| {
        format!(
            "grpc_server_handled_total{{grpc_type=\"unary\",\
             grpc_service=\"broker.v1.LeaseService\",grpc_method=\"{method}\",\
             grpc_code=\"{code}\"}}"
        )
    };
    says(&handled("RenewLease", "OK"), 2.0).await?;
    says(&handled("AcquireLease", "OK"), 2.0).await?;
    says(&handled("AcquireLease", "NOT_FOUND"), 1.0).await?;
    let made = format!(
        "broker_neon_requests_total{{route=\"{BRANCHES}\",method=\"POST\",outcome=\"2xx\"}}"
    );
    assert!(
        probes.metric(&made).await? >= Some(3.0),
        "v1, v2, a lease's"
    );
    assert!(probes.metric("broker_neon_budget_remaining").await? > Some(0.0));

    let (_, text) = probes.get("/metrics").await?;
    for secret in [
        password(&given)?,
        password(&own)?,
        API_KEY.to_owned(),
        name(&given)?,
        HOLDER.to_owned(),
        "postgresql://".to_owned(),
        "br-".to_owned(),
    ] {
        assert!(!text.contains(&secret), "{text}");
    }

    for lease in [&given, &own] {
        let name = name(lease)?;
        let release = pb::ReleaseLeaseRequest {
            name,
            ..Default::default()
        };
        leases.release_lease(release).await?;
    }
    says(&active("binding"), 0.0).await?;
    says(&active("ephemeral"), 0.0).await?;
    says(&handled("ReleaseLease", "OK"), 2.0).await?;
    broker.process.stop().await?;
    emulator.stop().await
}

#[tokio::test]
async fn watches_and_faults_of_neon_are_told() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start_with_admin(&folder.join("data")).await?;
    let (broker, probes) = start(&folder, &emulator, &[]).await?;
    broker.is_ready().await?;

    let mut leases = broker.leases().await?;
    let first = pb::WatchBindingRequest {
        binding: V1.to_owned(),
        ..Default::default()
    };
    let asked = tokio_stream::once(first);
    let mut watch = leases.watch_binding(asked).await?.into_inner();
    watch.message().await?.context("the first answer")?;
    probes.says("broker_watchers", 1.0).await?;
    drop(watch);
    let none = async || probes.says("broker_watchers", 0.0).await;
    eventually("nobody watches", none).await?;
    let cancelled = "grpc_server_handled_total{grpc_type=\"bidi_stream\",\
                     grpc_service=\"broker.v1.LeaseService\",grpc_method=\"WatchBinding\",\
                     grpc_code=\"CANCELLED\"}";
    let told = async || probes.says(cancelled, 1.0).await;
    eventually("a watch has ended", told).await?;

    let faults = Faults::of(&emulator);
    let effect = json!({"fault": "unavailable", "count": 2});
    let fault = faults.on_route("GET", ONE, effect).await?;
    let name = "branches/br-none".to_owned();
    let mut branches = broker.branches().await?;
    let refused = branches.get_branch(pb::GetBranchRequest { name }).await;
    assert_eq!(
        refused.err().map(|status| status.code()),
        Some(Code::NotFound)
    );
    faults.happened(fault).await?;
    let ended = |outcome: &str| {
        format!(
            "broker_neon_requests_total{{route=\"{ONE}\",method=\"GET\",outcome=\"{outcome}\"}}"
        )
    };
    probes.says(&ended("503"), 2.0).await?;
    probes.says(&ended("404"), 1.0).await?;
    broker.process.stop().await?;
    emulator.stop().await
}

#[tokio::test]
async fn readiness_says_what_is_missing_and_liveness_does_not_care() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start_with_admin(&folder.join("data")).await?;
    let database = StateDatabase::of(&emulator).await?;
    let uri = database.uri.expose();
    let (server, away) = (Proxy::before(uri)?, suite::free_address()?);
    let uri = uri.replace(server, &away);
    let effect = json!({"fault": "delay", "milliseconds": 2_000, "after": false});
    Faults::of(&emulator)
        .on_route("POST", BRANCHES, effect)
        .await?;
    let variables = [("BROKER_DATABASE_URL", uri.as_str())];
    let (broker, probes) = start(&folder, &emulator, &variables).await?;
    let (status, text) = probes.get("/readyz").await?;
    assert_eq!(status, 503, "{text}");
    assert_eq!(probes.get("/livez").await?, (200, "alive\n".to_owned()));
    let not_read = async || {
        let (status, text) = probes.get("/readyz").await?;
        anyhow::ensure!(status == 503 && text.contains("state database"), "{text}");
        Ok(())
    };
    eventually("the state database is missing", not_read).await?;
    probes.says("broker_state_open", 0.0).await?;

    let _network = Proxy::start_at(&away, server).await?;
    let preparing = async || {
        let (status, text) = probes.get("/readyz").await?;
        let line = format!("not ready: {V1} is being prepared\n");
        anyhow::ensure!(status == 503 && text.contains(&line), "{text}");
        Ok(())
    };
    eventually("a binding is missing", preparing).await?;
    let ready = async || {
        let (status, text) = probes.get("/readyz").await?;
        anyhow::ensure!(status == 200, "{text}");
        Ok(())
    };
    eventually("it is ready", ready).await?;
    broker.is_ready().await?;

    assert_eq!(probes.get("/").await?.0, 404);
    assert_eq!(probes.ask("POST", "/metrics").await?.0, 405);
    assert_eq!(probes.ask("HEAD", "/livez").await?, (200, String::new()));
    broker.process.stop().await?;
    emulator.stop().await
}

#[tokio::test]
async fn an_address_that_must_not_be_is_refused_before_anything_is_made() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start_with_admin(&folder.join("data")).await?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let taken = listener.local_addr()?.to_string();
    let environment = Broker::environment(&folder, &emulator).await?;
    let log = folder.join("broker.log");
    let config = suite::example_config();
    let config = config.to_str().context("UTF-8")?;
    let address = suite::free_address()?;
    for (http, expected) in [
        ("0.0.0.0:0", "will not listen on 0.0.0.0:0"),
        (taken.as_str(), "another address with --http-listen"),
    ] {
        let flags = [
            "serve",
            "--config",
            config,
            "--listen",
            &address,
            "--http-listen",
            http,
        ];
        let environment: Vec<_> = environment
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        let mut process = suite::Process::start("broker", &flags, &environment, &log)?;
        assert!(!process.wait().await?.success());
        assert!(process.log().contains(expected), "{}", process.log());
    }
    let branches = Faults::of(&emulator)
        .count("POST", BRANCHES, Some(201))
        .await?;
    assert_eq!(branches, 0);
    emulator.stop().await
}
