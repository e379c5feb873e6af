//! A refresh that comes to nothing, and one whose broker is killed: nothing is left over.

use anyhow::{Context, ensure};
use suite::eventually;
use tonic::Code;

use super::fenced::WRITE;
use super::held::{Dead, Stalled, ended, takes_up};
use super::killed::{TAKEN_UP_SECONDS, back};
use super::refresh::{Refreshing, branch_names, go_along, join, reason, v2};
use super::{Bench, Consumer, current};
use crate::broker_leasing::seconds;
use crate::details::refused;

const REFRESH: &str = "RefreshBinding";
const BRANCHES: &str = "/projects/{project_id}/branches";
const NAMES: [&str; 3] = ["api_v1_branch", "api_v2_branch", "main"];

/// All is as it was before, and v2 takes writes.
async fn is_as_before(bench: &Bench, one: &mut Consumer, generation: i64) -> anyhow::Result<()> {
    assert_eq!(branch_names(bench).await?, NAMES);
    one.until("nothing is pending", |state| {
        state.pending.is_none() && state.pause.is_none()
    })
    .await?;
    assert_eq!(current(&one.state), generation);
    let session = one.session(bench, false).await?;
    session.batch_execute(WRITE).await?;
    session
        .batch_execute("DELETE FROM users WHERE name = 'Late'")
        .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refresh_that_a_consumer_refuses_leaves_nothing() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let mut one = join(&bench.broker).await?;
    let before = current(&one.state);
    // When it is announced, and when the old branch is closed already.
    for holds_back in [false, true] {
        let mut refreshing = Refreshing::begin(&bench.broker, v2()).await?;
        let generation = one.pending().await?;
        if holds_back {
            one.ack(generation).await?;
            one.told_to_hold_back().await?;
        }
        one.nack(generation, "no room for it").await?;
        let ended = refreshing.end().await;
        let status = refused(ended.map(|_| ()), Code::Aborted, None);
        assert_eq!(reason(&status), "SWITCH_REFUSED");
        ensure!(status.message().contains("no room for it"), "{status:?}");
        is_as_before(&bench, &mut one, before).await?;
    }
    // One that does not answer in time has it given up too.
    let request = proto::broker::v1::RefreshBindingRequest {
        ack_timeout: Some(seconds(60)),
        ..v2()
    };
    let mut refreshing = Refreshing::begin(&bench.broker, request).await?;
    one.pending().await?;
    bench.clock.set(61)?;
    let ended = refreshing.end().await;
    let status = refused(ended.map(|_| ()), Code::Aborted, None);
    assert_eq!(reason(&status), "SWITCH_TIMED_OUT");
    is_as_before(&bench, &mut one, before).await?;
    bench.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refresh_whose_revision_fails_leaves_nothing() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let mut one = join(&bench.broker).await?;
    let before = current(&one.state);
    // Somebody has added by hand what v2's revision adds.
    let id = bench.branch_named("api_v1_branch").await?;
    let v1 = bench.emulator.connect(&id).await?;
    let change = "ALTER TABLE users.users ADD COLUMN age integer";
    v1.batch_execute(change).await?;
    let mut refreshing = Refreshing::begin(&bench.broker, v2()).await?;
    let ended = refreshing.end().await;
    let status = refused(ended.map(|_| ()), Code::FailedPrecondition, None);
    assert_eq!(reason(&status), "MIGRATION_FAILED");
    is_as_before(&bench, &mut one, before).await?;
    // What kept it from being done is gone: it can be asked for again.
    v1.batch_execute("ALTER TABLE users.users DROP COLUMN age")
        .await?;
    let mut refreshing = Refreshing::begin(&bench.broker, v2()).await?;
    go_along(&mut one).await?;
    refreshing.end().await?;
    bench.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refresh_whose_branch_is_on_its_way_outlives_its_broker() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let one = join(&bench.broker).await?;
    let stalled = Stalled::on(&bench, "POST", BRANCHES, "/branches").await?;
    drop(Refreshing::begin(&bench.broker, v2()).await?);
    stalled.is_met().await?;
    let dead = Dead::kill(bench).await?;
    stalled.end().await?;
    dead.clock.set(TAKEN_UP_SECONDS)?;
    let bench = dead.start().await?;
    let mut one = back(&bench, one).await?;
    go_along(&mut one).await?;
    ended(&bench.broker, REFRESH).await?;
    let names = branch_names(&bench).await?;
    let [v1, v2, new, main] = &names[..] else {
        anyhow::bail!("{names:?}");
    };
    assert_eq!([v1, v2, main], NAMES);
    ensure!(new.starts_with("api_v2_branch-"), "{new}");
    one.session(&bench, false)
        .await?
        .batch_execute(WRITE)
        .await?;
    bench.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refresh_that_is_refused_after_its_broker_was_killed_leaves_nothing() -> anyhow::Result<()>
{
    let bench = Bench::start().await?;
    let mut one = join(&bench.broker).await?;
    let before = current(&one.state);
    drop(Refreshing::begin(&bench.broker, v2()).await?);
    let generation = one.pending().await?;
    let made = branch_names(&bench).await?.len();
    assert_eq!(made, NAMES.len() + 1);
    let dead = Dead::kill(bench).await?;
    dead.clock.set(TAKEN_UP_SECONDS)?;
    let bench = dead.start().await?;
    takes_up(&bench.broker).await?;
    let mut one = back(&bench, one).await?;
    assert_eq!(one.pending().await?, generation);
    // Nor can it be cancelled, and leave its branch.
    let name = super::held::operation(&bench.broker, REFRESH).await?.name;
    let request = proto::google::longrunning::CancelOperationRequest { name };
    bench
        .broker
        .operations()
        .await?
        .cancel_operation(request)
        .await?;
    one.nack(generation, "not now").await?;
    let ended = ended(&bench.broker, REFRESH).await?;
    let result = format!("{:?}", ended.result.context("a result")?);
    ensure!(result.contains("not now"), "{result}");
    eventually("the branch is gone", async || {
        let names = branch_names(&bench).await?;
        ensure!(names == NAMES, "{names:?}");
        Ok(())
    })
    .await?;
    is_as_before(&bench, &mut one, before).await?;
    bench.stop().await
}
