//! Faults on request: what neon-api's client makes of each, and what of the
//! work was done.

use std::time::Duration;

use anyhow::Context;
use neon_api::types::{BranchCreateRequest, CreatedBranch, OperationStatus};
use neon_api::{Error, NeonClient, Phase, Secret};
use neon_emulator::{Config, Emulator};
use serde_json::{Value, json};
use suite::{EmulatorProcess, Faults, Folder, Http};

const BRANCHES: &str = "/projects/{project_id}/branches";

/// What a creation with a fault is to look like.
struct Expected {
    effect: Value,
    is_it: fn(&Error) -> bool,
    outcome_is_unknown: bool,
    may_repeat: bool,
    retry_after: Option<Duration>,
    is_done: bool,
    /// As the emulator counts it.
    status: Option<u16>,
}

#[tokio::test]
async fn requests_fail_as_they_would_on_neon() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start_with_admin(&folder.join("data")).await?;
    let faults = Faults::of(&emulator);
    for expected in [
        refusal(423, json!({"fault": "locked"})),
        refusal(503, json!({"fault": "unavailable"})),
        Expected {
            retry_after: Some(Duration::from_secs(7)),
            ..refusal(
                429,
                json!({"fault": "too_many_requests", "retry_after_seconds": 7}),
            )
        },
        gateway_timeout(false),
        gateway_timeout(true),
        Expected {
            is_it: is_exchange,
            status: None,
            ..gateway_timeout(true)
        }
        .with(json!({"fault": "lost_answer"})),
        Expected {
            is_it: is_exchange,
            status: Some(201),
            ..gateway_timeout(true)
        }
        .with(json!({"fault": "truncated"})),
    ] {
        check(&emulator, &faults, &expected)
            .await
            .with_context(|| expected.effect.to_string())?;
    }
    emulator.stop().await
}

async fn check(
    emulator: &EmulatorProcess,
    faults: &Faults,
    expected: &Expected,
) -> anyhow::Result<()> {
    let effect = expected.effect.clone();
    let before = faults.count("POST", BRANCHES, expected.status).await?;
    let fault = faults.on_route("POST", BRANCHES, effect).await?;
    let error = match create(emulator, "made-or-not").await {
        Err(error) => error,
        Ok(created) => anyhow::bail!("created: {created:?}"),
    };
    assert!((expected.is_it)(&error), "{error:?}");
    assert_eq!(error.outcome_is_unknown(), expected.outcome_is_unknown);
    assert_eq!(error.may_repeat(), expected.may_repeat);
    assert_eq!(error.retry_after(), expected.retry_after);
    if let Error::Api { request_id, .. } = &error {
        assert!(request_id.is_some(), "{error:?}");
    }
    faults.happened(fault).await?;
    let after = faults.count("POST", BRANCHES, expected.status).await?;
    assert_eq!(after, before + 1);

    let (client, project) = (emulator.client(), emulator.project());
    let found = client
        .list_all_branches(project, Some("made-or-not"))
        .await?
        .branches;
    assert_eq!(found.len(), usize::from(expected.is_done));
    // Once is once: the next creation is answered well.
    if found.is_empty() {
        let created = create(emulator, "made-or-not").await?;
        emulator.finished(&created.operations).await?;
    }
    let found = client
        .list_all_branches(project, Some("made-or-not"))
        .await?
        .branches;
    settle(emulator).await?;
    let deleted = client.delete_branch(project, &found[0].id).await?;
    emulator
        .finished(&deleted.context("it was there")?.operations)
        .await
}

#[tokio::test]
async fn a_late_request_is_done_though_its_caller_gave_up() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start_with_admin(&folder.join("data")).await?;
    let faults = Faults::of(&emulator);
    let (project, patient) = (emulator.project(), emulator.client());
    let timeouts = neon_api::Timeouts {
        request: Duration::from_millis(1_000),
        ..neon_api::Timeouts::default()
    };
    let hasty = patient.clone().with_timeouts(timeouts)?;
    for after in [false, true] {
        let effect = json!({"fault": "delay", "milliseconds": 5_000, "after": after});
        faults.on_route("POST", BRANCHES, effect).await?;
        let name = format!("late-{after}");
        let request = BranchCreateRequest::named(&name);
        let error = hasty.create_branch(project, &request).await;
        let error = error.err().context("it is too late")?;
        assert!(is_exchange(&error), "{error:?}");
        assert!(error.outcome_is_unknown());
        let at_once = patient.list_all_branches(project, Some(&name)).await?;
        assert_eq!(at_once.branches.len(), usize::from(after));
        suite::eventually("the branch is made", async || {
            let found = patient.list_all_branches(project, Some(&name)).await?;
            anyhow::ensure!(found.branches.len() == 1, "{:?}", found.branches);
            Ok(())
        })
        .await?;
    }
    emulator.stop().await
}

