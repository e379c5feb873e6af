//! Ephemeral branches that are kept ready.

mod cap;
mod faults;
mod killed;
mod stale;

use anyhow::{Context, ensure};
use neon_api::types::Branch;
use proto::broker::v1::acquire_lease_request::Target;
use proto::broker::v1::{
    Access, AcquireLeaseRequest, AcquireLeaseResponse, ApplyRequest, EphemeralBranch, Lease,
    ReleaseLeaseRequest,
};
use serde_json::json;
use suite::{Broker, Clock, Config, EmulatorProcess, Faults, Folder, StateDatabase, eventually};

const V1: &str = "services/users/versions/v1";
const V2: &str = "services/users/versions/v2";

/// Two branches of v1, for who writes.
const TWO_OF_V1: &str = r#"
[warm.ci]
parent = "services/users/versions/v1"
size = 2
"#;

/// An emulator and a broker with one clock, which the test moves.
struct Bench {
    folder: Folder,
    clock: Clock,
    config: Config,
    emulator: EmulatorProcess,
    broker: Broker,
}

impl Bench {
    /// With these pools in broker.toml.
    async fn start(pools: &str) -> anyhow::Result<Self> {
        Self::start_with(pools, |text| text).await
    }

    /// As [`Bench::start`], with the rest of broker.toml changed.
    async fn start_with(
        pools: &str,
        change: impl FnOnce(String) -> String,
    ) -> anyhow::Result<Self> {
        let folder = Folder::new()?;
        let clock = Clock::in_folder(&folder);
        clock.set(0)?;
        let [flag, file] = clock.flags()?;
        let data = folder.join("data");
        let flags = ["--admin", flag, file];
        let emulator = EmulatorProcess::start_with(&data, "127.0.0.1:0", &flags).await?;
        let config = Config::copy(&folder)?;
        config.write(&format!("{}\n{pools}", change(config.text()?)))?;
        let broker = Broker::start_clocked(&folder, &emulator, &config.path(), &clock).await?;
        broker.is_ready().await?;
        Ok(Self {
            folder,
            clock,
            config,
            emulator,
            broker,
        })
    }

    /// Waits until so many wait, and no other branch does or is made to. Their ids.
    async fn ready(&self, count: usize) -> anyhow::Result<Vec<String>> {
        let database = StateDatabase::of(&self.emulator).await?;
        let session = database.session(&self.emulator).await?;
        eventually("the pool is full", async || {
            let waiting = "SELECT branch FROM broker.branches
                 WHERE pool IS NOT NULL AND lease IS NULL AND intent = 'own'
                   AND making_until IS NULL ORDER BY branch";
            let rows = session.query(waiting, &[]).await?;
            let ids: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
            let there = self.branches().await?;
            let named = there.iter().filter(|one| one.name.starts_with("warm/"));
            let mut named: Vec<String> = named.map(|one| one.id.to_string()).collect();
            named.sort();
            ensure!(ids.len() == count, "{count}: {ids:?} of {there:?}");
            ensure!(named == ids, "{ids:?}: {there:?}");
            Ok(ids)
        })
        .await
    }

    async fn acquire(&self, request: AcquireLeaseRequest) -> anyhow::Result<Given> {
        let mut leases = self.broker.leases().await?;
        given(leases.acquire_lease(request).await?.into_inner())
    }

    async fn release(&self, lease: &Lease) -> anyhow::Result<()> {
        let request = ReleaseLeaseRequest {
            name: lease.name.clone(),
            ..Default::default()
        };
        self.broker.leases().await?.release_lease(request).await?;
        Ok(())
    }

    /// Reads broker.toml again, changed like that.
    async fn apply(&self, change: impl FnOnce(String) -> String) -> anyhow::Result<()> {
        self.config.write(&change(self.config.text()?))?;
        let mut config = self.broker.config().await?;
        config.apply(ApplyRequest::default()).await?;
        Ok(())
    }

