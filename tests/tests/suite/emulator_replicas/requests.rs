//! What the API says of replicas, and what a project says of its endpoints.

use anyhow::Context;
use neon_api::types::EndpointType;
use serde_json::json;
use suite::{EmulatorProcess, Folder, Http};

use super::replicated::Replicated;

#[tokio::test]
async fn a_branch_has_one_writer_and_as_many_replicas_as_it_may() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start_with(
        &folder.join("data"),
        &suite::free_address()?,
        &["--endpoints-max", "3"],
    )
    .await?;
    let branch = Replicated::on(emulator).await?;
    let project = format!("/projects/{}", branch.emulator.project());
    let http = Http::of(&branch.emulator);
    let (reads, writes) = (json!({"type": "read_only"}), json!({"type": "read_write"}));

    // Whatever their order, the address is the writer's.
    let body = json!({"branch": {"name": "three"}, "endpoints": [reads, writes, reads]});
    let path = format!("{project}/branches");
    let created = http.expect(201, "POST", &path, body).await?;
    let endpoints = created.at("/endpoints").as_array().context("a list")?;
    let types: Vec<_> = endpoints.iter().map(|one| one["type"].as_str()).collect();
    assert_eq!(
        types,
        [Some("read_write"), Some("read_only"), Some("read_only")]
    );
    let host = created.text("/endpoints/0/host");
    let uri = created.text("/connection_uris/0/connection_uri");
    assert!(uri.contains(host), "{created:?}");
    let operations = created.at("/operations").as_array().context("a list")?;
    assert_eq!(operations.len(), 4);

    for (endpoints, status, code, word) in [
        (
            json!([writes, writes]),
            409,
            "",
            "read_write endpoint already exists",
        ),
        (
            json!([writes, reads, reads, reads]),
            422,
            "ENDPOINTS_LIMIT_EXCEEDED",
            "a branch may have 3 endpoints",
        ),
        (
            json!([reads, {"type": "sideways"}]),
            400,
            "",
            "endpoints[1].type",
        ),
    ] {
        let body = json!({"endpoints": endpoints});
        let refused = http.expect(status, "POST", &path, body).await?;
        assert_eq!(refused.text("/code"), code, "{refused:?}");
        assert!(refused.text("/message").contains(word), "{refused:?}");
    }
    let count = format!("{path}/count");
    let count = http.expect(200, "GET", &count, json!(null)).await?;
    assert_eq!(count.at("/count"), 2, "nothing was made");

    let (one, two) = (branch.add().await?, branch.add().await?);
    let path = format!("{project}/endpoints");
    for (endpoint_type, status, word) in [
        ("read_only", 422, "a branch may have 3 endpoints"),
        ("read_write", 409, "read_write endpoint already exists"),
    ] {
        let body = json!({"endpoint": {"branch_id": branch.id, "type": endpoint_type}});
        let refused = http.expect(status, "POST", &path, body).await?;
        assert!(refused.text("/message").contains(word), "{refused:?}");
    }
    let (client, id) = (branch.emulator.client(), branch.emulator.project());
    let listed = client.list_branch_endpoints(id, &branch.id).await?;
    let replicas = listed
        .endpoints
        .iter()
        .filter(|endpoint| endpoint.endpoint_type == EndpointType::ReadOnly);
    let mut replicas: Vec<_> = replicas.map(|endpoint| endpoint.id.clone()).collect();
    let mut wanted = vec![one.clone(), two];
    replicas.sort();
    wanted.sort();
    assert_eq!(replicas, wanted);

    // Started when it is asked for, and no sooner.
    let path = format!("{path}/{one}");
    let off = json!({"endpoint": {"disabled": true}});
    let off = http.expect(200, "PATCH", &path, off).await?;
    let operations =
        serde_json::from_value::<Vec<neon_api::types::Operation>>(off.at("/operations").clone())?;
    branch.emulator.finished(&operations).await?;
    assert!(branch.connect(&one).await.is_err());
    http.expect(422, "POST", &format!("{path}/start"), json!(null))
        .await?;
    let on = json!({"endpoint": {"disabled": false}});
    http.expect(200, "PATCH", &path, on).await?;
    branch.wake(&one).await?;
    let restarted = client.restart_endpoint(id, &one).await?;
    branch.done(&restarted).await?;
    branch.write("after a restart").await?;
    branch.shows(&one, &["after a restart"]).await?;
    let move_it = json!({"endpoint": {"branch_id": created.text("/branch/id")}});
    let refused = http.expect(422, "PATCH", &path, move_it).await?;
    assert_eq!(refused.text("/code"), "ENDPOINTS_LIMIT_EXCEEDED");
    branch.finish().await
}

#[tokio::test]
async fn a_projects_defaults_are_for_endpoints_that_say_nothing() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let branch = Replicated::start(&folder).await?;
    let http = Http::of(&branch.emulator);
    let defaults = json!({
        "pg_settings": {"work_mem": "9MB"},
        "autoscaling_limit_min_cu": 1,
        "autoscaling_limit_max_cu": 4,
        "suspend_timeout_seconds": 600,
    });
    let path = format!("/projects/{}", branch.emulator.project());
    let body = json!({"project": {"default_endpoint_settings": defaults}});
    http.expect(200, "PATCH", &path, body).await?;
    let wrong = json!({"autoscaling_limit_min_cu": 2, "autoscaling_limit_max_cu": 1});
    let body = json!({"project": {"default_endpoint_settings": wrong}});
    let refused = http.expect(400, "PATCH", &path, body).await?;
    assert!(
        refused
            .text("/message")
            .contains("autoscaling_limit_max_cu")
    );

    let replica = branch.add().await?;
    let client = branch.emulator.client();
    let endpoint = client
        .get_endpoint(branch.emulator.project(), &replica)
        .await?
        .endpoint;
    assert!((endpoint.autoscaling_limit_min_cu - 1.0).abs() < f64::EPSILON);
    assert!((endpoint.autoscaling_limit_max_cu - 4.0).abs() < f64::EPSILON);
    assert_eq!(endpoint.suspend_timeout_seconds, 600);
    let session = branch.connect(&replica).await?;
    let shown = session.query_one("SHOW work_mem", &[]).await?;
    assert_eq!(shown.get::<_, String>(0), "9MB");

    // What an endpoint says itself wins; a default gives way to it.
    let body = json!({"branch": {"name": "own"}, "endpoints": [{
        "type": "read_write",
        "settings": {"pg_settings": {"lock_timeout": "3s"}},
        "autoscaling_limit_max_cu": 0.5,
        "suspend_timeout_seconds": 0,
    }]});
    let made = http
        .expect(201, "POST", &format!("{path}/branches"), body)
        .await?;
    let endpoint = made.at("/endpoints/0");
    assert_eq!(
        endpoint["settings"]["pg_settings"],
        json!({"lock_timeout": "3s"})
    );
    assert_eq!(endpoint["autoscaling_limit_min_cu"], 0.5);
    assert_eq!(endpoint["autoscaling_limit_max_cu"], 0.5);
    assert_eq!(endpoint["suspend_timeout_seconds"], 0);

    // A project's first endpoint is no exception.
    let body = json!({"project": {"name": "two", "default_endpoint_settings": defaults}});
    let made = http.expect(201, "POST", "/projects", body).await?;
    let endpoint = made.at("/endpoints/0");
    assert_eq!(endpoint["settings"]["pg_settings"]["work_mem"], "9MB");
    assert_eq!(endpoint["autoscaling_limit_max_cu"], 4.0);
    assert_eq!(endpoint["suspend_timeout_seconds"], 600);
    branch.finish().await
}
