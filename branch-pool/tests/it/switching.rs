//! A switch, as a consumer lives through it: `pending`, `current`, `pause`, and what it
//! reports of each.

use std::time::Duration;

use branch_pool::{BranchPool, Effect, Phase, Work};
use diesel_async::SimpleAsyncConnection;
use proto::broker::v1::WatchReport::{Ack, Drained, Nack};

use crate::fake_broker::{Call, FakeBroker};
use crate::fake_postgres::{FakePostgres, Fate, Manners};
use crate::{PATIENCE, ask, binding, options, until_state};

/// Longer than any test is to take.
const LONG: Duration = Duration::from_secs(100);

async fn pair() -> anyhow::Result<(FakePostgres, FakePostgres, FakeBroker)> {
    let first = FakePostgres::start(Manners::default()).await?;
    let second = FakePostgres::start(Manners::default()).await?;
    let broker = FakeBroker::start(first.uri("sslmode=disable"))?;
    Ok((first, second, broker))
}

#[tokio::test]
async fn the_next_branch_is_warmed_and_moved_to_when_it_is_current() -> anyhow::Result<()> {
    let (first, second, broker) = pair().await?;
    let pool = BranchPool::connect(&broker.url(), binding(), options()).await?;
    broker.until_report(Ack, 1).await?;
    let mut running = pool.get().await?;
    drop((pool.get().await?, pool.get().await?));
    assert_eq!(first.seen().open, 3);

    broker.propose(second.uri("sslmode=disable"));
    broker.until_report(Ack, 2).await?;
    assert_eq!(second.seen().open, 3, "as many as there are on the first");
    assert_eq!(
        pool.get().await?.generation(),
        1,
        "no traffic before it is current"
    );
    assert_eq!(pool.state().borrow().pending, Some(2));

    broker.commit();
    until_state(&pool, "generation 2", |state| state.generation == Some(2)).await?;
    let mut new = pool.get().await?;
    new.batch_execute("SELECT 1").await?;
    assert_eq!((new.generation(), second.seen().opened), (2, 3));
    first.until_seen("one left", |seen| seen.open == 1).await?;
    running.batch_execute("SELECT 1").await?;
    assert!(!broker.has_report(Drained, 2), "one still runs");
    drop(running);
    broker.until_report(Drained, 2).await?;
    first.until_seen("none left", |seen| seen.open == 0).await?;
    assert_eq!(pool.state().borrow().turnovers, 1);
    Ok(())
}

