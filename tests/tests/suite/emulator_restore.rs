//! Restores of the emulator's branches, branches of schema alone, and branches
//! that expire.

mod expiry;
mod refusals;
mod roots;
mod schema_only;

use std::path::Path;

use anyhow::{Context, ensure};
use neon_api::BranchId;
use neon_api::types::{Branch, BranchRestoreRequest};
use suite::{EmulatorProcess, Folder, count, eventually};

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

    // Cut off between its end and its tidying, which the next start does.
    emulator.stop().await?;
    let left = folder
        .join("data/history")
        .join(dev.as_str())
        .join("adopted");
    std::fs::create_dir_all(&left)?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    assert!(!left.exists());
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
