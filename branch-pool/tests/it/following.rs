//! The pool goes where its lease leads: what the broker announces, and what it
//! could not while it was away.

use std::time::Duration;

use branch_pool::{BranchPool, Phase};
use diesel_async::SimpleAsyncConnection;
use proto::broker::v1::WatchReport;
use tokio::sync::oneshot;
use tonic::Status;

use crate::fake_broker::{Call, FakeBroker, Fault};
use crate::fake_postgres::{FakePostgres, Manners};
use crate::{PATIENCE, binding, options, until_state};

#[tokio::test]
async fn another_connection_turns_new_checkouts_over() -> anyhow::Result<()> {
    let first = FakePostgres::start(Manners::default()).await?;
    let second = FakePostgres::start(Manners::default()).await?;
    let broker = FakeBroker::start(first.uri("sslmode=disable"))?;
    let pool = BranchPool::connect(&broker.url(), binding(), options()).await?;
    let mut running = pool.get().await?;
    drop(pool.get().await?);
    assert_eq!(first.seen().open, 2);

    broker.move_to(second.uri("sslmode=disable"));
    until_state(&pool, "generation 2", |state| {
        state.generation == Some(2) && state.branch.as_deref() == Some("branches/br-2")
    })
    .await?;
    let mut new = pool.get().await?;
    new.batch_execute("SELECT 1").await?;
    assert_eq!((new.generation(), second.seen().opened), (2, 1));

    // The idle one is closed, the running one finishes first.
    first.until_seen("one left", |seen| seen.open == 1).await?;
    running.batch_execute("SELECT 1").await?;
    assert_eq!(running.generation(), 1);
    drop(running);
    first.until_seen("none left", |seen| seen.open == 0).await?;
    assert_eq!(first.seen().opened, 2);
    Ok(())
}

#[tokio::test]
async fn a_checkout_that_waits_is_turned_over() -> anyhow::Result<()> {
    let first = FakePostgres::start(Manners::default()).await?;
    let second = FakePostgres::start(Manners::default()).await?;
    let broker = FakeBroker::start(first.uri("sslmode=disable"))?;
    let options = options().max_size(1).wait_timeout(PATIENCE);
    let pool = BranchPool::connect(&broker.url(), binding(), options).await?;
    let _running = pool.get().await?;
    let waiting = tokio::spawn({
        let pool = pool.clone();
        async move { pool.get().await }
    });
    until_state(&pool, "one waiting", |state| state.waiting == 1).await?;

    broker.move_to(second.uri("sslmode=disable"));
    assert_eq!(waiting.await??.generation(), 2);
    Ok(())
}

#[tokio::test]
async fn a_binding_that_is_not_ready_changes_nothing() -> anyhow::Result<()> {
    let first = FakePostgres::start(Manners::default()).await?;
    let second = FakePostgres::start(Manners::default()).await?;
    let broker = FakeBroker::start(first.uri("sslmode=disable"))?;
    let pool = BranchPool::connect(&broker.url(), binding(), options()).await?;
    broker.until_told(Some(1)).await?;
    broker.announce(|world| world.ready = false);
    broker.until_told(None).await?;
    pool.get().await?.batch_execute("SELECT 1").await?;
    let state = pool.state().borrow().clone();
    assert_eq!((state.phase, state.generation), (Phase::Ready, Some(1)));

    broker.announce(|world| {
        world.ready = true;
        world.generation = 2;
        world.uri = second.uri("sslmode=disable");
    });
    until_state(&pool, "generation 2", |state| state.generation == Some(2)).await?;
    pool.get().await?.batch_execute("SELECT 1").await?;
    assert_eq!((first.seen().opened, second.seen().opened), (1, 1));
    assert_eq!(broker.acquisitions().len(), 1, "by its watch alone");
    Ok(())
}