#[tokio::test]
async fn faults_are_for_what_they_name_and_as_often() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start_with_admin(&folder.join("data")).await?;
    let faults = Faults::of(&emulator);
    let (client, project) = (emulator.client(), emulator.project());
    let by_body = json!({"fault": "locked", "body_contains": "\"chosen\"", "count": 2});
    let by_body = faults.on_route("POST", BRANCHES, by_body).await?;
    let by_path = json!({"fault": "unavailable", "path_contains": "search=chosen"});
    let by_path = faults.on_route("GET", BRANCHES, by_path).await?;

    let other = create(&emulator, "other").await?;
    emulator.finished(&other.operations).await?;
    client.list_all_branches(project, Some("other")).await?;
    let listed = client.list_all_branches(project, Some("chosen")).await;
    assert_eq!(listed.err().and_then(|error| error.status()), Some(503));
    faults.happened(by_path).await?;
    for _ in 0..2 {
        let refused = create(&emulator, "chosen").await;
        assert_eq!(refused.err().and_then(|error| error.status()), Some(423));
    }
    faults.happened(by_body).await?;
    let chosen = create(&emulator, "chosen").await?;
    emulator.finished(&chosen.operations).await?;
    assert_eq!(faults.count("POST", BRANCHES, Some(423)).await?, 2);
    assert_eq!(faults.count("POST", BRANCHES, Some(201)).await?, 2);
    emulator.stop().await
}

#[tokio::test]
async fn an_operation_fails_and_leaves_nothing() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start_with_admin(&folder.join("data")).await?;
    let faults = Faults::of(&emulator);
    let (client, project) = (emulator.client(), emulator.project());
    let fails = json!({"fault": "operation_fails", "error": "no space left", "branch": "doomed"});
    let fault = faults.on_operation("create_branch", fails).await?;
    emulator.branch("spared", None).await?;
    let request = BranchCreateRequest::named("doomed").read_write_endpoint();
    let created = client.create_branch(project, &request).await?;
    faults.happened(fault).await?;
    let [first, second] = created.operations.as_slice() else {
        panic!("two operations, not {:?}", created.operations);
    };
    let failed = suite::eventually("it fails", async || {
        let found = client.get_operation(project, first.id).await?.operation;
        let rest = client.get_operation(project, second.id).await?.operation;
        anyhow::ensure!(found.status.is_final() && rest.status.is_final());
        assert_eq!(rest.status, OperationStatus::Cancelled);
        Ok(found)
    })
    .await?;
    assert_eq!(failed.status, OperationStatus::Failed);
    assert_eq!(failed.error.as_deref(), Some("no space left"));
    let gone = client.get_branch(project, &created.branch.id).await;
    assert!(gone.is_err_and(|error| error.is_not_found()));
    let left = std::fs::read_dir(folder.join("data/branches"))?.count();
    assert_eq!(left, 2, "main and the one that was spared");
    // The name is free again.
    emulator.branch("doomed", None).await?;
    emulator.stop().await
}

