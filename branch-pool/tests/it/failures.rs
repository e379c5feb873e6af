//! The broker away, refusing, or wrong; and what must not be printed.

use std::time::Duration;

use anyhow::Context;
use branch_pool::{BranchPool, Error, LeaseError, Phase};
use diesel_async::SimpleAsyncConnection;
use tonic::{Code, Status};

use crate::fake_broker::{Call, FakeBroker, Fault};
use crate::fake_postgres::{FakePostgres, Manners};
use crate::{PASSWORD, binding, options, refusal, until_state};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_broker_away_is_not_noticed_by_checkouts() -> anyhow::Result<()> {
    let postgres = FakePostgres::start(Manners::default()).await?;
    let mut broker = FakeBroker::start(postgres.uri("sslmode=disable"))?;
    // Renewed at 5 s or earlier; over long after the test is.
    broker.world().ttl = 8 * SECOND;
    let pool = BranchPool::connect(&broker.url(), binding(), options()).await?;

    broker.kill();
    let state = until_state(&pool, "an error", |state| state.last_error.is_some()).await?;
    assert_eq!(state.phase, Phase::Ready);
    pool.get().await?.batch_execute("SELECT 1").await?;

    broker.forget();
    broker.serve()?;
    until_state(&pool, "no error", |state| state.last_error.is_none()).await?;
    assert_eq!(broker.acquisitions().len(), 2);
    pool.get().await?.batch_execute("SELECT 1").await?;
    assert_eq!(postgres.seen().opened, 1);
    Ok(())
}

#[tokio::test]
async fn checkouts_end_with_the_lease_and_come_back_with_the_broker() -> anyhow::Result<()> {
    let postgres = FakePostgres::start(Manners::default()).await?;
    let mut broker = FakeBroker::start(postgres.uri("sslmode=disable"))?;
    broker.world().ttl = SECOND;
    let pool = BranchPool::connect(&broker.url(), binding(), options()).await?;
    broker.kill();

    until_state(&pool, "expired", |state| state.phase == Phase::Expired).await?;
    let error = refusal(&pool).await?;
    let Error::LeaseExpired { last_error, .. } = &error else {
        anyhow::bail!("{error:?}");
    };
    assert!(
        last_error
            .as_ref()
            .is_some_and(|text| text.contains("Unavailable")),
        "{error}"
    );
    assert!(
        error.to_string().contains("services/users/versions/v1"),
        "{error}"
    );

    broker.forget();
    broker.serve()?;
    until_state(&pool, "ready", |state| state.phase == Phase::Ready).await?;
    pool.get().await?.batch_execute("SELECT 1").await?;
    Ok(())
}

#[tokio::test]
async fn a_pool_in_the_background_waits_for_its_broker() -> anyhow::Result<()> {
    let postgres = FakePostgres::start(Manners::default()).await?;
    let mut broker = FakeBroker::down(postgres.uri("sslmode=disable"))?;
    let pool = BranchPool::spawn(&broker.url(), binding(), options())?;
    until_state(&pool, "an error", |state| {
        state.phase == Phase::Connecting && state.last_error.is_some()
    })
    .await?;
    let error = refusal(&pool).await?;
    let is_told = matches!(&error, Error::NotReady { last_error: Some(text), .. } if text.contains("refused"));
    assert!(is_told, "{error}");

    broker
        .world()
        .acquire_faults
        .push_back(Fault::Refuse(Status::not_found("no users")));
    broker.serve()?;
    until_state(&pool, "ready", |state| state.phase == Phase::Ready).await?;
    assert_eq!(broker.acquisitions().len(), 2);
    pool.get().await?.batch_execute("SELECT 1").await?;
    pool.close().await;
    Ok(())
}

#[tokio::test]
async fn closing_ends_a_pool_that_never_got_a_lease() -> anyhow::Result<()> {
    let broker = FakeBroker::down("postgresql://localhost/neondb")?;
    let pool = BranchPool::spawn(&broker.url(), binding(), options())?;
    pool.close().await;
    assert!(matches!(refusal(&pool).await?, Error::Closed { .. }));
    Ok(())
}

#[tokio::test]
async fn a_refusal_that_waiting_does_not_change_ends_connect() -> anyhow::Result<()> {
    for status in [
        Status::not_found("no service users"),
        Status::invalid_argument("binding"),
        Status::failed_precondition("the seed failed"),
    ] {
        let code = status.code();
        let broker = FakeBroker::start("postgresql://localhost/neondb")?;
        broker
            .world()
            .acquire_faults
            .push_back(Fault::Refuse(status));
        let error = BranchPool::connect(&broker.url(), binding(), options())
            .await
            .err()
            .context("connected")?;
        let Error::FailedAcquire {
            source: LeaseError::FailedCall { status, .. },
            ..
        } = &error
        else {
            anyhow::bail!("{error:?}");
        };
        assert_eq!(status.code(), code);
        assert_eq!(broker.acquisitions().len(), 1, "{code:?}");
    }
    Ok(())
}

#[tokio::test]
async fn connect_gives_up_in_the_end() -> anyhow::Result<()> {
    let broker = FakeBroker::down("postgresql://localhost/neondb")?;
    let options = options().acquire_timeout(Duration::from_millis(300));
    let error = BranchPool::connect(&broker.url(), binding(), options)
        .await
        .err()
        .context("connected")?;
    let Error::FailedAcquire {
        source: LeaseError::FailedCall { status, .. },
        ..
    } = &error
    else {
        anyhow::bail!("{error:?}");
    };
    assert_eq!(status.code(), Code::Unavailable);
    Ok(())
}

