//! Switches whose broker is killed between two steps of its own: nobody was told yet, or
//! what was done is not written down yet.
//!
//! That a switch is fenced is no step of the state: the rights are gone before the
//! binding moves. That it is done, and that its operation is, are two steps.

use anyhow::{Context, ensure};
use prost::Message as _;
use proto::broker::v1::{Access, Switch, SwitchPhase};
use proto::google::longrunning::CancelOperationRequest;
use proto::google::longrunning::operation::Result as Ended;
use suite::eventually;
use tokio_postgres::error::SqlState;
use tonic::Code;

use super::fenced::WRITE;
use super::held::{Dead, Held, Stalled, ended, operation};
use super::killed::{TAKEN_UP_SECONDS, back};
use super::two_brokers::{left_to, second};
use super::{Bench, Consumer, binding, current, fenced_to, next_branch, switch, to};
use crate::broker_leasing::{V1, code, on_binding};

const SWITCH: &str = "SwitchBinding";
const ENDPOINTS: &str = "/projects/{project_id}/branches/{branch_id}/endpoints";
const OPERATION_ENDS: &str = "NEW.done AND NEW.method = 'SwitchBinding'";

/// A switch that was begun and is not announced: Neon does not say whether the branch
/// has an endpoint.
async fn preparing(bench: &Bench, next: &str) -> anyhow::Result<Stalled> {
    let stalled = Stalled::on(bench, "GET", ENDPOINTS, next).await?;
    let mut switching = switch(&bench.broker, to(next)).await?;
    switching.until(SwitchPhase::Preparing).await?;
    stalled.is_met().await?;
    let last = binding(&bench.broker).await?.last_switch;
    ensure!(last.is_none(), "{last:?}");
    Ok(stalled)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switch_that_nobody_was_told_of_outlives_its_broker() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let one = Consumer::join(&bench.broker, "one").await?;
    let next = next_branch(&bench, "next").await?;
    let before = binding(&bench.broker).await?;
    let stalled = preparing(&bench, &next).await?;
    let dead = Dead::kill(bench).await?;
    stalled.end().await?;
    dead.clock.set(TAKEN_UP_SECONDS)?;
    let bench = dead.start().await?;
    let mut one = back(&bench, one).await?;
    let generation = one.pending().await?;
    assert_eq!(binding(&bench.broker).await?.branch, before.branch);
    assert_eq!(current(&one.state), before.generation);
    one.session(&bench, true).await?;
    one.ack(generation).await?;
    one.taken_over(generation).await?;
    one.drained(generation).await?;
    is_done(&bench, &next).await?;
    bench.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switch_that_nobody_was_told_of_is_cancelled_though_its_broker_is_gone()
-> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let one = Consumer::join(&bench.broker, "one").await?;
    let next = next_branch(&bench, "next").await?;
    let before = binding(&bench.broker).await?;
    let stalled = preparing(&bench, &next).await?;
    // The branch stays as it is: who takes it up gets no further.
    let bench = Dead::kill(bench).await?.start().await?;
    let name = operation(&bench.broker, SWITCH).await?.name;
    let mut operations = bench.broker.operations().await?;
    operations
        .cancel_operation(CancelOperationRequest { name })
        .await?;
    let cancelled = ended(&bench.broker, SWITCH).await?;
    is_refused(cancelled.result, Code::Cancelled, "")?;
    stalled.end().await?;
    bench.clock.set(TAKEN_UP_SECONDS)?;
    let one = back(&bench, one).await?;
    ensure!(one.state.pending.is_none(), "{:?}", one.state);
    is_as_before(&bench, one, &before).await?;
    bench.stop().await
}

