//! What is underneath the emulator's API: Postgres, clones, restarts.

use anyhow::{Context, bail, ensure};
use neon_api::BranchId;
use neon_api::types::{BranchCreateRequest, BranchSchemaQuery, EndpointState};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use suite::{Bank, EmulatorProcess, Folder, count, eventually};

#[tokio::test]
async fn roles_of_the_api_are_no_superusers_and_the_superuser_is_out_of_reach() -> anyhow::Result<()>
{
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let main = emulator.main_branch().await?;
    let owner = emulator.connect(&main).await?;
    let row = owner
        .query_one(
            "SELECT rolsuper, rolcreatedb, rolcreaterole, rolbypassrls, rolreplication, \
                    pg_has_role('neon_superuser', 'MEMBER'), \
                    (SELECT array_agg(rolname::text ORDER BY rolname) FROM pg_roles WHERE rolsuper), \
                    (SELECT NOT rolcanlogin FROM pg_roles WHERE rolname = 'neon_superuser') \
             FROM pg_roles WHERE rolname = current_user",
            &[],
        )
        .await?;
    assert!(!row.get::<_, bool>(0), "neondb_owner is no superuser");
    for column in [1, 2, 3, 4, 5, 7] {
        assert!(row.get::<_, bool>(column), "column {column}");
    }
    assert_eq!(row.get::<_, Vec<String>>(6), ["cloud_admin"]);
    for statement in [
        "ALTER ROLE neondb_owner SUPERUSER",
        "SET log_statement = 'all'",
        "COPY pg_class TO PROGRAM 'cat'",
        "SET ROLE cloud_admin",
    ] {
        assert!(owner.simple_query(statement).await.is_err(), "{statement}");
    }

    let uri = emulator.uri(&main).await?;
    let plain = uri
        .expose()
        .replace("sslmode=require&channel_binding=require", "sslmode=disable");
    let refused = tokio_postgres::connect(&plain, tokio_postgres::NoTls).await;
    let reason = reason(refused.err().context("without TLS nobody gets in")?);
    assert!(reason.contains("pg_hba.conf rejects"), "{reason}");
    assert!(reason.contains("no encryption"), "{reason}");
    for (from, to, word) in [
        ("neondb_owner:", "cloud_admin:", "pg_hba.conf rejects"),
        (":npg_", ":npg_x", "password authentication failed"),
    ] {
        let changed = uri.expose().replace(from, to);
        let refused = suite::connect(&changed, emulator.data()).await;
        let reason = format!("{:#}", refused.err().context("it is refused")?);
        assert!(reason.contains(word), "{word}: {reason}");
    }
    emulator.stop().await
}

#[tokio::test]
async fn a_branch_is_a_copy_of_its_own() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let (client, project) = (emulator.client(), emulator.project());
    let main = emulator.main_branch().await?;
    let parent = emulator.connect(&main).await?;
    parent
        .batch_execute("CREATE TABLE note (text text); INSERT INTO note VALUES ('before')")
        .await?;
    let child = emulator.branch("child", Some(&main)).await?.branch.id;
    let session = emulator.connect(&child).await?;
    parent
        .batch_execute("INSERT INTO note VALUES ('parent')")
        .await?;
    session
        .batch_execute("INSERT INTO note VALUES ('child')")
        .await?;
    assert_eq!(notes(&parent).await?, ["before", "parent"]);
    assert_eq!(notes(&session).await?, ["before", "child"]);

    // A suspended parent is cloned as well, and stays suspended.
    let endpoint = client
        .list_branch_endpoints(project, &main)
        .await?
        .endpoints[0]
        .id
        .clone();
    let suspended = client.suspend_endpoint(project, &endpoint).await?;
    emulator.finished(&suspended.operations).await?;
    assert!(parent.simple_query("SELECT 1").await.is_err());
    let late = emulator.branch("late", Some(&main)).await?.branch.id;
    let session = emulator.connect(&late).await?;
    assert_eq!(notes(&session).await?, ["before", "parent"]);
    let state = client.get_endpoint(project, &endpoint).await?.endpoint;
    assert_eq!(state.current_state, EndpointState::Idle);
    // It is changed nevertheless when a role is made there.
    let role = neon_api::types::RoleCreateRequest::named("quiet");
    let made = client.create_role(project, &main, &role).await?;
    emulator.finished(&made.operations).await?;
    let started = client.start_endpoint(project, &endpoint).await?;
    emulator.finished(&started.operations).await?;
    let parent = emulator.connect(&main).await?;
    let found = parent
        .query("SELECT FROM pg_roles WHERE rolname = 'quiet'", &[])
        .await?;
    assert_eq!(found.len(), 1);
    emulator.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_branch_of_a_busy_parent_has_no_torn_rows() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let main = emulator.main_branch().await?;
    let bank = Bank::open(&emulator, &main).await?;
    for round in 0..count(4, 20) {
        bank.branch_and_check(&emulator, &main, round).await?;
    }
    bank.close().await?;
    emulator.stop().await
}

