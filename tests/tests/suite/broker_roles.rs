//! What holders of leases can do, and what is left of it.

use anyhow::{Context, ensure};
use neon_api::BranchId;
use proto::broker::v1::acquire_lease_request::Target;
use proto::broker::v1::{
    Access, AcquireLeaseRequest, AcquireLeaseResponse, ApplyRequest, PlanRequest,
    ReleaseLeaseRequest, RenewLeaseRequest,
};
use secrecy::SecretString;
use suite::{Broker, Config, EmulatorProcess, Folder, eventually};
use tokio_postgres::error::SqlState;

const V1: &str = "services/users/versions/v1";
const V2: &str = "services/users/versions/v2";

/// An emulator and a broker on a broker.toml of its own.
struct Bench {
    folder: Folder,
    emulator: EmulatorProcess,
    config: Config,
    broker: Broker,
}

impl Bench {
    /// `change` makes broker.toml what the test needs.
    async fn start(change: impl FnOnce(&Config) -> anyhow::Result<()>) -> anyhow::Result<Self> {
        let folder = Folder::new()?;
        let emulator = EmulatorProcess::start(&folder.join("data")).await?;
        let config = Config::copy(&folder)?;
        change(&config)?;
        let broker = Broker::start(&folder, &emulator, &config.path()).await?;
        broker.is_ready().await?;
        Ok(Self {
            folder,
            emulator,
            config,
            broker,
        })
    }

    async fn acquire(&self, binding: &str, access: Access) -> anyhow::Result<AcquireLeaseResponse> {
        self.acquire_as("suite", binding, access).await
    }

    async fn acquire_as(
        &self,
        holder: &str,
        binding: &str,
        access: Access,
    ) -> anyhow::Result<AcquireLeaseResponse> {
        let request = AcquireLeaseRequest {
            holder: holder.to_owned(),
            target: Some(Target::Binding(binding.to_owned())),
            access: access.into(),
            ..Default::default()
        };
        Ok(self
            .broker
            .leases()
            .await?
            .acquire_lease(request)
            .await?
            .into_inner())
    }

    async fn session(&self, uri: &str) -> anyhow::Result<tokio_postgres::Client> {
        suite::connect(uri, self.emulator.data()).await
    }

    async fn owner(&self, branch: &str) -> anyhow::Result<tokio_postgres::Client> {
        let found = self
            .emulator
            .client()
            .list_all_branches(self.emulator.project(), Some(branch))
            .await?;
        let branch: &BranchId = &found.branches.first().context("the branch")?.id;
        self.emulator.connect(branch).await
    }

    async fn stop(self) -> anyhow::Result<()> {
        self.broker.process.stop().await?;
        self.emulator.stop().await?;
        drop(self.folder);
        Ok(())
    }
}

fn uri(lease: &AcquireLeaseResponse) -> anyhow::Result<&str> {
    Ok(&lease.connection.as_ref().context("a connection")?.uri)
}

/// The same connection, to another database.
fn to_database(uri: &str, database: &str) -> String {
    uri.replace("/neondb?", &format!("/{database}?"))
}

#[tokio::test]
async fn a_password_that_cannot_be_set_is_in_no_error_and_no_log() -> anyhow::Result<()> {
    const PASSWORD: &str = "a-password-that-no-log-may-show";
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let mut owner = emulator.connect(&emulator.main_branch().await?).await?;
    let transaction = owner.transaction().await?;
    let password = SecretString::from(PASSWORD);
    let error = broker::roles::password_set(&transaction, "no_such_role", &password)
        .await
        .expect_err("there is no such role");
    assert_eq!(error.code(), Some(&SqlState::UNDEFINED_OBJECT), "{error:?}");
    let said = format!("{error:?} {error}");
    assert!(said.contains("no_such_role"), "{said}");
    assert!(!said.contains(PASSWORD), "{said}");
    drop(transaction);
    let logged = eventually("the error is logged", async || {
        let mut logged = String::new();
        for entry in std::fs::read_dir(emulator.data().join("log"))? {
            logged.push_str(&std::fs::read_to_string(entry?.path())?);
        }
        ensure!(logged.contains("no_such_role"), "{logged}");
        Ok(logged)
    })
    .await?;
    assert!(!logged.contains(PASSWORD), "{logged}");
    emulator.stop().await
}

