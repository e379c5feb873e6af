//! Connections: TLS as the URI asks, what they keep, and when they are opened and closed.

use std::sync::atomic::Ordering;
use std::time::Duration;

use branch_pool::{BranchPool, Error};
use diesel_async::{AsyncPgConnection, SimpleAsyncConnection};

use crate::fake_broker::FakeBroker;
use crate::fake_postgres::{Authority, FakePostgres, Fate, Manners};
use crate::{PATIENCE, binding, options, refusal, until_state};

/// How a checkout ended: with TLS, without, or with what in its error.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Expected {
    Encrypted,
    Plain,
    Refused(&'static str),
}
use Expected::{Encrypted, Plain, Refused};

async fn check(manners: &Manners, query: &str, expected: Expected) -> anyhow::Result<()> {
    let postgres = FakePostgres::start(manners.clone()).await?;
    let broker = FakeBroker::start(postgres.uri(query))?;
    let pool = BranchPool::connect(&broker.url(), binding(), options()).await?;
    match (expected, pool.get().await) {
        (Encrypted | Plain, Ok(mut connection)) => {
            connection.batch_execute("SELECT 1").await?;
            let encrypted = postgres.seen().encrypted == 1;
            assert_eq!(encrypted, expected == Encrypted, "{query}");
        }
        (Refused(text), Err(error)) => {
            assert!(error.to_string().contains(text), "{query}: {error}");
        }
        (_, outcome) => anyhow::bail!("{query}: not {expected:?} but {outcome:?}"),
    }
    Ok(())
}

#[tokio::test]
async fn tls_is_as_the_uri_asks() -> anyhow::Result<()> {
    let (authority, stranger) = (Authority::new("ours")?, Authority::new("theirs")?);
    let (ours, theirs) = (authority.file()?, stranger.file()?);
    let ours = |mode: &str| format!("sslmode={mode}&sslrootcert={}", ours.path().display());
    let theirs = |mode: &str| format!("sslmode={mode}&sslrootcert={}", theirs.path().display());

    let right_name = Manners {
        tls: Some(authority.certify("localhost")?),
        ..Manners::default()
    };
    let cases = [
        ("", Encrypted),
        ("sslmode=disable", Plain),
        ("sslmode=allow", Plain),
        ("sslmode=prefer", Encrypted),
        ("sslmode=require", Encrypted),
        ("sslmode=verify-full", Refused("UnknownIssuer")),
        (
            "sslmode=require&channel_binding=require",
            Refused("channel binding"),
        ),
        (&ours("require"), Encrypted),
        (&ours("verify-ca"), Encrypted),
        (&ours("verify-full"), Encrypted),
        // As libpq: a failed handshake is no reason to give up on `prefer`.
        (&theirs("prefer"), Plain),
        (&theirs("require"), Refused("UnknownIssuer")),
        (&theirs("verify-ca"), Refused("UnknownIssuer")),
        (&theirs("verify-full"), Refused("UnknownIssuer")),
    ];
    for (query, expected) in cases {
        check(&right_name, query, expected).await?;
    }

    let wrong_name = Manners {
        tls: Some(authority.certify("db.example.com")?),
        ..Manners::default()
    };
    check(&wrong_name, "sslmode=require", Encrypted).await?;
    check(&wrong_name, &ours("verify-ca"), Encrypted).await?;
    check(
        &wrong_name,
        &ours("verify-full"),
        Refused("not valid for name"),
    )
    .await?;
    Ok(())
}

#[tokio::test]
async fn a_server_without_tls() -> anyhow::Result<()> {
    let bare = Manners::default();
    check(&bare, "sslmode=disable", Plain).await?;
    check(&bare, "sslmode=allow", Plain).await?;
    check(&bare, "sslmode=prefer", Plain).await?;
    check(&bare, "sslmode=require", Refused("does not support TLS")).await
}

#[tokio::test]
async fn allow_turns_to_tls_where_the_server_wants_it() -> anyhow::Result<()> {
    let strict = Manners {
        tls: Some(Authority::new("ours")?.certify("localhost")?),
        refuse_plain: true,
        ..Manners::default()
    };
    check(&strict, "sslmode=allow", Encrypted).await?;
    check(&strict, "sslmode=disable", Refused("28000")).await
}

#[tokio::test]
async fn a_checkout_sends_no_query_of_its_own() -> anyhow::Result<()> {
    let postgres = FakePostgres::start(Manners::default()).await?;
    let broker = FakeBroker::start(postgres.uri("sslmode=disable"))?;
    let pool = BranchPool::connect(&broker.url(), binding(), options()).await?;
    drop(pool.get().await?);
    let before = postgres.statements.load(Ordering::SeqCst);
    for _ in 0..5 {
        pool.get().await?.batch_execute("SELECT 1").await?;
    }
    assert_eq!(postgres.statements.load(Ordering::SeqCst), before + 5);
    assert_eq!(postgres.seen().opened, 1);
    Ok(())
}

#[tokio::test]
async fn work_that_is_given_up_is_stopped_before_its_connection_is_used_again() -> anyhow::Result<()>
{
    let postgres = FakePostgres::start(Manners::default()).await?;
    let broker = FakeBroker::start(postgres.uri("sslmode=disable"))?;
    let options = options().max_size(1).wait_timeout(PATIENCE);
    let pool = BranchPool::connect(&broker.url(), binding(), options).await?;
    for _ in 0..3 {
        let mut work = pool.get().await?.begin();
        work.batch_execute("SELECT 1").await?;
        drop(work.finish());
    }
    assert_eq!(postgres.seen().cancels, 0, "finished, it goes back");

    postgres.next([Fate::Endless]);
    let given_up = tokio::time::timeout(Duration::from_millis(100), async {
        let mut work = pool.get().await?.begin();
        work.batch_execute("SELECT pg_sleep(1000)").await?;
        anyhow::Ok(())
    });
    assert!(given_up.await.is_err(), "answered");
    // There is one connection only, and it has been answered before it is here.
    pool.get().await?.batch_execute("SELECT 1").await?;
    let seen = postgres.seen();
    assert_eq!((seen.opened, seen.cancels, seen.open), (1, 1, 1));
    Ok(())
}

