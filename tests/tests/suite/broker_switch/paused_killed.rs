//! Consumers that hold back, and whose broker is gone before it lets them go on.

use anyhow::{Context, ensure};
use proto::broker::v1::WatchBindingRequest;
use proto::google::longrunning::CancelOperationRequest;
use proto::google::longrunning::operation::Result as Ended;

use super::held::{Dead, Stalled, ended};
use super::paused::reset;
use super::two_brokers::{left_to, second};
use super::{Bench, Consumer, current};

const RESET: &str = "ResetBranch";
const RESTORE: &str = "/projects/{project_id}/branches/{branch_id}/restore";
/// Past the deadline of a pause that begins at 0, in seconds; leases live on.
const PAST_SECONDS: i64 = 90;

/// Reads until the consumer is asked to hold back. The pause's generation.
async fn paused(one: &mut Consumer) -> anyhow::Result<i64> {
    one.until("it is to hold back", |state| state.pause.is_some())
        .await?;
    let pause = one.state.pause.clone().context("a pause")?;
    ensure!(pause.deadline.is_some(), "{pause:?}");
    Ok(pause.generation)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_ends_though_its_broker_was_killed() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let mut one = Consumer::join(&bench.broker, "one").await?;
    let before = current(&one.state);
    let old = one.session(&bench, false).await?;
    let stalled = Stalled::on(&bench, "POST", RESTORE, "/restore").await?;
    reset(&bench.broker).await?;
    let first = paused(&mut one).await?;
    one.ack(first).await?;
    stalled.is_met().await?;
    let dead = Dead::kill(bench).await?;
    dead.clock.set(PAST_SECONDS)?;
    // By the deadline it goes on with what it has, whoever is there.
    old.batch_execute("SELECT count(*) FROM users").await?;
    stalled.end().await?;
    let bench = dead.start().await?;
    let lease = one.lease.clone();
    let mut one = Consumer::watch(&bench.broker, lease, WatchBindingRequest::default()).await?;
    // Whoever takes the reset up asks anew, and ends it.
    loop {
        let pause = one.state.pause.clone();
        let is_of_before = pause.as_ref().is_some_and(|one| one.generation <= first);
        ensure!(!is_of_before, "it has passed: {:?}", one.state);
        match pause {
            None if current(&one.state) > before => break,
            Some(again) => one.ack(again.generation).await?,
            None => {}
        }
        one.next().await?;
    }
    let done = ended(&bench.broker, RESET).await?;
    ensure!(matches!(done.result, Some(Ended::Response(_))), "{done:?}");
    let new = one.session(&bench, false).await?;
    new.batch_execute("SELECT count(*) FROM users").await?;
    bench.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_that_nobody_ends_passes_at_its_deadline() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let second = second(&bench).await?;
    let mut one = Consumer::join(&second, "one").await?;
    let before = current(&one.state);
    let operation = reset(&bench.broker).await?;
    // It has not acknowledged when the broker dies: nothing is changed yet.
    let first = paused(&mut one).await?;
    let bench = left_to(second, bench).await?;
    let mut operations = bench.broker.operations().await?;
    let name = operation.name;
    operations
        .cancel_operation(CancelOperationRequest { name })
        .await?;
    let cancelled = ended(&bench.broker, RESET).await?;
    let Some(Ended::Error(status)) = cancelled.result else {
        anyhow::bail!("it is not cancelled: {cancelled:?}");
    };
    ensure!(
        status.code == i32::from(tonic::Code::Cancelled),
        "{status:?}"
    );
    // Nobody is left who lets it go on, but the time.
    let lease = one.lease.clone();
    let late = Consumer::watch(&bench.broker, lease, WatchBindingRequest::default()).await?;
    let pause = late.state.pause.clone().context("a pause")?;
    assert_eq!(pause.generation, first);
    bench.clock.set(PAST_SECONDS)?;
    one.until("the pause has passed", |state| state.pause.is_none())
        .await?;
    assert_eq!(current(&one.state), before);
    one.session(&bench, false).await?;
    bench.stop().await
}
