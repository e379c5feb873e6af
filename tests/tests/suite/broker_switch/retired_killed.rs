//! Versions whose retirement goes on after its broker was killed, at each of its steps.

use anyhow::{Context, ensure};
use prost::Message as _;
use proto::broker::v1::{Access, RetireVersionRequest, RetireVersionResponse};
use proto::google::longrunning::operation::Result as Ended;
use suite::eventually;
use tonic::Code;
use tonic_types::StatusExt as _;

use super::held::{Dead, Held, Stalled, ended, operation, takes_up};
use super::killed::TAKEN_UP_SECONDS;
use super::retired::{none_named, retire};
use super::{Bench, seconds};
use crate::broker_leasing::{V1, V2, on_binding};
use crate::details::refused;

const RETIRE: &str = "RetireVersion";
const BRANCH: &str = "/projects/{project_id}/branches/{branch_id}";
const DEFAULT: &str = "/projects/{project_id}/branches/{branch_id}/set_as_default";
const ENDPOINT: &str = "/projects/{project_id}/endpoints/{endpoint_id}";
const OPERATION_ENDS: &str = "NEW.done AND NEW.method = 'RetireVersion'";

/// What a broker does when it is killed.
enum Step {
    /// It asks Neon for something, again and again.
    Asks(Stalled),
    /// It is about to write down that all is done.
    Ends(Held),
}

impl Step {
    async fn asks(
        bench: &Bench,
        method: &'static str,
        route: &'static str,
        part: &str,
    ) -> anyhow::Result<Step> {
        Ok(Step::Asks(Stalled::on(bench, method, route, part).await?))
    }

    async fn ends(bench: &Bench) -> anyhow::Result<Step> {
        let held = Held::on(bench, "operations", OPERATION_ENDS).await?;
        Ok(Step::Ends(held))
    }
}

/// Begins a retirement, kills its broker at that step, and lets another end it.
async fn killed(
    bench: Bench,
    request: RetireVersionRequest,
    step: Step,
) -> anyhow::Result<(Bench, RetireVersionResponse)> {
    let mut bindings = bench.broker.bindings().await?;
    let version = request.name.clone();
    bindings.retire_version(request).await?;
    match &step {
        Step::Asks(stalled) => stalled.is_met().await?,
        Step::Ends(held) => held.is_met().await?,
    }
    let dead = Dead::kill(bench).await?;
    match step {
        Step::Asks(stalled) => stalled.end().await?,
        Step::Ends(held) => held.undo().await?,
    }
    // Nobody has taken it up yet, and it gives no leases all the same.
    let bench = dead.start().await?;
    is_retired(&bench, &version).await?;
    bench.clock.set(TAKEN_UP_SECONDS)?;
    let answer = answered(&bench).await?;
    is_retired(&bench, &version).await?;
    Ok((bench, answer))
}

async fn answered(bench: &Bench) -> anyhow::Result<RetireVersionResponse> {
    match ended(&bench.broker, RETIRE).await?.result {
        Some(Ended::Response(any)) => Ok(RetireVersionResponse::decode(&*any.value)?),
        ended => anyhow::bail!("{ended:?}"),
    }
}

async fn is_retired(bench: &Bench, version: &str) -> anyhow::Result<()> {
    let mut leases = bench.broker.leases().await?;
    let given = leases.acquire_lease(on_binding(version, Access::ReadOnly));
    let denied = refused(given.await, Code::FailedPrecondition, None);
    let info = denied.get_details_error_info().context("a reason")?;
    ensure!(info.reason == "BINDING_RETIRED", "{denied:?}");
    Ok(())
}

/// v2, whose branch has no children, is retired.
async fn without_children(bench: Bench, step: Step) -> anyhow::Result<()> {
    let main = bench.branch_named("main").await?;
    let v2 = bench.branch_named("api_v2_branch").await?;
    let request = RetireVersionRequest {
        new_default_branch: format!("branches/{main}"),
        ..retire(V2)
    };
    let (bench, answer) = killed(bench, request, step).await?;
    ensure!(answer.deleted, "{answer:?}");
    assert_eq!(answer.branch, format!("branches/{v2}"));
    none_named(&bench, "api_v2_branch").await?;
    none_named(&bench, "retired/").await?;
    // The other one goes on.
    bench.acquire(on_binding(V1, Access::ReadOnly)).await?;
    bench.stop().await
}