    async fn session(&self, uri: &str) -> anyhow::Result<tokio_postgres::Client> {
        suite::connect(uri, self.emulator.data()).await
    }

    async fn branches(&self) -> anyhow::Result<Vec<Branch>> {
        let (client, project) = (self.emulator.client(), self.emulator.project());
        Ok(client.list_all_branches(project, None).await?.branches)
    }

    /// Waits until so many branches are there in all.
    async fn has_branches(&self, count: usize) -> anyhow::Result<()> {
        eventually("so many branches are there", async || {
            let there = self.branches().await?;
            ensure!(there.len() == count, "{count}: {there:?}");
            Ok(())
        })
        .await
    }

    async fn stop(self) -> anyhow::Result<()> {
        self.broker.process.stop().await?;
        self.emulator.stop().await?;
        drop(self.folder);
        Ok(())
    }
}

/// A lease as it was given.
#[derive(Debug)]
struct Given {
    lease: Lease,
    uri: String,
}

impl Given {
    fn branch(&self) -> &str {
        self.lease.branch.trim_start_matches("branches/")
    }
}

fn given(answer: AcquireLeaseResponse) -> anyhow::Result<Given> {
    Ok(Given {
        lease: answer.lease.context("a lease")?,
        uri: answer.connection.context("a connection")?.uri,
    })
}

fn ephemeral(parent: &str, access: Access) -> AcquireLeaseRequest {
    AcquireLeaseRequest {
        target: Some(Target::Ephemeral(EphemeralBranch {
            parent: parent.to_owned(),
            ..Default::default()
        })),
        access: access.into(),
        holder: "suite".to_owned(),
        ..Default::default()
    }
}

fn migrated(parent: &str, access: Access) -> AcquireLeaseRequest {
    AcquireLeaseRequest {
        target: Some(Target::Ephemeral(EphemeralBranch {
            parent: parent.to_owned(),
            migrate: true,
            ..Default::default()
        })),
        ..ephemeral(parent, access)
    }
}

#[tokio::test]
async fn a_branch_that_waits_is_handed_out_at_once_and_another_is_made() -> anyhow::Result<()> {
    let bench = Bench::start(TWO_OF_V1).await?;
    let ready = bench.ready(2).await?;
    let before = bench.branches().await?.len();
    // Nothing of it needs Neon.
    let faults = Faults::of(&bench.emulator);
    for (method, route) in [
        ("POST", "/projects/{project_id}/branches"),
        ("GET", "/projects/{project_id}/branches/{branch_id}"),
        (
            "GET",
            "/projects/{project_id}/branches/{branch_id}/databases",
        ),
        ("GET", "/projects/{project_id}/connection_uri"),
        ("PATCH", "/projects/{project_id}/branches/{branch_id}"),
    ] {
        let never = json!({"fault": "unavailable", "count": 1_000});
        faults.on_route(method, route, never).await?;
    }
    let one = bench.acquire(ephemeral(V1, Access::ReadWrite)).await?;
    let other = bench.acquire(ephemeral(V1, Access::ReadWrite)).await?;
    let mut taken = [one.branch(), other.branch()];
    taken.sort_unstable();
    assert_eq!(taken.as_slice(), ready.as_slice());
    let session = bench.session(&one.uri).await?;
    let rows = session.query("SELECT name FROM users", &[]).await?;
    assert_eq!(rows.len(), 2, "the parent's rows");
    session.batch_execute("DELETE FROM users").await?;
    let session = bench.session(&other.uri).await?;
    let rows = session.query("SELECT name FROM users", &[]).await?;
    assert_eq!(rows.len(), 2, "another's branch");
    faults.forget().await?;

    let fresh = bench.ready(2).await?;
    assert!(fresh.iter().all(|branch| !ready.contains(branch)));
    eventually("Neon has their names", async || {
        let there = bench.branches().await?;
        for lease in [&one, &other] {
            let named = there
                .iter()
                .find(|found| found.id.as_str() == lease.branch());
            let wanted = lease.lease.name.replace("leases/", "lease/");
            let found = named.context("it is there")?;
            ensure!(found.name == wanted, "{wanted}: {found:?}");
        }
        Ok(())
    })
    .await?;
    let seconds = |time: Option<prost_types::Timestamp>| time.map(|time| time.seconds);
    let (end, of) = (one.lease.branch_expire_time, one.lease.expire_time);
    assert!(seconds(end) > seconds(of), "{:?}", one.lease);
    bench.release(&one.lease).await?;
    bench.release(&other.lease).await?;
    bench.has_branches(before).await?;
    bench.ready(2).await?;
    bench.stop().await
}

