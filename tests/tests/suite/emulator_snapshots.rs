//! Snapshots of the emulator's branches.

use anyhow::{Context, ensure};
use neon_api::types::BranchCreateRequest;
use neon_api::{BranchId, OperationId};
use serde_json::{Value, json};
use suite::{Answer, EmulatorProcess, Folder, Http, count, eventually};

#[tokio::test]
async fn a_snapshot_becomes_a_branch() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let data = folder.join("data");
    let emulator = EmulatorProcess::start(&data).await?;
    let http = Http::of(&emulator);
    let project = format!("/projects/{}", emulator.project());
    let main = emulator.main_branch().await?;
    write(&emulator, &main, "CREATE TABLE note (text text)").await?;
    write(&emulator, &main, "INSERT INTO note VALUES ('kept')").await?;
    let path = format!("{project}/branches/{main}/snapshot?name=s1");
    let taken = http.expect(200, "POST", &path, Value::Null).await?;
    finished(&emulator, &taken).await?;
    let id = taken.text("/snapshot/id").to_owned();
    assert!(id.starts_with("snap-"), "{id}");
    assert_eq!(taken.text("/snapshot/source_branch_id"), main.as_str());
    write(&emulator, &main, "DELETE FROM note").await?;

    let snapshot = format!("{project}/snapshots/{id}");
    let listed = format!("{project}/snapshots");
    let found = http.expect(200, "GET", &listed, Value::Null).await?;
    assert_eq!(found.text("/snapshots/0/name"), "s1");
    assert!(found.at("/snapshots/0/lsn").is_string(), "{found:?}");
    let rename = json!({"snapshot": {"name": "s2"}});
    let renamed = http.expect(200, "PATCH", &snapshot, rename).await?;
    assert_eq!(renamed.text("/snapshot/name"), "s2");

    // To a new branch, which stands beside the old one.
    let emulator = emulator.kill_and_start().await?;
    let restore = format!("{snapshot}/restore");
    let body = json!({"name": "restored", "finalize_restore": false});
    let restored = http.expect(200, "POST", &restore, body.clone()).await?;
    finished(&emulator, &restored).await?;
    assert_eq!(restored.text("/branch/name"), "restored");
    assert_eq!(restored.text("/branch/restored_from"), id);
    assert_eq!(restored.text("/branch/restore_status"), "restored");
    http.expect(409, "POST", &restore, body).await?;
    let branch: BranchId = restored.text("/branch/id").parse()?;
    assert!(notes(&emulator, &main).await?.is_empty());

    // Then in its place: name, default, endpoint, address.
    let uri = emulator.uri(&main).await?;
    let finalize = format!("{project}/branches/{branch}/finalize_restore");
    let done = http
        .expect(200, "POST", &finalize, json!({"name": "before"}))
        .await?;
    finished(&emulator, &done).await?;
    assert_eq!(emulator.main_branch().await?, branch);
    assert_eq!(emulator.uri(&branch).await?, uri);
    assert_eq!(notes(&emulator, &branch).await?, ["kept"]);
    let old = format!("{project}/branches/{main}");
    let old_now = http.expect(200, "GET", &old, Value::Null).await?;
    assert_eq!(old_now.text("/branch/name"), "before");
    http.expect(422, "POST", &finalize, Value::Null).await?;
    http.expect(200, "DELETE", &old, Value::Null).await?;

    let deleted = http.expect(202, "DELETE", &snapshot, Value::Null).await?;
    finished(&emulator, &deleted).await?;
    http.expect(404, "DELETE", &snapshot, Value::Null).await?;
    assert_eq!(std::fs::read_dir(data.join("snapshots"))?.count(), 0);
    emulator.stop().await
}

