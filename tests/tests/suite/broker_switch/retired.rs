//! Versions that are retired.

use anyhow::{Context, ensure};
use prost::Message as _;
use proto::broker::v1::{
    Access, ApplyRequest, BindingState, PlanRequest, RestoreBranchRequest, RetireVersionRequest,
    RetireVersionResponse, restore_branch_request,
};
use proto::google::longrunning::operation::Result as Ended;
use proto::google::longrunning::{Operation, WaitOperationRequest};
use suite::eventually;
use tonic::Code;
use tonic_types::StatusExt as _;

use super::{Bench, Consumer, seconds};
use crate::broker_leasing::{V1, V2, on_binding, on_branch};
use crate::broker_replicas::{asked as replicas_asked, replicas};
use crate::details::refused;

pub(super) fn retire(name: &str) -> RetireVersionRequest {
    RetireVersionRequest {
        name: name.to_owned(),
        ..Default::default()
    }
}

async fn done(bench: &Bench, operation: Operation) -> anyhow::Result<Operation> {
    let request = WaitOperationRequest {
        name: operation.name,
        timeout: None,
    };
    let mut operations = bench.broker.operations().await?;
    Ok(operations.wait_operation(request).await?.into_inner())
}

async fn retired(
    bench: &Bench,
    request: RetireVersionRequest,
) -> anyhow::Result<RetireVersionResponse> {
    let mut bindings = bench.broker.bindings().await?;
    let operation = bindings.retire_version(request).await?.into_inner();
    match done(bench, operation).await?.result {
        Some(Ended::Response(any)) => Ok(RetireVersionResponse::decode(&*any.value)?),
        ended => anyhow::bail!("{ended:?}"),
    }
}