/// What a holder leaves behind keeps a role from being dropped; it keeps
/// nobody from forking.
#[tokio::test]
async fn a_holder_cannot_stop_a_fork() -> anyhow::Result<()> {
    let mut whole = String::new();
    let bench = Bench::start(|config| {
        whole = config.v1_alone()?;
        Ok(())
    })
    .await?;
    let writing = bench.acquire(V1, Access::ReadWrite).await?;
    let reading = bench.acquire(V1, Access::ReadOnly).await?;
    for lease in [&writing, &reading] {
        let session = bench.session(uri(lease)?).await?;
        session
            .batch_execute(
                "SELECT lo_create(0);
                 ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC;",
            )
            .await?;
    }
    // In another database, which the broker has nothing to do with.
    let elsewhere = to_database(uri(&reading)?, "postgres");
    let session = bench.session(&elsewhere).await?;
    session.batch_execute("SELECT lo_create(0)").await?;
    drop(session);

    bench.config.write(&whole)?;
    bench
        .broker
        .config()
        .await?
        .apply(ApplyRequest::default())
        .await?;
    let owner = bench.owner("api_v2_branch").await?;
    let roles = owner
        .query(
            "SELECT rolname::text, rolcanlogin,
                    EXISTS (SELECT FROM pg_auth_members m WHERE m.member = r.oid)
             FROM pg_roles r WHERE starts_with(rolname, 'lease_users_') ORDER BY 1",
            &[],
        )
        .await?;
    let roles: Vec<(String, bool, bool)> = roles
        .iter()
        .map(|row| (row.get(0), row.get(1), row.get(2)))
        .collect();
    // The one could be dropped; the other is there and can do nothing.
    let left = &reading.connection.as_ref().context("a connection")?.role;
    assert_eq!(roles, [(left.clone(), false, false)]);
    bench.acquire(V2, Access::ReadWrite).await?;
    let plan = bench
        .broker
        .config()
        .await?
        .plan(PlanRequest::default())
        .await?;
    assert!(plan.into_inner().steps.is_empty(), "nothing is left to do");

    // Where the same name is needed again, it is made right.
    let on_v2 = to_v1_on(&whole, "api_v2_branch")?;
    bench.config.write(&on_v2)?;
    bench
        .broker
        .config()
        .await?
        .apply(ApplyRequest::default())
        .await?;
    let reading = bench.acquire(V1, Access::ReadOnly).await?;
    let session = bench.session(uri(&reading)?).await?;
    session.query("SELECT name FROM users", &[]).await?;
    bench.stop().await
}

/// v1 alone, at the newest revision, on that branch.
fn to_v1_on(whole: &str, branch: &str) -> anyhow::Result<String> {
    let (v1, _) = whole
        .split_once("[services.users.versions.v2]")
        .context("v2 in broker.toml")?;
    let lines = v1
        .lines()
        .filter(|line| !line.starts_with("revision =") && !line.starts_with("seed ="));
    let text: Vec<&str> = lines.collect();
    Ok(text.join("\n").replace("api_v1_branch", branch))
}

#[tokio::test]
async fn a_lease_has_nothing_by_being_somebody() -> anyhow::Result<()> {
    let bench = Bench::start(|_| Ok(())).await?;
    let owner = bench.owner("api_v1_branch").await?;
    owner
        .batch_execute(
            "CREATE FUNCTION users.everybody_out() RETURNS bigint LANGUAGE sql SECURITY DEFINER
             AS 'WITH gone AS (DELETE FROM users.users RETURNING 1) SELECT count(*) FROM gone';
             CREATE FUNCTION users.one() RETURNS int LANGUAGE sql AS 'SELECT 1';
             CREATE FUNCTION public.ours() RETURNS int LANGUAGE sql SECURITY DEFINER
             AS 'SELECT 1';",
        )
        .await?;
    bench
        .broker
        .config()
        .await?
        .apply(ApplyRequest::default())
        .await?;
    let plan = bench
        .broker
        .config()
        .await?
        .plan(PlanRequest::default())
        .await?;
    assert!(plan.into_inner().steps.is_empty(), "nothing is left to do");
    let reading = bench.acquire(V1, Access::ReadOnly).await?;
    let writing = bench.acquire(V1, Access::ReadWrite).await?;
    for (lease, refused) in [
        (&reading, &["SELECT everybody_out()"][..]),
        (&writing, &[][..]),
    ] {
        let session = bench.session(uri(lease)?).await?;
        session.query("SELECT one()", &[]).await?;
        let everybody = [
            "CREATE TEMPORARY TABLE mine (id int)",
            "CREATE TABLE public.mine (id int)",
            "SELECT public.ours()",
        ];
        for statement in everybody.iter().chain(refused) {
            let error = session.batch_execute(statement).await;
            let code = error.err().and_then(|error| error.code().cloned());
            let denied = Some(SqlState::INSUFFICIENT_PRIVILEGE);
            assert_eq!(code, denied, "{statement}");
        }
    }
    bench.stop().await
}