#[tokio::test]
async fn a_snapshot_takes_a_branches_place_at_once() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let http = Http::of(&emulator);
    let project = format!("/projects/{}", emulator.project());
    let dev = emulator.branch("dev", None).await?.branch.id;
    write(&emulator, &dev, "CREATE TABLE note (text text)").await?;
    write(&emulator, &dev, "INSERT INTO note VALUES ('kept')").await?;
    let path = format!("{project}/branches/{dev}/snapshot");
    let taken = http.expect(200, "POST", &path, Value::Null).await?;
    finished(&emulator, &taken).await?;
    write(&emulator, &dev, "DROP TABLE note").await?;
    let uri = emulator.uri(&dev).await?;
    let restore = format!("{project}/snapshots/{}/restore", taken.text("/snapshot/id"));
    let body = json!({"finalize_restore": true});
    let restored = http.expect(200, "POST", &restore, body).await?;
    finished(&emulator, &restored).await?;
    let branch: BranchId = restored.text("/branch/id").parse()?;
    assert_eq!(restored.text("/endpoints/0/branch_id"), branch.as_str());
    assert_eq!(emulator.uri(&branch).await?, uri);
    assert_eq!(notes(&emulator, &branch).await?, ["kept"]);
    let found = emulator
        .client()
        .get_branch(emulator.project(), &branch)
        .await?;
    assert_eq!(found.branch.name, "dev");
    let old = emulator
        .client()
        .get_branch(emulator.project(), &dev)
        .await?;
    assert!(
        old.branch.name.starts_with("dev (old_"),
        "{}",
        old.branch.name
    );

    for (method, path, body, status, word) in [
        (
            "POST",
            format!("{project}/branches/{dev}/snapshot?lsn=0/1"),
            Value::Null,
            422,
            "lsn",
        ),
        (
            "POST",
            format!("{project}/branches/{dev}/snapshot?expires_at=2020-01-01T00:00:00Z"),
            Value::Null,
            400,
            "expires_at",
        ),
        (
            "POST",
            restore.clone(),
            json!({"target_branch_id": "br-no-1"}),
            404,
            "target",
        ),
        ("POST", restore, json!({"name": ""}), 400, "name"),
        (
            "POST",
            format!("{project}/snapshots/snap-no-1/restore"),
            Value::Null,
            404,
            "snapshot",
        ),
        (
            "PATCH",
            format!("{project}/snapshots/snap-no-1"),
            json!({"snapshot": {}}),
            404,
            "snapshot",
        ),
        (
            "GET",
            format!("{project}/branches/{dev}/backup_schedule"),
            Value::Null,
            404,
            "route",
        ),
    ] {
        let refused = http.expect(status, method, &path, body).await?;
        assert!(
            refused.text("/message").contains(word),
            "{word}: {refused:?}"
        );
    }
    emulator.stop().await
}

/// Whatever a kill cuts off is done again, and once: names and endpoints end where
/// they belong.
#[tokio::test]
async fn a_snapshot_that_takes_a_place_survives_kills() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let mut emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let mut dev = emulator.branch("dev", None).await?.branch.id;
    write(&emulator, &dev, "CREATE TABLE note (text text)").await?;
    let uri = emulator.uri(&dev).await?;
    for round in 0..count(4, 24) {
        let project = format!("/projects/{}", emulator.project());
        let http = Http::of(&emulator);
        let path = format!("{project}/branches/{dev}/snapshot?name=s{round}");
        let taken = http.expect(200, "POST", &path, Value::Null).await?;
        finished(&emulator, &taken).await?;
        write(&emulator, &dev, "INSERT INTO note VALUES ('later')").await?;
        let snapshot = taken.text("/snapshot/id");
        let restore = format!("{project}/snapshots/{snapshot}/restore");
        let body = json!({"finalize_restore": true});
        let restored = http.expect(200, "POST", &restore, body).await?;
        let branch: BranchId = restored.text("/branch/id").parse()?;
        let operations = restored.at("/operations").as_array();
        let operations = operations.context("operations")?;
        // Another moment in each round: an operation that begins, or is over.
        let moment = &operations[round % operations.len()]["id"];
        let moment: OperationId = moment.as_str().context("an id")?.parse()?;
        eventually("the moment to kill it", async || {
            let found = emulator
                .client()
                .get_operation(emulator.project(), moment)
                .await?;
            let status = found.operation.status;
            let is_late = round % 2 == 1;
            ensure!(status.is_final() || (!is_late && status.as_str() == "running"));
            Ok(())
        })
        .await?;
        emulator = emulator.kill_and_start().await?;
        finished(&emulator, &restored).await?;
        assert_eq!(emulator.uri(&branch).await?, uri, "round {round}");
        assert!(notes(&emulator, &branch).await?.is_empty(), "round {round}");
        let branches = emulator
            .client()
            .list_all_branches(emulator.project(), None)
            .await?
            .branches;
        let name = |id: &BranchId| {
            let found = branches.iter().find(|branch| branch.id == *id);
            found.map(|branch| branch.name.clone()).unwrap_or_default()
        };
        assert_eq!(name(&branch), "dev", "round {round}");
        assert!(name(&dev).starts_with("dev (old_"), "{}", name(&dev));
        let http = Http::of(&emulator);
        let path = format!("{project}/snapshots/{snapshot}");
        let gone = http.expect(202, "DELETE", &path, Value::Null).await?;
        finished(&emulator, &gone).await?;
        dev = branch;
    }
    emulator.stop().await
}