/// The role that waits is for one access; for another it is made at that moment.
#[tokio::test]
async fn every_access_has_its_own_rights_on_a_branch_that_waited() -> anyhow::Result<()> {
    let bench = Bench::start(&TWO_OF_V1.replace("size = 2", "size = 3")).await?;
    let ready = bench.ready(3).await?;
    let reads = bench.acquire(ephemeral(V1, Access::ReadOnly)).await?;
    let writes = bench.acquire(ephemeral(V1, Access::ReadWrite)).await?;
    let changes = bench.acquire(ephemeral(V1, Access::Ddl)).await?;
    for lease in [&reads, &writes, &changes] {
        assert!(ready.iter().any(|one| one == lease.branch()), "{lease:?}");
    }
    let (delete, alter) = (
        "DELETE FROM users",
        "ALTER TABLE users ADD COLUMN nickname text",
    );
    for (lease, may) in [
        (&reads, [false, false]),
        (&writes, [true, false]),
        (&changes, [true, true]),
    ] {
        let session = bench.session(&lease.uri).await?;
        session.query("SELECT name FROM users", &[]).await?;
        for (statement, may) in [delete, alter].into_iter().zip(may) {
            let done = session.batch_execute(statement).await;
            assert_eq!(done.is_ok(), may, "{statement}: {done:?} {lease:?}");
        }
    }
    bench.stop().await
}

#[tokio::test]
async fn a_migrated_branch_has_the_newest_revisions_and_the_parents_rows() -> anyhow::Result<()> {
    let pools = format!("{TWO_OF_V1}migrate = true\naccess = \"ddl\"\n");
    let bench = Bench::start(&pools).await?;
    let ready = bench.ready(2).await?;
    // As it is, v1 is another branch's matter.
    let plain = bench.acquire(ephemeral(V1, Access::Ddl)).await?;
    assert!(!ready.iter().any(|one| one == plain.branch()), "{plain:?}");
    let newest = bench.acquire(migrated(V1, Access::Ddl)).await?;
    assert!(ready.iter().any(|one| one == newest.branch()), "{newest:?}");
    let session = bench.session(&newest.uri).await?;
    let columns = "SELECT name, age, city FROM users";
    assert_eq!(session.query(columns, &[]).await?.len(), 2);
    session
        .batch_execute("ALTER TABLE users DROP COLUMN city")
        .await?;
    let session = bench.session(&plain.uri).await?;
    assert!(session.query(columns, &[]).await.is_err());
    // What the role that waited owned is the owner's again, and read as before.
    let reads = bench.acquire(migrated(V1, Access::ReadOnly)).await?;
    assert!(ready.iter().any(|one| one == reads.branch()), "{reads:?}");
    let owner = bench.emulator.connect(&reads.branch().parse()?).await?;
    eventually("the role that waited is gone", async || {
        let roles = "SELECT rolname::text FROM pg_roles WHERE rolname LIKE 'lease%ddl%'";
        let left = owner.query(roles, &[]).await?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
    .await?;
    let session = bench.session(&reads.uri).await?;
    assert_eq!(session.query(columns, &[]).await?.len(), 2);
    assert!(session.batch_execute("DELETE FROM users").await.is_err());
    bench.stop().await
}