#[tokio::test]
async fn an_endpoint_dies_and_heals() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start_with_admin(&folder.join("data")).await?;
    let faults = Faults::of(&emulator);
    let (client, project) = (emulator.client(), emulator.project());
    // As soon as it runs, and later: by the branch, and by the endpoint.
    let dies = || json!({"fault": "endpoint_dies"});
    let fault = faults.on_operation("start_compute", dies()).await?;
    let created = emulator.branch("mortal", None).await?;
    faults.happened(fault).await?;
    let (branch, endpoint) = (&created.branch.id, &created.endpoints[0].id);
    for route in [
        "/projects/{project_id}/branches/{branch_id}",
        "/projects/{project_id}/endpoints/{endpoint_id}",
    ] {
        let session = suite::eventually("it can be reached", async || {
            let session = emulator.connect(branch).await?;
            session.simple_query("SELECT 1").await?;
            Ok(session)
        })
        .await?;
        let fault = faults.on_route("GET", route, dies()).await?;
        if route.contains("branch_id") {
            client.get_branch(project, branch).await?;
        } else {
            client.get_endpoint(project, endpoint).await?;
        }
        faults.happened(fault).await?;
        suite::eventually("the session is gone", async || {
            let answer = session.simple_query("SELECT 1").await;
            anyhow::ensure!(answer.is_err(), "it answers");
            Ok(())
        })
        .await?;
    }
    suite::eventually("it is back", async || {
        let session = emulator.connect(branch).await?;
        Ok(session.simple_query("SELECT 1").await?)
    })
    .await?;
    emulator.stop().await
}

#[tokio::test]
async fn a_fault_that_makes_no_sense_is_refused() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start_with_admin(&folder.join("data")).await?;
    let admin = Http::of(&emulator).admin();
    let on = |effect: Value| merged(json!({"method": "POST", "path": BRANCHES}), effect);
    let operation = |effect: Value| merged(json!({"operation": "create_branch"}), effect);
    for (fault, word) in [
        (json!({}), "fault"),
        (json!({"fault": "locked"}), "method"),
        (json!({"fault": "locked", "method": "POST"}), "path"),
        (on(json!({"fault": "lokced"})), "lokced"),
        (on(json!({"fault": "locked", "hits": 1})), "hits"),
        (on(json!({"fault": "locked", "after": true})), "after"),
        (on(json!({"fault": "locked", "count": 0})), "count"),
        (on(json!({"fault": "locked", "count": -1})), "count"),
        (on(json!({"fault": "locked", "branch": "x"})), "branch"),
        (
            on(json!({"fault": "locked", "body_contains": ""})),
            "body_contains",
        ),
        (on(json!({"fault": "gateway_timeout"})), "after"),
        (on(json!({"fault": "delay", "after": true})), "milliseconds"),
        (
            on(json!({"fault": "delay", "after": true, "milliseconds": 600_001})),
            "milliseconds",
        ),
        (on(json!({"fault": "operation_fails"})), "fault"),
        (on(json!({"fault": "endpoint_dies"})), "path"),
        (operation(json!({"fault": "locked"})), "fault"),
        (operation(json!({"fault": "operation_fails"})), "error"),
        (
            operation(json!({"fault": "endpoint_dies", "path_contains": "x"})),
            "path_contains",
        ),
        (
            json!({"fault": "endpoint_dies", "operation": "create_brunch"}),
            "create_brunch",
        ),
        (
            json!({"fault": "locked", "method": "PUT", "path": BRANCHES}),
            "GET,HEAD,POST",
        ),
        (
            json!({"fault": "locked", "method": "POST", "path": "/no/such"}),
            "/no/such",
        ),
        (
            json!({"fault": "locked", "method": "GET", "path": "/projects/{project}"}),
            "/projects/{project_id}",
        ),
    ] {
        let refused = admin.expect(400, "POST", "/faults", fault.clone()).await?;
        assert!(
            refused.text("/message").contains(word),
            "{fault}: {refused:?}"
        );
    }
    let none = admin.expect(200, "GET", "/faults", Value::Null).await?;
    assert_eq!(none.at("/faults"), &json!([]));

    let fault = on(json!({"fault": "locked"}));
    let queued = admin.expect(201, "POST", "/faults", fault.clone()).await?;
    assert_eq!(
        (queued.at("/hits"), queued.at("/left")),
        (&json!(0), &json!(1))
    );
    let path = format!("/faults/{}", queued.at("/id"));
    admin.expect(204, "DELETE", &path, Value::Null).await?;
    admin.expect(404, "DELETE", &path, Value::Null).await?;
    admin
        .expect(404, "DELETE", "/faults/x", Value::Null)
        .await?;
    admin.expect(201, "POST", "/faults", fault).await?;
    admin.expect(204, "DELETE", "/faults", Value::Null).await?;
    create(&emulator, "unharmed").await?;
    let stranger = admin.with_key("napi_wrong");
    stranger.expect(401, "GET", "/faults", Value::Null).await?;
    stranger
        .expect(401, "GET", "/requests", Value::Null)
        .await?;
    emulator.stop().await
}

