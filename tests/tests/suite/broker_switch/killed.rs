//! Switches whose broker is killed, and those of two brokers.

use anyhow::ensure;
use proto::broker::v1::{SwitchBindingRequest, SwitchPhase, WatchBindingRequest};
use suite::{Broker, eventually};

use super::two_brokers::waits_for_one;
use super::{Bench, Consumer, binding, current, next_branch, switch, to};

/// How far the clock is moved, in seconds, so that a broker takes up what another has
/// left: longer than that one may be silent, and shorter than consumers have.
pub(super) const TAKEN_UP_SECONDS: i64 = 20;

/// Where a broker is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// The branch is announced, and nobody has answered.
    Announced,
    /// One of two has.
    HalfAcknowledged,
    /// Writers are asked to wait.
    Fencing,
    /// The binding has moved, and nobody has drained.
    Committed,
}

/// The same broker again, and the same consumer on it.
async fn again(bench: Bench, by_seconds: i64) -> anyhow::Result<Bench> {
    let bench = Bench {
        broker: bench.broker.kill_and_start().await?,
        ..bench
    };
    bench.clock.set(by_seconds)?;
    bench.broker.is_ready().await?;
    Ok(bench)
}

/// The same consumer, on the broker that there is now.
pub(super) async fn back(bench: &Bench, consumer: Consumer) -> anyhow::Result<Consumer> {
    Consumer::watch(
        &bench.broker,
        consumer.lease.clone(),
        WatchBindingRequest::default(),
    )
    .await
}

async fn killed(at: At) -> anyhow::Result<()> {
    let mut bench = Bench::start().await?;
    let mut one = Consumer::join(&bench.broker, "one").await?;
    let mut other = Consumer::join(&bench.broker, "other").await?;
    let next = next_branch(&bench, "next").await?;
    let request = SwitchBindingRequest {
        fence: at == At::Fencing,
        ..to(&next)
    };
    let mut switching = switch(&bench.broker, request.clone()).await?;
    let generation = one.pending().await?;
    other.pending().await?;
    if at != At::Announced {
        one.ack(generation).await?;
        one.is_known(&bench.broker, generation).await?;
    }
    if matches!(at, At::Fencing | At::Committed) {
        other.ack(generation).await?;
    }
    match at {
        At::Announced | At::HalfAcknowledged => {}
        At::Fencing => drop(switching.until(SwitchPhase::Fencing).await?),
        At::Committed => drop(switching.until(SwitchPhase::Committed).await?),
    }
    bench = again(bench, TAKEN_UP_SECONDS).await?;
    one = back(&bench, one).await?;
    other = back(&bench, other).await?;
    // The same request is told of the same switch.
    let mut switching = match at {
        At::Committed => None,
        _ => Some(switch(&bench.broker, request).await?),
    };
    if at == At::Announced {
        assert_eq!(one.pending().await?, generation);
        one.ack(generation).await?;
    }
    if matches!(at, At::Announced | At::HalfAcknowledged) {
        assert_eq!(other.pending().await?, generation);
        other.ack(generation).await?;
    }
    if at == At::Fencing {
        for consumer in [&mut one, &mut other] {
            let is_over = |state: &proto::broker::v1::WatchBindingResponse| {
                state.pause.is_some() || current(state) == generation
            };
            consumer.until("writers are to wait", is_over).await?;
            if let Some(pause) = &consumer.state.pause {
                consumer.ack(pause.generation).await?;
            }
        }
    }
    one.taken_over(generation).await?;
    other.taken_over(generation).await?;
    assert_eq!(binding(&bench.broker).await?.branch, next);
    one.session(&bench, false).await?;
    one.drained(generation).await?;
    other.drained(generation).await?;
    if let Some(switching) = &mut switching {
        assert_eq!(switching.end().await?.phase(), SwitchPhase::Done);
    }
    eventually("it is done", async || {
        let last = binding(&bench.broker)
            .await?
            .last_switch
            .unwrap_or_default();
        ensure!(last.phase() == SwitchPhase::Done, "{last:?}");
        Ok(())
    })
    .await?;
    bench.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switch_that_was_announced_outlives_its_broker() -> anyhow::Result<()> {
    killed(At::Announced).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_outlives_its_broker() -> anyhow::Result<()> {
    killed(At::HalfAcknowledged).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switch_that_is_fencing_outlives_its_broker() -> anyhow::Result<()> {
    killed(At::Fencing).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switch_that_was_committed_outlives_its_broker() -> anyhow::Result<()> {
    killed(At::Committed).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consumers_of_two_brokers_take_a_switch_over_together() -> anyhow::Result<()> {
    let bench = Bench::start_with(|config| {
        let text = config.text()?;
        config.write(&text.replace("[leases]", "[leases]\nack_grace = \"3s\""))
    })
    .await?;
    let log = bench.folder.join("second.log");
    let (folder, config) = (&bench.folder, bench.config.path());
    let second = Broker::start_logging(folder, &bench.emulator, &config, &log).await?;
    second.is_ready().await?;
    let mut here = Consumer::join(&bench.broker, "here").await?;
    let mut there = Consumer::join(&second, "there").await?;
    let next = next_branch(&bench, "next").await?;
    let before = binding(&bench.broker).await?;
    let mut switching = switch(&bench.broker, to(&next)).await?;
    let generation = here.pending().await?;
    assert_eq!(there.pending().await?, generation);
    here.ack(generation).await?;
    waits_for_one(&mut switching, [&bench.broker, &second], &before).await?;
    there.session(&bench, true).await?;
    there.ack(generation).await?;
    switching.until(SwitchPhase::Committed).await?;
    here.taken_over(generation).await?;
    there.taken_over(generation).await?;
    assert_eq!(binding(&second).await?.branch, next);
    here.drained(generation).await?;
    there.drained(generation).await?;
    assert_eq!(switching.end().await?.phase(), SwitchPhase::Done);

    // One whose broker is gone, and who finds no other, is waited for no longer than the
    // grace.
    let back = here.state.current.clone().unwrap_or_default().branch;
    let source = binding(&bench.broker)
        .await?
        .last_switch
        .unwrap_or_default()
        .source;
    assert_ne!(back, source);
    let mut switching = switch(&bench.broker, to(&source)).await?;
    let generation = here.pending().await?;
    second.process.kill().await?;
    here.ack(generation).await?;
    switching.until(SwitchPhase::Committed).await?;
    here.taken_over(generation).await?;
    bench.stop().await
}
