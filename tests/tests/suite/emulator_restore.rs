//! Restores of the emulator's branches, branches of schema alone, and branches
//! that expire.

use std::path::Path;

use anyhow::{Context, ensure};
use neon_api::BranchId;
use neon_api::types::{
    Branch, BranchCreateRequest, BranchRestoreRequest, BranchUpdateRequest, InitSource,
};
use serde_json::{Value, json};
use suite::{EmulatorProcess, Folder, Http, count, eventually};

#[tokio::test]
async fn a_reset_takes_the_parents_data_and_keeps_the_connection() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let (client, project) = (emulator.client(), emulator.project());
    let main = emulator.main_branch().await?;
    write(&emulator, &main, "CREATE TABLE note (text text)").await?;
    let dev = emulator.branch("dev", None).await?;
    let id = &dev.branch.id;
    let uri = emulator.uri(id).await?;
    let session = emulator.connect(id).await?;
    session
        .batch_execute("INSERT INTO note VALUES ('of dev')")
        .await?;
    write(&emulator, &main, "INSERT INTO note VALUES ('of main')").await?;

    let request = BranchRestoreRequest::from_branch(main.clone());
    let reset = client.restore_branch(project, id, &request).await?;
    assert_eq!(reset.branch.current_state.as_str(), "resetting");
    assert!(reset.branch.last_reset_at.is_some());
    emulator.finished(&reset.operations).await?;
    assert!(session.simple_query("SELECT 1").await.is_err(), "cut");
    assert_eq!(emulator.uri(id).await?, uri);
    assert_eq!(notes(&emulator, id).await?, ["of main"]);
    let after = branch(&emulator, id).await?;
    assert_eq!(after.current_state.as_str(), "ready");
    assert_eq!(after.parent_id, Some(main));
    assert!(after.parent_lsn.is_some());
    let endpoints = client.list_branch_endpoints(project, id).await?.endpoints;
    assert_eq!(endpoints[0].id, dev.endpoints[0].id);
    assert_eq!(folders(emulator.data())?.len(), 2, "nothing is left beside");
    emulator.stop().await
}

#[tokio::test]
async fn the_old_state_is_kept_under_a_name() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let (client, project) = (emulator.client(), emulator.project());
    let main = emulator.main_branch().await?;
    write(&emulator, &main, "CREATE TABLE note (text text)").await?;
    let dev = emulator.branch("dev", None).await?.branch.id;
    write(&emulator, &dev, "INSERT INTO note VALUES ('old')").await?;
    let child = emulator.branch("child", Some(&dev)).await?.branch.id;
    let uri = emulator.uri(&dev).await?;

    let request = BranchRestoreRequest::from_branch(main.clone());
    let refused = client.restore_branch(project, &dev, &request).await;
    let refused = refused.err().context("children need a name")?.to_string();
    assert!(refused.contains("preserve_under_name"), "{refused}");
    let request = request.preserve_under_name("dev_old");
    let restored = client.restore_branch(project, &dev, &request).await?;
    emulator.finished(&restored.operations).await?;

    let all = client.list_all_branches(project, Some("dev_old")).await?;
    let old = &all.branches[0];
    assert_eq!(old.parent_id.as_ref(), Some(&main));
    assert_eq!(restored.branch.parent_id.as_ref(), Some(&old.id));
    let parent = branch(&emulator, &child).await?.parent_id;
    assert_eq!(parent.as_ref(), Some(&old.id), "children are moved");
    assert_eq!(emulator.uri(&dev).await?, uri);
    assert!(notes(&emulator, &dev).await?.is_empty());
    assert_eq!(notes(&emulator, &child).await?, ["old"]);
    let endpoint = neon_api::types::EndpointCreateRequest::read_write(old.id.clone());
    let endpoint = client.create_endpoint(project, &endpoint).await?;
    emulator.finished(&endpoint.operations).await?;
    assert_eq!(notes(&emulator, &old.id).await?, ["old"]);

    // The branch's own head, however it is named, is a point that there is.
    let session = emulator.connect(&dev).await?;
    let restored = eventually("the branch has history", async || {
        let lsn = session
            .query_one("SELECT pg_current_wal_lsn()::text", &[])
            .await?;
        let request = BranchRestoreRequest::from_branch(dev.clone())
            .at_lsn(lsn.get::<_, String>(0))
            .preserve_under_name("dev_older");
        Ok(client.restore_branch(project, &dev, &request).await?)
    })
    .await?;
    emulator.finished(&restored.operations).await?;
    assert!(notes(&emulator, &dev).await?.is_empty());
    emulator.stop().await
}