#[tokio::test]
async fn everything_survives_a_stop_and_a_kill() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let data = folder.join("data");
    let mut emulator = EmulatorProcess::start(&data).await?;
    let main = emulator.main_branch().await?;
    let session = emulator.connect(&main).await?;
    session
        .batch_execute("CREATE TABLE note (text text)")
        .await?;
    let dev = emulator.branch("dev", Some(&main)).await?.branch.id;
    let uri = emulator.uri(&dev).await?;

    for round in 0..count(4, 20) {
        let session = emulator.connect(&dev).await?;
        let text = format!("round {round}");
        session
            .execute("INSERT INTO note VALUES ($1)", &[&text])
            .await?;
        // Killed in the middle of a branch, the next run finishes it.
        let request = BranchCreateRequest::named(format!("half-{round}"))
            .parent(dev.clone())
            .read_write_endpoint();
        let half = emulator
            .client()
            .create_branch(emulator.project(), &request)
            .await?;
        // A different moment in each round.
        let (operation, status) = [
            (&half.operations[0], "running"),
            (&half.operations[1], "running"),
            (&half.operations[0], "finished"),
            (&half.operations[1], "finished"),
        ][round % 4];
        eventually("the moment to kill it", async || {
            let found = emulator
                .client()
                .get_operation(emulator.project(), operation.id)
                .await?;
            let now = found.operation.status;
            ensure!(now.as_str() == status || now.is_final(), "{now}");
            Ok(())
        })
        .await?;
        emulator = emulator.kill_and_start().await?;
        assert_eq!(emulator.uri(&dev).await?, uri, "addresses stay");
        emulator.finished(&half.operations).await?;
        let session = emulator.connect(&half.branch.id).await?;
        assert_eq!(notes(&session).await?.len(), round + 1, "round {round}");
        assert_eq!(
            postgres_processes(&data),
            running_endpoints(&emulator).await?
        );
    }
    emulator.stop().await?;
    assert_eq!(postgres_processes(&data), 0, "a stop stops every Postgres");
    let emulator = EmulatorProcess::start(&data).await?;
    let session = emulator.connect(&dev).await?;
    assert_eq!(notes(&session).await?.len(), count(4, 20));
    emulator.stop().await
}

