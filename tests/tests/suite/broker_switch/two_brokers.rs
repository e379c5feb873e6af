//! Switches and resets of two brokers that share their state: begun at either, and taken
//! up by the one from the other.

use anyhow::{Context, ensure};
use proto::broker::v1::{Binding, SwitchPhase, SwitchVote};
use proto::google::longrunning::operation::Result as Ended;
use suite::Broker;

use super::held::{ended, operation, takes_up};
use super::killed::TAKEN_UP_SECONDS;
use super::paused::{reset, waited};
use super::{Bench, Consumer, Switching, binding, current, next_branch, switch, to};

const SWITCH: &str = "SwitchBinding";
/// What works on in the background says so once.
const LEADS: &str = "works in the background from now on";
/// Many times what a broker needs to see that all have acknowledged, in seconds, and much
/// less than `leases.ack_grace`.
const LONG_SECONDS: i64 = 2;

/// A second broker on the same state, by the same clock.
pub(super) async fn second(bench: &Bench) -> anyhow::Result<Broker> {
    let log = bench.folder.join("second.log");
    let (folder, config) = (&bench.folder, bench.config.path());
    let second =
        Broker::start_clocked_logging(folder, &bench.emulator, &config, &bench.clock, &log).await?;
    second.is_ready().await?;
    ensure!(
        !second.process.log().contains(LEADS),
        "the first one works in the background"
    );
    Ok(second)
}

/// The first broker is killed, and the second is the bench's from now on.
pub(super) async fn left_to(second: Broker, bench: Bench) -> anyhow::Result<Bench> {
    bench.broker.process.kill().await?;
    Ok(Bench {
        broker: second,
        ..bench
    })
}

/// Fails unless the switch goes on waiting, at each broker, once one of two is known to
/// have acknowledged it.
pub(super) async fn waits_for_one(
    switching: &mut Switching,
    brokers: [&Broker; 2],
    before: &Binding,
) -> anyhow::Result<()> {
    let half = switching
        .until_it(|switch| {
            let votes = || switch.voters.iter().map(|voter| voter.vote());
            votes().any(|vote| vote == SwitchVote::Ack)
        })
        .await?;
    ensure!(half.phase() == SwitchPhase::Announced, "{half:?}");
    for broker in brokers {
        let running = operation(broker, SWITCH).await?;
        let running = waited(broker, &running, Some(LONG_SECONDS)).await?;
        ensure!(!running.done, "{running:?}");
        let now = binding(broker).await?;
        ensure!(now.branch == before.branch, "{now:?}");
        ensure!(now.generation == before.generation, "{now:?}");
        let last = now.last_switch.context("the switch")?;
        ensure!(last.phase() == SwitchPhase::Announced, "{last:?}");
    }
    Ok(())
}

