//! Endpoints that move to another branch.

use neon_api::types::{
    BranchCreateRequest, BranchUpdateRequest, Endpoint, EndpointCreateRequest, Operation,
};
use serde_json::{Value, json};
use suite::{EmulatorProcess, Faults, Folder, Http};

#[tokio::test]
async fn an_endpoint_moves_to_another_branch() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start_with_admin(&folder.join("data")).await?;
    let faults = Faults::of(&emulator);
    let (client, project) = (emulator.client(), emulator.project());
    let http = Http::of(&emulator);
    let dev = emulator.branch("dev", None).await?;
    let session = emulator.connect(&dev.branch.id).await?;
    session
        .batch_execute("CREATE TABLE place AS SELECT 'dev' AS name")
        .await?;
    let request = BranchCreateRequest::named("bare").parent(dev.branch.id.clone());
    let bare = client.create_branch(project, &request).await?;
    emulator.finished(&bare.operations).await?;
    let bare = bare.branch.id;
    session
        .batch_execute("UPDATE place SET name = 'dev, later'")
        .await?;
    let (uri, endpoint) = (emulator.uri(&dev.branch.id).await?, &dev.endpoints[0]);
    let path = format!("/projects/{project}/endpoints/{}", endpoint.id);
    let to = |branch: &str| json!({"endpoint": {"branch_id": branch}});

    // Its own branch is no move: nothing is restarted.
    let same = http
        .expect(200, "PATCH", &path, to(dev.branch.id.as_str()))
        .await?;
    assert_eq!(same.at("/operations"), &json!([]));
    session.simple_query("SELECT 1").await?;

    let main = emulator.main_branch().await?;
    for (branch, status, word) in [
        ("br-no-such-12345678", 404, "branch not found"),
        (main.as_str(), 409, "read_write endpoint already exists"),
    ] {
        let refused = http.expect(status, "PATCH", &path, to(branch)).await?;
        assert!(refused.text("/message").contains(word), "{refused:?}");
    }
    let protected = |protected| BranchUpdateRequest::default().protected(protected);
    let of = &dev.branch.id;
    client.update_branch(project, of, &protected(true)).await?;
    let refused = http.expect(422, "PATCH", &path, to(bare.as_str())).await?;
    assert!(
        refused.text("/message").contains("protected"),
        "{refused:?}"
    );
    client.update_branch(project, of, &protected(false)).await?;

    // So that there is time to meet it on its way.
    let late = json!({"fault": "delay", "milliseconds": 1_500, "after": false});
    for action in ["suspend_compute", "start_compute"] {
        faults.on_operation(action, late.clone()).await?;
    }
    let moved = http.expect(200, "PATCH", &path, to(bare.as_str())).await?;
    assert_eq!(moved.text("/endpoint/branch_id"), bare.as_str());
    // Neither branch is anybody else's meanwhile.
    for branch in [of, &bare] {
        let role = neon_api::types::RoleCreateRequest::named("early");
        let refused = client.create_role(project, branch, &role).await;
        super::assert_api_error(refused, 423, "conflicting");
    }
    done(&emulator, &moved.body).await?;
    assert!(session.simple_query("SELECT 1").await.is_err(), "cut");
    let after = client.get_endpoint(project, &endpoint.id).await?.endpoint;
    assert_eq!((&after.branch_id, &after.host), (&bare, &endpoint.host));
    assert_eq!(after.current_state.as_str(), "active");
    assert_eq!(emulator.uri(&bare).await?, uri, "the same address");
    assert_eq!(place(&emulator, &bare).await?, "dev");
    assert!(emulator.endpoint(of).await.is_err(), "it has none now");
    let another = EndpointCreateRequest::read_write(of.clone());
    let another = client.create_endpoint(project, &another).await?;
    emulator.finished(&another.operations).await?;
    assert_eq!(place(&emulator, of).await?, "dev, later");

    // A start finds it where it is.
    let emulator = emulator.kill_and_start().await?;
    assert_eq!(place(&emulator, &bare).await?, "dev");
    emulator.stop().await
}

#[tokio::test]
async fn a_suspended_endpoint_and_a_replica_move_too() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let (client, project) = (emulator.client(), emulator.project());
    let http = Http::of(&emulator);
    let main = emulator.main_branch().await?;
    let session = emulator.connect(&main).await?;
    session
        .batch_execute("CREATE TABLE place AS SELECT 'main' AS name")
        .await?;
    let dev = emulator.branch("dev", None).await?;
    emulator
        .connect(&dev.branch.id)
        .await?
        .batch_execute("UPDATE place SET name = 'dev'")
        .await?;
    let replica = EndpointCreateRequest::read_only(main.clone());
    let replica = client.create_endpoint(project, &replica).await?;
    emulator.finished(&replica.operations).await?;
    let replica = replica.endpoint.id;
    let to = json!({"endpoint": {"branch_id": dev.branch.id}});
    let path = format!("/projects/{project}/endpoints/{replica}");
    let moved = http.expect(200, "PATCH", &path, to).await?;
    done(&emulator, &moved.body).await?;
    let slots = "SELECT count(*) FROM pg_replication_slots";
    let slots: i64 = session.query_one(slots, &[]).await?.get(0);
    assert_eq!(slots, 0, "nothing keeps the WAL of the branch it has left");
    let uri = format!(
        "/projects/{project}/connection_uri?endpoint_id={replica}\
         &database_name=neondb&role_name=neondb_owner"
    );
    let uri = http.expect(200, "GET", &uri, Value::Null).await?;
    let reader = suite::connect(uri.text("/uri"), emulator.data()).await?;
    let name = reader.query_one("SELECT name FROM place", &[]).await?;
    assert_eq!(name.get::<_, String>(0), "dev");

    // One that is suspended stays so, and wakes where it is then.
    let request = BranchCreateRequest::named("bare").parent(main);
    let bare = client.create_branch(project, &request).await?;
    emulator.finished(&bare.operations).await?;
    emulator.suspend(&dev.branch.id).await?;
    let path = format!("/projects/{project}/endpoints/{}", dev.endpoints[0].id);
    let to = json!({"endpoint": {"branch_id": bare.branch.id}});
    let moved = http.expect(200, "PATCH", &path, to).await?;
    done(&emulator, &moved.body).await?;
    let after = http.expect(200, "GET", &path, Value::Null).await?;
    let after: Endpoint = serde_json::from_value(after.at("/endpoint").clone())?;
    assert_eq!(after.current_state.as_str(), "idle");
    assert_eq!(after.branch_id, bare.branch.id);
    assert_eq!(place(&emulator, &bare.branch.id).await?, "main");
    emulator.stop().await
}

async fn done(emulator: &EmulatorProcess, body: &Value) -> anyhow::Result<()> {
    let operations: Vec<Operation> = serde_json::from_value(body["operations"].clone())?;
    emulator.finished(&operations).await
}

async fn place(emulator: &EmulatorProcess, branch: &neon_api::BranchId) -> anyhow::Result<String> {
    let session = emulator.connect(branch).await?;
    let row = session.query_one("SELECT name FROM place", &[]).await?;
    Ok(row.get(0))
}