#[tokio::test]
async fn a_branch_that_cannot_be_used_is_refused() -> anyhow::Result<()> {
    let (_first, _, broker) = pair().await?;
    let pool = BranchPool::connect(&broker.url(), binding(), options()).await?;
    let strict = FakePostgres::start(Manners {
        refuse: Some("28P01"),
        ..Manners::default()
    })
    .await?;
    broker.propose(strict.uri("sslmode=disable"));
    let why = broker.until_report(Nack, 2).await?;
    assert!(why.contains("28P01"), "{why}");
    assert!(!why.contains(crate::PASSWORD), "{why}");

    broker.announce(|world| world.pending = None);
    broker.announce(|world| world.pending = Some((3, "nonsense".to_owned())));
    let why = broker.until_report(Nack, 3).await?;
    assert!(why.contains("postgresql://"), "{why}");
    let mut connection = pool.get().await?;
    connection.batch_execute("SELECT 1").await?;
    assert_eq!(connection.generation(), 1);
    // What the next one does is no reason to doubt the lease.
    assert_eq!(broker.acquisitions().len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_switch_that_is_given_up_leaves_nothing_open() -> anyhow::Result<()> {
    let (_first, second, broker) = pair().await?;
    let pool = BranchPool::connect(&broker.url(), binding(), options()).await?;
    drop(pool.get().await?);
    broker.propose(second.uri("sslmode=disable"));
    broker.until_report(Ack, 2).await?;
    assert_eq!(second.seen().open, 1);
    broker.announce(|world| world.pending = None);
    second.until_seen("closed", |seen| seen.open == 0).await?;
    assert_eq!(pool.get().await?.generation(), 1);
    Ok(())
}

#[tokio::test]
async fn what_does_not_finish_in_time_is_ended() -> anyhow::Result<()> {
    let (first, second, broker) = pair().await?;
    let options = options().drain_timeout(Duration::from_millis(100));
    let pool = BranchPool::connect(&broker.url(), binding(), options).await?;
    drop(pool.get().await?);
    first.next([Fate::Endless]);
    let running = tokio::spawn({
        let pool = pool.clone();
        async move {
            let mut connection = pool.get().await?;
            anyhow::Ok(connection.batch_execute("SELECT pg_sleep(1000)").await)
        }
    });
    first
        .until_seen("it runs", |seen| seen.endless == 1)
        .await?;
    broker.move_to(second.uri("sslmode=disable"));
    let ended = tokio::time::timeout(PATIENCE, running).await???;
    assert!(ended.is_err(), "{ended:?}");
    first
        .until_seen("Postgres is told as well", |seen| seen.cancels == 1)
        .await?;
    broker.until_report(Drained, 2).await?;
    first.until_seen("none left", |seen| seen.open == 0).await?;
    Ok(())
}

#[tokio::test]
async fn a_pause_holds_checkouts_back_and_is_acknowledged_when_nothing_runs() -> anyhow::Result<()>
{
    let (_first, second, broker) = pair().await?;
    let pool = BranchPool::connect(&broker.url(), binding(), options()).await?;
    broker.until_report(Ack, 1).await?;
    let running = pool.get().await?;
    broker.pause(LONG, false);
    until_state(&pool, "paused", |state| state.paused_until.is_some()).await?;
    let mut waiting = tokio::spawn({
        let pool = pool.clone();
        async move { pool.get().await }
    });
    let mut reading = tokio::spawn({
        let pool = pool.clone();
        async move { pool.replica().await }
    });
    tokio::task::yield_now().await;
    assert!(!broker.has_report(Ack, 2), "one still runs");
    drop(running);
    broker.until_report(Ack, 2).await?;
    assert!(!waiting.is_finished() && !reading.is_finished());
    assert_eq!(pool.state().borrow().phase, Phase::Ready);

    broker.announce(|world| {
        world.pause = None;
        world.generation += 2;
        world.uri = second.uri("sslmode=disable");
    });
    let moved = [(&mut waiting).await??, (&mut reading).await??];
    assert_eq!(moved.map(|one| one.generation()), [3, 3]);
    until_state(&pool, "no pause", |state| state.paused_until.is_none()).await?;
    Ok(())
}

#[tokio::test]
async fn a_pause_is_not_acknowledged_while_writers_are_being_stopped() -> anyhow::Result<()> {
    let (first, _, broker) = pair().await?;
    let pool = BranchPool::connect(&broker.url(), binding(), options()).await?;
    let work = pool.get().await?.begin();
    not_acknowledged_before_it_ends(&first, &broker, work).await
}

#[tokio::test]
async fn a_pause_is_not_acknowledged_while_readers_are_being_stopped() -> anyhow::Result<()> {
    let (first, _, broker) = pair().await?;
    let pool = BranchPool::connect(&broker.url(), binding(), options()).await?;
    let work = pool.replica().await?.begin();
    not_acknowledged_before_it_ends(&first, &broker, work).await
}

/// Gives the work up while it does not stop.
async fn not_acknowledged_before_it_ends(
    postgres: &FakePostgres,
    broker: &FakeBroker,
    mut work: Work,
) -> anyhow::Result<()> {
    broker.until_report(Ack, 1).await?;
    postgres.next([Fate::Deaf]);
    tokio::select! {
        ended = work.batch_execute("SELECT 1") => ended?,
        seen = postgres.until_seen("it runs", |seen| seen.endless == 1) => drop(seen?),
    }
    broker.pause(LONG, false);
    drop(work);
    // By the second request an acknowledgement would have been there for long.
    postgres
        .until_seen("asked to stop again", |seen| seen.cancels >= 2)
        .await?;
    assert!(!broker.has_report(Ack, 2), "it still runs");
    broker.until_report(Ack, 2).await?;
    postgres
        .until_seen("it has ended", |seen| seen.open == 0)
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_pause_for_writers_lets_readers_through() -> anyhow::Result<()> {
    let (_first, _, broker) = pair().await?;
    let pool = BranchPool::connect(&broker.url(), binding(), options()).await?;
    let mut reading = pool.replica().await?;
    broker.pause(LONG, true);
    // The reader that runs is nobody's concern.
    broker.until_report(Ack, 2).await?;
    reading.batch_execute("SELECT 1").await?;
    drop(pool.replica().await?);
    ask(&pool, Effect::ReadPrimary).await?;
    let waiting = tokio::spawn({
        let pool = pool.clone();
        async move { pool.get().await }
    });
    drop(pool.replica().await?);
    assert!(!waiting.is_finished());
    broker.announce(|world| world.pause = None);
    waiting.await??;
    Ok(())
}

#[tokio::test]
async fn a_pause_ends_at_its_deadline_without_the_broker() -> anyhow::Result<()> {
    let (_first, _, mut broker) = pair().await?;
    let pool = BranchPool::connect(&broker.url(), binding(), options()).await?;
    broker.pause(Duration::from_secs(1), false);
    let paused = until_state(&pool, "paused", |state| state.paused_until.is_some()).await?;
    broker.kill();
    pool.get().await?.batch_execute("SELECT 1").await?;
    let until = paused.paused_until.expect("it was");
    assert!(tokio::time::Instant::now() >= until, "too early");
    Ok(())
}

#[tokio::test]
async fn a_watch_that_is_opened_again_is_told_what_is_so() -> anyhow::Result<()> {
    let (_first, second, mut broker) = pair().await?;
    let pool = BranchPool::connect(&broker.url(), binding(), options()).await?;
    broker.propose(second.uri("sslmode=disable"));
    broker.until_report(Ack, 2).await?;
    let acks = |calls: &[Call], of: i64| {
        let is_ack = |call: &&Call| matches!(call, Call::Report { report: Ack, generation, .. } if *generation == of);
        calls.iter().filter(is_ack).count()
    };
    let before = broker.calls();
    assert_eq!((acks(&before, 1), acks(&before, 2)), (1, 1), "once each");

    broker.kill();
    broker.serve()?;
    broker
        .until_calls("both again", |calls| {
            acks(calls, 1) == 2 && acks(calls, 2) == 2
        })
        .await?;
    assert_eq!(second.seen().opened, 1, "warmed once");
    assert_eq!(pool.get().await?.generation(), 1);
    Ok(())
}