#[tokio::test]
async fn restores_that_cannot_be_are_refused() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let http = Http::of(&emulator);
    let main = emulator.main_branch().await?;
    let dev = emulator.branch("dev", None).await?.branch.id;
    let other = emulator.branch("other", None).await?.branch.id;
    let protect = BranchUpdateRequest::default().protected(true);
    let (client, project) = (emulator.client(), emulator.project());
    client.update_branch(project, &other, &protect).await?;
    let past = "2026-01-01T00:00:00Z";
    for (target, body, status, word) in [
        (&dev, json!({}), 400, "source_branch_id"),
        (
            &dev,
            json!({"source_branch_id": "br-no-such-1"}),
            404,
            "branch not found",
        ),
        (
            &dev,
            json!({"source_branch_id": dev}),
            400,
            "source_timestamp",
        ),
        (
            &dev,
            json!({"source_branch_id": dev, "source_timestamp": past}),
            400,
            "preserve_under_name",
        ),
        (
            &dev,
            json!({"source_branch_id": main, "source_timestamp": past}),
            422,
            "source_timestamp",
        ),
        (
            &dev,
            json!({"source_branch_id": main, "source_lsn": "0/1"}),
            422,
            "source_lsn",
        ),
        (
            &dev,
            json!({"source_branch_id": main, "source_lsn": "x"}),
            400,
            "source_lsn",
        ),
        (
            &dev,
            json!({"source_branch_id": main, "source_lsn": "0/1", "source_timestamp": past}),
            400,
            "together",
        ),
        (
            &dev,
            json!({"source_branch_id": main, "preserve_under_name": "main"}),
            409,
            "already exists",
        ),
        (
            &dev,
            json!({"source_branch_id": main, "preserve_under_name": "x".repeat(257)}),
            400,
            "preserve_under_name",
        ),
        (&main, json!({"source_branch_id": dev}), 422, "root"),
        (&other, json!({"source_branch_id": main}), 422, "protected"),
    ] {
        let path = format!("/projects/{project}/branches/{target}/restore");
        let refused = http.expect(status, "POST", &path, body).await?;
        assert!(
            refused.text("/message").contains(word),
            "{word}: {refused:?}"
        );
    }
    assert_eq!(
        client
            .list_all_branches(project, None)
            .await?
            .branches
            .len(),
        3
    );
    emulator.stop().await
}

/// Killed at whatever moment, a restore is done in the end, whole.
#[tokio::test]
async fn a_restore_survives_kills() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let data = folder.join("data");
    let mut emulator = EmulatorProcess::start(&data).await?;
    let main = emulator.main_branch().await?;
    write(&emulator, &main, "CREATE TABLE note (text text)").await?;
    let dev = emulator.branch("dev", None).await?.branch.id;
    let uri = emulator.uri(&dev).await?;
    for round in 0..count(6, 40) {
        let of_main = format!("INSERT INTO note VALUES ('{round}')");
        write(&emulator, &main, &of_main).await?;
        write(&emulator, &dev, "INSERT INTO note VALUES ('of dev')").await?;
        let name = format!("old-{round}");
        let mut request = BranchRestoreRequest::from_branch(main.clone());
        if round % 2 == 0 {
            request = request.preserve_under_name(&name);
        }
        let (client, project) = (emulator.client(), emulator.project());
        let restored = client.restore_branch(project, &dev, &request).await?;
        // Another moment in each round.
        let beside = |suffix: &str| data.join("branches").join(format!("{dev}{suffix}"));
        let operation = &restored.operations[0];
        eventually("the moment to kill it", async || {
            let found = client.get_operation(project, operation.id).await?;
            let is_there = match round % 3 {
                0 => beside(".new").exists(),
                1 => beside(".new").join("global/pg_control").exists(),
                _ => !beside(".new").exists() && found.operation.status.is_final(),
            };
            ensure!(is_there || found.operation.status.is_final());
            Ok(())
        })
        .await?;
        emulator = emulator.kill_and_start().await?;
        emulator.finished(&restored.operations).await?;
        assert_eq!(emulator.uri(&dev).await?, uri);
        let expected: Vec<String> = (0..=round).map(|round| round.to_string()).collect();
        assert_eq!(notes(&emulator, &dev).await?, expected, "round {round}");
        let known = emulator
            .client()
            .list_all_branches(emulator.project(), None)
            .await?;
        let mut known: Vec<String> = known.branches.iter().map(|b| b.id.to_string()).collect();
        known.sort();
        assert_eq!(folders(&data)?, known, "round {round}");
    }
    emulator.stop().await
}