/// The server of a recovery belongs to no endpoint, and its folder to no record.
#[tokio::test]
async fn a_recovery_that_a_kill_cuts_off_leaves_no_server() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let data = folder.join("data");
    let mut emulator = EmulatorProcess::start(&data).await?;
    let main = emulator.main_branch().await?;
    let past = data.join("branches").join(format!("{main}.past"));
    for round in 0..count(3, 20) {
        let session = emulator.connect(&main).await?;
        let lsn = eventually("the branch has history", async || {
            let row = session
                .query_one("SELECT pg_current_wal_lsn()::text", &[])
                .await?;
            let lsn: String = row.get(0);
            session
                .batch_execute(
                    "CREATE TABLE IF NOT EXISTS note (text text); INSERT INTO note VALUES ('')",
                )
                .await?;
            let query = BranchSchemaQuery {
                lsn: Some(lsn.clone()),
                ..BranchSchemaQuery::database("neondb")
            };
            let (client, project) = (emulator.client(), emulator.project());
            client.get_branch_schema(project, &main, &query).await?;
            Ok(lsn)
        })
        .await?;
        let http = suite::Http::of(&emulator);
        let path = format!(
            "/projects/{}/branches/{main}/schema?db_name=neondb&lsn={lsn}",
            emulator.project()
        );
        let asked = tokio::spawn(async move {
            let _ = http.call("GET", &path, serde_json::Value::Null).await;
        });
        eventually("its server starts", async || {
            ensure!(past.join("postmaster.pid").exists());
            Ok(())
        })
        .await
        .with_context(|| format!("round {round}"))?;
        emulator = emulator.kill_and_start().await?;
        asked.await?;
        assert_eq!(
            postgres_processes(&data),
            running_endpoints(&emulator).await?,
            "round {round}"
        );
        assert!(!past.exists(), "round {round}");
    }
    emulator.stop().await
}

#[tokio::test]
async fn a_postgres_that_dies_is_started_again() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let data = folder.join("data");
    let emulator = EmulatorProcess::start(&data).await?;
    let main = emulator.main_branch().await?;
    emulator
        .connect(&main)
        .await?
        .batch_execute("CREATE TABLE note (text text); INSERT INTO note VALUES ('kept')")
        .await?;
    for _ in 0..count(2, 10) {
        let pid = postmaster(&data, &main)?;
        kill(Pid::from_raw(pid), Signal::SIGKILL)?;
        let session = eventually("the branch is back", async || {
            ensure!(postmaster(&data, &main)? != pid, "the old pid file");
            emulator.connect(&main).await
        })
        .await?;
        assert_eq!(notes(&session).await?, ["kept"]);
    }
    emulator.stop().await
}

#[tokio::test]
async fn no_log_shows_a_password() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let data = folder.join("data");
    let emulator = EmulatorProcess::start(&data).await?;
    let main = emulator.main_branch().await?;
    let session = emulator.connect(&main).await?;
    const PASSWORD: &str = "plain-text-of-a-password";
    session
        .batch_execute(&format!("CREATE ROLE app LOGIN PASSWORD '{PASSWORD}'"))
        .await?;
    // What fails is logged: the reason, never the statement.
    let again = session
        .batch_execute(&format!("CREATE ROLE app LOGIN PASSWORD '{PASSWORD}'"))
        .await;
    assert!(again.is_err());
    let owner = emulator.uri(&main).await?;
    let from = owner.expose().find("npg_").context("a password")?;
    let to = owner.expose().find('@').context("a URI")?;
    let owner_password = owner.expose()[from..to].to_owned();
    let emulator_log = emulator.process().log();
    emulator.stop().await?;

    let mut logs = vec![emulator_log];
    for entry in std::fs::read_dir(data.join("log"))? {
        logs.push(std::fs::read_to_string(entry?.path())?);
    }
    let all = logs.join("\n");
    assert!(
        all.contains("role \"app\" already exists"),
        "the failure is logged"
    );
    for secret in [PASSWORD, &owner_password, suite::API_KEY, "SCRAM-SHA-256$"] {
        assert!(!all.contains(secret), "a log shows {secret}");
    }
    Ok(())
}

#[tokio::test]
async fn a_schema_is_what_pg_dump_says() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let main = emulator.main_branch().await?;
    emulator
        .connect(&main)
        .await?
        .batch_execute("CREATE TABLE note (text text NOT NULL)")
        .await?;
    let query = neon_api::types::BranchSchemaQuery::database("neondb");
    let (client, project) = (emulator.client(), emulator.project());
    let first = client.get_branch_schema(project, &main, &query).await?;
    let sql = first.sql.as_deref().context("sql")?;
    assert!(sql.contains("CREATE TABLE public.note"), "{sql}");
    let second = client.get_branch_schema(project, &main, &query).await?;
    assert_eq!(first, second, "two dumps of one schema are one");
    emulator.stop().await
}