#[tokio::test]
async fn a_malformed_address_is_refused_at_once() -> anyhow::Result<()> {
    for url in ["", "not a url", "http://", "https://", "ftp://me:pw@x"] {
        let error = BranchPool::spawn(url, binding(), options())
            .err()
            .context(url)?;
        assert!(
            matches!(error, Error::InvalidBrokerUrl { .. }),
            "{url}: {error}"
        );
        assert!(!error.to_string().contains("pw"), "{error}");
    }
    Ok(())
}

#[tokio::test]
async fn a_refused_password_is_exchanged_for_a_new_lease() -> anyhow::Result<()> {
    for code in ["28P01", "28000", "3D000"] {
        let strict = FakePostgres::start(Manners {
            refuse: Some(code),
            ..Manners::default()
        })
        .await?;
        let kind = FakePostgres::start(Manners::default()).await?;
        let broker = FakeBroker::start(strict.uri("sslmode=disable"))?;
        let pool = BranchPool::connect(&broker.url(), binding(), options()).await?;
        // Behind the watch's back: the refusal alone tells of it.
        broker.until_told(Some(1)).await?;
        broker.world().uri = kind.uri("sslmode=disable");

        let error = refusal(&pool).await?;
        assert!(
            matches!(&error, Error::FailedConnect { reason, .. } if reason.contains(code)),
            "{error}"
        );
        broker.until_acquisitions(2).await?;
        until_state(&pool, "no error", |state| state.last_error.is_none()).await?;
        pool.get().await?.batch_execute("SELECT 1").await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_lease_that_is_no_better_is_given_back() -> anyhow::Result<()> {
    let manners = Manners {
        refuse: Some("28P01"),
        ..Manners::default()
    };
    let postgres = FakePostgres::start(manners).await?;
    let broker = FakeBroker::start(postgres.uri("sslmode=disable"))?;
    let pool = BranchPool::connect(&broker.url(), binding(), options()).await?;
    refusal(&pool).await?;
    broker
        .until_calls("the first lease's release", |calls| {
            calls
                .iter()
                .any(|call| matches!(call, Call::Release { name } if name == "leases/1"))
        })
        .await?;
    let leases: Vec<String> = broker.world().leases.keys().cloned().collect();
    assert_eq!(leases, ["leases/2"]);
    Ok(())
}

#[tokio::test]
async fn other_failures_to_connect_leave_the_lease_alone() -> anyhow::Result<()> {
    let manners = Manners {
        refuse: Some("53300"),
        ..Manners::default()
    };
    let postgres = FakePostgres::start(manners).await?;
    let broker = FakeBroker::start(postgres.uri("sslmode=disable"))?;
    broker.world().ttl = SECOND;
    let options = options().connect_timeout(Duration::from_millis(100));
    let pool = BranchPool::connect(&broker.url(), binding(), options).await?;
    let error = refusal(&pool).await?;
    assert!(error.to_string().contains("53300"), "{error}");
    let renewed = |calls: &[Call]| {
        calls
            .iter()
            .filter(|call| matches!(call, Call::Renew { .. }))
            .count()
    };
    broker
        .until_calls("three renewals", |calls| renewed(calls) >= 3)
        .await?;
    assert_eq!(broker.acquisitions().len(), 1);
    Ok(())
}

#[tokio::test]
async fn nothing_that_is_printed_holds_the_password() -> anyhow::Result<()> {
    let manners = Manners {
        refuse: Some("28P01"),
        ..Manners::default()
    };
    let strict = FakePostgres::start(manners).await?;
    let kind = FakePostgres::start(Manners::default()).await?;
    let mut printed = String::new();
    let mut print = |text: String| printed.push_str(&text);

    let broker = FakeBroker::start(strict.uri("sslmode=disable"))?;
    let pool = BranchPool::connect(&broker.url(), binding(), options()).await?;
    let error = refusal(&pool).await?;
    print(format!("{error} {error:?}"));
    until_state(&pool, "an error", |state| state.last_error.is_some()).await?;
    print(format!("{pool:?} {pool:#?} {:?}", pool.state()));

    let broker = FakeBroker::start(kind.uri("sslmode=disable"))?;
    let pool = BranchPool::connect(&broker.url(), binding(), options()).await?;
    print(format!("{pool:?} {:?}", pool.get().await?));
    print(format!("{:?}", broker.world().leases));

    for query in [
        "sslmode=nonsense",
        "sslmode=require&nonsense=1",
        "connect_timeout=x",
    ] {
        let broker = FakeBroker::start(kind.uri(query))?;
        let error = BranchPool::connect(&broker.url(), binding(), options())
            .await
            .err()
            .context(query)?;
        print(format!("{error} {error:?}"));
        print(format!("{:?}", anyhow::Error::new(error)));
        assert!(
            broker.world().leases.is_empty(),
            "{query}: the lease is given back"
        );
    }
    assert!(
        printed.contains("nonsense") && printed.contains("28P01"),
        "{printed}"
    );
    assert!(!printed.contains(PASSWORD), "{printed}");
    Ok(())
}
