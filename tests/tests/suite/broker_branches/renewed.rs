//! A reset or restore of a branch that a binding lives on.

use anyhow::{Context, ensure};
use proto::broker::v1 as pb;
use proto::broker::v1::acquire_lease_request::Target;
use proto::google::longrunning::WaitOperationRequest;
use proto::google::longrunning::operation::Result as Ended;
use suite::{System, eventually};
use tonic::Code;

use crate::details::refused;

const V1: &str = "services/users/versions/v1";
const V2: &str = "services/users/versions/v2";

async fn binding(system: &System, name: &str) -> anyhow::Result<pb::Binding> {
    let request = pb::GetBindingRequest {
        name: name.to_owned(),
    };
    let answer = system.broker.bindings().await?.get_binding(request).await?;
    answer.into_inner().binding.context("a binding")
}

async fn end(
    system: &System,
    begun: proto::google::longrunning::Operation,
) -> anyhow::Result<pb::Branch> {
    let mut operation = begun;
    while !operation.done {
        let request = WaitOperationRequest {
            name: operation.name,
            timeout: None,
        };
        let mut operations = system.broker.operations().await?;
        operation = operations.wait_operation(request).await?.into_inner();
    }
    let result: Ended = operation.result.context("a result")?;
    super::branch(result)
}

async fn acquire(
    system: &System,
    binding: &str,
    access: pb::Access,
) -> anyhow::Result<pb::AcquireLeaseResponse> {
    let request = pb::AcquireLeaseRequest {
        target: Some(Target::Binding(binding.to_owned())),
        access: access.into(),
        ..Default::default()
    };
    Ok(system
        .broker
        .leases()
        .await?
        .acquire_lease(request)
        .await?
        .into_inner())
}

#[tokio::test]
async fn a_reset_branch_is_made_as_declared_and_announced() -> anyhow::Result<()> {
    let system = System::start().await?;
    let before = binding(&system, V2).await?;
    let lease = acquire(&system, V2, pb::Access::ReadOnly).await?;
    let uri = lease.connection.context("a connection")?.uri;
    let lease = lease.lease.context("a lease")?.name;
    // One whose lease has ended: its role is closed, and v1's data know of none.
    let mut users = system.users_v2().await?;
    let carol = proto::users::v2::User {
        name: "Carol".to_owned(),
        email: "carol@example.com".to_owned(),
        ..Default::default()
    };
    let created = proto::users::v2::CreateUserRequest {
        user: Some(carol),
        ..Default::default()
    };
    users.create_user(created).await?;

    let mut branches = system.broker.branches().await?;
    let request = pb::ResetBranchRequest {
        name: before.branch.clone(),
        ..Default::default()
    };
    let begun = branches.reset_branch(request).await?.into_inner();
    let now = end(&system, begun).await?;
    assert!(now.reset_time.is_some() && now.managed, "{now:?}");

    let after = binding(&system, V2).await?;
    assert_eq!(after.state(), pb::BindingState::Ready);
    // One is that of the pause, which consumers acknowledge too.
    assert_eq!(after.generation, before.generation + 2);
    assert_eq!(after.revision, before.revision, "migrated again");
    let watch = pb::WatchBindingRequest {
        lease,
        ..Default::default()
    };
    let mut leases = system.broker.leases().await?;
    let watch = leases.watch_binding(tokio_stream::once(watch)).await?;
    let state = watch.into_inner().message().await?.context("a state")?;
    let current = state.current.context("a target")?;
    assert!(
        current.reason.contains("reset to its parent"),
        "{}",
        current.reason
    );
    // The lease that lives has its role again, with the password that it had.
    let session = suite::connect(&uri, system.emulator.data()).await?;
    let rows = session
        .query("SELECT name FROM users ORDER BY id", &[])
        .await?;
    let names: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert!(!names.contains(&"Carol".to_owned()), "{names:?}");
    // The service's pool has moved over.
    eventually("v2 answers from the new data", async || {
        let list = proto::users::v2::ListUsersRequest::default();
        let users = system
            .users_v2()
            .await?
            .list_users(list)
            .await?
            .into_inner()
            .users;
        ensure!(users.len() == names.len(), "{users:?}");
        Ok(())
    })
    .await?;
    let plan = system
        .broker
        .config()
        .await?
        .plan(pb::PlanRequest::default())
        .await?
        .into_inner();
    assert_eq!(plan, pb::PlanResponse::default());
    system.finish().await
}

#[tokio::test]
async fn what_a_restore_kept_is_history_and_ended_leases_stay_dead() -> anyhow::Result<()> {
    let system = System::start().await?;
    let before = binding(&system, V1).await?;
    let ended = acquire(&system, V1, pb::Access::ReadOnly).await?;
    let uri = ended.connection.context("a connection")?.uri;
    let name = ended.lease.context("a lease")?.name;
    // Kept as it is with the open role: what is restored from it brings it back.
    let mut branches = system.broker.branches().await?;
    let mut copy = super::create("copy");
    copy.branch
        .get_or_insert_default()
        .parent
        .clone_from(&before.branch);
    let begun = branches.create_branch(copy).await?.into_inner();
    let copy = end(&system, begun).await?;
    let release = pb::ReleaseLeaseRequest {
        name,
        ..Default::default()
    };
    system.broker.leases().await?.release_lease(release).await?;
    eventually("the role is closed", async || {
        ensure!(suite::connect(&uri, system.emulator.data()).await.is_err());
        Ok(())
    })
    .await?;

    // v2 was forked from it, and the copy is its child: they need the old data.
    let restore = pb::RestoreBranchRequest {
        name: before.branch.clone(),
        source: copy.name.clone(),
        ..Default::default()
    };
    let cycle = branches.restore_branch(restore.clone()).await;
    refused(cycle, Code::FailedPrecondition, Some("source"));
    let restore = pb::RestoreBranchRequest {
        preserve_under_name: "before".to_owned(),
        ..restore
    };
    let begun = branches.restore_branch(restore).await?.into_inner();
    end(&system, begun).await?;
    let after = binding(&system, V1).await?;
    // One is that of the pause, which consumers acknowledge too.
    assert_eq!(after.generation, before.generation + 2);
    assert!(
        suite::connect(&uri, system.emulator.data()).await.is_err(),
        "it stays dead"
    );

    let plan = system
        .broker
        .config()
        .await?
        .plan(pb::PlanRequest::default())
        .await?
        .into_inner();
    assert!(plan.steps.is_empty(), "{plan:?}");
    assert_eq!(plan.remarks.len(), 2, "{plan:?}");
    for remark in &plan.remarks {
        assert!(remark.contains("before, which is history of"), "{remark}");
    }
    // A branch that a binding lives on is neither deleted nor renamed.
    let delete = pb::DeleteBranchRequest {
        name: after.branch.clone(),
        ..Default::default()
    };
    let status = refused(
        branches.delete_branch(delete).await,
        Code::FailedPrecondition,
        None,
    );
    assert!(status.message().contains(V1), "{status:?}");
    let rename = pb::UpdateBranchRequest {
        branch: Some(pb::Branch {
            name: after.branch,
            display_name: "else".to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let status = refused(
        branches.update_branch(rename).await,
        Code::FailedPrecondition,
        None,
    );
    assert!(status.message().contains(V1), "{status:?}");
    system.finish().await
}
