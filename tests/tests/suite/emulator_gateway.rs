//! Endpoints' addresses: always there, whatever becomes of the servers.

use anyhow::{Context, ensure};
use neon_api::types::{
    EndpointState, Operation, OperationAction, OperationListQuery, OperationStatus,
};
use neon_api::{BranchId, EndpointId};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use suite::{EmulatorProcess, Folder, Psql, count, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_postgres::NoTls;

#[tokio::test]
async fn a_connection_wakes_a_suspended_endpoint() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let main = emulator.main_branch().await?;
    let endpoint = emulator.endpoint(&main).await?.id;
    let address = emulator.endpoint(&main).await?.host;
    for clients in [1, 20] {
        emulator.suspend(&main).await?;
        let before = starts(&emulator, &endpoint).await?.len();
        // Some who do not wait.
        for _ in 0..3 {
            let mut impatient = TcpStream::connect(&address).await?;
            impatient.write_all(&SSL_REQUEST).await?;
        }
        let uri = emulator.uri(&main).await?;
        let mut sessions = JoinSet::new();
        for _ in 0..clients {
            let (uri, data) = (uri.expose().to_owned(), emulator.data().to_owned());
            sessions.spawn(async move {
                let session = suite::connect(&uri, &data).await?;
                let row = session.query_one("SELECT 1", &[]).await?;
                anyhow::Ok(row.get::<_, i32>(0))
            });
        }
        for answer in sessions.join_all().await {
            assert_eq!(answer?, 1);
        }
        let made = starts(&emulator, &endpoint).await?;
        assert_eq!(made.len(), before + 1, "{clients} at once start it once");
        let found = emulator.endpoint(&main).await?;
        assert_eq!(found.current_state, EndpointState::Active);
        assert_eq!(found.host, address);
    }
    emulator.stop().await
}

#[tokio::test]
async fn a_disabled_endpoint_says_so() -> anyhow::Result<()> {
    const WORDS: &str = "Control plane request failed: endpoint is disabled";
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let main = emulator.main_branch().await?;
    let uri = emulator.uri(&main).await?;
    emulator.disable(&main, true).await?;
    let plain = uri
        .expose()
        .replace("sslmode=require&channel_binding=require", "sslmode=disable");
    for uri in [uri.expose(), &plain] {
        let printed = Psql::run(uri, "SELECT 1").await?;
        assert!(!printed.status.success());
        assert!(printed.errors.contains(WORDS), "{}", printed.errors);
        assert!(printed.errors.contains("FATAL"), "{}", printed.errors);
    }
    let direct = format!("{}&sslnegotiation=direct", uri.expose());
    for uri in [uri.expose(), &direct] {
        let refused = suite::connect(uri, emulator.data()).await;
        let reason = format!("{:#}", refused.err().context("it is refused")?);
        assert!(reason.contains(WORDS), "{reason}");
    }
    // Postgres's protocol and nothing else: the answer ends with the session.
    let host = emulator.endpoint(&main).await?.host;
    let mut bare = TcpStream::connect(host).await?;
    bare.write_all(&[0, 0, 0, 9, 0, 3, 0, 0, 0]).await?;
    let mut answer = Vec::new();
    bare.read_to_end(&mut answer).await?;
    assert_eq!(answer.first(), Some(&b'E'));
    let length = u32::from_be_bytes(*answer[1..].first_chunk().context("a length")?);
    assert_eq!(length as usize, answer.len() - 1);

    emulator.disable(&main, false).await?;
    let session = emulator.connect(&main).await?;
    session.query_one("SELECT 1", &[]).await?;
    emulator.stop().await
}

#[tokio::test]
async fn a_cancel_reaches_its_query_and_wakes_nothing() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let main = emulator.main_branch().await?;
    let endpoint = emulator.endpoint(&main).await?.id;
    let watcher = emulator.connect(&main).await?;
    // Encrypted, and cancelled without encryption, as by most clients.
    let uri = emulator.uri(&main).await?;
    let prefer = uri.expose().replace("sslmode=require", "sslmode=prefer");
    let session = suite::connect(&prefer, emulator.data()).await?;
    let cancel = session.cancel_token();
    let query = tokio::spawn(async move { session.simple_query("SELECT pg_sleep(60)").await });
    eventually("the query runs", async || {
        let found = watcher
            .query("SELECT FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)' AND state = 'active'", &[])
            .await?;
        ensure!(!found.is_empty());
        Ok(())
    })
    .await?;
    cancel.cancel_query(NoTls).await?;
    let error = query.await?.err().context("it was cancelled")?;
    assert_eq!(error.code().map(|code| code.code()), Some("57014"));

    emulator.suspend(&main).await?;
    let before = starts(&emulator, &endpoint).await?.len();
    // Returns when the gateway has closed the connection.
    cancel.cancel_query(NoTls).await?;
    // Nor does anything else wake it that begins no session.
    let host = emulator.endpoint(&main).await?.host;
    for bytes in [
        b"GET / HTTP/1.1\r\n\r\n".as_slice(),
        b"\0\0\0\0\0\0\0\0",
        b"",
    ] {
        let mut stranger = TcpStream::connect(&host).await?;
        stranger.write_all(bytes).await?;
        stranger.shutdown().await?;
        let mut answer = Vec::new();
        // A reset is an end as well.
        let _ = stranger.read_to_end(&mut answer).await;
        assert!(answer.is_empty(), "{bytes:?}: {answer:?}");
    }
    assert_eq!(starts(&emulator, &endpoint).await?.len(), before);
    let found = emulator.endpoint(&main).await?;
    assert_eq!(found.current_state, EndpointState::Idle);
    emulator.stop().await
}