#[tokio::test]
async fn a_schema_only_branch_is_a_root_without_rows() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let (client, project) = (emulator.client(), emulator.project());
    let main = emulator.main_branch().await?;
    write(
        &emulator,
        &main,
        "CREATE TABLE note (id serial PRIMARY KEY, text text); \
         CREATE TABLE mark (note int REFERENCES note); \
         INSERT INTO note (text) VALUES ('a secret'), ('another'); \
         INSERT INTO mark VALUES (1); \
         CREATE MATERIALIZED VIEW seen AS SELECT * FROM note; \
         CREATE TABLE tripped (by text); \
         CREATE FUNCTION trip() RETURNS trigger LANGUAGE plpgsql AS \
           $$ BEGIN RAISE EXCEPTION 'ran as %', current_user; END $$; \
         CREATE TRIGGER trip BEFORE TRUNCATE ON note EXECUTE FUNCTION trip(); \
         ALTER TABLE note ENABLE ALWAYS TRIGGER trip; \
         CREATE ROLE by_sql LOGIN PASSWORD 'x'; \
         GRANT SELECT ON note TO by_sql; ANALYZE note",
    )
    .await?;
    let request = BranchCreateRequest::named("schema")
        .parent(main.clone())
        .init_source(InitSource::SchemaOnly)
        .read_write_endpoint();
    let made = client.create_branch(project, &request).await?;
    assert_eq!(made.branch.parent_id, None);
    assert!(made.connection_uris.is_some());
    emulator.finished(&made.operations).await?;
    let id = &made.branch.id;
    let found = branch(&emulator, id).await?;
    assert_eq!(found.init_source, Some(InitSource::SchemaOnly));
    assert_eq!(found.parent_id, None);
    assert!(notes(&emulator, id).await?.is_empty());
    let session = emulator.connect(id).await?;
    let row = session
        .query_one(
            "SELECT nextval('note_id_seq'), has_table_privilege('by_sql', 'note', 'SELECT'), \
                    (SELECT relispopulated FROM pg_class WHERE relname = 'seen'), \
                    (SELECT tgenabled::text FROM pg_trigger WHERE tgname = 'trip'), \
                    (SELECT count(*) FROM pg_stats WHERE tablename = 'note')",
            &[],
        )
        .await?;
    assert_eq!(row.get::<_, i64>(0), 1, "sequences begin anew");
    assert!(row.get::<_, bool>(1), "roles and privileges are kept");
    assert!(!row.get::<_, bool>(2));
    assert_eq!(row.get::<_, String>(3), "A");
    assert_eq!(row.get::<_, i64>(4), 0, "statistics would show values");
    assert_eq!(notes(&emulator, &main).await?.len(), 2);

    // A root: nothing to reset to. No child: its source may go before it.
    let reset = BranchRestoreRequest::from_branch(main.clone());
    let refused = client.restore_branch(project, id, &reset).await;
    assert!(refused.is_err_and(|error| error.to_string().contains("root")));
    let deleted = client.delete_branch(project, id).await?;
    emulator
        .finished(&deleted.context("it was there")?.operations)
        .await?;
    emulator.stop().await
}

