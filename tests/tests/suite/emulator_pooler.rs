//! Pooled addresses, through Debian's PgBouncers.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use neon_api::BranchId;
use neon_api::types::{ConnectionUriQuery, EndpointState};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proto::broker::v1::AcquireLeaseRequest;
use proto::broker::v1::acquire_lease_request::Target;
use suite::{
    Broker, EmulatorProcess, Folder, Psql, Release, count, eventually, example_config, pgbouncer,
};
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;
use tokio_postgres::Client;

#[tokio::test]
async fn prepared_statements_hold_through_the_pooler() -> anyhow::Result<()> {
    // More than Postgres takes: 112.
    const CLIENTS: usize = 150;
    let folder = Folder::new()?;
    let emulator = start(&folder, Release::Trixie, &[]).await?;
    let main = emulator.main_branch().await?;
    let endpoint = emulator.endpoint(&main).await?;
    assert!(endpoint.pooler_enabled, "a real one");
    let uri = pooled_uri(&emulator, &main).await?;
    assert!(!uri.contains("channel_binding"), "PgBouncer has none");
    assert!(!uri.contains(&endpoint.host), "an address of its own");
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let (uri, data) = (uri.clone(), emulator.data().to_owned());
        clients.spawn(async move {
            let client = suite::connect(&uri, &data).await?;
            for _ in 0..2 {
                ask(&client, number as i32).await?;
            }
            anyhow::Ok(client)
        });
    }
    let mut open = Vec::new();
    for client in clients.join_all().await {
        open.push(client?);
    }
    // All of them at once, with statements that were prepared on other servers.
    for round in 0..count(2, 20) {
        let asked = open.iter().map(|client| ask(client, round as i32));
        futures(asked.collect()).await?;
    }
    let direct = emulator.connect(&main).await?;
    let row = direct
        .query_one(
            "SELECT count(*) FROM pg_stat_activity WHERE usename = 'neondb_owner'",
            &[],
        )
        .await?;
    let servers: i64 = row.get(0);
    assert!(servers <= 101, "{servers} server connections");
    let log = emulator.process().log();
    assert!(log.contains("served by PgBouncer"), "{log}");
    emulator.stop().await
}

#[tokio::test]
async fn a_pooled_address_wakes_and_outlives_its_pooler() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let data = folder.join("data");
    let mut emulator = start(&folder, Release::Trixie, &[]).await?;
    let main = emulator.main_branch().await?;
    let uri = pooled_uri(&emulator, &main).await?;
    assert!(poolers(&data).is_empty(), "none until it is used");
    let client = suite::connect(&uri, &data).await?;
    ask(&client, 1).await?;
    assert_eq!(poolers(&data).len(), 1);
    // A suspension: the socket is closed, and a new one wakes it.
    emulator.suspend(&main).await?;
    assert!(ask(&client, 2).await.is_err());
    assert!(poolers(&data).is_empty(), "it ends with its server");
    let client = suite::connect(&uri, &data).await?;
    ask(&client, 3).await?;
    let state = emulator.endpoint(&main).await?.current_state;
    assert_eq!(state, EndpointState::Active);
    // Its own death.
    let pid = *poolers(&data).first().context("it runs")?;
    kill(Pid::from_raw(pid), Signal::SIGKILL)?;
    assert!(ask(&client, 4).await.is_err());
    let client = eventually("another pooler", async || suite::connect(&uri, &data).await).await?;
    ask(&client, 5).await?;
    // Its server's death.
    let server = std::fs::read_to_string(
        data.join("branches")
            .join(main.as_str())
            .join("postmaster.pid"),
    )?;
    let pid = server.lines().next().context("a pid")?.trim().parse()?;
    kill(Pid::from_raw(pid), Signal::SIGKILL)?;
    // Its backends take a moment to see it.
    eventually("the client is cut off", async || {
        ensure!(ask(&client, 6).await.is_err());
        Ok(())
    })
    .await?;
    let client = eventually("another server", async || {
        let client = suite::connect(&uri, &data).await?;
        ask(&client, 7).await?;
        Ok(client)
    })
    .await?;
    // The emulator's.
    let listen = emulator.kill().await?;
    drop(client);
    assert_eq!(poolers(&data).len(), 1, "it is left");
    let program = program(&folder, Release::Trixie).await?;
    let flags = ["--pgbouncer", program.to_str().context("UTF-8")?];
    emulator = EmulatorProcess::start_with(&data, &listen, &flags).await?;
    assert!(poolers(&data).is_empty(), "the next start ends it");
    assert_eq!(pooled_uri(&emulator, &main).await?, uri);
    let client = suite::connect(&uri, &data).await?;
    ask(&client, 8).await?;
    emulator.stop().await?;
    assert!(poolers(&data).is_empty());
    Ok(())
}