/// v1, whose branch v2's was forked from, is retired.
async fn with_children(bench: Bench, step: Step) -> anyhow::Result<()> {
    let v1 = bench.branch_named("api_v1_branch").await?;
    let v2 = bench.branch_named("api_v2_branch").await?;
    let (bench, answer) = killed(bench, retire(V1), step).await?;
    ensure!(!answer.deleted, "{answer:?}");
    assert_eq!(answer.branch_display_name, "retired/api_v1_branch");
    assert_eq!(answer.children, [format!("branches/{v2}")]);
    assert_eq!(bench.branch_named("retired/api_v1_branch").await?, v1);
    let (client, project) = (bench.emulator.client(), bench.emulator.project());
    let endpoints = client.list_branch_endpoints(project, &v1).await?.endpoints;
    ensure!(endpoints.is_empty(), "{endpoints:?}");
    bench.acquire(on_binding(V2, Access::ReadOnly)).await?;
    // It goes with its last child.
    let request = RetireVersionRequest {
        drain_timeout: Some(seconds(0)),
        ..retire(V2)
    };
    let mut bindings = bench.broker.bindings().await?;
    bindings.retire_version(request).await?;
    ensure!(answered(&bench).await?.deleted);
    none_named(&bench, "api_v").await?;
    bench.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retirement_that_was_written_down_is_finished() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let step = Step::asks(&bench, "POST", DEFAULT, "/set_as_default").await?;
    Box::pin(without_children(bench, step)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retirement_whose_branch_is_being_deleted_is_finished() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let v2 = bench.branch_named("api_v2_branch").await?;
    let step = Step::asks(&bench, "DELETE", BRANCH, v2.as_str()).await?;
    Box::pin(without_children(bench, step)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retirement_whose_branch_is_deleted_is_finished() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let step = Step::ends(&bench).await?;
    Box::pin(without_children(bench, step)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retirement_whose_branch_is_being_renamed_is_finished() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let v1 = bench.branch_named("api_v1_branch").await?;
    let step = Step::asks(&bench, "PATCH", BRANCH, v1.as_str()).await?;
    Box::pin(with_children(bench, step)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retirement_whose_branch_is_renamed_is_finished() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let step = Step::asks(&bench, "DELETE", ENDPOINT, "/endpoints/").await?;
    Box::pin(with_children(bench, step)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retirement_whose_branch_has_no_endpoints_left_is_finished() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let step = Step::ends(&bench).await?;
    Box::pin(with_children(bench, step)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_of_a_retired_version_keep_their_time_though_its_broker_is_killed()
-> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let mut request = on_binding(V2, Access::ReadOnly);
    request.ttl = Some(seconds(3_000));
    let given = bench.acquire(request).await?;
    let session = bench.session(&given.uri).await?;
    let draining = RetireVersionRequest {
        drain_timeout: Some(seconds(100)),
        ..retire(V2)
    };
    let mut bindings = bench.broker.bindings().await?;
    bindings.retire_version(draining).await?;
    eventually("it is written down", async || {
        let mut leases = bench.broker.leases().await?;
        let given = leases.acquire_lease(on_binding(V2, Access::ReadWrite));
        ensure!(given.await.is_err(), "leases are given");
        Ok(())
    })
    .await?;
    let dead = Dead::kill(bench).await?;
    dead.clock.set(TAKEN_UP_SECONDS)?;
    let bench = dead.start().await?;
    takes_up(&bench.broker).await?;
    // Its time is as it was, and not counted anew.
    is_retired(&bench, V2).await?;
    bench.get(&given.lease.name).await?;
    session.batch_execute("SELECT count(*) FROM users").await?;
    let running = operation(&bench.broker, RETIRE).await?;
    ensure!(!running.done, "{running:?}");
    bench.clock.set(101)?;
    ensure!(answered(&bench).await?.deleted);
    ensure!(session.batch_execute("SELECT 1").await.is_err());
    none_named(&bench, "api_v2_branch").await?;
    bench.stop().await
}
