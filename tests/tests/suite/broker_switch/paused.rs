//! Consumers hold back while their branch gets other data.

use proto::broker::v1::{ResetBranchRequest, SwitchPhase};
use proto::google::longrunning::{Operation, WaitOperationRequest};
use suite::Broker;

use super::{Bench, Consumer, binding, current, next_branch, seconds, switch, to};

/// Begins to give the binding's branch its parent's data.
pub(super) async fn reset(broker: &Broker) -> anyhow::Result<Operation> {
    let request = ResetBranchRequest {
        name: binding(broker).await?.branch,
        preserve_under_name: format!("before_{}", uuid::Uuid::new_v4().simple()),
        ..Default::default()
    };
    let mut branches = broker.branches().await?;
    Ok(branches.reset_branch(request).await?.into_inner())
}

/// An operation once it is done, or after so many seconds.
pub(super) async fn waited(
    broker: &Broker,
    operation: &Operation,
    most_seconds: Option<i64>,
) -> anyhow::Result<Operation> {
    let request = WaitOperationRequest {
        name: operation.name.clone(),
        timeout: most_seconds.map(seconds),
    };
    let mut operations = broker.operations().await?;
    Ok(operations.wait_operation(request).await?.into_inner())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_waits_until_consumers_hold_back() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let mut one = Consumer::join(&bench.broker, "one").await?;
    let before = current(&one.state);
    let old = one.session(&bench, false).await?;
    let operation = reset(&bench.broker).await?;
    let pause = one.told_to_hold_back().await?;
    assert!(!pause.writes_only && pause.deadline.is_some());
    assert!(pause.reason.contains("reset"), "{pause:?}");
    // It is not reset: a reset that waits for nobody would be over by then.
    let waiting = waited(&bench.broker, &operation, Some(3)).await?;
    assert!(!waiting.done, "{waiting:?}");
    old.batch_execute("SELECT count(*) FROM users").await?;
    assert_eq!(current(&one.state), before);
    one.ack(pause.generation).await?;
    let after = waited(&bench.broker, &operation, None).await?;
    assert!(after.done, "{after:?}");
    one.until("it goes on", |state| {
        state.pause.is_none() && current(state) > before
    })
    .await?;
    assert!(current(&one.state) > pause.generation);
    one.session(&bench, false).await?;
    bench.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_that_says_nothing_holds_a_reset_up_no_longer_than_the_grace()
-> anyhow::Result<()> {
    let bench = Bench::start_with(|config| {
        let text = config.text()?;
        config.write(&text.replace("[leases]", "[leases]\nack_grace = \"1s\""))
    })
    .await?;
    let mut one = Consumer::join(&bench.broker, "one").await?;
    let before = current(&one.state);
    let operation = reset(&bench.broker).await?;
    let after = waited(&bench.broker, &operation, None).await?;
    assert!(after.done, "{after:?}");
    one.until("it has the new data", |state| current(state) > before)
        .await?;
    assert!(one.state.pause.is_none());
    bench.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_branch_is_not_reset_beneath_a_switch() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let mut one = Consumer::join(&bench.broker, "one").await?;
    let next = next_branch(&bench, "next").await?;
    let mut switching = switch(&bench.broker, to(&next)).await?;
    let generation = one.pending().await?;
    let operation = reset(&bench.broker).await?;
    let failed = waited(&bench.broker, &operation, None).await?;
    let Some(proto::google::longrunning::operation::Result::Error(status)) = failed.result else {
        anyhow::bail!("it is not refused: {failed:?}");
    };
    assert!(status.message.contains("is being switched"), "{status:?}");
    one.ack(generation).await?;
    switching.until(SwitchPhase::Committed).await?;
    one.taken_over(generation).await?;
    bench.stop().await
}