#[tokio::test]
async fn roles_keep_their_own_through_an_old_pooler() -> anyhow::Result<()> {
    roles_keep_their_own(Release::Bookworm, &["--unsafe-old-pgbouncer"]).await
}

#[tokio::test]
async fn roles_keep_their_own_through_the_pooler() -> anyhow::Result<()> {
    roles_keep_their_own(Release::Trixie, &[]).await
}

/// Two roles share a pooler: each has its rights and its settings, and nobody is
/// who they are not. By psql, whose queries are simple ones.
async fn roles_keep_their_own(release: Release, flags: &[&str]) -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = start(&folder, release, flags).await?;
    let main = emulator.main_branch().await?;
    emulator
        .connect(&main)
        .await?
        .batch_execute(
            "CREATE SCHEMA a; CREATE SCHEMA b; \
             CREATE TABLE a.t AS SELECT 'a'::text AS who; CREATE TABLE b.t AS SELECT 'b'::text AS who; \
             CREATE ROLE a LOGIN PASSWORD 'pa'; CREATE ROLE b LOGIN PASSWORD 'pb'; \
             ALTER ROLE a SET search_path = a; ALTER ROLE b SET search_path = b; \
             ALTER ROLE a SET statement_timeout = '11s'; ALTER ROLE b SET statement_timeout = '22s'; \
             GRANT USAGE ON SCHEMA a TO a; GRANT USAGE ON SCHEMA b TO b; \
             GRANT SELECT ON a.t TO a; GRANT SELECT ON b.t TO b; \
             CREATE ROLE gone LOGIN PASSWORD 'pg' VALID UNTIL '2001-01-01'; \
             CREATE ROLE closed NOLOGIN PASSWORD 'pc'",
        )
        .await?;
    let pooled = pooled_uri(&emulator, &main).await?;
    let (_, address) = pooled.split_once('@').context("a URI")?;
    let of = |role: &str, password: &str| format!("postgresql://{role}:{password}@{address}");
    let look =
        "SELECT current_user, session_user, who, current_setting('statement_timeout') FROM t;";
    // In turns and again, so that servers are used again; what one leaves behind
    // must not be the other's.
    for _ in 0..3 {
        for (role, seconds) in [("a", "11s"), ("b", "22s")] {
            let uri = of(role, &format!("p{role}"));
            let printed = Psql::run(&uri, look).await?;
            let expected = format!("{role}|{role}|{role}|{seconds}");
            assert_eq!(printed.rows, expected, "{}", printed.errors);
        }
        let left = "BEGIN; SET LOCAL statement_timeout = '33s'; SET LOCAL search_path = b; COMMIT;";
        let printed = Psql::run(&of("a", "pa"), left).await?;
        assert!(printed.status.success(), "{}", printed.errors);
        // Of one role, what a session sets without LOCAL stays on the server that it
        // was set on, here as on Neon. It never gets to another role.
        let printed = Psql::run(&of("b", "pb"), "SET statement_timeout = '44s';").await?;
        assert!(printed.status.success(), "{}", printed.errors);
        let printed = Psql::run(&of("a", "pa"), look).await?;
        assert_eq!(printed.rows, "a|a|a|11s", "{}", printed.errors);
        let reset = Psql::run(&of("b", "pb"), "RESET statement_timeout;").await?;
        assert!(reset.status.success(), "{}", reset.errors);
    }
    let crossed = Psql::run(&of("a", "pa"), "SELECT who FROM b.t;").await?;
    assert!(crossed.errors.contains("permission denied"), "{crossed:?}");

    // More clients than servers, each in a transaction of its own.
    let mut waiting = Vec::new();
    for _ in 0..count(20, 130) {
        let mut psql = Psql::start(&of("a", "pa"))?;
        psql.send("BEGIN; SELECT who FROM t; COMMIT;").await?;
        waiting.push(psql);
    }
    for psql in waiting {
        let printed = psql.finish().await?;
        assert_eq!(printed.rows, "a", "{}", printed.errors);
    }

    for (uri, words) in [
        (of("a", "pb"), "authentication failed"),
        (of("nobody", "x"), "no such user"),
        (of("gone", "pg"), "no such user"),
        (of("closed", "pc"), "no such user"),
        (of("cloud_admin", ""), ""),
        (of("cloud_admin", "cloud_admin"), "login rejected"),
        (
            of("a", "pa").replace("sslmode=require", "sslmode=disable"),
            "SSL required",
        ),
        (
            format!("{}&options=-c%20search_path%3Db", of("a", "pa")),
            "unsupported startup parameter",
        ),
    ] {
        let printed = Psql::run(&uri, "SELECT current_user;").await?;
        assert!(!printed.status.success(), "{uri}: {printed:?}");
        assert!(printed.rows.is_empty(), "{uri}: {printed:?}");
        assert!(printed.errors.contains(words), "{uri}: {printed:?}");
    }
    // An old one lets whoever asks for its console wait for ever.
    if release == Release::Trixie {
        let console = of("a", "pa").replace("/neondb", "/pgbouncer");
        let printed = Psql::run(&console, "SHOW POOLS;").await?;
        assert!(printed.errors.contains("not allowed"), "{printed:?}");
    }
    // A password that changes is the one that counts from then on.
    emulator
        .connect(&main)
        .await?
        .batch_execute("ALTER ROLE a PASSWORD 'new'")
        .await?;
    let printed = Psql::run(&of("a", "new"), look).await?;
    assert_eq!(printed.rows, "a|a|a|11s", "{}", printed.errors);
    let printed = Psql::run(&of("a", "pa"), look).await?;
    assert!(
        printed.errors.contains("authentication failed"),
        "{printed:?}"
    );
    no_secret_lies_about(emulator.data(), &["SCRAM-SHA-256$", "npg_"])?;
    emulator.stop().await
}