#[tokio::test]
async fn snapshots_expire_and_are_limited() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let data = folder.join("data");
    let clock = folder.join("clock");
    let clock_text = clock.to_string_lossy();
    let flags = [
        "--unsafe-test-clock",
        &*clock_text,
        "--suspend-seconds-default",
        "-1",
        "--snapshots-max",
        "1",
    ];
    let listen = suite::free_address()?;
    let emulator = EmulatorProcess::start_with(&data, &listen, &flags).await?;
    let http = Http::of(&emulator);
    let project = format!("/projects/{}", emulator.project());
    let main = emulator.main_branch().await?;
    let found = emulator
        .client()
        .get_branch(emulator.project(), &main)
        .await?;
    let expires_at = found.branch.created_at + jiff::SignedDuration::from_hours(1);
    let path = format!("{project}/branches/{main}/snapshot");
    let brief = format!("{path}?expires_at={expires_at}");
    let taken = http.expect(200, "POST", &brief, Value::Null).await?;
    finished(&emulator, &taken).await?;
    let refused = http.expect(422, "POST", &path, Value::Null).await?;
    assert_eq!(refused.text("/code"), "SNAPSHOTS_LIMIT_EXCEEDED");
    std::fs::write(&clock, "3700.5")?;
    eventually("it has expired", async || {
        let left = std::fs::read_dir(data.join("snapshots"))?.count();
        ensure!(left == 0, "{left} are left");
        Ok(())
    })
    .await?;
    let taken = http.expect(200, "POST", &path, Value::Null).await?;
    finished(&emulator, &taken).await?;
    // With the project go its snapshots.
    http.expect(200, "DELETE", &project, Value::Null).await?;
    eventually("the folders are gone", async || {
        for folder in ["snapshots", "branches"] {
            let left = std::fs::read_dir(data.join(folder))?.count();
            ensure!(left == 0, "{folder}: {left} are left");
        }
        Ok(())
    })
    .await?;
    emulator.stop().await
}

/// A clone that was never started has WAL to replay, which its own clones need.
#[tokio::test]
async fn a_clone_of_a_clone_that_never_ran_is_whole() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let (client, project) = (emulator.client(), emulator.project());
    let main = emulator.main_branch().await?;
    write(&emulator, &main, "CREATE TABLE note (text text)").await?;
    write(
        &emulator,
        &main,
        "INSERT INTO note SELECT 'x' FROM generate_series(1, 1000)",
    )
    .await?;
    let middle = BranchCreateRequest::named("middle");
    let middle = client.create_branch(project, &middle).await?;
    emulator.finished(&middle.operations).await?;
    let left = folder.join(&format!("data/branches/{}/backup_label", middle.branch.id));
    ensure!(left.exists(), "it has yet to replay");
    let leaf = emulator
        .branch("leaf", Some(&middle.branch.id))
        .await?
        .branch
        .id;
    assert_eq!(notes(&emulator, &leaf).await?.len(), 1_000);
    // What it begins from came along; one that has no endpoint still shows it.
    let quiet = BranchCreateRequest::named("quiet").parent(middle.branch.id.clone());
    let quiet = client.create_branch(project, &quiet).await?;
    emulator.finished(&quiet.operations).await?;
    let label = folder.join(&format!("data/branches/{}/backup_label", quiet.branch.id));
    ensure!(label.exists(), "it would begin from another checkpoint");
    emulator.stop().await
}

async fn finished(emulator: &EmulatorProcess, answer: &Answer) -> anyhow::Result<()> {
    let operations = answer.at("/operations").as_array();
    for operation in operations.into_iter().flatten() {
        let id: OperationId = operation["id"].as_str().unwrap_or_default().parse()?;
        eventually("an operation has finished", async || {
            let client = emulator.client();
            let found = client
                .get_operation(emulator.project(), id)
                .await?
                .operation;
            ensure!(found.status.is_success(), "{found:?}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

async fn write(emulator: &EmulatorProcess, branch: &BranchId, sql: &str) -> anyhow::Result<()> {
    Ok(emulator.connect(branch).await?.batch_execute(sql).await?)
}

async fn notes(emulator: &EmulatorProcess, branch: &BranchId) -> anyhow::Result<Vec<String>> {
    let session = emulator.connect(branch).await?;
    let rows = session.query("SELECT text FROM note", &[]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
