//! The lease: acquired, renewed, replaced, released.

use std::time::Duration;

use anyhow::Context;
use branch_pool::testing::TestBranch;
use branch_pool::{Access, BranchPool, LeaseTarget, Phase};
use diesel_async::SimpleAsyncConnection;
use proto::broker::v1::acquire_lease_request::Target;

use crate::fake_broker::{Call, FakeBroker, Fault};
use crate::fake_postgres::{FakePostgres, Manners};
use crate::{binding, options, refusal, until_state};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_lease_is_asked_for_as_the_options_say() -> anyhow::Result<()> {
    let broker = FakeBroker::start("postgresql://role:hunter2@localhost/neondb")?;
    let options = options()
        .access(Access::ReadOnly)
        .pooled(true)
        .ttl(90 * SECOND);
    let pool = BranchPool::connect(&broker.url(), binding(), options).await?;

    let asked = broker.acquisitions();
    let request = asked.first().context("no acquisition")?;
    assert_eq!(request.holder, "test");
    assert_eq!(request.access(), proto::broker::v1::Access::ReadOnly);
    assert!(request.pooled);
    assert_eq!(request.ttl.map(|ttl| ttl.seconds), Some(90));
    assert_eq!(request.request_id.len(), 36);
    let state = pool.state().borrow().clone();
    assert_eq!(state.phase, Phase::Ready);
    assert_eq!(state.generation, Some(1));
    assert_eq!(state.branch.as_deref(), Some("branches/br-1"));
    assert!(state.expire_time.is_some());
    assert_eq!(state.last_error, None);
    Ok(())
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again_under_the_same_id() -> anyhow::Result<()> {
    let broker = FakeBroker::start("postgresql://role:hunter2@localhost/neondb")?;
    broker.world().acquire_faults.extend([
        Fault::Lose,
        Fault::Refuse(tonic::Status::unavailable("being prepared")),
    ]);
    let options = options().call_timeout(Duration::from_millis(500));
    BranchPool::connect(&broker.url(), binding(), options).await?;

    let asked = broker.acquisitions();
    assert!(asked.len() >= 3, "{asked:?}");
    assert!(
        asked
            .iter()
            .all(|one| one.request_id == asked[0].request_id)
    );
    assert_eq!(broker.world().leases.len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_lease_is_renewed_before_it_ends() -> anyhow::Result<()> {
    let broker = FakeBroker::start("postgresql://role:hunter2@localhost/neondb")?;
    broker.world().ttl = 2 * SECOND;
    let pool = BranchPool::connect(&broker.url(), binding(), options()).await?;

    let renewals = |calls: &[Call]| {
        let renewal = |call: &&Call| matches!(call, Call::Renew { .. });
        calls.iter().filter(renewal).count()
    };
    let calls = broker
        .until_calls("three renewals", |calls| renewals(calls) >= 3)
        .await?;
    for call in &calls {
        if let Call::Renew { name, in_time } = call {
            assert_eq!(name, "leases/1");
            assert!(in_time, "{calls:?}");
        }
    }
    assert_eq!(broker.acquisitions().len(), 1);
    assert_eq!(pool.state().borrow().phase, Phase::Ready);
    Ok(())
}

#[tokio::test]
async fn a_forgotten_lease_is_replaced_and_the_pool_kept() -> anyhow::Result<()> {
    let postgres = FakePostgres::start(Manners::default()).await?;
    let broker = FakeBroker::start(postgres.uri("sslmode=disable"))?;
    let pool = BranchPool::connect(&broker.url(), binding(), options()).await?;
    drop(pool.get().await?);

    broker.forget();
    broker.until_acquisitions(2).await?;
    until_state(&pool, "the new lease", |state| {
        state.lease.as_deref() == Some("leases/2") && state.last_error.is_none()
    })
    .await?;
    let asked = broker.acquisitions();
    assert_ne!(asked[0].request_id, asked[1].request_id);
    pool.get().await?.batch_execute("SELECT 1").await?;
    assert_eq!(postgres.seen().opened, 1);
    Ok(())
}

#[tokio::test]
async fn the_smaller_limit_counts() -> anyhow::Result<()> {
    let postgres = FakePostgres::start(Manners::default()).await?;
    for (granted, wanted, expected) in [
        (4, Some(2), 2),
        (2, Some(9), 2),
        (3, None, 3),
        (0, Some(1), 1),
    ] {
        let broker = FakeBroker::start(postgres.uri("sslmode=disable"))?;
        broker.world().connection_limit = granted;
        let mut options = options().wait_timeout(Duration::ZERO);
        options.max_size = wanted;
        let pool = BranchPool::connect(&broker.url(), binding(), options).await?;
        let mut connections = Vec::new();
        for _ in 0..expected {
            connections.push(pool.get().await?);
        }
        let error = refusal(&pool).await?;
        let is_timeout = matches!(error, branch_pool::Error::CheckoutTimeout { .. });
        assert!(is_timeout, "{granted} {wanted:?}: {error}");
    }
    Ok(())
}

#[tokio::test]
async fn closing_releases_the_lease() -> anyhow::Result<()> {
    let postgres = FakePostgres::start(Manners::default()).await?;
    let broker = FakeBroker::start(postgres.uri("sslmode=disable"))?;
    let pool = BranchPool::connect(&broker.url(), binding(), options()).await?;
    let clone = pool.clone();
    drop(pool.get().await?);

    pool.close().await;
    assert!(broker.world().leases.is_empty());
    assert_eq!(clone.state().borrow().phase, Phase::Closed);
    let error = refusal(&clone).await?;
    assert!(
        matches!(error, branch_pool::Error::Closed { .. }),
        "{error}"
    );
    postgres
        .until_seen("none left", |seen| seen.open == 0)
        .await?;
    clone.close().await;
    Ok(())
}

#[tokio::test]
async fn dropping_the_last_clone_releases_the_lease() -> anyhow::Result<()> {
    let broker = FakeBroker::start("postgresql://role:hunter2@localhost/neondb")?;
    let pool = BranchPool::connect(&broker.url(), binding(), options()).await?;
    let clone = pool.clone();
    let mut state = pool.state();
    drop(pool);
    assert_eq!(clone.state().borrow().phase, Phase::Ready);
    drop(clone);
    broker
        .until_calls(
            "a release",
            |calls| matches!(calls.last(), Some(Call::Release { name }) if name == "leases/1"),
        )
        .await?;
    crate::until(&mut state, "closed", |state| state.phase == Phase::Closed).await?;
    Ok(())
}

#[tokio::test]
async fn a_branch_of_its_own_is_not_replaced() -> anyhow::Result<()> {
    let postgres = FakePostgres::start(Manners::default()).await?;
    let broker = FakeBroker::start(postgres.uri("sslmode=disable"))?;
    broker.world().ttl = 2 * SECOND;
    let target = LeaseTarget::Ephemeral { parent: binding() };
    let pool = BranchPool::connect(&broker.url(), target, options()).await?;
    pool.get().await?.batch_execute("SELECT 1").await?;

    broker.forget();
    until_state(&pool, "expired", |state| state.phase == Phase::Expired).await?;
    let error = refusal(&pool).await?;
    let text = error.to_string();
    assert!(
        text.contains("an ephemeral branch of services/users/versions/v1"),
        "{text}"
    );
    assert_eq!(broker.acquisitions().len(), 1);
    // It comes to rest: nothing is asked any more.
    pool.close().await;
    Ok(())
}

#[tokio::test]
async fn a_test_has_a_branch_and_leaves_none() -> anyhow::Result<()> {
    let postgres = FakePostgres::start(Manners::default()).await?;
    let broker = FakeBroker::start(postgres.uri("sslmode=disable"))?;
    let options = options().access(Access::Ddl);
    let branch = TestBranch::fork_with(broker.url(), binding(), options).await?;
    branch.get().await?.batch_execute("SELECT 1").await?;
    let asked = broker.acquisitions();
    let request = asked.first().context("no acquisition")?;
    let Some(Target::Ephemeral(wanted)) = &request.target else {
        anyhow::bail!("{request:?}");
    };
    assert_eq!(wanted.parent, "services/users/versions/v1");
    assert!(wanted.migrate);
    assert_eq!(request.access(), proto::broker::v1::Access::Ddl);

    // Without a moment for the pool's own tasks.
    drop(branch);
    assert!(broker.world().leases.is_empty());
    Ok(())
}
