//! How faults are asked for.

use anyhow::Context;
use neon_api::{NeonClient, Secret};
use neon_emulator::{Config, Emulator};
use serde_json::{Value, json};
use suite::{EmulatorProcess, Faults, Folder, Http};

use super::{BRANCHES, create, is_exchange};

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

fn merged(mut target: Value, effect: Value) -> Value {
    if let (Some(target), Value::Object(effect)) = (target.as_object_mut(), effect) {
        target.extend(effect);
    }
    target
}