#[tokio::test]
async fn a_taken_port_stops_its_endpoint_alone() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let data = folder.join("data");
    let emulator = EmulatorProcess::start(&data).await?;
    let main = emulator.main_branch().await?;
    let dev = emulator.branch("dev", Some(&main)).await?.branch.id;
    let host = emulator.endpoint(&main).await?.host;
    emulator.stop().await?;

    let taker = std::net::TcpListener::bind(&host)?;
    let port = taker.local_addr()?.port().to_string();
    let holder = format!("process {}", std::process::id());
    let emulator = EmulatorProcess::start(&data).await?;
    let log = emulator.process().log();
    let line = log.lines().find(|line| line.contains(&holder));
    assert!(line.is_some_and(|line| line.contains(&port)), "{log}");
    emulator
        .connect(&dev)
        .await?
        .query_one("SELECT 1", &[])
        .await?;
    let (client, project) = (emulator.client(), emulator.project());
    let endpoint = emulator.endpoint(&main).await?.id;
    let start = || async {
        let started = client.start_endpoint(project, &endpoint).await?;
        emulator.finished(&started.operations).await
    };
    let failed = start()
        .await
        .err()
        .context("the port is taken")?
        .to_string();
    assert!(
        failed.contains(&port) && failed.contains(&holder),
        "{failed}"
    );
    drop(taker);
    start().await?;
    assert_eq!(emulator.endpoint(&main).await?.host, host);
    emulator
        .connect(&main)
        .await?
        .query_one("SELECT 1", &[])
        .await?;
    emulator.stop().await
}

#[tokio::test]
async fn an_address_stays_whatever_happens() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let data = folder.join("data");
    let mut emulator = EmulatorProcess::start(&data).await?;
    let main = emulator.main_branch().await?;
    let uri = emulator.uri(&main).await?;
    for round in 0..count(2, 10) {
        // The server's death: its clients see an end, and others a server.
        let session = suite::connect(uri.expose(), &data).await?;
        let pid = postmaster(&data, &main)?;
        kill(Pid::from_raw(pid), Signal::SIGKILL)?;
        assert!(session.simple_query("SELECT pg_sleep(60)").await.is_err());
        let session = suite::connect(uri.expose(), &data).await?;
        session.query_one("SELECT 1", &[]).await?;
        // The emulator's: the suspended endpoint stays suspended, and wakes.
        emulator.suspend(&main).await?;
        emulator = if round % 2 == 0 {
            emulator.kill_and_start().await?
        } else {
            emulator.stop().await?;
            EmulatorProcess::start(&data).await?
        };
        let found = emulator.endpoint(&main).await?;
        assert_eq!(found.current_state, EndpointState::Idle);
        let session = suite::connect(uri.expose(), &data).await?;
        session.query_one("SELECT 1", &[]).await?;
    }
    emulator.stop().await
}

#[tokio::test]
async fn many_clients_get_all_their_bytes() -> anyhow::Result<()> {
    const CLIENTS: i32 = 60;
    const BYTES: i32 = 300_000;
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let main = emulator.main_branch().await?;
    let host = emulator.endpoint(&main).await?.host;
    // Clients that are half there hold up nobody.
    let mut silent = Vec::new();
    for bytes in [b"".as_slice(), &SSL_REQUEST[..3], &SSL_REQUEST] {
        let mut client = TcpStream::connect(&host).await?;
        client.write_all(bytes).await?;
        silent.push(client);
    }
    let uri = emulator.uri(&main).await?;
    let mut sessions = JoinSet::new();
    for number in 0..CLIENTS {
        let (uri, data) = (uri.expose().to_owned(), emulator.data().to_owned());
        sessions.spawn(async move {
            let session = suite::connect(&uri, &data).await?;
            let sent = number.to_string().repeat(BYTES as usize);
            let row = session.query_one("SELECT $1::text || $1", &[&sent]).await?;
            let answer: String = row.get(0);
            ensure!(answer.len() == 2 * sent.len(), "{number}: {}", answer.len());
            ensure!(answer.starts_with(&sent) && answer.ends_with(&sent));
            Ok(session)
        });
    }
    let mut open = Vec::new();
    for session in sessions.join_all().await {
        open.push(session?);
    }
    for session in &open {
        session.query_one("SELECT 1", &[]).await?;
    }
    drop(silent);
    emulator.stop().await
}

