//! A binding with a read-only endpoint.

use std::sync::atomic::Ordering;
use std::time::Duration;

use branch_pool::{BranchPool, Effect};
use diesel_async::SimpleAsyncConnection;

use crate::fake_broker::FakeBroker;
use crate::fake_postgres::{FakePostgres, Fate, Manners};
use crate::{PATIENCE, ask, binding, options, until_state};

/// How long opening a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// In what a server is asked to find out how much it has replayed.
const REPLAYED: &str = "pg_last_wal_replay_lsn";

/// A primary, and a replica with these manners.
struct Pair {
    primary: FakePostgres,
    replica: FakePostgres,
    pool: BranchPool,
    broker: FakeBroker,
}

impl Pair {
    async fn start(manners: Manners) -> anyhow::Result<Self> {
        let primary = FakePostgres::start(Manners::default()).await?;
        let replica = FakePostgres::start(manners).await?;
        let broker = FakeBroker::start(primary.uri("sslmode=disable"))?;
        broker.world().replica_uri = replica.uri("sslmode=disable");
        let options = options()
            .connect_timeout(CONNECT_TIMEOUT)
            .replica_wait(PATIENCE);
        Ok(Self {
            pool: BranchPool::connect(&broker.url(), binding(), options).await?,
            primary,
            replica,
            broker,
        })
    }

    /// Sessions opened so far, at the primary and the replica.
    fn opened(&self) -> (usize, usize) {
        (self.primary.seen().opened, self.replica.seen().opened)
    }
}

#[tokio::test]
async fn what_may_be_a_moment_behind_is_read_there_and_nothing_else() -> anyhow::Result<()> {
    let pair = Pair::start(Manners::default()).await?;
    for effect in [Effect::ReadPrimary, Effect::Repeatable, Effect::Once] {
        ask(&pair.pool, effect).await?;
    }
    drop((pair.pool.get().await?, pair.pool.primary().await?));
    assert_eq!(pair.replica.seen().opened, 0);
    ask(&pair.pool, Effect::Read).await?;
    drop(pair.pool.replica().await?);
    assert_eq!(pair.opened(), (2, 1));
    Ok(())
}

#[tokio::test]
async fn one_that_turns_everybody_away_is_passed_over_for_a_while() -> anyhow::Result<()> {
    let pair = Pair::start(Manners {
        refuse: Some("57P03"),
        ..Manners::default()
    })
    .await?;
    for _ in 0..3 {
        ask(&pair.pool, Effect::Read).await?;
    }
    assert_eq!(pair.opened(), (1, 0));
    assert_eq!(pair.replica.seen().turned_away, 1);
    Ok(())
}

#[tokio::test]
async fn one_that_says_nothing_is_not_waited_for_long() -> anyhow::Result<()> {
    let pair = Pair::start(Manners {
        silent: true,
        ..Manners::default()
    })
    .await?;
    let begun = tokio::time::Instant::now();
    ask(&pair.pool, Effect::Read).await?;
    // Far less than a connection may take to be opened.
    assert!(begun.elapsed() < CONNECT_TIMEOUT / 2);
    assert_eq!(pair.opened(), (1, 0));
    Ok(())
}

#[tokio::test]
async fn what_was_lost_there_is_read_at_the_primary() -> anyhow::Result<()> {
    let pair = Pair::start(Manners::default()).await?;
    ask(&pair.pool, Effect::Read).await?;
    assert_eq!(pair.opened(), (0, 1));
    let conflict = "canceling statement due to conflict with recovery";
    pair.replica.next([Fate::Failed("40001", conflict)]);
    ask(&pair.pool, Effect::Read).await?;
    assert_eq!(pair.opened(), (1, 1));
    let asked = pair.replica.statements.load(Ordering::SeqCst);
    ask(&pair.pool, Effect::Read).await?;
    let now = pair.replica.statements.load(Ordering::SeqCst);
    assert_eq!(now, asked + 1, "the next one is read there again");
    Ok(())
}

#[tokio::test]
async fn without_one_what_was_written_is_seen_at_the_primary_at_once() -> anyhow::Result<()> {
    let primary = FakePostgres::start(Manners::default()).await?;
    let broker = FakeBroker::start(primary.uri("sslmode=disable"))?;
    let pool = BranchPool::connect(&broker.url(), binding(), options()).await?;
    let written = pool.get().await?.position().await?;
    let mut connection = pool.replica_at(&written).await?;
    assert_eq!(connection.generation(), 1);
    assert_eq!(primary.times_sent(REPLAYED), 1, "not asked again and again");
    connection.batch_execute("SELECT 2").await?;
    assert_eq!(primary.times_sent("SELECT 2"), 1);
    Ok(())
}

#[tokio::test]
async fn what_was_written_to_another_branch_is_waited_for_at_no_replica() -> anyhow::Result<()> {
    let replays = Manners {
        is_replica: true,
        ..Manners::default()
    };
    let pair = Pair::start(replays.clone()).await?;
    let written = pair.pool.get().await?.position().await?;
    let mut connection = pair.pool.replica_at(&written).await?;
    connection.batch_execute("SELECT 2").await?;
    assert_eq!(pair.replica.times_sent("SELECT 2"), 1, "it has come as far");
    drop(connection);

    let primary = FakePostgres::start(Manners::default()).await?;
    let replica = FakePostgres::start(replays).await?;
    pair.broker.announce(|world| {
        world.generation += 1;
        world.uri = primary.uri("sslmode=disable");
        world.replica_uri = replica.uri("sslmode=disable");
    });
    until_state(&pair.pool, "generation 2", |state| {
        state.generation == Some(2)
    })
    .await?;
    let mut connection = pair.pool.replica_at(&written).await?;
    assert_eq!(connection.generation(), 2);
    assert_eq!(
        replica.times_sent(REPLAYED),
        0,
        "its log is not the other's"
    );
    connection.batch_execute("SELECT 2").await?;
    let asked = (
        primary.times_sent("SELECT 2"),
        replica.times_sent("SELECT 2"),
    );
    assert_eq!(asked, (1, 0));
    Ok(())
}