/// Clients that hang up while the first of them starts the pooler leave one, which
/// is known: it ends with the emulator.
#[tokio::test]
async fn clients_that_hang_up_leave_no_pooler_behind() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = start(&folder, Release::Trixie, &[]).await?;
    let main = emulator.main_branch().await?;
    let uri = pooled_uri(&emulator, &main).await?;
    let (_, address) = uri.split_once('@').context("a URI")?;
    let (address, _) = address.split_once('/').context("a URI")?;
    for _ in 0..count(10, 50) {
        let mut client = tokio::net::TcpStream::connect(address).await?;
        client.write_all(&[0, 0, 0, 8, 4, 210, 22, 47]).await?;
    }
    let client = suite::connect(&uri, emulator.data()).await?;
    ask(&client, 1).await?;
    let data = emulator.data().to_owned();
    assert_eq!(poolers(&data).len(), 1);
    emulator.stop().await?;
    assert_eq!(poolers(&data).len(), 0);
    Ok(())
}

/// One that takes its time to start holds up its own clients alone.
#[tokio::test]
async fn a_slow_pooler_holds_up_no_other_endpoint() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let real = program(&folder, Release::Trixie).await?;
    let (slow, held, wrapper) = (
        folder.join("slow"),
        folder.join("held"),
        folder.join("wrapper"),
    );
    // The endpoint is in the name of the configuration.
    let script = format!(
        "#!/bin/sh\n\
         if [ -f {slow} ] && expr \"$*\" : \".*$(cat {slow})\" >/dev/null; then\n\
           echo held >{held}\n\
           while [ -f {slow} ]; do sleep 0.05; done\n\
         fi\n\
         exec {real} \"$@\"\n",
        slow = slow.display(),
        held = held.display(),
        real = real.display(),
    );
    std::fs::write(&wrapper, script)?;
    std::fs::set_permissions(&wrapper, PermissionsExt::from_mode(0o755))?;
    // Whoever runs it writes there.
    std::fs::write(&held, "")?;
    std::fs::set_permissions(&held, PermissionsExt::from_mode(0o666))?;
    let flags = ["--pgbouncer", wrapper.to_str().context("UTF-8")?];
    let data = folder.join("data");
    let emulator = EmulatorProcess::start_with(&data, &suite::free_address()?, &flags).await?;
    let main = emulator.main_branch().await?;
    let dev = emulator.branch("dev", None).await?.branch.id;
    std::fs::write(&slow, emulator.endpoint(&dev).await?.id.as_str())?;
    let waiting = {
        let (uri, data) = (pooled_uri(&emulator, &dev).await?, data.clone());
        tokio::spawn(async move { suite::connect(&uri, &data).await })
    };
    eventually("its pooler is held up", async || {
        ensure!(!std::fs::read(&held)?.is_empty());
        Ok(())
    })
    .await?;
    let client = suite::connect(&pooled_uri(&emulator, &main).await?, &data).await?;
    ask(&client, 1).await?;
    emulator.suspend(&main).await?;
    ensure!(!waiting.is_finished(), "the other still waits");
    std::fs::remove_file(&slow)?;
    let client = waiting.await??;
    ask(&client, 2).await?;
    emulator.stop().await
}