/// A fenced switch whose broker has taken the rights to write, and is about to write
/// down that the binding moves.
async fn fenced(
    bench: &Bench,
    consumers: &mut [&mut Consumer],
    next: &str,
) -> anyhow::Result<(Held, i64)> {
    let held = Held::on(bench, "moves", "NEW.phase = 'committed'").await?;
    // It goes on without somebody who listens.
    drop(switch(&bench.broker, fenced_to(next)).await?);
    let mut generation = 0;
    for consumer in consumers.iter_mut() {
        generation = consumer.pending().await?;
        consumer.ack(generation).await?;
    }
    for consumer in consumers.iter_mut() {
        consumer
            .until("writers are to wait", |state| state.pause.is_some())
            .await?;
        let pause = consumer.state.pause.clone().context("a pause")?;
        consumer.ack(pause.generation).await?;
    }
    held.is_met().await?;
    Ok((held, generation))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switch_that_has_taken_the_writes_outlives_its_broker() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let mut one = Consumer::join(&bench.broker, "one").await?;
    let old = one.session(&bench, false).await?;
    let next = next_branch(&bench, "next").await?;
    let before = binding(&bench.broker).await?;
    let (held, generation) = fenced(&bench, &mut [&mut one], &next).await?;
    is_closed(&old).await?;
    let dead = Dead::kill(bench).await?;
    held.undo().await?;
    dead.clock.set(TAKEN_UP_SECONDS)?;
    let bench = dead.start().await?;
    let mut one = back(&bench, one).await?;
    one.taken_over(generation).await?;
    // Nothing can be written where the binding was.
    is_closed(&old).await?;
    let new = one.session(&bench, false).await?;
    new.batch_execute(WRITE).await?;
    one.drained(generation).await?;
    is_done(&bench, &next).await?;
    assert_ne!(before.branch, next);
    bench.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_that_were_taken_are_given_back_by_another_broker() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let second = second(&bench).await?;
    let mut one = Consumer::join(&bench.broker, "one").await?;
    let mut other = Consumer::join(&second, "other").await?;
    let old = one.session(&bench, false).await?;
    let next = next_branch(&bench, "next").await?;
    let before = binding(&bench.broker).await?;
    let (held, generation) = fenced(&bench, &mut [&mut one, &mut other], &next).await?;
    is_closed(&old).await?;
    let bench = left_to(second, bench).await?;
    held.undo().await?;
    // Before anybody has taken it up.
    other.nack(generation, "no room").await?;
    eventually("it is given up", async || {
        let last = binding(&bench.broker).await?.last_switch;
        let last = last.context("the switch")?;
        ensure!(last.phase() == SwitchPhase::Reverted, "{last:?}");
        Ok(())
    })
    .await?;
    bench.clock.set(TAKEN_UP_SECONDS)?;
    let failed = ended(&bench.broker, SWITCH).await?;
    is_refused(failed.result, Code::Aborted, "no room")?;
    old.batch_execute(WRITE).await?;
    let nothing_is_to_come = |state: &proto::broker::v1::WatchBindingResponse| {
        state.pending.is_none() && state.pause.is_none()
    };
    other.until("it is given up", nothing_is_to_come).await?;
    assert_eq!(current(&other.state), before.generation);
    // It has no say in what comes next.
    bench.release(&other.lease).await?;
    let mut one = back(&bench, one).await?;
    one.until("it is given up", nothing_is_to_come).await?;
    is_as_before(&bench, one, &before).await?;
    bench.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switch_that_is_done_ends_though_its_broker_is_gone() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let mut one = Consumer::join(&bench.broker, "one").await?;
    let next = next_branch(&bench, "next").await?;
    let before = binding(&bench.broker).await?;
    let held = Held::on(&bench, "operations", OPERATION_ENDS).await?;
    let mut switching = switch(&bench.broker, to(&next)).await?;
    let generation = one.pending().await?;
    one.ack(generation).await?;
    switching.until(SwitchPhase::Committed).await?;
    one.taken_over(generation).await?;
    one.drained(generation).await?;
    held.is_met().await?;
    let dead = Dead::kill(bench).await?;
    held.undo().await?;
    dead.clock.set(TAKEN_UP_SECONDS)?;
    let bench = dead.start().await?;
    is_done(&bench, &next).await?;
    let one = back(&bench, one).await?;
    assert_eq!(current(&one.state), generation);
    // Nothing is in the way of the next.
    moves(&bench, one, &before.branch).await?;
    bench.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switch_that_was_refused_ends_though_its_broker_is_gone() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let mut one = Consumer::join(&bench.broker, "one").await?;
    let next = next_branch(&bench, "next").await?;
    let before = binding(&bench.broker).await?;
    let held = Held::on(&bench, "operations", OPERATION_ENDS).await?;
    drop(switch(&bench.broker, to(&next)).await?);
    let generation = one.pending().await?;
    one.nack(generation, "no room").await?;
    held.is_met().await?;
    let dead = Dead::kill(bench).await?;
    held.undo().await?;
    dead.clock.set(TAKEN_UP_SECONDS)?;
    let bench = dead.start().await?;
    let failed = ended(&bench.broker, SWITCH).await?;
    is_refused(failed.result, Code::Aborted, "no room")?;
    let one = back(&bench, one).await?;
    ensure!(one.state.pending.is_none(), "{:?}", one.state);
    is_as_before(&bench, one, &before).await?;
    bench.stop().await
}

async fn is_closed(old: &tokio_postgres::Client) -> anyhow::Result<()> {
    let said = code(old, WRITE).await;
    ensure!(said == Some(SqlState::INSUFFICIENT_PRIVILEGE), "{said:?}");
    Ok(())
}

fn is_refused(ended: Option<Ended>, code: Code, why: &str) -> anyhow::Result<()> {
    let Some(Ended::Error(status)) = ended else {
        anyhow::bail!("it is not refused: {ended:?}");
    };
    ensure!(status.code == i32::from(code), "{status:?}");
    ensure!(status.message.contains(why), "{status:?}");
    Ok(())
}

/// Waits until the switch has ended well, and everything leads to its branch.
async fn is_done(bench: &Bench, next: &str) -> anyhow::Result<()> {
    let done = ended(&bench.broker, SWITCH).await?;
    let Some(Ended::Response(any)) = done.result else {
        anyhow::bail!("it ends well: {done:?}");
    };
    let done = Switch::decode(&*any.value)?;
    ensure!(done.phase() == SwitchPhase::Done, "{done:?}");
    let now = binding(&bench.broker).await?;
    let last = now.last_switch.context("the switch")?;
    ensure!(last.phase() == SwitchPhase::Done, "{last:?}");
    ensure!(now.branch == next && now.generation == done.generation);
    let later = bench.acquire(on_binding(V1, Access::ReadOnly)).await?;
    ensure!(later.lease.branch == next, "{:?}", later.lease);
    bench.release(&later.lease).await
}

/// Fails unless the binding, and who has a lease, are where they were; and it can go.
async fn is_as_before(
    bench: &Bench,
    one: Consumer,
    before: &proto::broker::v1::Binding,
) -> anyhow::Result<()> {
    let now = binding(&bench.broker).await?;
    ensure!(now.branch == before.branch && now.generation == before.generation);
    ensure!(current(&one.state) == before.generation, "{:?}", one.state);
    one.session(bench, false).await?;
    let next = format!("branches/{}", bench.branch_named("next").await?);
    moves(bench, one, &next).await
}

/// Switches the binding there, with all who have a say.
async fn moves(bench: &Bench, mut one: Consumer, branch: &str) -> anyhow::Result<()> {
    let mut switching = switch(&bench.broker, to(branch)).await?;
    let generation = one.pending().await?;
    one.ack(generation).await?;
    switching.until(SwitchPhase::Committed).await?;
    one.taken_over(generation).await
}
