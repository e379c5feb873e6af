//! A switch and those who have a say in it.

use anyhow::{Context, ensure};
use proto::broker::v1::{
    Access, ApplyRequest, PlanRequest, SwitchPhase, SwitchVote, UnwatchedPolicy,
};
use suite::eventually;
use tonic::Code;
use tonic_types::StatusExt as _;

use super::{Bench, Consumer, binding, current, next_branch, proceeding, seconds, switch, to};
use crate::broker_leasing::{V1, on_binding};
use crate::details::refused;

fn votes(switch: &proto::broker::v1::Switch) -> Vec<SwitchVote> {
    let mut votes: Vec<SwitchVote> = switch.voters.iter().map(|voter| voter.vote()).collect();
    votes.sort();
    votes
}

fn reason(status: &tonic::Status) -> String {
    status
        .get_details_error_info()
        .map_or(String::new(), |info| info.reason)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_consumers_take_a_switch_over_together() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let mut one = Consumer::join(&bench.broker, "one").await?;
    let mut other = Consumer::join(&bench.broker, "other").await?;
    let before = binding(&bench.broker).await?;
    let old = one.session(&bench, false).await?;
    let next = next_branch(&bench, "next").await?;

    let mut switching = switch(&bench.broker, to(&next)).await?;
    let announced = switching.until(SwitchPhase::Announced).await?;
    assert_eq!(votes(&announced), [SwitchVote::Waiting; 2]);
    assert_eq!(
        (announced.source, &announced.branch),
        (before.branch, &next)
    );
    let generation = one.pending().await?;
    assert_eq!(other.pending().await?, generation);
    assert_eq!(current(&one.state), before.generation, "no traffic yet");
    let warm = one.session(&bench, true).await?;
    warm.batch_execute("SELECT count(*) FROM users").await?;
    one.ack(generation).await?;
    let half = switching
        .until_it(|switch| votes(switch).contains(&SwitchVote::Ack))
        .await?;
    assert_eq!(votes(&half), [SwitchVote::Waiting, SwitchVote::Ack]);
    assert_eq!(binding(&bench.broker).await?.generation, before.generation);

    other.session(&bench, true).await?;
    other.ack(generation).await?;
    switching.until(SwitchPhase::Committed).await?;
    one.taken_over(generation).await?;
    other.taken_over(generation).await?;
    // What was pending is what is current: the warm session goes on.
    warm.batch_execute("INSERT INTO users (name, email) VALUES ('Neo', 'neo@example.org')")
        .await?;
    // What was before is there until it is drained.
    old.batch_execute("SELECT count(*) FROM users").await?;
    one.drained(generation).await?;
    switching
        .until_it(|switch| votes(switch).contains(&SwitchVote::Drained))
        .await?;
    other.drained(generation).await?;
    let done = switching.end().await?;
    assert_eq!(done.phase(), SwitchPhase::Done);
    eventually("the roles of before are closed", async || {
        ensure!(old.batch_execute("SELECT 1").await.is_err());
        Ok(())
    })
    .await?;

    // It stays so: for a lease that comes later, an apply and another broker.
    let later = bench.acquire(on_binding(V1, Access::ReadOnly)).await?;
    assert_eq!(later.lease.branch, next);
    let mut config = bench.broker.config().await?;
    let applied = config.apply(ApplyRequest::default()).await?.into_inner();
    assert!(applied.steps.is_empty(), "{applied:?}");
    let plan = config.plan(PlanRequest::default()).await?.into_inner();
    assert!(
        plan.steps.is_empty() && plan.remarks[0].contains("switched to next"),
        "{plan:?}"
    );
    let bench = Bench {
        broker: bench.broker.kill_and_start().await?,
        ..bench
    };
    bench.broker.is_ready().await?;
    let after = binding(&bench.broker).await?;
    assert_eq!((after.branch, after.generation), (next, generation));
    assert_eq!(after.branch_display_name, "next");
    bench.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_who_refuses_has_a_switch_given_up_for_all() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let mut one = Consumer::join(&bench.broker, "one").await?;
    let mut other = Consumer::join(&bench.broker, "other").await?;
    let before = binding(&bench.broker).await?;
    let next = next_branch(&bench, "next").await?;

    let mut switching = switch(&bench.broker, to(&next)).await?;
    let generation = one.pending().await?;
    assert_eq!(other.pending().await?, generation);
    one.ack(generation).await?;
    other.nack(generation, "a table is missing").await?;
    let given_up = refused(switching.end().await, Code::Aborted, None);
    assert_eq!(reason(&given_up), "SWITCH_REFUSED");
    let message = given_up.message();
    assert!(
        message.contains("a table is missing") && message.contains("other"),
        "{message}"
    );
    for consumer in [&mut one, &mut other] {
        consumer
            .until("it is given up", |state| state.pending.is_none())
            .await?;
        assert_eq!(current(&consumer.state), before.generation);
    }
    let after = binding(&bench.broker).await?;
    assert_eq!(
        (after.branch, after.generation),
        (before.branch, before.generation)
    );
    let last = after.last_switch.context("the switch")?;
    assert_eq!(last.phase(), SwitchPhase::Reverted);
    assert!(last.message.contains("a table is missing"), "{last:?}");

    // What was said of that generation says nothing of the next.
    let mut switching = switch(&bench.broker, to(&next)).await?;
    let again = one.pending().await?;
    assert!(again > generation);
    other.pending().await?;
    one.ack(again).await?;
    one.nack(generation, "late").await?;
    other.ack(generation).await?;
    let half = switching
        .until_it(|switch| votes(switch).contains(&SwitchVote::Ack))
        .await?;
    assert_eq!(votes(&half), [SwitchVote::Waiting, SwitchVote::Ack]);
    // Nor what is said of one that nobody was told of.
    other.ack(again + 50).await?;
    other.ack(again).await?;
    switching.until(SwitchPhase::Committed).await?;
    one.taken_over(again).await?;
    other.taken_over(again).await?;
    other.is_known(&bench.broker, again).await?;
    bench.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_dies_has_no_say_and_who_is_slow_holds_it_up() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let mut one = Consumer::join(&bench.broker, "one").await?;
    let dying = Consumer::join(&bench.broker, "dying").await?;
    let mut ending = Consumer::join(&bench.broker, "ending").await?;
    let next = next_branch(&bench, "next").await?;
    let before = binding(&bench.broker).await?.generation;

    // One that does not answer in time has it given up.
    let mut request = to(&next);
    request.ack_timeout = Some(seconds(30));
    let mut switching = switch(&bench.broker, request).await?;
    let generation = one.pending().await?;
    one.ack(generation).await?;
    ending.pending().await?;
    ending.ack(generation).await?;
    switching
        .until_it(|switch| votes(switch) == [SwitchVote::Waiting, SwitchVote::Ack, SwitchVote::Ack])
        .await?;
    bench.clock.set(31)?;
    let given_up = refused(switching.end().await, Code::Aborted, None);
    assert_eq!(reason(&given_up), "SWITCH_TIMED_OUT");
    assert!(
        given_up.message().contains(&dying.lease.name),
        "{given_up:?}"
    );
    one.until("it is given up", |state| state.pending.is_none())
        .await?;
    assert_eq!(current(&one.state), before);

    // One whose stream is away is waited for a while, and one whose lease ends is not.
    let mut switching = switch(&bench.broker, to(&next)).await?;
    let generation = one.pending().await?;
    let dead = dying.lease.clone();
    drop(dying);
    one.ack(generation).await?;
    bench.release(&ending.lease).await?;
    let half = switching
        .until_it(|switch| {
            votes(switch) == [SwitchVote::Waiting, SwitchVote::Ack, SwitchVote::Gone]
        })
        .await?;
    assert_eq!(half.phase(), SwitchPhase::Announced);
    eventually("its stream is known to be away", async || {
        let lease = bench.get(&dead.name).await?;
        ensure!(lease.acknowledged_generation == 0, "{lease:?}");
        Ok(())
    })
    .await?;
    // One that comes in between begins with what is current, and has no say.
    let mut joined = Consumer::join(&bench.broker, "joined").await?;
    assert_eq!(current(&joined.state), before);
    bench.clock.set(60)?;
    let committed = switching.until(SwitchPhase::Committed).await?;
    assert_eq!(committed.voters.len(), 3);
    one.taken_over(generation).await?;
    joined.taken_over(generation).await?;
    one.drained(generation).await?;
    assert_eq!(switching.end().await?.phase(), SwitchPhase::Done);
    bench.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_becomes_of_leases_that_nobody_watches_is_said() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let quiet = bench.acquire(on_binding(V1, Access::ReadOnly)).await?;
    let next = next_branch(&bench, "next").await?;
    let first = binding(&bench.broker).await?.branch;

    let mut bindings = bench.broker.bindings().await?;
    let answer = bindings.switch_binding(to(&next)).await;
    let denied = refused(answer.map(drop), Code::FailedPrecondition, None);
    assert_eq!(reason(&denied), "LEASES_UNWATCHED");
    assert!(denied.message().contains(&quiet.lease.name), "{denied:?}");

    // It waits for its end.
    let mut request = to(&next);
    request.unwatched = UnwatchedPolicy::Wait.into();
    let mut switching = switch(&bench.broker, request).await?;
    let waiting = switching.until(SwitchPhase::Announced).await?;
    assert_eq!(waiting.unwatched, [quiet.lease.name.as_str()]);
    assert_eq!(binding(&bench.broker).await?.branch, first);
    bench.release(&quiet.lease).await?;
    assert_eq!(switching.end().await?.phase(), SwitchPhase::Done);
    assert_eq!(binding(&bench.broker).await?.branch, next);

    // It goes on without it, and the lease stays where it is.
    let quiet = bench.acquire(on_binding(V1, Access::ReadOnly)).await?;
    assert_eq!(quiet.lease.branch, next);
    let session = bench.session(&quiet.uri).await?;
    let mut switching = switch(&bench.broker, proceeding(to(&first))).await?;
    assert_eq!(switching.end().await?.phase(), SwitchPhase::Done);
    session.batch_execute("SELECT count(*) FROM users").await?;
    // Back where broker.toml has it: nothing is otherwise than declared.
    let mut config = bench.broker.config().await?;
    let plan = config.plan(PlanRequest::default()).await?.into_inner();
    assert!(plan.remarks.is_empty(), "{plan:?}");
    assert_eq!(binding(&bench.broker).await?.branch, first);
    bench.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switch_is_asked_for_once_and_can_be_cancelled() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let mut one = Consumer::join(&bench.broker, "one").await?;
    let next = next_branch(&bench, "next").await?;
    let mut bindings = bench.broker.bindings().await?;
    for (request, field) in [
        (to("branches/br-not-there-12345678"), "branch"),
        (to("next"), "branch"),
        (to(&binding(&bench.broker).await?.branch), "branch"),
    ] {
        let answer = bindings.switch_binding(request).await.map(drop);
        let code = answer
            .as_ref()
            .err()
            .map(tonic::Status::code)
            .context("refused")?;
        refused(answer, code, Some(field));
    }
    let mut short = to(&next);
    short.ack_timeout = Some(seconds(0));
    short.unwatched = 7;
    let answer = bindings.switch_binding(short).await.map(drop);
    let status = refused(answer, Code::InvalidArgument, Some("ack_timeout"));
    refused(
        Err::<(), _>(status),
        Code::InvalidArgument,
        Some("unwatched"),
    );

    let mut request = to(&next);
    request.request_id = uuid::Uuid::new_v4().to_string();
    let mut switching = switch(&bench.broker, request.clone()).await?;
    let generation = one.pending().await?;
    // The same request sees the same switch; another is refused.
    let mut same = switch(&bench.broker, request).await?;
    assert_eq!(
        same.until(SwitchPhase::Announced).await?.generation,
        generation
    );
    let other = next_branch(&bench, "other").await?;
    let refusal = refused(
        switch(&bench.broker, to(&other)).await?.end().await,
        Code::Aborted,
        None,
    );
    assert_eq!(reason(&refusal), "SWITCH_RUNNING");
    // Nobody takes its branch away.
    let request = proto::broker::v1::DeleteBranchRequest {
        name: next.clone(),
        ..Default::default()
    };
    let deleted = bench.broker.branches().await?.delete_branch(request).await;
    refused(deleted, Code::FailedPrecondition, None);

    let list = proto::google::longrunning::ListOperationsRequest {
        filter: "method = SwitchBinding AND done = false".to_owned(),
        ..Default::default()
    };
    let mut operations = bench.broker.operations().await?;
    let listed = operations
        .list_operations(list)
        .await?
        .into_inner()
        .operations;
    let name = listed[0].name.clone();
    operations
        .cancel_operation(proto::google::longrunning::CancelOperationRequest { name })
        .await?;
    refused(switching.end().await, Code::Cancelled, None);
    refused(same.end().await, Code::Cancelled, None);
    one.until("it is given up", |state| state.pending.is_none())
        .await?;
    let last = binding(&bench.broker)
        .await?
        .last_switch
        .context("the switch")?;
    assert_eq!(
        (last.phase(), last.message.as_str()),
        (SwitchPhase::Reverted, "it was cancelled")
    );
    bench.stop().await
}