/// An old PgBouncer is not used unless a test insists: the address works all the
/// same, and everybody is told.
#[tokio::test]
async fn without_a_pooler_the_address_passes_through() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = start(&folder, Release::Bookworm, &[]).await?;
    let main = emulator.main_branch().await?;
    let log = emulator.process().log();
    assert!(log.contains("pass through to Postgres"), "{log}");
    assert!(log.contains("1.21 or later"), "{log}");
    let endpoint = emulator.endpoint(&main).await?;
    assert!(!endpoint.pooler_enabled);
    let uri = pooled_uri(&emulator, &main).await?;
    assert!(uri.contains("channel_binding=require"), "{endpoint:?}");
    assert!(!uri.contains(&endpoint.host), "an address of its own");
    emulator.suspend(&main).await?;
    let client = suite::connect(&uri, emulator.data()).await?;
    ask(&client, 1).await?;
    let row = client
        .query_one("SELECT inet_server_port() IS NOT NULL", &[])
        .await?;
    assert!(row.get::<_, bool>(0), "Postgres itself");
    assert!(poolers(emulator.data()).is_empty());
    emulator.stop().await
}

#[tokio::test]
async fn a_pgbouncer_that_does_not_run_is_named() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let flags = ["--pgbouncer", "/bin/false"];
    let started =
        EmulatorProcess::start_with(&folder.join("data"), &suite::free_address()?, &flags).await;
    let said = format!("{:#}", started.err().context("it does not start")?);
    assert!(said.contains("/bin/false"), "{said}");
    assert!(said.contains("--pgbouncer"), "{said}");
    Ok(())
}

