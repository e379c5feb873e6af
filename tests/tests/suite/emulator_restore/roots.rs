//! Root branches restored from another branch.

use anyhow::Context;
use neon_api::types::{BranchCreateRequest, BranchRestoreRequest, EndpointCreateRequest};
use serde_json::json;
use suite::{EmulatorProcess, Faults, Folder, eventually};

use super::{branch, notes, write};

#[tokio::test]
async fn a_root_branch_takes_another_branchs_data() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start_with_admin(&folder.join("data")).await?;
    let (client, project) = (emulator.client(), emulator.project());
    let main = emulator.main_branch().await?;
    write(&emulator, &main, "CREATE TABLE note (text text)").await?;
    let dev = emulator.branch("dev", None).await?.branch.id;
    let other = emulator.branch("other", None).await?.branch.id;
    write(&emulator, &main, "INSERT INTO note VALUES ('of main')").await?;
    write(&emulator, &dev, "INSERT INTO note VALUES ('of dev')").await?;
    let before = branch(&emulator, &main).await?;
    let (uri, endpoint) = (emulator.uri(&main).await?, emulator.endpoint(&main).await?);
    let request = BranchRestoreRequest::from_branch(dev.clone()).preserve_under_name("main_old");

    // One that fails leaves the root branch a root branch.
    let fault = json!({"fault": "operation_fails", "error": "as asked for"});
    let fault = Faults::of(&emulator)
        .on_operation("create_branch", fault)
        .await?;
    let failed = client.restore_branch(project, &main, &request).await?;
    Faults::of(&emulator).happened(fault).await?;
    eventually("it has failed", async || emulator.connect(&main).await).await?;
    assert!(emulator.finished(&failed.operations).await.is_err());
    let after = branch(&emulator, &main).await?;
    assert_eq!(after.parent_id, None);
    assert_eq!(after.init_source, before.init_source);
    assert_eq!(branch(&emulator, &dev).await?.parent_id, Some(main.clone()));
    assert_eq!(notes(&emulator, &main).await?, ["of main"]);

    let restored = client.restore_branch(project, &main, &request).await?;
    emulator.finished(&restored.operations).await?;
    let all = client.list_all_branches(project, Some("main_old")).await?;
    let old = &all.branches.first().context("the old data's branch")?.id;
    let after = branch(&emulator, &main).await?;
    assert_eq!(after.parent_id.as_ref(), Some(old));
    assert!(after.default, "it stays what it was to the project");
    assert_eq!(branch(&emulator, old).await?.parent_id, None, "the root");
    for child in [&dev, &other] {
        let parent = branch(&emulator, child).await?.parent_id;
        assert_eq!(parent.as_ref(), Some(old), "children are moved");
    }
    assert_eq!(emulator.uri(&main).await?, uri);
    assert_eq!(emulator.endpoint(&main).await?.id, endpoint.id);
    assert_eq!(notes(&emulator, &main).await?, ["of dev"]);
    assert_eq!(notes(&emulator, &dev).await?, ["of dev"]);
    let endpoint = EndpointCreateRequest::read_write(old.clone());
    let endpoint = client.create_endpoint(project, &endpoint).await?;
    emulator.finished(&endpoint.operations).await?;
    assert_eq!(notes(&emulator, old).await?, ["of main"]);

    // Its past begins anew, with the new data; a start finds all as it was.
    let emulator = emulator.kill_and_start().await?;
    let (client, project) = (emulator.client(), emulator.project());
    let session = emulator.connect(&main).await?;
    let again = eventually("the branch has history", async || {
        let lsn = session
            .query_one("SELECT pg_current_wal_lsn()::text", &[])
            .await?;
        let request = BranchRestoreRequest::from_branch(main.clone())
            .at_lsn(lsn.get::<_, String>(0))
            .preserve_under_name("main_older");
        Ok(client.restore_branch(project, &main, &request).await?)
    })
    .await?;
    emulator.finished(&again.operations).await?;
    assert_eq!(notes(&emulator, &main).await?, ["of dev"]);
    emulator.stop().await
}

/// Without children it needs no name for what it was: it becomes a child.
#[tokio::test]
async fn a_root_branch_without_children_becomes_its_sources_child() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let (client, project) = (emulator.client(), emulator.project());
    let main = emulator.main_branch().await?;
    let table = "CREATE TABLE note (text text); INSERT INTO note VALUES ('of main')";
    write(&emulator, &main, table).await?;
    let request = BranchCreateRequest::named("empty")
        .init_source(neon_api::types::InitSource::SchemaOnly)
        .read_write_endpoint();
    let empty = client.create_branch(project, &request).await?;
    emulator.finished(&empty.operations).await?;
    let id = &empty.branch.id;
    assert!(notes(&emulator, id).await?.is_empty());
    let request = BranchRestoreRequest::from_branch(main.clone());
    let restored = client.restore_branch(project, id, &request).await?;
    emulator.finished(&restored.operations).await?;
    assert_eq!(notes(&emulator, id).await?, ["of main"]);
    let after = branch(&emulator, id).await?;
    assert_eq!(after.parent_id, Some(main));
    let source = after.init_source.context("it says so")?;
    assert_eq!(source.as_str(), "parent-data");
    emulator.stop().await
}
