//! Work whose connection dies under it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use branch_pool::{BranchPool, Effect, WorkError};
use diesel::result::Error as QueryError;
use diesel_async::SimpleAsyncConnection;

use crate::fake_broker::FakeBroker;
use crate::fake_postgres::{FakePostgres, Fate, Manners};
use crate::{ask, binding, options};

const ENDED: Fate = Fate::Ended("terminating connection due to administrator command");
const STALE: Fate = Fate::Failed("0A000", "cached plan must not change result type");

/// The statements that a session begins with.
const SET_UP: usize = 2;
/// Those so far, when a test begins.
const BEFORE: usize = SET_UP + 1;

async fn start() -> anyhow::Result<(FakePostgres, FakeBroker, BranchPool)> {
    let postgres = FakePostgres::start(Manners::default()).await?;
    let broker = FakeBroker::start(postgres.uri("sslmode=disable"))?;
    let pool = BranchPool::connect(&broker.url(), binding(), options()).await?;
    // With this behind it, nothing of the set-up is still to be sent.
    pool.get().await?.batch_execute("SELECT 1").await?;
    Ok((postgres, broker, pool))
}

#[tokio::test]
async fn what_may_be_repeated_is_repeated_once() -> anyhow::Result<()> {
    for effect in [Effect::Read, Effect::Repeatable] {
        let (postgres, _broker, pool) = start().await?;
        postgres.next([ENDED]);
        ask(&pool, effect).await?;
        assert_eq!(
            postgres.statements.load(Ordering::SeqCst),
            BEFORE + SET_UP + 2,
            "{effect:?}"
        );

        postgres.next([ENDED, ENDED]);
        let error = ask(&pool, effect).await.expect_err("it died twice");
        assert!(
            matches!(error, WorkError::Lost { undone: false, .. }),
            "{error:?}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn what_must_not_be_done_twice_is_not() -> anyhow::Result<()> {
    let (postgres, _broker, pool) = start().await?;
    postgres.next([ENDED]);
    let error = ask(&pool, Effect::Once).await.expect_err("it died");
    assert!(
        matches!(error, WorkError::Lost { undone: false, .. }),
        "{error:?}"
    );
    assert_eq!(postgres.statements.load(Ordering::SeqCst), BEFORE + 1);

    // Refused before it was run, for certain: on another connection, which has not
    // prepared it yet.
    postgres.next([STALE]);
    ask(&pool, Effect::Once).await?;
    assert_eq!(postgres.seen().opened, 3);
    Ok(())
}

#[tokio::test]
async fn what_nothing_was_sent_of_may_always_be_repeated() -> anyhow::Result<()> {
    let (postgres, _broker, pool) = start().await?;
    let postgres = Arc::new(postgres);
    let (mut ended, shared) = (false, Arc::clone(&postgres));
    pool.run(Effect::Once, |connection| {
        let dies = !std::mem::replace(&mut ended, true);
        let postgres = Arc::clone(&shared);
        Box::pin(async move {
            if dies {
                let ended = postgres.end_sessions().await;
                ended.map_err(|error| QueryError::QueryBuilderError(error.into()))?;
            }
            connection.batch_execute("SELECT 1").await
        })
    })
    .await?;
    assert_eq!(
        postgres.statements.load(Ordering::SeqCst),
        BEFORE + SET_UP + 1
    );
    Ok(())
}

#[tokio::test]
async fn what_postgres_refuses_is_not_repeated() -> anyhow::Result<()> {
    let (postgres, _broker, pool) = start().await?;
    postgres.next([Fate::Failed("42501", "permission denied for table users")]);
    let error = ask(&pool, Effect::Read).await.expect_err("it is refused");
    assert!(matches!(error, WorkError::Failed(_)), "{error:?}");
    let timeout = "canceling statement due to statement timeout";
    postgres.next([Fate::Failed("57014", timeout)]);
    let error = ask(&pool, Effect::Read)
        .await
        .expect_err("it took too long");
    assert!(
        matches!(error, WorkError::Lost { undone: true, .. }),
        "{error:?}"
    );
    assert_eq!(postgres.statements.load(Ordering::SeqCst), BEFORE + 2);
    Ok(())
}

#[tokio::test]
async fn what_takes_too_long_is_stopped() -> anyhow::Result<()> {
    let postgres = FakePostgres::start(Manners::default()).await?;
    let broker = FakeBroker::start(postgres.uri("sslmode=disable"))?;
    let options = options()
        .work_timeout(Duration::from_millis(100))
        .max_size(1);
    let pool = BranchPool::connect(&broker.url(), binding(), options).await?;
    ask(&pool, Effect::Read).await?;
    postgres.next([Fate::Endless]);
    let error = ask(&pool, Effect::Read).await.expect_err("it never ends");
    assert!(matches!(error, WorkError::TimedOut { .. }), "{error:?}");
    ask(&pool, Effect::Read).await?;
    let seen = postgres.seen();
    assert_eq!((seen.opened, seen.cancels), (1, 1));
    Ok(())
}

#[tokio::test]
async fn it_is_repeated_on_a_connection_that_was_opened_since() -> anyhow::Result<()> {
    let (postgres, _broker, pool) = start().await?;
    drop((pool.get().await?, pool.get().await?, pool.get().await?));
    assert_eq!(postgres.seen().opened, 3);
    postgres.next([ENDED]);
    ask(&pool, Effect::Read).await?;
    assert_eq!(postgres.seen().opened, 4);
    // Nor are the others used by who comes next.
    drop((pool.get().await?, pool.get().await?));
    let seen = postgres.until_seen("two", |seen| seen.open == 2).await?;
    assert_eq!(seen.opened, 5);
    Ok(())
}
