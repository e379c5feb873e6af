//! Branches.

use std::collections::BTreeMap;

use anyhow::Context;
use neon_api::BranchId;
use neon_api::types::{
    BranchCreateRequest, BranchUpdateRequest, EndpointCreateRequest, RoleCreateRequest,
};
use serde_json::json;
use suite::{EmulatorProcess, Faults, Folder, Http};

use super::assert_api_error;

#[tokio::test]
async fn branches_are_created_listed_changed_and_deleted() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let (client, project) = (emulator.client(), emulator.project());
    let main = emulator.main_branch().await?;
    let request = BranchCreateRequest::named("dev")
        .parent(main.clone())
        .read_write_endpoint()
        .annotation([("managed-by", "a test")]);
    let dev = client.create_branch(project, &request).await?;
    assert_eq!(dev.operations.len(), 2);
    assert!(dev.connection_uris.is_some());
    emulator.finished(&dev.operations).await?;

    let read = client.get_branch(project, &dev.branch.id).await?;
    assert_eq!(read.branch.parent_id.as_ref(), Some(&main));
    assert!(read.branch.parent_lsn.is_some());
    assert_eq!(
        read.annotation.context("an annotation")?.value,
        BTreeMap::from([("managed-by".to_owned(), "a test".to_owned())])
    );

    // Names are the caller's to choose, once.
    let again = client.create_branch(project, &request).await;
    assert_api_error(again, 409, "branch already exists");
    // A parent cannot go before its children.
    let child = emulator.branch("child", Some(&dev.branch.id)).await?;
    let refused = client.delete_branch(project, &dev.branch.id).await;
    assert_api_error(refused, 422, "child");
    assert_api_error(client.delete_branch(project, &main).await, 422, "default");

    let protect = BranchUpdateRequest::default()
        .protected(true)
        .rename("kept");
    client
        .update_branch(project, &child.branch.id, &protect)
        .await?;
    let refused = client.delete_branch(project, &child.branch.id).await;
    assert_api_error(refused, 422, "protected");
    // Below a protected branch passwords are fresh.
    let secret = emulator.branch("secret", Some(&child.branch.id)).await?;
    assert_ne!(secret.roles[0].password, child.roles[0].password);
    assert_eq!(dev.roles[0].password, child.roles[0].password);
    let session = emulator.connect(&secret.branch.id).await?;
    session.simple_query("SELECT 1").await?;
    delete(&emulator, &secret.branch.id).await?;

    let unprotect = BranchUpdateRequest::default().protected(false);
    client
        .update_branch(project, &child.branch.id, &unprotect)
        .await?;
    delete(&emulator, &child.branch.id).await?;
    delete(&emulator, &dev.branch.id).await?;
    assert!(
        client
            .delete_branch(project, &dev.branch.id)
            .await?
            .is_none(),
        "deleting again is no error"
    );
    assert_api_error(
        client.get_branch(project, &dev.branch.id).await,
        404,
        "branch not found",
    );
    let left = std::fs::read_dir(folder.join("data/branches"))?.count();
    assert_eq!(left, 1, "the folders of deleted branches are gone");
    emulator.stop().await
}

#[tokio::test]
async fn conflicting_work_is_refused_until_it_is_done() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start_with_admin(&folder.join("data")).await?;
    let (client, project) = (emulator.client(), emulator.project());
    // So that there is time to meet it on its way.
    let late = json!({"fault": "delay", "milliseconds": 1_500, "after": false});
    let faults = Faults::of(&emulator);
    faults.on_operation("create_branch", late).await?;
    let created = client
        .create_branch(
            project,
            &BranchCreateRequest::named("busy").read_write_endpoint(),
        )
        .await?;
    let id = &created.branch.id;
    // It is still being made: nothing that needs it is scheduled.
    let role = RoleCreateRequest::named("early");
    assert_api_error(
        client.create_role(project, id, &role).await,
        423,
        "conflicting operations",
    );
    let child = BranchCreateRequest::named("early").parent(id.clone());
    assert_api_error(
        client.create_branch(project, &child).await,
        423,
        "conflicting",
    );
    emulator.finished(&created.operations).await?;
    let created = client.create_role(project, id, &role).await?;
    emulator.finished(&created.operations).await?;

    let second = EndpointCreateRequest::read_write(id.clone());
    assert_api_error(
        client.create_endpoint(project, &second).await,
        409,
        "read_write endpoint already exists",
    );
    emulator.stop().await
}

#[tokio::test]
async fn a_branch_that_is_not_there_has_no_name_to_clash() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let (http, project) = (Http::of(&emulator), emulator.project());
    let branches = format!("/projects/{project}/branches");
    let dev = emulator.branch("dev", None).await?.branch.id;
    let rename = |name: &str| json!({"branch": {"name": name}});
    let nobody = format!("{branches}/br-no-such-12345678");
    http.expect(404, "PATCH", &nobody, rename("main")).await?;
    let one = format!("{branches}/{dev}");
    http.expect(409, "PATCH", &one, rename("main")).await?;
    // As alchemy's Neon provider knows it of Neon.
    let same = http.expect(400, "PATCH", &one, rename("dev")).await?;
    assert!(same.text("/message").contains("same name"), "{same:?}");
    emulator.stop().await
}

/// The newer name of @neon/sdk for a branch without rows.
#[tokio::test]
async fn a_parents_schema_makes_a_root_branch() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let (http, project) = (Http::of(&emulator), emulator.project());
    let main = emulator.main_branch().await?;
    let owner = emulator.connect(&main).await?;
    owner
        .batch_execute("CREATE TABLE note (id int); INSERT INTO note VALUES (1)")
        .await?;
    let branches = format!("/projects/{project}/branches");
    let request = |source: &str| {
        json!({
            "branch": {"name": "bare", "init_source": source},
            "endpoints": [{"type": "read_write"}],
        })
    };
    for (source, status) in [("import", 422), ("imagination", 400)] {
        let refused = http
            .expect(status, "POST", &branches, request(source))
            .await?;
        let message = refused.text("/message");
        assert!(message.starts_with("branch.init_source"), "{refused:?}");
    }
    let made = http
        .expect(201, "POST", &branches, request("parent-schema"))
        .await?;
    assert_eq!(made.text("/branch/init_source"), "parent-schema");
    assert!(made.at("/branch/parent_id").is_null(), "{made:?}");
    let id: BranchId = made.text("/branch/id").parse()?;
    suite::eventually("the branch has the table and no rows", async || {
        let session = emulator.connect(&id).await?;
        let rows = session.query("SELECT id FROM note", &[]).await?;
        anyhow::ensure!(rows.is_empty(), "{} rows", rows.len());
        Ok(())
    })
    .await?;
    emulator.stop().await
}

#[tokio::test]
async fn an_empty_name_preserves_nothing() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let (http, project) = (Http::of(&emulator), emulator.project());
    let main = emulator.main_branch().await?;
    let dev = emulator.branch("dev", None).await?.branch.id;
    let restore = format!("/projects/{project}/branches/{dev}/restore");
    let request = json!({"source_branch_id": main, "preserve_under_name": ""});
    http.expect(200, "POST", &restore, request).await?;
    let count = format!("/projects/{project}/branches/count");
    let counted = http.expect(200, "GET", &count, json!(null)).await?;
    assert_eq!(counted.at("/count"), 2);
    emulator.stop().await
}

async fn delete(emulator: &EmulatorProcess, branch: &BranchId) -> anyhow::Result<()> {
    let deleted = emulator
        .client()
        .delete_branch(emulator.project(), branch)
        .await?
        .context("it was there")?;
    emulator.finished(&deleted.operations).await
}