#[tokio::test]
async fn a_holder_who_changes_the_role_changes_it_for_nobody_else() -> anyhow::Result<()> {
    let bench = Bench::start(|_| Ok(())).await?;
    let first = bench.acquire(V1, Access::ReadWrite).await?;
    let session = bench.session(uri(&first)?).await?;
    session
        .batch_execute(
            "ALTER ROLE CURRENT_USER SET search_path = pg_catalog;
             ALTER ROLE CURRENT_USER IN DATABASE neondb SET default_transaction_read_only = on;
             ALTER ROLE CURRENT_USER PASSWORD 'mine alone';",
        )
        .await?;
    let refused = bench.session(uri(&first)?).await;
    assert!(refused.is_err(), "the password has changed");

    // Another holder has another role, and the same one's is made right behind the
    // answer.
    let other = bench.acquire_as("other", V1, Access::ReadWrite).await?;
    assert_ne!(uri(&other)?, uri(&first)?);
    bench.session(uri(&other)?).await?;
    eventually("the role is made right", async || {
        let second = bench.acquire(V1, Access::ReadWrite).await?;
        ensure!(uri(&second)? == uri(&first)?, "the same holder's");
        let session = bench.session(uri(&second)?).await?;
        session.execute("UPDATE users SET name = name", &[]).await?;
        Ok(())
    })
    .await?;
    bench.stop().await
}

/// Whichever of its leases: Postgres counts.
#[tokio::test]
async fn a_holder_opens_no_more_connections_than_it_may() -> anyhow::Result<()> {
    let bench = Bench::start(|config| {
        let text = config.text()?;
        config.write(&text.replace("connections = 24", "connections = 3"))
    })
    .await?;
    let one = bench.acquire(V1, Access::ReadWrite).await?;
    let other = bench.acquire(V1, Access::ReadWrite).await?;
    let connection = one.connection.as_ref().context("a connection")?;
    assert_eq!(connection.connection_limit, 3);
    let mut sessions = Vec::new();
    for lease in [&one, &other, &one] {
        sessions.push(bench.session(uri(lease)?).await?);
    }
    let refused = bench.session(uri(&other)?).await;
    let error = refused.err().context("one too many")?;
    let error: &tokio_postgres::Error = error.downcast_ref().context("from Postgres")?;
    assert_eq!(error.code(), Some(&SqlState::TOO_MANY_CONNECTIONS));
    // The reading role has its own.
    let reading = bench.acquire(V1, Access::ReadOnly).await?;
    bench.session(uri(&reading)?).await?;
    bench.stop().await
}

#[tokio::test]
async fn what_a_lease_opened_ends_with_the_last_lease() -> anyhow::Result<()> {
    let bench = Bench::start(|_| Ok(())).await?;
    let one = bench.acquire(V1, Access::ReadWrite).await?;
    let other = bench.acquire(V1, Access::ReadWrite).await?;
    let session = bench.session(uri(&one)?).await?;
    let mut leases = bench.broker.leases().await?;
    let name = |lease: &AcquireLeaseResponse| {
        let lease = lease.lease.as_ref().context("a lease")?;
        anyhow::Ok(lease.name.clone())
    };
    let renew = RenewLeaseRequest {
        name: name(&one)?,
        ttl: None,
        ..Default::default()
    };
    leases.renew_lease(renew).await?;
    // The password ends by itself: in an hour at most.
    let owner = bench.owner("api_v1_branch").await?;
    let role = &one.connection.as_ref().context("a connection")?.role;
    let row = owner
        .query_one(
            "SELECT rolvaliduntil BETWEEN now() + '55 minutes' AND now() + '1 hour'
             FROM pg_roles WHERE rolname = $1",
            &[role],
        )
        .await?;
    assert_eq!(row.get::<_, Option<bool>>(0), Some(true));

    let release = ReleaseLeaseRequest {
        name: name(&one)?,
        ..Default::default()
    };
    leases.release_lease(release).await?;
    // The other lease has the role too.
    session.query("SELECT 1", &[]).await?;
    bench.session(uri(&one)?).await?;
    let release = ReleaseLeaseRequest {
        name: name(&other)?,
        ..Default::default()
    };
    leases.release_lease(release).await?;
    eventually("the session ends", async || {
        ensure!(session.query("SELECT 1", &[]).await.is_err(), "it goes on");
        Ok(())
    })
    .await?;
    // Its sessions are ended first: until the role is closed it might come back.
    eventually("nobody logs in", async || {
        ensure!(bench.session(uri(&one)?).await.is_err(), "it logs in");
        Ok(())
    })
    .await?;
    // And begins again with the next.
    let next = bench.acquire(V1, Access::ReadWrite).await?;
    bench.session(uri(&next)?).await?;
    bench.stop().await
}