#[tokio::test]
async fn leases_lead_through_the_pooler() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = start(&folder, Release::Trixie, &[]).await?;
    let broker = Broker::start(&folder, &emulator, &example_config()).await?;
    broker.is_ready().await?;
    let mut leases = broker.leases().await?;
    let binding = Target::Binding("services/users/versions/v1".to_owned());
    let lease = leases
        .acquire_lease(AcquireLeaseRequest {
            target: Some(binding),
            pooled: true,
            ..AcquireLeaseRequest::default()
        })
        .await?
        .into_inner();
    let uri = lease.connection.context("a connection")?.uri;
    for _ in 0..3 {
        let client = suite::connect(&uri, emulator.data()).await?;
        for _ in 0..2 {
            // Found without its schema: the role's settings hold.
            let rows = client
                .query("SELECT name FROM users ORDER BY id", &[])
                .await?;
            assert_eq!(rows[0].get::<_, String>(0), "Alice");
        }
        let row = client
            .query_one("SELECT inet_server_port() IS NULL", &[])
            .await?;
        assert!(row.get::<_, bool>(0), "over the pooler's socket");
    }
    broker.process.stop().await?;
    emulator.stop().await
}

async fn start(
    folder: &Folder,
    release: Release,
    flags: &[&str],
) -> anyhow::Result<EmulatorProcess> {
    let program = program(folder, release).await?;
    let mut all = vec!["--pgbouncer", program.to_str().context("UTF-8")?];
    all.extend(flags);
    EmulatorProcess::start_with(&folder.join("data"), &suite::free_address()?, &all).await
}

/// A copy where the user who runs Postgres reaches it.
async fn program(folder: &Folder, release: Release) -> anyhow::Result<PathBuf> {
    let installed = pgbouncer(release).await?;
    let copy = folder.join("pgbouncer");
    if !copy.exists() {
        let from = installed.parent().context("a folder")?;
        let mut cp = tokio::process::Command::new("cp");
        let status = cp.arg("-a").arg(from).arg(&copy).status().await?;
        ensure!(status.success(), "cp -a {}", from.display());
    }
    Ok(copy.join("pgbouncer"))
}

async fn pooled_uri(emulator: &EmulatorProcess, branch: &BranchId) -> anyhow::Result<String> {
    let query = ConnectionUriQuery::new("neondb", "neondb_owner")
        .branch(branch.clone())
        .pooled(true);
    let (client, project) = (emulator.client(), emulator.project());
    let answer = client.get_connection_uri(project, &query).await?;
    Ok(answer.uri.expose().to_owned())
}

/// A statement that is prepared, described, run and dropped.
async fn ask(client: &Client, number: i32) -> anyhow::Result<()> {
    let row = client.query_one("SELECT $1::int4 + 1", &[&number]).await?;
    ensure!(row.get::<_, i32>(0) == number + 1);
    Ok(())
}

/// All of them at once.
async fn futures<F: Future<Output = anyhow::Result<()>>>(futures: Vec<F>) -> anyhow::Result<()> {
    let mut left: Vec<_> = futures.into_iter().map(Box::pin).collect();
    std::future::poll_fn(|context| {
        let mut failed = None;
        left.retain_mut(|future| match future.as_mut().poll(context) {
            std::task::Poll::Ready(Ok(())) => false,
            std::task::Poll::Ready(Err(error)) => {
                failed = Some(error);
                false
            }
            std::task::Poll::Pending => true,
        });
        match failed {
            Some(error) => std::task::Poll::Ready(Err(error)),
            None if left.is_empty() => std::task::Poll::Ready(Ok(())),
            None => std::task::Poll::Pending,
        }
    })
    .await
}

/// The poolers of a data folder: they work in folders below it.
fn poolers(data: &Path) -> Vec<i32> {
    let below = data.join("poolers");
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| {
            let cwd = std::fs::read_link(format!("/proc/{pid}/cwd"));
            cwd.is_ok_and(|cwd| cwd.to_string_lossy().starts_with(&*below.to_string_lossy()))
        })
        .collect()
}

/// Neither a pooler's files nor any log shows what a login needs.
fn no_secret_lies_about(data: &Path, secrets: &[&str]) -> anyhow::Result<()> {
    let mut folders = vec![data.join("log"), data.join("poolers")];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path)?;
            files += 1;
            for secret in secrets {
                ensure!(!text.contains(secret), "{} shows {secret}", path.display());
            }
        }
    }
    ensure!(files > 3, "{files} files were looked at");
    Ok(())
}