#[tokio::test]
async fn a_refused_watch_is_opened_again() -> anyhow::Result<()> {
    let first = FakePostgres::start(Manners::default()).await?;
    let second = FakePostgres::start(Manners::default()).await?;
    let broker = FakeBroker::start(first.uri("sslmode=disable"))?;
    broker.world().watch_faults.extend([
        Status::unavailable("its branch cannot be reached"),
        Status::internal("a fault"),
        Status::unimplemented("an old broker"),
    ]);
    let pool = BranchPool::connect(&broker.url(), binding(), options()).await?;
    broker.move_to(second.uri("sslmode=disable"));
    until_state(&pool, "generation 2", |state| state.generation == Some(2)).await?;
    assert_eq!(broker.acquisitions().len(), 1);
    assert!(broker.world().watch_faults.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_move_while_the_broker_was_away_is_heard_of() -> anyhow::Result<()> {
    let first = FakePostgres::start(Manners::default()).await?;
    let second = FakePostgres::start(Manners::default()).await?;
    let mut broker = FakeBroker::start(first.uri("sslmode=disable"))?;
    // The lease itself lasts an hour: no renewal falls into this test.
    let pool = BranchPool::connect(&broker.url(), binding(), options()).await?;
    pool.get().await?.batch_execute("SELECT 1").await?;

    broker.kill();
    broker.move_to(second.uri("sslmode=disable"));
    pool.get().await?.batch_execute("SELECT 1").await?;
    broker.serve()?;
    until_state(&pool, "generation 2", |state| state.generation == Some(2)).await?;
    pool.get().await?.batch_execute("SELECT 1").await?;
    assert_eq!((first.seen().opened, second.seen().opened), (1, 1));
    assert_eq!(broker.acquisitions().len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_lease_that_is_no_more_is_replaced_before_its_renewal() -> anyhow::Result<()> {
    let postgres = FakePostgres::start(Manners::default()).await?;
    let broker = FakeBroker::start(postgres.uri("sslmode=disable"))?;
    let pool = BranchPool::connect(&broker.url(), binding(), options()).await?;
    drop(pool.get().await?);
    broker.forget();
    broker.until_acquisitions(2).await?;
    let renewals = broker.calls();
    let is_renewal = |call: &Call| matches!(call, Call::Renew { .. });
    assert!(!renewals.iter().any(is_renewal), "{renewals:?}");
    pool.get().await?.batch_execute("SELECT 1").await?;
    assert_eq!(postgres.seen().opened, 1, "the connection stayed the same");
    Ok(())
}

#[tokio::test]
async fn an_address_that_cannot_be_used_leaves_the_old_one() -> anyhow::Result<()> {
    let postgres = FakePostgres::start(Manners::default()).await?;
    let broker = FakeBroker::start(postgres.uri("sslmode=disable"))?;
    let pool = BranchPool::connect(&broker.url(), binding(), options()).await?;
    broker.move_to(postgres.uri("sslmode=nonsense"));
    let state = until_state(&pool, "an error", |state| state.last_error.is_some()).await?;
    assert_eq!((state.phase, state.generation), (Phase::Ready, Some(1)));
    pool.get().await?.batch_execute("SELECT 1").await?;
    Ok(())
}

#[tokio::test]
async fn what_is_announced_while_the_broker_is_asked_is_heard() -> anyhow::Result<()> {
    let postgres = FakePostgres::start(Manners::default()).await?;
    let broker = FakeBroker::start(postgres.uri("sslmode=disable"))?;
    broker.world().ttl = Duration::from_secs(2);
    broker.world().renew_faults.push_back(Fault::Lose);
    // The question is under way for longer than anything here may take.
    let options = options().call_timeout(10 * PATIENCE);
    let _pool = BranchPool::connect(&broker.url(), binding(), options).await?;
    let is_renewal = |call: &Call| matches!(call, Call::Renew { .. });
    broker
        .until_calls("a renewal", |calls| calls.iter().any(is_renewal))
        .await?;
    broker.pause(Duration::from_secs(100), false);
    broker.until_report(WatchReport::Ack, 2).await?;
    Ok(())
}

#[tokio::test]
async fn a_grant_that_was_overtaken_turns_nothing_back() -> anyhow::Result<()> {
    let first = FakePostgres::start(Manners {
        refuse: Some("28P01"),
        ..Manners::default()
    })
    .await?;
    let second = FakePostgres::start(Manners::default()).await?;
    let broker = FakeBroker::start(first.uri("sslmode=disable"))?;
    let options = options().call_timeout(10 * PATIENCE);
    let pool = BranchPool::connect(&broker.url(), binding(), options).await?;
    let (tell, told) = oneshot::channel();
    broker.world().acquire_faults.push_back(Fault::Delay(told));
    // Refused, it asks for another lease; that is granted, and not heard of.
    assert!(pool.get().await.is_err());
    broker.until_acquisitions(2).await?;
    broker.move_to(second.uri("sslmode=disable"));
    until_state(&pool, "generation 2", |state| state.generation == Some(2)).await?;

    tell.send(()).ok();
    let is_given_back = |call: &Call| matches!(call, Call::Release { name } if name == "leases/2");
    broker
        .until_calls("the late one given back", |calls| {
            calls.iter().any(is_given_back)
        })
        .await?;
    pool.get().await?.batch_execute("SELECT 1").await?;
    let state = pool.state().borrow().clone();
    assert_eq!((state.generation, state.turnovers), (Some(2), 1));
    assert_eq!(state.lease.as_deref(), Some("leases/1"));
    assert_eq!(
        broker.acquisitions().len(),
        2,
        "what was refused is not in use"
    );
    Ok(())
}

#[tokio::test]
async fn a_checkout_that_has_no_answer_is_turned_over_and_holds_up_nobody() -> anyhow::Result<()> {
    let first = FakePostgres::start(Manners {
        hesitates: true,
        ..Manners::default()
    })
    .await?;
    let second = FakePostgres::start(Manners::default()).await?;
    let broker = FakeBroker::start(first.uri("sslmode=disable"))?;
    // The old branch would be waited for longer than anything here may take.
    let options = options().connect_timeout(10 * PATIENCE);
    let pool = BranchPool::connect(&broker.url(), binding(), options).await?;
    let waiting = tokio::spawn({
        let pool = pool.clone();
        async move { pool.get().await }
    });
    first
        .until_seen("it waits", |seen| seen.kept_waiting == 1)
        .await?;

    broker.move_to(second.uri("sslmode=disable"));
    let waited = tokio::time::timeout(PATIENCE, waiting).await??;
    assert_eq!(waited?.generation(), 2);
    broker.until_report(WatchReport::Drained, 2).await?;
    Ok(())
}
