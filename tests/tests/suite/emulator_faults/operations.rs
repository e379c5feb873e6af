//! Operations that fail, endpoints that die.

use anyhow::{Context, ensure};
use neon_api::types::{BranchCreateRequest, EndpointState, OperationStatus};
use serde_json::json;
use suite::{EmulatorProcess, Faults, Folder};

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

/// An endpoint that could not be suspended or deleted is there, and as it was:
/// nothing waits for it for ever.
#[tokio::test]
async fn a_suspension_or_deletion_that_fails_changes_nothing() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start_with_admin(&folder.join("data")).await?;
    let faults = Faults::of(&emulator);
    let (client, project) = (emulator.client(), emulator.project());
    let dev = emulator.branch("dev", None).await?;
    let (branch, endpoint) = (&dev.branch.id, &dev.endpoints[0].id);
    for is_deletion in [false, true] {
        let fault = faults
            .on_operation(
                "suspend_compute",
                json!({"fault": "operation_fails", "error": "not now"}),
            )
            .await?;
        let operations = if is_deletion {
            let deleted = client.delete_endpoint(project, endpoint).await?;
            deleted.context("it was there")?.operations
        } else {
            client.suspend_endpoint(project, endpoint).await?.operations
        };
        faults.happened(fault).await?;
        ensure!(emulator.finished(&operations).await.is_err(), "it fails");
        let found = client.get_endpoint(project, endpoint).await?.endpoint;
        assert_eq!(found.current_state, EndpointState::Active);
        assert_eq!(found.pending_state, None);
        emulator.connect(branch).await?;
        // A clone of a branch that runs, not of a folder that changes.
        emulator
            .branch(&format!("child-{is_deletion}"), Some(branch))
            .await?;
    }
    let deleted = client.delete_endpoint(project, endpoint).await?;
    emulator
        .finished(&deleted.context("it was there")?.operations)
        .await?;
    emulator.stop().await
}

/// What was deleted is gone for callers at once; its folder goes as soon as it can.
#[tokio::test]
async fn a_deletion_that_fails_is_tried_again() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start_with_admin(&folder.join("data")).await?;
    let faults = Faults::of(&emulator);
    let (client, project) = (emulator.client(), emulator.project());
    let fails = || json!({"fault": "operation_fails", "error": "not now", "count": 2});
    let dev = emulator.branch("dev", None).await?.branch.id;
    let snapshots = format!("/projects/{project}/branches/{dev}/snapshot");
    let http = suite::Http::of(&emulator);
    let made = http
        .expect(200, "POST", &snapshots, serde_json::Value::Null)
        .await?;
    let snapshot = made.text("/snapshot/id").to_owned();
    let is_gone = async |path: std::path::PathBuf| {
        suite::eventually("its folder is gone", async || {
            ensure!(!path.exists(), "{} is there", path.display());
            Ok(())
        })
        .await
    };
    let path = folder.join("data/snapshots").join(&snapshot);
    let taken: neon_api::OperationId = made.text("/operations/0/id").parse()?;
    let taken = client.get_operation(project, taken).await?.operation;
    emulator.finished(&[taken]).await?;
    ensure!(path.exists(), "the snapshot is there");

    let fault = faults.on_operation("delete_timeline", fails()).await?;
    let deleted = format!("/projects/{project}/snapshots/{snapshot}");
    http.expect(202, "DELETE", &deleted, serde_json::Value::Null)
        .await?;
    faults.happened(fault).await?;
    is_gone(path).await?;

    let probe = &emulator.branch("probe", Some(&dev)).await?.branch.id;
    let fault = faults.on_operation("delete_timeline", fails()).await?;
    let operations = client.delete_branch(project, probe).await?;
    let operations = operations.context("it was there")?.operations;
    ensure!(emulator.finished(&operations).await.is_err(), "it fails");
    let found = client.get_branch(project, probe).await;
    ensure!(found.is_err_and(|error| error.is_not_found()));
    faults.happened(fault).await?;
    is_gone(folder.join("data/branches").join(probe.as_str())).await?;

    // The whole project, in the same way.
    let fault = faults.on_operation("delete_timeline", fails()).await?;
    client.delete_project(project).await?;
    faults.happened(fault).await?;
    is_gone(folder.join("data/branches").join(dev.as_str())).await?;
    emulator.stop().await
}
