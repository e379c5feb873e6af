//! What a pool says about itself, and whether it is so.

use std::time::Duration;

use branch_pool::{BranchPool, Phase, PoolState};
use diesel_async::SimpleAsyncConnection;
use proto::broker::v1::WatchReport;
use tokio::time::Instant;

use crate::fake_broker::{Call, FakeBroker};
use crate::fake_postgres::{FakePostgres, Manners};
use crate::{PATIENCE, binding, options, until_state};

/// How long the pauses here are to last: longer than a test takes.
const PAUSE: Duration = Duration::from_secs(100);
/// How far the end of a pause may be from where it is expected.
const SLACK: Duration = Duration::from_secs(1);

fn sizes(state: &PoolState) -> (usize, usize, usize) {
    (state.size, state.available, state.waiting)
}

#[tokio::test]
async fn its_sizes_tell_who_has_a_connection_and_who_waits() -> anyhow::Result<()> {
    let postgres = FakePostgres::start(Manners::default()).await?;
    let broker = FakeBroker::start(postgres.uri("sslmode=disable"))?;
    let options = options().max_size(1).wait_timeout(PATIENCE);
    let pool = BranchPool::connect(&broker.url(), binding(), options).await?;
    assert_eq!(sizes(&pool.state().borrow()), (0, 0, 0), "none is opened");

    let running = pool.get().await?;
    let waiting = tokio::spawn({
        let pool = pool.clone();
        async move { pool.get().await }
    });
    until_state(&pool, "one in use, one waiting", |state| {
        sizes(state) == (1, 0, 1)
    })
    .await?;
    drop(running);
    waiting.await??.batch_execute("SELECT 1").await?;
    until_state(&pool, "one at rest", |state| sizes(state) == (1, 1, 0)).await?;
    Ok(())
}

#[tokio::test]
async fn a_turnover_is_counted_and_begins_an_age() -> anyhow::Result<()> {
    let first = FakePostgres::start(Manners::default()).await?;
    let second = FakePostgres::start(Manners::default()).await?;
    let broker = FakeBroker::start(first.uri("sslmode=disable"))?;
    let before = Instant::now();
    let pool = BranchPool::connect(&broker.url(), binding(), options()).await?;
    let after = Instant::now();

    // Another lease on the same connection turns nothing over.
    broker.forget();
    let state = until_state(&pool, "another lease", |state| {
        state.lease.as_deref() == Some("leases/2")
    })
    .await?;
    assert_eq!((state.generation, state.turnovers), (Some(1), 0));
    let at_least = after.elapsed();
    let age = state.generation_age();
    let at_most = before.elapsed();
    assert!(
        age.is_some_and(|age| age >= at_least && age <= at_most),
        "not {at_least:?} to {at_most:?} but {age:?}"
    );

    let before = Instant::now();
    broker.move_to(second.uri("sslmode=disable"));
    let state = until_state(&pool, "generation 2", |state| state.generation == Some(2)).await?;
    assert_eq!(state.turnovers, 1);
    let age = state.generation_age();
    let at_most = before.elapsed();
    assert!(age.is_some_and(|age| age <= at_most), "{age:?}");
    Ok(())
}

#[tokio::test]
async fn a_pause_is_told_with_its_deadline_and_is_no_turnover() -> anyhow::Result<()> {
    for writes_only in [false, true] {
        let postgres = FakePostgres::start(Manners::default()).await?;
        let broker = FakeBroker::start(postgres.uri("sslmode=disable"))?;
        let pool = BranchPool::connect(&broker.url(), binding(), options()).await?;
        assert_eq!(pool.state().borrow().paused_until, None);

        let expected = Instant::now() + PAUSE;
        broker.pause(PAUSE, writes_only);
        let state = until_state(&pool, "paused", |state| state.paused_until.is_some()).await?;
        let until = state.paused_until.expect("it was");
        assert!(
            until > expected - SLACK && until < expected + SLACK,
            "not {expected:?} but {until:?}"
        );
        broker.announce(|world| world.pause = None);
        let state = until_state(&pool, "no pause", |state| state.paused_until.is_none()).await?;
        assert_eq!((state.generation, state.turnovers), (Some(1), 0));
    }
    Ok(())
}

#[tokio::test]
async fn what_was_prepared_has_an_age_from_its_turn_on() -> anyhow::Result<()> {
    let first = FakePostgres::start(Manners::default()).await?;
    let second = FakePostgres::start(Manners::default()).await?;
    let broker = FakeBroker::start(first.uri("sslmode=disable"))?;
    let pool = BranchPool::connect(&broker.url(), binding(), options()).await?;
    broker.propose(second.uri("sslmode=disable"));
    broker.until_report(WatchReport::Ack, 2).await?;

    let before = Instant::now();
    broker.commit();
    let state = until_state(&pool, "generation 2", |state| state.generation == Some(2)).await?;
    let age = state.generation_age();
    let at_most = before.elapsed();
    assert!(
        age.is_some_and(|age| age <= at_most),
        "{age:?} > {at_most:?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_branch_that_nobody_can_reach_is_told_and_comes_back_without_a_caller()
-> anyhow::Result<()> {
    let postgres = FakePostgres::start(Manners {
        hesitates: true,
        ..Manners::default()
    })
    .await?;
    let broker = FakeBroker::start(postgres.uri("sslmode=disable"))?;
    let options = options().connect_timeout(Duration::from_millis(500));
    let pool = BranchPool::connect(&broker.url(), binding(), options).await?;
    // Nobody has tried: that is no reason to be away.
    assert_eq!(pool.state().borrow().phase, Phase::Ready);
    assert!(pool.get().await.is_err());
    until_state(&pool, "unreachable", |state| {
        state.phase == Phase::Unreachable
    })
    .await?;
    postgres.let_in();
    until_state(&pool, "ready", |state| {
        state.phase == Phase::Ready && state.size == 1
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn what_was_given_up_while_there_were_sessions_wakes_nobody_when_they_have_gone()
-> anyhow::Result<()> {
    let postgres = FakePostgres::start(Manners::default()).await?;
    let broker = FakeBroker::start(postgres.uri("sslmode=disable"))?;
    broker.world().ttl = Duration::from_secs(4);
    let options = options().idle_timeout(Duration::from_secs(1));
    let pool = BranchPool::connect(&broker.url(), binding(), options).await?;
    let first = pool.get().await?;
    let mut second = Box::pin(pool.get());
    assert!(futures_util::poll!(&mut second).is_pending());
    drop(second);
    drop(first);
    until_state(&pool, "none is left", |state| state.size == 0).await?;

    let renewals = |calls: &[Call]| {
        let renewal = |call: &&Call| matches!(call, Call::Renew { .. });
        calls.iter().filter(renewal).count()
    };
    let before = renewals(&broker.calls());
    // It looks at its sessions more often than it renews.
    broker
        .until_calls("two more renewals", |calls| renewals(calls) >= before + 2)
        .await?;
    assert_eq!(postgres.seen().opened, 1);
    assert_eq!(pool.state().borrow().phase, Phase::Ready);
    Ok(())
}
