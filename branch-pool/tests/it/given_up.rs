//! What nobody waits for any more: Postgres is asked to stop it, and nobody else has the
//! connection before that has come to its end.

use std::time::Duration;

use branch_pool::{BranchPool, Connection, Error};
use diesel_async::SimpleAsyncConnection;

use crate::fake_broker::FakeBroker;
use crate::fake_postgres::{FakePostgres, Fate, Manners};
use crate::{binding, options, refusal};

/// One connection at most, which is waited for for a moment.
async fn start(manners: Manners) -> anyhow::Result<(FakePostgres, FakeBroker, BranchPool)> {
    let postgres = FakePostgres::start(manners).await?;
    let broker = FakeBroker::start(postgres.uri("sslmode=disable"))?;
    let options = options()
        .max_size(1)
        .wait_timeout(Duration::from_millis(200));
    let pool = BranchPool::connect(&broker.url(), binding(), options).await?;
    // With this behind it, nothing of the set-up is still to be sent.
    pool.get().await?.batch_execute("SELECT 1").await?;
    Ok((postgres, broker, pool))
}

/// Begins a statement that has this fate, and gives it up when it runs.
async fn give_up(
    postgres: &FakePostgres,
    connection: &mut Connection,
    fate: Fate,
) -> anyhow::Result<()> {
    postgres.next([fate]);
    tokio::select! {
        ended = connection.batch_execute("SELECT 1") => anyhow::bail!("it ended: {ended:?}"),
        seen = postgres.until_seen("it runs", |seen| seen.endless == 1) => seen.map(|_| ()),
    }
}

/// One that does not hang up on requests to stop, and work that was given up there.
async fn start_lingering() -> anyhow::Result<(FakePostgres, FakeBroker, BranchPool)> {
    let lingers = Manners {
        lingers: true,
        ..Manners::default()
    };
    let (postgres, broker, pool) = start(lingers).await?;
    let mut work = pool.get().await?.begin();
    give_up(&postgres, &mut work, Fate::Endless).await?;
    Ok((postgres, broker, pool))
}

async fn until_usable(pool: &BranchPool) -> anyhow::Result<Connection> {
    let deadline = tokio::time::Instant::now() + crate::PATIENCE;
    loop {
        match pool.get().await {
            Err(Error::CheckoutTimeout { .. }) if tokio::time::Instant::now() < deadline => {}
            got => return Ok(got?),
        }
    }
}

#[tokio::test]
async fn a_connection_that_is_dropped_while_postgres_is_busy_is_recovered() -> anyhow::Result<()> {
    let (postgres, _broker, pool) = start(Manners::default()).await?;
    let mut connection = pool.get().await?;
    give_up(&postgres, &mut connection, Fate::Endless).await?;
    drop(connection);
    until_usable(&pool).await?.batch_execute("SELECT 1").await?;
    let seen = postgres.seen();
    assert_eq!((seen.opened, seen.cancels), (1, 1));
    // At rest, nobody is asked to stop anything.
    drop(pool.get().await?);
    assert_eq!(postgres.seen().cancels, 1);
    Ok(())
}

#[tokio::test]
async fn nobody_has_it_before_the_request_to_stop_has_come_to_its_end() -> anyhow::Result<()> {
    let (postgres, _broker, pool) = start_lingering().await?;
    postgres
        .until_seen("asked to stop", |seen| seen.cancels == 1)
        .await?;
    // The statement has ended; a late cancel might hit the next.
    let error = refusal(&pool).await?;
    assert!(matches!(error, Error::CheckoutTimeout { .. }), "{error}");
    postgres.hang_up();
    until_usable(&pool).await?.batch_execute("SELECT 1").await?;
    assert_eq!(postgres.seen().opened, 1);
    Ok(())
}

#[tokio::test]
async fn one_whose_request_to_stop_may_come_late_is_closed() -> anyhow::Result<()> {
    let (postgres, _broker, pool) = start_lingering().await?;
    until_usable(&pool).await?.batch_execute("SELECT 1").await?;
    let seen = postgres.until_seen("closed", |seen| seen.open == 1).await?;
    assert_eq!(seen.opened, 2);
    Ok(())
}

#[tokio::test]
async fn one_that_does_not_stop_is_closed() -> anyhow::Result<()> {
    let (postgres, _broker, pool) = start(Manners::default()).await?;
    let mut work = pool.get().await?.begin();
    give_up(&postgres, &mut work, Fate::Deaf).await?;
    drop(work);
    let seen = postgres.until_seen("closed", |seen| seen.open == 0).await?;
    assert!(seen.cancels > 1, "{seen:?}");
    pool.get().await?.batch_execute("SELECT 1").await?;
    assert_eq!(postgres.seen().opened, 2);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_a_statement_for_one_use_is_waited_for_and_not_asked_for() -> anyhow::Result<()>
{
    let (postgres, _broker, pool) = start(Manners::default()).await?;
    // Its statement is closed when the answer is there: the connection is given back
    // meanwhile.
    for _ in 0..200 {
        until_usable(&pool).await?.position().await?;
    }
    // One in ten would cost one.
    let seen = postgres.seen();
    assert!(seen.cancels <= 2 && seen.opened <= 3, "{seen:?}");
    Ok(())
}