/// A client that has said all it has to say gets its answer.
#[tokio::test]
async fn a_half_closed_session_ends_when_all_is_said() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let main = emulator.main_branch().await?;
    let host = emulator.endpoint(&main).await?.host;
    let mut client = TcpStream::connect(host).await?;
    // Without TLS Postgres refuses, in words.
    client.write_all(&[0, 0, 0, 16, 0, 3, 0, 0]).await?;
    client.write_all(b"user\0me\0").await?;
    client.shutdown().await?;
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await?;
    assert!(!answer.is_empty(), "the answer came before the end");
    emulator.stop().await
}

#[tokio::test]
async fn a_start_that_fails_is_told_to_who_waits() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let data = folder.join("data");
    let emulator = EmulatorProcess::start(&data).await?;
    let main = emulator.main_branch().await?;
    emulator.suspend(&main).await?;
    let version = data.join("branches").join(main.as_str()).join("PG_VERSION");
    let was = std::fs::read_to_string(&version)?;
    std::fs::write(&version, "9.6\n")?;
    let uri = emulator.uri(&main).await?;
    let printed = Psql::run(uri.expose(), "SELECT 1").await?;
    let said = &printed.errors;
    assert!(said.contains("Couldn't connect to compute node"), "{said}");
    assert!(said.contains("is of Postgres 9.6"), "{said}");
    std::fs::write(&version, was)?;
    let printed = Psql::run(uri.expose(), "SELECT 1").await?;
    assert_eq!(printed.rows, "1", "{}", printed.errors);
    emulator.stop().await
}

/// Who comes while a branch's data are exchanged waits.
#[tokio::test]
async fn nobody_is_turned_away_by_a_restore() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let main = emulator.main_branch().await?;
    let dev = emulator.branch("dev", Some(&main)).await?.branch.id;
    let uri = emulator.uri(&dev).await?;
    let restore = neon_api::types::BranchRestoreRequest::from_branch(main.clone());
    let (client, project) = (emulator.client(), emulator.project());
    let restored = client.restore_branch(project, &dev, &restore).await?;
    let done = async || {
        let mut left = restored.operations.iter();
        let last = left.next_back().context("an operation")?.id;
        let found = client.get_operation(project, last).await?.operation;
        anyhow::Ok(found.status == OperationStatus::Finished)
    };
    let mut came = 0;
    while !done().await? {
        match suite::connect(uri.expose(), emulator.data()).await {
            Ok(_) => came += 1,
            // Who is there when the server stops is cut off, as on Neon, or told
            // why, if it was about to log in.
            Err(error) => {
                let reason = format!("{error:#}");
                let cut_off = [
                    "connection closed",
                    "the database system is shutting down",
                    "without sending TLS close_notify",
                    "Broken pipe",
                    "Connection reset",
                    "unexpected end of file",
                    "early eof",
                    "tls handshake eof",
                    "57P01",
                    "terminating connection",
                ];
                ensure!(cut_off.iter().any(|how| reason.contains(how)), "{reason}");
            }
        }
    }
    emulator.finished(&restored.operations).await?;
    assert!(came > 0, "somebody came meanwhile");
    emulator.stop().await
}

/// What asks for TLS.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// The starts of an endpoint that were ever scheduled.
async fn starts(
    emulator: &EmulatorProcess,
    endpoint: &EndpointId,
) -> anyhow::Result<Vec<Operation>> {
    let query = OperationListQuery {
        limit: Some(1_000),
        ..OperationListQuery::default()
    };
    let answer = emulator
        .client()
        .list_operations(emulator.project(), &query)
        .await?;
    let mut operations = answer.operations;
    operations.retain(|operation| {
        operation.action == OperationAction::StartCompute
            && operation.endpoint_id.as_ref() == Some(endpoint)
    });
    Ok(operations)
}

fn postmaster(data: &std::path::Path, branch: &BranchId) -> anyhow::Result<i32> {
    let path = data
        .join("branches")
        .join(branch.as_str())
        .join("postmaster.pid");
    let file = std::fs::read_to_string(path)?;
    Ok(file.lines().next().context("a pid")?.trim().parse()?)
}
