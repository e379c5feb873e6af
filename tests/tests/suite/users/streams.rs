//! Everything, as a stream: whole, in little memory, and given back when it is not
//! wanted any more.

mod moved;

use std::collections::BTreeSet;

use anyhow::{Context, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use prost::Message as _;
use proto::users::v1::user_service_client::UserServiceClient;
use proto::users::{v1, v2};
use suite::{System, UserService, eventually};
use tokio_postgres::Client;
use tonic::transport::Channel;
use tonic::{Code, Streaming};
use tonic_types::StatusExt;

use super::{create, user};
use crate::details::refused;
use crate::sessions::{backends, end, owner, owner_of};

/// So many that sockets and buffers do not take them: more than 30 MB.
const MANY: i32 = 150_000;
/// More than is under way at any moment, and sent long before a stop is over.
const SOME: i32 = 20_000;
/// How much user-service may grow by a stream that nobody takes, in kilobytes.
const GROWTH_KB_MAX: u64 = 50_000;
/// More than a piece is, in bytes.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// The system with so many users more in v1, and a session of the branch's owner.
async fn filled(count: i32) -> anyhow::Result<(System, Client)> {
    let system = System::start().await?;
    let owner = owner(&system).await?;
    fill(&owner, count).await?;
    Ok((system, owner))
}

/// So many users more, on the branch that this session is of.
async fn fill(owner: &Client, count: i32) -> anyhow::Result<()> {
    let fill = "INSERT INTO users.users (name, email)
                SELECT rpad('Number ' || number, 200, 'x'), number || '@many.example.com'
                FROM generate_series(1, $1) AS number";
    owner.execute(fill, &[&count]).await?;
    Ok(())
}

/// A stream of everybody, and how many its first message had.
async fn begun(
    users: &mut UserServiceClient<Channel>,
) -> anyhow::Result<(usize, Streaming<v1::StreamUsersResponse>)> {
    let everybody = v1::StreamUsersRequest::default();
    let mut stream = users.stream_users(everybody).await?.into_inner();
    let first = stream.message().await?.context("a message")?;
    Ok((first.users.len(), stream))
}

/// The rest of a stream.
async fn rest(stream: &mut Streaming<v1::StreamUsersResponse>) -> anyhow::Result<Vec<v1::User>> {
    let mut users = Vec::new();
    while let Some(answer) = stream.message().await? {
        ensure!(!answer.users.is_empty(), "an empty message");
        ensure!(answer.encoded_len() < MESSAGE_BYTES_MAX, "a large message");
        users.extend(answer.users);
    }
    Ok(users)
}

/// What the process has in memory, in kilobytes.
fn resident_kb(system: &System) -> anyhow::Result<u64> {
    let path = format!("/proc/{}/status", system.users.process.pid()?);
    let status = std::fs::read_to_string(path)?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kb = line.and_then(|line| line.split_whitespace().next());
    Ok(kb.context("VmRSS")?.parse()?)
}

#[tokio::test]
async fn a_stream_has_everybody_once_as_they_were_at_its_beginning() -> anyhow::Result<()> {
    let (system, _) = filled(MANY).await?;
    let mut users = system.users_v1().await?;
    let request = v1::StreamUsersRequest::default();
    let mut stream = users.stream_users(request).await?.into_inner();
    let first = stream.message().await?.context("a message")?;
    // Late, renamed and gone: none of it is in a stream that has begun.
    users
        .create_user(create(user("Late", "late@example.com")))
        .await?;
    let delete = v1::DeleteUserRequest {
        id: MANY,
        ..Default::default()
    };
    users.delete_user(delete).await?;
    let mut all = first.users;
    all.extend(rest(&mut stream).await?);
    let ids: BTreeSet<i32> = all.iter().map(|user| user.id).collect();
    assert_eq!(ids.len(), all.len(), "nobody twice");
    assert!(ids.into_iter().eq(1..=MANY + 2));
    let alice = all.iter().find(|user| user.id == 1).context("Alice")?;
    assert_eq!(
        (&*alice.name, &*alice.email),
        ("Alice", "alice@example.com")
    );
    assert!(all.iter().all(|user| user.etag.is_empty()));

    // v2's is of its own.
    let request = v2::StreamUsersRequest::default();
    let mut stream = system
        .users_v2()
        .await?
        .stream_users(request)
        .await?
        .into_inner();
    let all = stream.message().await?.context("a message")?.users;
    let ages: Vec<_> = all
        .iter()
        .map(|user| (user.age, user.city.as_deref()))
        .collect();
    let wanted = [
        (Some(25), Some("New York")),
        (Some(30), Some("San Francisco")),
    ];
    assert_eq!(ages, wanted);
    assert!(stream.message().await?.is_none());
    // And one of nobody ends.
    let nobody = owner_of(&system, "api_v2_branch").await?;
    nobody.batch_execute("DELETE FROM users.users").await?;
    let request = v2::StreamUsersRequest::default();
    let mut stream = system
        .users_v2()
        .await?
        .stream_users(request)
        .await?
        .into_inner();
    assert!(stream.message().await?.is_none());
    system.finish().await
}

#[tokio::test]
async fn who_takes_a_stream_slowly_makes_postgres_wait_and_nobody_else() -> anyhow::Result<()> {
    let (system, owner) = filled(MANY).await?;
    let mut users = system.users_v1().await?;
    users.get_user(v1::GetUserRequest { id: 1 }).await?;
    let before = resident_kb(&system)?;
    let mut streams = Vec::new();
    for _ in 0..2 {
        streams.push(begun(&mut users).await?);
    }
    // Postgres has rows that nobody takes from it: all before it is full.
    eventually("Postgres waits", async || {
        let waiting = backends(&owner, "wait_event = 'ClientWrite'").await?;
        ensure!(waiting.len() == 2, "{waiting:?}");
        Ok(())
    })
    .await?;
    let grown = resident_kb(&system)?.saturating_sub(before);
    assert!(grown < GROWTH_KB_MAX, "{grown} kB");
    for id in [1, 2] {
        users.get_user(v1::GetUserRequest { id }).await?;
    }
    // Taken after all, it is whole.
    for (first, mut stream) in streams {
        let others = rest(&mut stream).await?;
        assert_eq!(first + others.len(), MANY as usize + 2);
    }
    let grown = resident_kb(&system)?.saturating_sub(before);
    assert!(grown < GROWTH_KB_MAX, "{grown} kB");
    system.finish().await
}

#[tokio::test]
async fn a_stop_lets_a_stream_come_to_its_end() -> anyhow::Result<()> {
    let (system, _) = filled(SOME).await?;
    let log = system.folder().join("user-service-stopping.log");
    let mut stopping = UserService::start_with(&system.broker, &[], &log).await?;
    stopping.is_ready().await?;
    let channel = suite::channel(stopping.address()).await?;
    let mut users = UserServiceClient::new(channel);
    let (first, mut stream) = begun(&mut users).await?;
    kill(Pid::from_raw(stopping.process.pid()?), Signal::SIGTERM)?;
    eventually("it takes nobody any more", async || {
        let answer = suite::channel(stopping.address()).await;
        ensure!(answer.is_err(), "a connection");
        Ok(())
    })
    .await?;
    let others = rest(&mut stream).await?;
    assert_eq!(first + others.len(), SOME as usize + 2);
    let status = stopping.process.wait().await?;
    assert!(status.success(), "{status}");
    system.finish().await
}

#[tokio::test]
async fn a_stream_that_is_given_up_gives_its_connection_back() -> anyhow::Result<()> {
    let (system, owner) = filled(MANY).await?;
    let mut users = system.users_v1().await?;
    // More than may run at once, one after the other: with those that are not.
    for round in 0..suite::count(12, 100) {
        let stream = eventually("there is a place", async || {
            let (_, stream) = begun(&mut users.clone()).await?;
            Ok(stream)
        })
        .await
        .with_context(|| format!("round {round}"))?;
        drop(stream);
    }
    eventually("Postgres is done with them", async || {
        let busy = backends(&owner, "state <> 'idle'").await?;
        ensure!(busy.is_empty(), "{busy:?}");
        Ok(())
    })
    .await?;
    // What the pool hands out answers its own question.
    for id in [1, 2, 1, 2] {
        let answer = users.get_user(v1::GetUserRequest { id }).await?;
        assert_eq!(answer.into_inner().user.context("a user")?.id, id);
    }
    let mut stream = users
        .stream_users(v1::StreamUsersRequest::default())
        .await?
        .into_inner();
    assert_eq!(rest(&mut stream).await?.len(), MANY as usize + 2);
    system.finish().await
}

#[tokio::test]
async fn a_stream_whose_connection_is_lost_does_not_look_whole() -> anyhow::Result<()> {
    let (system, owner) = filled(MANY).await?;
    let mut users = system.users_v1().await?;
    let (_, mut stream) = begun(&mut users).await?;
    let backend = eventually("Postgres waits", async || {
        let waiting = backends(&owner, "wait_event = 'ClientWrite'").await?;
        waiting.first().copied().context("none")
    })
    .await?;
    end(&owner, backend).await?;
    let status = loop {
        match stream.message().await {
            Ok(Some(_)) => {}
            Ok(None) => anyhow::bail!("it looks whole"),
            Err(status) => break status,
        }
    };
    let status = refused(Err::<(), _>(status), Code::Unavailable, None);
    assert!(status.get_details_retry_info().is_some(), "{status:?}");
    let reason = status.get_details_error_info().map(|info| info.reason);
    assert_eq!(reason.as_deref(), Some("DATABASE_UNAVAILABLE"));
    let request = v1::StreamUsersRequest::default();
    let mut stream = users.stream_users(request).await?.into_inner();
    assert_eq!(rest(&mut stream).await?.len(), MANY as usize + 2);
    system.finish().await
}