/// The runner of a switch is killed that one of two consumers has acknowledged, both of
/// which are another broker's.
async fn half_of_it(
    bench: Bench,
    second: Broker,
) -> anyhow::Result<(Bench, [Consumer; 2], String, i64)> {
    let mut one = Consumer::join(&second, "one").await?;
    let mut other = Consumer::join(&second, "other").await?;
    let next = next_branch(&bench, "next").await?;
    drop(switch(&bench.broker, to(&next)).await?);
    let generation = one.pending().await?;
    assert_eq!(other.pending().await?, generation);
    one.ack(generation).await?;
    one.is_known(&second, generation).await?;
    let bench = left_to(second, bench).await?;
    bench.clock.set(TAKEN_UP_SECONDS)?;
    takes_up(&bench.broker).await?;
    let last = binding(&bench.broker).await?.last_switch;
    let last = last.context("the switch")?;
    ensure!(last.phase() == SwitchPhase::Announced, "{last:?}");
    Ok((bench, [one, other], next, generation))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_finishes_the_switch_of_one_that_is_killed() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let second = second(&bench).await?;
    let (bench, [mut one, mut other], next, generation) = half_of_it(bench, second).await?;
    // What is to be next is still so: it is the same switch.
    let mut switching = switch(&bench.broker, to(&next)).await?;
    let told = switching.until(SwitchPhase::Announced).await?;
    assert_eq!((told.generation, told.voters.len()), (generation, 2));
    other.session(&bench, true).await?;
    other.ack(generation).await?;
    switching.until(SwitchPhase::Committed).await?;
    for consumer in [&mut one, &mut other] {
        consumer.taken_over(generation).await?;
        consumer.session(&bench, false).await?;
        consumer.drained(generation).await?;
    }
    assert_eq!(switching.end().await?.phase(), SwitchPhase::Done);
    assert_eq!(binding(&bench.broker).await?.branch, next);
    bench.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_gives_up_the_switch_of_one_that_is_killed() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let before = binding(&bench.broker).await?;
    let second = second(&bench).await?;
    let (bench, consumers, _, generation) = half_of_it(bench, second).await?;
    consumers[1].nack(generation, "no room").await?;
    let failed = ended(&bench.broker, SWITCH).await?;
    let Some(Ended::Error(status)) = failed.result else {
        anyhow::bail!("it is not given up: {failed:?}");
    };
    ensure!(status.message.contains("no room"), "{status:?}");
    for mut consumer in consumers {
        consumer
            .until("it is given up", |state| state.pending.is_none())
            .await?;
        assert_eq!(current(&consumer.state), before.generation);
        consumer.session(&bench, false).await?;
    }
    let now = binding(&bench.broker).await?;
    assert_eq!(
        (now.branch, now.generation),
        (before.branch, before.generation)
    );
    bench.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switch_is_asked_for_at_either_broker() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let second = second(&bench).await?;
    let mut here = Consumer::join(&bench.broker, "here").await?;
    let mut there = Consumer::join(&second, "there").await?;
    let next = next_branch(&bench, "next").await?;
    let before = binding(&bench.broker).await?;
    let mut switching = switch(&second, to(&next)).await?;
    let generation = here.pending().await?;
    assert_eq!(there.pending().await?, generation);
    assert_eq!(current(&here.state), before.generation);
    // The one that does the work hears of who watches elsewhere.
    there.ack(generation).await?;
    waits_for_one(&mut switching, [&bench.broker, &second], &before).await?;
    here.session(&bench, true).await?;
    here.ack(generation).await?;
    switching.until(SwitchPhase::Committed).await?;
    for consumer in [&mut here, &mut there] {
        consumer.taken_over(generation).await?;
        consumer.session(&bench, false).await?;
        consumer.drained(generation).await?;
    }
    assert_eq!(switching.end().await?.phase(), SwitchPhase::Done);
    for broker in [&bench.broker, &second] {
        assert_eq!(binding(broker).await?.branch, next);
    }
    second.process.stop().await?;
    bench.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consumers_of_both_brokers_hold_back_while_either_resets_their_branch() -> anyhow::Result<()>
{
    let bench = Bench::start().await?;
    let second = second(&bench).await?;
    let mut here = Consumer::join(&bench.broker, "here").await?;
    let mut there = Consumer::join(&second, "there").await?;
    let before = current(&here.state);
    let operation = reset(&second).await?;
    let mut pauses = Vec::new();
    for consumer in [&mut here, &mut there] {
        consumer
            .until("it is to hold back", |state| state.pause.is_some())
            .await?;
        let pause = consumer.state.pause.clone().context("a pause")?;
        ensure!(!pause.writes_only && pause.deadline.is_some(), "{pause:?}");
        pauses.push(pause.generation);
    }
    assert_eq!(pauses[0], pauses[1]);
    there.ack(pauses[0]).await?;
    there.is_known(&second, pauses[0]).await?;
    let waiting = waited(&second, &operation, Some(LONG_SECONDS)).await?;
    ensure!(!waiting.done, "it waits for both: {waiting:?}");
    here.ack(pauses[0]).await?;
    let done = waited(&second, &operation, None).await?;
    ensure!(matches!(done.result, Some(Ended::Response(_))), "{done:?}");
    for consumer in [&mut here, &mut there] {
        consumer
            .until("it goes on", |state| {
                state.pause.is_none() && current(state) > before
            })
            .await?;
        consumer.session(&bench, false).await?;
    }
    assert_eq!(current(&here.state), current(&there.state));
    second.process.stop().await?;
    bench.stop().await
}