#[tokio::test]
async fn connections_that_nobody_needs_are_closed() -> anyhow::Result<()> {
    let postgres = FakePostgres::start(Manners::default()).await?;
    let broker = FakeBroker::start(postgres.uri("sslmode=disable"))?;
    let options = options().idle_timeout(Duration::from_millis(50));
    let pool = BranchPool::connect(&broker.url(), binding(), options).await?;
    let running = pool.get().await?;
    drop((pool.get().await?, pool.get().await?));
    postgres
        .until_seen("the running one", |seen| seen.open == 1)
        .await?;
    drop(running);
    postgres.until_seen("none", |seen| seen.open == 0).await?;
    Ok(())
}

#[tokio::test]
async fn an_old_connection_is_not_used_again() -> anyhow::Result<()> {
    let postgres = FakePostgres::start(Manners::default()).await?;
    let broker = FakeBroker::start(postgres.uri("sslmode=disable"))?;
    let options = options().max_age(Duration::ZERO);
    let pool = BranchPool::connect(&broker.url(), binding(), options).await?;
    for opened in 1..4 {
        pool.get().await?.batch_execute("SELECT 1").await?;
        assert_eq!(postgres.seen().opened, opened);
    }
    Ok(())
}

/// Runs what Diesel prepares once and keeps.
async fn ask_for_the_time(connection: &mut AsyncPgConnection) -> anyhow::Result<()> {
    // Here alone: everything has a `load` with it, atomics too.
    use diesel_async::RunQueryDsl;
    diesel::select(diesel::dsl::now).execute(connection).await?;
    Ok(())
}

/// How often Postgres had to prepare that, and the sessions it has opened.
fn prepared_and_opened(postgres: &FakePostgres) -> (usize, usize) {
    let prepared = postgres.times_sent("CURRENT_TIMESTAMP");
    (prepared, postgres.seen().opened)
}

#[tokio::test]
async fn a_query_that_is_run_again_is_not_prepared_again() -> anyhow::Result<()> {
    let postgres = FakePostgres::start(Manners::default()).await?;
    let broker = FakeBroker::start(postgres.uri("sslmode=disable"))?;
    let options = options().max_size(1);
    let pool = BranchPool::connect(&broker.url(), binding(), options).await?;
    let before = postgres.statements.load(Ordering::SeqCst);
    for _ in 0..50 {
        let mut connection = pool.get().await?;
        ask_for_the_time(&mut connection).await?;
    }
    let run = postgres.statements.load(Ordering::SeqCst) - before;
    assert!(run >= 50, "{run} statements");
    assert_eq!(prepared_and_opened(&postgres), (1, 1));
    Ok(())
}

#[tokio::test]
async fn what_an_old_connection_has_prepared_goes_with_it() -> anyhow::Result<()> {
    let postgres = FakePostgres::start(Manners::default()).await?;
    let broker = FakeBroker::start(postgres.uri("sslmode=disable"))?;
    let options = options().max_size(1).max_age(Duration::ZERO);
    let pool = BranchPool::connect(&broker.url(), binding(), options).await?;
    for connections in 1..4 {
        let mut connection = pool.get().await?;
        for _ in 0..5 {
            ask_for_the_time(&mut connection).await?;
        }
        let expected = (connections, connections);
        assert_eq!(prepared_and_opened(&postgres), expected);
        postgres
            .until_seen("the older ones closed", |seen| seen.open == 1)
            .await?;
    }
    Ok(())
}

#[tokio::test]
async fn more_callers_than_places_all_get_through_a_cold_start() -> anyhow::Result<()> {
    const CALLERS: usize = 10;
    let cold = Manners {
        hesitates: true,
        ..Manners::default()
    };
    let postgres = FakePostgres::start(cold).await?;
    let broker = FakeBroker::start(postgres.uri("sslmode=disable"))?;
    let options = options()
        .max_size(2)
        .wait_timeout(PATIENCE)
        .connect_timeout(PATIENCE);
    let pool = BranchPool::connect(&broker.url(), binding(), options).await?;
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move {
                let mut connection = pool.get().await?;
                connection.batch_execute("SELECT 2").await?;
                anyhow::Ok(())
            })
        })
        .collect();
    postgres
        .until_seen("two at the door", |seen| seen.kept_waiting == 2)
        .await?;
    until_state(&pool, "all of them wait", |state| state.waiting == CALLERS).await?;
    postgres.let_in();
    for caller in callers {
        caller.await??;
    }
    assert_eq!(postgres.times_sent("SELECT 2"), CALLERS);
    let seen = postgres.seen();
    assert_eq!((seen.kept_waiting, seen.opened), (2, 2));
    Ok(())
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up_on() -> anyhow::Result<()> {
    let silent = Manners {
        silent: true,
        ..Manners::default()
    };
    let postgres = FakePostgres::start(silent).await?;
    let broker = FakeBroker::start(postgres.uri("sslmode=disable"))?;
    let options = options().connect_timeout(Duration::from_millis(200));
    let pool = BranchPool::connect(&broker.url(), binding(), options).await?;
    let error = refusal(&pool).await?;
    assert!(matches!(error, Error::ConnectTimeout { .. }), "{error}");
    Ok(())
}
