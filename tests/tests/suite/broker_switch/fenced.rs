//! A switch that closes the old branch to writes first, and one that does not.

use anyhow::{Context, ensure};
use proto::broker::v1::{Access, ReleaseLeaseRequest, SwitchPhase};
use proto::google::longrunning::WaitOperationRequest;
use tokio_postgres::error::SqlState;
use tonic::Code;
use tonic_types::StatusExt as _;

use super::held::operation;
use super::{Bench, Consumer, binding, current, fenced_to, next_branch, seconds, switch, to};
use crate::broker_leasing::{V1, code, on_binding};
use crate::details::refused;

pub(super) const WRITE: &str =
    "INSERT INTO users (name, email) VALUES ('Late', 'late@example.org')";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fence_ends_writes_before_the_binding_moves() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let mut one = Consumer::join(&bench.broker, "one").await?;
    let old = one.session(&bench, false).await?;
    let stuck = one.session(&bench, false).await?;
    stuck.batch_execute(&format!("BEGIN; {WRITE}")).await?;
    let next = next_branch(&bench, "next").await?;
    let mut switching = switch(&bench.broker, fenced_to(&next)).await?;
    let generation = one.pending().await?;
    one.ack(generation).await?;
    let pause = one.told_to_hold_back().await?;
    assert!(pause.writes_only && pause.deadline.is_some());
    assert!(pause.generation > generation);
    assert_eq!(current(&one.state) + 1, generation, "nothing has moved yet");
    one.ack(pause.generation).await?;
    switching.until(SwitchPhase::Committed).await?;
    one.taken_over(generation).await?;
    assert!(one.state.pause.is_none());
    // Who wrote for too long was thrown out, and nothing was kept of it.
    assert!(stuck.batch_execute("COMMIT").await.is_err());
    assert_eq!(
        code(&old, WRITE).await,
        Some(SqlState::INSUFFICIENT_PRIVILEGE)
    );
    old.batch_execute("SELECT count(*) FROM users").await?;
    let new = one.session(&bench, false).await?;
    new.batch_execute(WRITE).await?;
    one.drained(generation).await?;
    assert_eq!(switching.end().await?.phase(), SwitchPhase::Done);

    // A binding that comes back has its writes back.
    let source = binding(&bench.broker)
        .await?
        .last_switch
        .context("the switch")?
        .source;
    let mut switching = switch(&bench.broker, to(&source)).await?;
    let generation = one.pending().await?;
    one.ack(generation).await?;
    switching.until(SwitchPhase::Committed).await?;
    one.taken_over(generation).await?;
    let back = one.session(&bench, false).await?;
    back.batch_execute(WRITE).await?;
    bench.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_fence_both_branches_take_writes_until_all_have_turned_over() -> anyhow::Result<()>
{
    let bench = Bench::start().await?;
    let mut one = Consumer::join(&bench.broker, "one").await?;
    let old = one.session(&bench, false).await?;
    let next = next_branch(&bench, "next").await?;
    let mut switching = switch(&bench.broker, to(&next)).await?;
    let generation = one.pending().await?;
    one.ack(generation).await?;
    switching.until(SwitchPhase::Committed).await?;
    one.taken_over(generation).await?;
    old.batch_execute(WRITE).await?;
    let new = one.session(&bench, false).await?;
    let rows = new
        .query("SELECT FROM users WHERE email = 'late@example.org'", &[])
        .await?;
    assert!(rows.is_empty(), "no rows are copied");
    bench.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fence_that_is_given_up_gives_the_writes_back() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let mut one = Consumer::join(&bench.broker, "one").await?;
    let mut other = Consumer::join(&bench.broker, "other").await?;
    let old = one.session(&bench, false).await?;
    let next = next_branch(&bench, "next").await?;
    let mut switching = switch(&bench.broker, fenced_to(&next)).await?;
    let generation = one.pending().await?;
    other.pending().await?;
    one.ack(generation).await?;
    other.ack(generation).await?;
    one.told_to_hold_back().await?;
    other.nack(generation, "too busy to wait").await?;
    assert!(switching.end().await.is_err());
    one.until("they need not", |state| {
        state.pause.is_none() && state.pending.is_none()
    })
    .await?;
    old.batch_execute(WRITE).await?;
    bench.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_while_a_switch_is_fencing_and_watches_nothing_is_waited_for()
-> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let mut one = Consumer::join(&bench.broker, "one").await?;
    let before = binding(&bench.broker).await?;
    let next = next_branch(&bench, "next").await?;
    let mut switching = switch(&bench.broker, fenced_to(&next)).await?;
    let generation = one.pending().await?;
    one.ack(generation).await?;
    let pause = one.told_to_hold_back().await?;
    let late = bench.acquire(on_binding(V1, Access::ReadWrite)).await?;
    one.ack(pause.generation).await?;
    // It is not committed: one that looks at nobody who came late would be by then.
    let request = WaitOperationRequest {
        name: operation(&bench.broker, "SwitchBinding").await?.name,
        timeout: Some(seconds(3)),
    };
    let mut operations = bench.broker.operations().await?;
    let waiting = operations.wait_operation(request).await?.into_inner();
    ensure!(!waiting.done, "{waiting:?}");
    let now = binding(&bench.broker).await?;
    assert_eq!(
        (now.branch, now.generation),
        (before.branch, before.generation)
    );
    let release = ReleaseLeaseRequest {
        name: late.lease.name,
        ..Default::default()
    };
    bench.broker.leases().await?.release_lease(release).await?;
    switching.until(SwitchPhase::Committed).await?;
    one.taken_over(generation).await?;
    bench.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_fence_takes_the_writes_of_another_version() -> anyhow::Result<()> {
    const V3: &str = "services/users/versions/v3";
    let bench = Bench::start_with(|config| {
        let text = config.text()?;
        let beside = r#"
[services.users.versions.v3]
branch = "api_v1_branch"
revision = "2026-01-20-090000_lists_and_request_ids"
connections = 8
"#;
        config.write(&(text + beside))
    })
    .await?;
    let mut one = Consumer::join(&bench.broker, "one").await?;
    let beside = bench.acquire(on_binding(V3, Access::ReadWrite)).await?;
    ensure!(beside.lease.branch == binding(&bench.broker).await?.branch);
    let (mine, its) = (
        one.session(&bench, false).await?,
        bench.session(&beside.uri).await?,
    );
    let next = next_branch(&bench, "next").await?;
    let request = fenced_to(&next);
    // It is refused at once, or once it has looked.
    let mut bindings = bench.broker.bindings().await?;
    let ended = match bindings.switch_binding(request).await {
        Err(status) => Err(status),
        Ok(begun) => super::Switching(begun.into_inner()).end().await,
    };
    let denied = refused(ended, Code::FailedPrecondition, None);
    let info = denied.get_details_error_info().context("a reason")?;
    assert_eq!(info.reason, "FENCE_SHARED");
    let resource = denied.get_details_resource_info().context("which")?;
    assert_eq!(resource.resource_name, V3);

    // Nothing was taken, and nobody was told of anything.
    mine.batch_execute(WRITE).await?;
    its.batch_execute("UPDATE users SET name = 'Early'").await?;
    let last = binding(&bench.broker).await?.last_switch;
    ensure!(last.is_none(), "{last:?}");
    // Without a fence it may go.
    let mut switching = switch(&bench.broker, to(&next)).await?;
    let generation = one.pending().await?;
    ensure!(one.state.pause.is_none(), "{:?}", one.state);
    one.ack(generation).await?;
    switching.until(SwitchPhase::Committed).await?;
    one.taken_over(generation).await?;
    its.batch_execute("UPDATE users SET name = 'Earlier'")
        .await?;
    bench.stop().await
}
