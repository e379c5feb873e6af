//! What consumers are told of their branch's read-only endpoint.

use anyhow::{Context, ensure};
use neon_api::BranchId;
use proto::broker::v1::{
    BindingTarget, Connection, PlanRequest, PlanResponse, StepAction, SwitchPhase,
    WatchBindingRequest,
};

use super::paused::{reset, waited};
use super::two_brokers::second;
use super::{Bench, Consumer, binding, current, next_branch, switch, to};
use crate::broker_replicas::{
    CAROLS, WRITE, applied, asked, asked_no_more, reader, replicas, replicas_deleted, shows, value,
};

fn connection(target: Option<&BindingTarget>) -> anyhow::Result<Connection> {
    let connection = target.context("a target")?.connection.clone();
    connection.context("a connection")
}

async fn plan(bench: &Bench) -> anyhow::Result<PlanResponse> {
    let mut config = bench.broker.config().await?;
    Ok(config.plan(PlanRequest::default()).await?.into_inner())
}

/// Reads until the next generation is current, which came of its read-only endpoint.
async fn told(consumer: &mut Consumer, why: &str) -> anyhow::Result<Connection> {
    let before = consumer.state.current.clone().context("a target")?;
    consumer.taken_over(before.generation + 1).await?;
    let now = consumer.state.current.as_ref().context("a target")?;
    ensure!(now.reason.ends_with(why), "{now:?}");
    let (had, has) = (connection(Some(&before))?, connection(Some(now))?);
    ensure!(had.uri == has.uri, "the rest is as it was: {now:?}");
    Ok(has)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_comes_or_goes_is_told_to_all() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let second = second(&bench).await?;
    let mut one = Consumer::join(&bench.broker, "one").await?;
    let mut other = Consumer::join(&second, "other").await?;
    let v1 = bench.branch_named("api_v1_branch").await?;
    let before = current(&one.state);
    let known = connection(one.state.current.as_ref())?;
    assert_eq!(known.replica_uri, "");

    asked(&bench.config)?;
    let planned = plan(&bench).await?;
    let described: Vec<_> = planned
        .steps
        .iter()
        .map(|step| (step.action(), &*step.description))
        .collect();
    let wanted = "create a read-only endpoint for api_v1_branch";
    assert_eq!(described, [(StepAction::CreateEndpoint, wanted)]);
    assert!(replicas(&bench, &v1).await?.is_empty(), "planned, not made");
    assert_eq!(applied(&bench).await?, planned.steps);
    for consumer in [&mut one, &mut other] {
        let now = told(consumer, "has a read-only endpoint now").await?;
        reader(&bench, &now).await?;
    }
    // Who comes back with the number of before has not missed it.
    let first = WatchBindingRequest {
        known_generation: before,
        known_role: known.role,
        ..Default::default()
    };
    let back = Consumer::watch(&bench.broker, one.lease.clone(), first).await?;
    assert_eq!(current(&back.state), before + 1);
    drop(back);
    assert_eq!(applied(&bench).await?, [], "there is one");

    // It stays when nobody asks for it, and the plan says so.
    asked_no_more(&bench.config)?;
    let planned = plan(&bench).await?;
    assert_eq!(planned.steps, []);
    let says_so = "services/users/versions/v1: api_v1_branch has a read-only endpoint that is \
                   not declared: leases are told of it, and it stays, for nothing says that the \
                   broker made it";
    assert_eq!(planned.remarks, [says_so]);
    assert_eq!(applied(&bench).await?, []);
    assert_eq!(replicas(&bench, &v1).await?.len(), 1);
    assert_eq!(binding(&bench.broker).await?.generation, before + 1);

    // Somebody deletes it.
    replicas_deleted(&bench, &v1).await?;
    assert_eq!(applied(&bench).await?, []);
    for consumer in [&mut one, &mut other] {
        let now = told(consumer, "has no read-only endpoint any more").await?;
        assert_eq!(now.replica_uri, "");
    }
    assert!(plan(&bench).await?.remarks.is_empty());
    second.process.stop().await?;
    bench.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_reset_it_shows_the_new_data() -> anyhow::Result<()> {
    let bench = Bench::start_with(asked).await?;
    let mut one = Consumer::join(&bench.broker, "one").await?;
    let before = current(&one.state);
    let had = connection(one.state.current.as_ref())?;
    let reading = reader(&bench, &had).await?;
    let writing = one.session(&bench, false).await?;
    writing.batch_execute(WRITE).await?;
    shows(&reading, CAROLS, "1").await?;
    let operation = reset(&bench.broker).await?;
    let pause = one.told_to_hold_back().await?;
    one.ack(pause.generation).await?;
    let after = waited(&bench.broker, &operation, None).await?;
    assert!(after.done, "{after:?}");
    one.until("it goes on", |state| {
        state.pause.is_none() && current(state) > before
    })
    .await?;
    let has = connection(one.state.current.as_ref())?;
    assert_eq!(has.replica_uri, had.replica_uri, "it is the same endpoint");
    let reading = reader(&bench, &has).await?;
    shows(&reading, CAROLS, "0").await?;
    let writing = one.session(&bench, false).await?;
    writing.batch_execute(WRITE).await?;
    shows(&reading, CAROLS, "1").await?;
    let v1 = bench.branch_named("api_v1_branch").await?;
    assert_eq!(replicas(&bench, &v1).await?.len(), 1);
    bench.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switch_leads_to_that_of_the_new_branch() -> anyhow::Result<()> {
    let bench = Bench::start_with(asked).await?;
    let mut one = Consumer::join(&bench.broker, "one").await?;
    let old = connection(one.state.current.as_ref())?;
    let old_reading = reader(&bench, &old).await?;
    let next = next_branch(&bench, "next").await?;
    let next_id: BranchId = next.trim_start_matches("branches/").parse()?;
    assert!(replicas(&bench, &next_id).await?.is_empty());

    let mut switching = switch(&bench.broker, to(&next)).await?;
    let generation = one.pending().await?;
    let pending = connection(one.state.pending.as_ref())?;
    assert_ne!(pending.replica_uri, old.replica_uri);
    reader(&bench, &pending).await.context("before it counts")?;
    let still = connection(one.state.current.as_ref())?;
    assert_eq!(still.replica_uri, old.replica_uri);
    one.ack(generation).await?;
    switching.until(SwitchPhase::Committed).await?;
    one.taken_over(generation).await?;
    let new = connection(one.state.current.as_ref())?;
    assert_eq!(new.replica_uri, pending.replica_uri);
    let writing = one.session(&bench, false).await?;
    writing.batch_execute(WRITE).await?;
    let reading = reader(&bench, &new).await?;
    shows(&reading, CAROLS, "1").await?;
    assert_eq!(value(&old_reading, CAROLS).await?, "0", "another branch");
    one.drained(generation).await?;
    assert_eq!(switching.end().await?.phase(), SwitchPhase::Done);
    assert_eq!(replicas(&bench, &next_id).await?.len(), 1);
    bench.stop().await
}