/// Waits until the project has no branch whose name is like that.
pub(super) async fn none_named(bench: &Bench, part: &str) -> anyhow::Result<()> {
    eventually("the branch is gone", async || {
        let there = bench.branches().await?;
        let found = there.iter().find(|branch| branch.name.contains(part));
        ensure!(found.is_none(), "{found:?}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_with_live_leases_is_not_retired() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let given = bench.acquire(on_binding(V2, Access::ReadOnly)).await?;
    let mut bindings = bench.broker.bindings().await?;
    let denied = bindings.retire_version(retire(V2)).await;
    let denied = refused(denied, Code::FailedPrecondition, None);
    let info = denied.get_details_error_info().context("a reason")?;
    assert_eq!(info.reason, "LEASES_LIVE");
    assert!(denied.message().contains(&given.lease.name), "{denied:?}");
    let unknown = bindings
        .retire_version(retire("services/users/versions/v9"))
        .await;
    refused(unknown, Code::NotFound, Some("name"));
    // One on its branch counts as well.
    bench.release(&given.lease).await?;
    let branch = bench.branch_named("api_v2_branch").await?;
    let direct = bench.acquire(on_branch(&branch, Access::ReadOnly)).await?;
    let denied = bindings.retire_version(retire(V2)).await;
    refused(denied, Code::FailedPrecondition, None);
    bench.release(&direct.lease).await?;

    // Without any it goes, and stays away.
    let answer = retired(&bench, retire(V2)).await?;
    assert!(
        answer.deleted && answer.branch == format!("branches/{branch}"),
        "{answer:?}"
    );
    none_named(&bench, "api_v2_branch").await?;
    let again = bench
        .broker
        .leases()
        .await?
        .acquire_lease(on_binding(V2, Access::ReadOnly))
        .await;
    let again = refused(again, Code::FailedPrecondition, None);
    let info = again.get_details_error_info().context("a reason")?;
    assert_eq!(info.reason, "BINDING_RETIRED");
    let mut config = bench.broker.config().await?;
    let applied = config.apply(ApplyRequest::default()).await?.into_inner();
    assert!(applied.steps.is_empty(), "{applied:?}");
    let plan = config.plan(PlanRequest::default()).await?.into_inner();
    assert!(
        plan.steps.is_empty() && plan.remarks[0].contains("is retired"),
        "{plan:?}"
    );
    let bench = Bench {
        broker: bench.broker.kill_and_start().await?,
        ..bench
    };
    bench.broker.is_ready().await?;
    let request = proto::broker::v1::GetBindingRequest {
        name: V2.to_owned(),
    };
    let binding = bench
        .broker
        .bindings()
        .await?
        .get_binding(request)
        .await?
        .into_inner();
    assert_eq!(
        binding.binding.context("a binding")?.state(),
        BindingState::Retired
    );

    // Another branch declared for it is another life.
    let text = bench.config.text()?;
    bench
        .config
        .write(&text.replace("api_v2_branch", "api_v2_again"))?;
    // What the start of the broker applies may not be over.
    eventually("it is applied", async || {
        let mut config = bench.broker.config().await?;
        Ok(config.apply(ApplyRequest::default()).await?)
    })
    .await?;
    bench.acquire(on_binding(V2, Access::ReadOnly)).await?;
    bench.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_of_a_retired_version_have_the_time_that_they_are_given() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let mut request = on_binding(V2, Access::ReadOnly);
    request.ttl = Some(seconds(3_000));
    let given = bench.acquire(request.clone()).await?;
    let leaving = bench.acquire(on_binding(V2, Access::ReadWrite)).await?;
    let session = bench.session(&given.uri).await?;
    let mut bindings = bench.broker.bindings().await?;
    let draining = RetireVersionRequest {
        drain_timeout: Some(seconds(100)),
        ..retire(V2)
    };
    let operation = bindings.retire_version(draining).await?.into_inner();
    eventually("no leases are given any more", async || {
        let given = bench
            .broker
            .leases()
            .await?
            .acquire_lease(request.clone())
            .await;
        ensure!(given.is_err());
        Ok(())
    })
    .await?;
    bench.release(&leaving.lease).await?;
    session.batch_execute("SELECT count(*) FROM users").await?;
    bench.branch_named("api_v2_branch").await?;
    bench.clock.set(101)?;
    let ended = done(&bench, operation).await?;
    assert!(
        matches!(ended.result, Some(Ended::Response(_))),
        "{ended:?}"
    );
    assert!(session.batch_execute("SELECT 1").await.is_err());
    none_named(&bench, "api_v2_branch").await?;
    bench.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_branch_with_children_waits_for_the_last_of_them() -> anyhow::Result<()> {
    // It loses its endpoints, whatever they are for.
    let bench = Bench::start_with(replicas_asked).await?;
    let v1 = bench.branch_named("api_v1_branch").await?;
    let v2 = bench.branch_named("api_v2_branch").await?;
    assert_eq!(replicas(&bench, &v1).await?.len(), 1);
    let consumer = Consumer::join(&bench.broker, "one").await?;
    let request = RetireVersionRequest {
        drain_timeout: Some(seconds(0)),
        ..retire(V1)
    };
    let answer = retired(&bench, request).await?;
    assert!(!answer.deleted, "{answer:?}");
    assert_eq!(answer.branch_display_name, "retired/api_v1_branch");
    assert_eq!(answer.children, [format!("branches/{v2}")]);
    assert_eq!(bench.branch_named("retired/api_v1_branch").await?, v1);
    let (client, project) = (bench.emulator.client(), bench.emulator.project());
    let endpoints = client.list_branch_endpoints(project, &v1).await?.endpoints;
    assert!(endpoints.is_empty(), "{endpoints:?}");
    drop(consumer);
    // v2 goes on, whoever starts anew.
    let bench = Bench {
        broker: bench.broker.kill_and_start().await?,
        ..bench
    };
    bench.broker.is_ready().await?;
    bench.acquire(on_binding(V2, Access::ReadOnly)).await?;
    let request = RetireVersionRequest {
        drain_timeout: Some(seconds(0)),
        ..retire(V2)
    };
    assert!(retired(&bench, request).await?.deleted);
    none_named(&bench, "api_v").await?;
    bench.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_restore_kept_is_no_child_of_what_is_retired() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let v2 = bench.branch_named("api_v2_branch").await?;
    // A branch has a history from soon after its first start on.
    eventually("it is restored", async || {
        let request = RestoreBranchRequest {
            name: format!("branches/{v2}"),
            source: format!("branches/{v2}"),
            point: Some(restore_branch_request::Point::Lsn(lsn(&bench, &v2).await?)),
            preserve_under_name: "kept".to_owned(),
            ..Default::default()
        };
        let mut branches = bench.broker.branches().await?;
        let restored = branches.restore_branch(request).await?.into_inner();
        let restored = done(&bench, restored).await?;
        ensure!(
            matches!(restored.result, Some(Ended::Response(_))),
            "{restored:?}"
        );
        Ok(())
    })
    .await?;
    let answer = retired(&bench, retire(V2)).await?;
    assert!(answer.deleted, "{answer:?}");
    none_named(&bench, "api_v2_branch").await?;
    // What was kept is ours, and stays until somebody deletes it.
    bench.branch_named("kept").await?;
    bench.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_default_branch_is_retired_once_another_is() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let v2 = bench.branch_named("api_v2_branch").await?;
    let main = bench.branch_named("main").await?;
    let request = proto::broker::v1::SetDefaultBranchRequest {
        name: format!("branches/{v2}"),
        ..Default::default()
    };
    bench
        .broker
        .branches()
        .await?
        .set_default_branch(request)
        .await?;
    let mut bindings = bench.broker.bindings().await?;
    let denied = bindings.retire_version(retire(V2)).await;
    let denied = refused(denied, Code::FailedPrecondition, None);
    let info = denied.get_details_error_info().context("a reason")?;
    assert_eq!(info.reason, "BRANCH_DEFAULT");
    let missing = RetireVersionRequest {
        new_default_branch: "branches/br-not-there-12345678".to_owned(),
        ..retire(V2)
    };
    let missing = bindings.retire_version(missing).await;
    refused(missing, Code::NotFound, Some("new_default_branch"));
    let request = RetireVersionRequest {
        new_default_branch: format!("branches/{main}"),
        ..retire(V2)
    };
    assert!(retired(&bench, request).await?.deleted);
    let there = bench.branches().await?;
    let default = there
        .iter()
        .find(|branch| branch.default)
        .context("a default branch")?;
    assert_eq!(default.id, main);
    bench.stop().await
}

/// Where a branch is now.
async fn lsn(bench: &Bench, branch: &neon_api::BranchId) -> anyhow::Result<String> {
    let uri = bench.emulator.uri(branch).await?;
    let owner = bench.session(uri.expose()).await?;
    let row = owner
        .query_one("SELECT pg_current_wal_lsn()::text", &[])
        .await?;
    Ok(row.get(0))
}