#[tokio::test]
async fn who_holds_the_emulator_needs_no_admin_route() -> anyhow::Result<()> {
    use neon_emulator::faults::{FaultError, Method, RouteEffect, RouteFault};
    let folder = Folder::new()?;
    let key = Secret::from("napi_of_the_library");
    let listen = "127.0.0.1:0".parse()?;
    let emulator = Emulator::start(Config::new(listen, folder.join("data"), key.clone())).await?;
    let project = emulator.project().context("a project")?;
    let url = format!("http://{}/api/v2", emulator.address());
    let client = NeonClient::new(url.parse()?, key)?;
    let faults = emulator.faults();

    let typo = RouteFault::new(Method::POST, "/projects/{id}/branches", RouteEffect::Locked);
    let refused = faults.queue(typo).await;
    assert!(
        matches!(&refused, Err(FaultError::Field { field: "path", .. })),
        "{refused:?}"
    );
    let route = "/projects/{project_id}";
    let twice = RouteFault::new(Method::GET, route, RouteEffect::LostAnswer).times(2);
    let queued = faults.queue(twice).await?;
    for _ in 0..2 {
        let lost = client.get_project(&project).await;
        assert!(lost.as_ref().is_err_and(is_exchange), "{lost:?}");
    }
    assert!(faults.wait_for_hits(queued.id, 2).await);
    client.get_project(&project).await?;
    let counts = faults.requests().counts;
    let of_status = |status: Option<u16>| {
        let mut found = counts.iter().filter(|count| count.status == status);
        found
            .next()
            .map(|count| (count.route.as_str(), count.count))
    };
    assert_eq!(of_status(None), Some((route, 2)), "{counts:?}");
    assert_eq!(of_status(Some(200)), Some((route, 1)), "{counts:?}");
    assert!(faults.delete(queued.id) && faults.list().is_empty());
    assert!(!faults.wait_for_hits(queued.id, 3).await);
    emulator.stop().await;
    Ok(())
}

#[tokio::test]
async fn the_admin_routes_are_off_unless_asked_for() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let admin = Http::of(&emulator).admin();
    admin.expect(404, "GET", "/faults", Value::Null).await?;
    admin.expect(404, "GET", "/requests", Value::Null).await?;
    emulator.stop().await
}

fn refusal(status: u16, effect: Value) -> Expected {
    Expected {
        effect,
        is_it: |error| matches!(error, Error::Api { .. }),
        outcome_is_unknown: false,
        may_repeat: true,
        retry_after: None,
        is_done: false,
        status: Some(status),
    }
}

fn gateway_timeout(after: bool) -> Expected {
    Expected {
        effect: json!({"fault": "gateway_timeout", "after": after}),
        is_it: |error| {
            matches!(error, Error::NotJson { status: 524, excerpt, .. }
                if excerpt.contains("A timeout occurred"))
        },
        outcome_is_unknown: true,
        may_repeat: false,
        retry_after: None,
        is_done: after,
        status: Some(524),
    }
}

impl Expected {
    fn with(self, effect: Value) -> Self {
        Self { effect, ..self }
    }
}

fn is_exchange(error: &Error) -> bool {
    matches!(
        error,
        Error::Transport {
            phase: Phase::Exchange,
            ..
        }
    )
}

fn merged(mut target: Value, effect: Value) -> Value {
    if let (Some(target), Value::Object(effect)) = (target.as_object_mut(), effect) {
        target.extend(effect);
    }
    target
}

async fn create(emulator: &EmulatorProcess, name: &str) -> Result<CreatedBranch, Error> {
    let request = BranchCreateRequest::named(name);
    emulator
        .client()
        .create_branch(emulator.project(), &request)
        .await
}

/// Waits until the project has nothing left to do.
async fn settle(emulator: &EmulatorProcess) -> anyhow::Result<()> {
    let query = neon_api::types::OperationListQuery::default();
    suite::eventually("every operation is final", async || {
        let page = emulator
            .client()
            .list_operations(emulator.project(), &query)
            .await?;
        let mut operations = page.operations.iter();
        anyhow::ensure!(operations.all(|operation| operation.status.is_final()));
        Ok(())
    })
    .await
}