/// A stop that comes while work goes on waits for it, and leaves no process.
#[tokio::test]
async fn a_stop_in_the_middle_of_work_leaves_nothing_behind() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let data = folder.join("data");
    for round in 0..count(3, 10) {
        let emulator = EmulatorProcess::start(&data).await?;
        let request = BranchCreateRequest::named(format!("round-{round}")).read_write_endpoint();
        let made = emulator
            .client()
            .create_branch(emulator.project(), &request)
            .await?;
        // A client that never finishes its request does not hold it up.
        let address = emulator.url().replace("http://", "").replace("/api/v2", "");
        let mut half_sent = tokio::net::TcpStream::connect(&address).await?;
        tokio::io::AsyncWriteExt::write_all(&mut half_sent, b"GET /api/v2/pro").await?;
        emulator.stop().await?;
        assert_eq!(postgres_processes(&data), 0, "round {round}");
        let emulator = EmulatorProcess::start(&data).await?;
        emulator.finished(&made.operations).await?;
        emulator.connect(&made.branch.id).await?;
        emulator.stop().await?;
    }
    Ok(())
}

/// Errands on a suspended branch take turns, with each other and with a start.
#[tokio::test]
async fn errands_on_a_suspended_branch_take_turns() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let (client, project) = (emulator.client(), emulator.project());
    let main = emulator.main_branch().await?;
    let endpoint = client
        .list_branch_endpoints(project, &main)
        .await?
        .endpoints[0]
        .id
        .clone();
    let suspended = client.suspend_endpoint(project, &endpoint).await?;
    emulator.finished(&suspended.operations).await?;
    let query = neon_api::types::BranchSchemaQuery::database("neondb");
    let schema = || client.get_branch_schema(project, &main, &query);
    let (a, b, c, started) = tokio::join!(
        schema(),
        schema(),
        schema(),
        client.start_endpoint(project, &endpoint)
    );
    emulator.finished(&started?.operations).await?;
    // One that came while the start was going on was refused, none failed.
    for answer in [a, b, c] {
        match answer {
            Ok(answer) => assert!(answer.sql.is_some()),
            Err(error) => assert_eq!(error.status(), Some(423), "{error}"),
        }
    }
    emulator.connect(&main).await?;
    emulator.stop().await
}

/// The text of an error and of its causes.
fn reason(error: tokio_postgres::Error) -> String {
    format!("{:#}", anyhow::Error::from(error))
}

async fn notes(session: &tokio_postgres::Client) -> anyhow::Result<Vec<String>> {
    let rows = session.query("SELECT text FROM note", &[]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

fn postmaster(data: &std::path::Path, branch: &BranchId) -> anyhow::Result<i32> {
    let path = data
        .join("branches")
        .join(branch.as_str())
        .join("postmaster.pid");
    let text = std::fs::read_to_string(path)?;
    let Some(pid) = text.lines().next() else {
        bail!("an empty pid file");
    };
    Ok(pid.trim().parse()?)
}

async fn running_endpoints(emulator: &EmulatorProcess) -> anyhow::Result<usize> {
    let endpoints = emulator.client().list_endpoints(emulator.project()).await?;
    Ok(endpoints
        .endpoints
        .iter()
        .filter(|endpoint| endpoint.current_state == EndpointState::Active)
        .count())
}

/// Postmasters below the folder: processes that work in a branch's folder and
/// whose parent does not.
fn postgres_processes(data: &std::path::Path) -> usize {
    let works_in = |pid: &str| std::fs::read_link(format!("/proc/{pid}/cwd")).ok();
    let inside =
        |pid: &str| works_in(pid).is_some_and(|cwd| cwd.starts_with(data.join("branches")));
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|pid| inside(pid))
        .filter(|pid| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let parent = stat
                .rsplit_once(')')
                .and_then(|(_, rest)| rest.split_whitespace().nth(1));
            parent.is_some_and(|parent| !inside(parent))
        })
        .count()
}
