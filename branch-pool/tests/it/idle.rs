//! Sessions that end while nobody uses them: found before the next query, not by it.

use anyhow::Context;
use branch_pool::BranchPool;
use diesel_async::SimpleAsyncConnection;

use crate::fake_broker::FakeBroker;
use crate::fake_postgres::{Authority, End, FakePostgres, Manners};
use crate::{binding, options};

/// A pool with one session, which is at rest.
struct Resting {
    postgres: FakePostgres,
    pool: BranchPool,
    _broker: FakeBroker,
}

impl Resting {
    async fn start(manners: Manners) -> anyhow::Result<Self> {
        let mode = if manners.tls.is_some() {
            "sslmode=require"
        } else {
            "sslmode=disable"
        };
        let postgres = FakePostgres::start(manners).await?;
        let broker = FakeBroker::start(postgres.uri(mode))?;
        let pool = BranchPool::connect(&broker.url(), binding(), options()).await?;
        pool.get().await?.batch_execute("SELECT 1").await?;
        Ok(Self {
            postgres,
            pool,
            _broker: broker,
        })
    }

    /// Waits until the client has heard of the end, and closed its own.
    async fn until_heard(&self) -> anyhow::Result<()> {
        self.postgres
            .until_seen("closed", |seen| seen.open == 0)
            .await
            .map(|_| ())
    }

    /// The next query works, on another session.
    async fn ask(&self, what: &str) -> anyhow::Result<()> {
        let mut connection = self.pool.get().await.context(what.to_owned())?;
        let outcome = connection.batch_execute("SELECT 2").await;
        outcome.context(what.to_owned())?;
        assert_eq!(self.postgres.seen().opened, 2, "{what}");
        assert_eq!(self.postgres.times_sent("SELECT 2"), 1, "{what}");
        Ok(())
    }
}

/// The ways of a session to end, each with a server that does it so.
fn ends() -> anyhow::Result<[(&'static str, Manners, End); 4]> {
    let plain = Manners::default();
    let with_tls = Manners {
        tls: Some(Authority::new("ours")?.certify("localhost")?),
        ..Manners::default()
    };
    Ok([
        ("an administrator", plain.clone(), End::Fatal("57P01")),
        ("a crash", plain.clone(), End::Fatal("57P02")),
        ("the end of TCP", plain, End::Wordless),
        ("the end of TLS", with_tls, End::Wordless),
    ])
}

#[tokio::test]
async fn an_end_that_was_heard_of_costs_no_query() -> anyhow::Result<()> {
    for (what, manners, end) in ends()? {
        let resting = Resting::start(manners).await?;
        resting.postgres.end(end).await?;
        resting.until_heard().await?;
        resting.ask(what).await?;
    }
    Ok(())
}

#[tokio::test]
async fn an_end_that_nobody_has_read_yet_costs_no_query() -> anyhow::Result<()> {
    for (what, manners, end) in ends()? {
        let resting = Resting::start(manners).await?;
        resting.postgres.end(end).await?;
        // There is one thread, and who would read it has not had it since.
        resting.ask(what).await?;
    }
    Ok(())
}

#[tokio::test]
async fn an_end_costs_no_query_where_the_server_stays_on_the_line() -> anyhow::Result<()> {
    let lingers = Manners {
        lingers: true,
        ..Manners::default()
    };
    let resting = Resting::start(lingers.clone()).await?;
    resting.postgres.end(End::Fatal("57P01")).await?;
    // What was said is read by now, and there is nothing else to be found.
    resting.until_heard().await?;
    resting.ask("said only").await?;

    let resting = Resting::start(lingers).await?;
    resting.postgres.end(End::Fatal("57P01")).await?;
    resting.ask("said, and not read yet").await
}