#[tokio::test]
async fn branches_expire_when_the_clock_says_so() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let clock = folder.join("clock");
    let set_clock = |seconds: i64| -> anyhow::Result<()> {
        let new = folder.join("clock.new");
        std::fs::write(&new, seconds.to_string())?;
        Ok(std::fs::rename(&new, &clock)?)
    };
    // The tests' own clock is not for them to read: the emulator's is.
    let flags = ["--unsafe-test-clock", clock.to_str().context("UTF-8")?];
    let listen = suite::free_address()?;
    let emulator = EmulatorProcess::start_with(&folder.join("data"), &listen, &flags).await?;
    assert!(emulator.process().log().contains("UNSAFE"));
    let (client, project) = (emulator.client(), emulator.project());
    let http = Http::of(&emulator);
    let main = emulator.main_branch().await?;
    let created_at = branch(&emulator, &main).await?.created_at;
    let hour = jiff::SignedDuration::from_hours(1);
    let expires_at = created_at + hour;
    let request = BranchCreateRequest::named("brief")
        .read_write_endpoint()
        .expires_at(expires_at);
    let made = client.create_branch(project, &request).await?;
    emulator.finished(&made.operations).await?;
    let brief = &made.branch.id;
    let stored = made.branch.expires_at.context("it expires")?;
    assert_eq!(stored.as_second(), expires_at.as_second());
    assert_eq!(stored.subsec_nanosecond(), 0, "seconds are stored");
    let ttl = made.branch.ttl_interval_seconds.context("a ttl")?;
    assert!((3_500..=3_600).contains(&ttl), "{ttl}");

    let branches = format!("/projects/{project}/branches");
    let path = format!("{branches}/{brief}");
    let expiry = |value: Value| json!({"branch": {"expires_at": value}});
    let later = |hours: i64| json!((created_at + hour * (hours as i32)).to_string());
    for (method, path, body, status, word) in [
        (
            "PATCH",
            &path,
            expiry(json!("2020-01-01T00:00:00Z")),
            400,
            "future",
        ),
        ("PATCH", &path, expiry(later(24 * 31)), 400, "30 days"),
        (
            "PATCH",
            &path,
            expiry(json!("2027-01-01T00:00:00")),
            400,
            "expires_at",
        ),
        (
            "PATCH",
            &path,
            json!({"branch": {"protected": true}}),
            422,
            "expires",
        ),
        (
            "PATCH",
            &format!("{branches}/{main}"),
            expiry(later(2)),
            422,
            "branch.expires_at",
        ),
        (
            "POST",
            &branches,
            json!({"branch": {"name": "child", "parent_id": brief}}),
            422,
            "branch.parent_id",
        ),
        (
            "POST",
            &branches,
            json!({"branch": {"protected": true, "expires_at": later(2)}}),
            422,
            "protected",
        ),
        (
            "POST",
            &format!("{path}/set_as_default"),
            Value::Null,
            422,
            "default",
        ),
    ] {
        let refused = http.expect(status, method, path, body).await?;
        assert!(
            refused.text("/message").contains(word),
            "{word}: {refused:?}"
        );
    }

    // A reset gives it its time anew.
    set_clock(1_800)?;
    let reset = BranchRestoreRequest::from_branch(main.clone());
    let reset = client.restore_branch(project, brief, &reset).await?;
    emulator.finished(&reset.operations).await?;
    let rearmed = branch(&emulator, brief).await?;
    assert_eq!(rearmed.ttl_interval_seconds, Some(ttl));
    let expires_at = rearmed.expires_at.context("it expires")?;
    assert!(
        expires_at.as_second() >= stored.as_second() + 1_700,
        "{expires_at}"
    );

    let kept = emulator.branch("kept", None).await?.branch.id;
    let set = BranchUpdateRequest::default().expires_at(expires_at);
    client.update_branch(project, &kept, &set).await?;
    let cleared = client
        .update_branch(
            project,
            &kept,
            &BranchUpdateRequest::default().never_expires(),
        )
        .await?;
    assert_eq!(cleared.branch.expires_at, None);
    assert_eq!(cleared.branch.ttl_interval_seconds, None);

    set_clock(3_700)?;
    branch(&emulator, brief).await?;
    set_clock(10_000)?;
    eventually("it has expired", async || {
        let left = folders(emulator.data())?;
        ensure!(!left.contains(&brief.to_string()), "{left:?}");
        Ok(())
    })
    .await?;
    http.expect(404, "GET", &path, Value::Null).await?;
    branch(&emulator, &kept).await?;
    emulator.stop().await
}

async fn write(emulator: &EmulatorProcess, branch: &BranchId, sql: &str) -> anyhow::Result<()> {
    Ok(emulator.connect(branch).await?.batch_execute(sql).await?)
}

async fn notes(emulator: &EmulatorProcess, branch: &BranchId) -> anyhow::Result<Vec<String>> {
    let session = emulator.connect(branch).await?;
    let rows = session.query("SELECT text FROM note", &[]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

async fn branch(emulator: &EmulatorProcess, id: &BranchId) -> anyhow::Result<Branch> {
    let found = emulator.client().get_branch(emulator.project(), id).await?;
    Ok(found.branch)
}

/// What lies in the folder of branches.
fn folders(data: &Path) -> anyhow::Result<Vec<String>> {
    let mut names = std::fs::read_dir(data.join("branches"))?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<anyhow::Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}
