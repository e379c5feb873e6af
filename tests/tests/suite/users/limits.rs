//! What is too much, or too large.

use anyhow::{Context, ensure};
use proto::users::v1::user_service_client::UserServiceClient;
use proto::users::v2::user_service_client::UserServiceClient as V2Client;
use proto::users::{v1, v2};
use rpc::health::{Serving, WHOLE_SERVER, probe};
use suite::{PATIENCE, System, UserService, eventually};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::{create, user};
use crate::details::refused;
use crate::sessions::{backends, owner};

#[track_caller]
fn shed<T: std::fmt::Debug>(answer: Result<T, Status>, reason: &str) {
    let status = refused(answer, Code::ResourceExhausted, None);
    let info = status.get_details_error_info().map(|info| info.reason);
    assert_eq!(info.as_deref(), Some(reason), "{status:?}");
    assert!(status.get_details_retry_info().is_some(), "{status:?}");
}

#[tokio::test]
async fn what_is_too_much_is_refused_at_once_and_served_a_little_later() -> anyhow::Result<()> {
    let system = System::start().await?;
    let (locker, owner) = (owner(&system).await?, owner(&system).await?);
    let log = system.folder().join("user-service-small.log");
    let flags = ["--calls-max", "2", "--streams-max", "1"];
    let small = UserService::start_with(&system.broker, &flags, &log).await?;
    small.is_ready().await?;
    let channel = suite::channel(small.address()).await?;
    let mut users = UserServiceClient::new(channel.clone());
    let mut users2 = V2Client::new(channel);
    let get = v1::GetUserRequest { id: 1 };

    locker
        .batch_execute("BEGIN; LOCK TABLE users.users IN ACCESS EXCLUSIVE MODE")
        .await?;
    let waiting = [1, 2].map(|id| {
        let mut users = users.clone();
        let rename = v1::UpdateUserRequest {
            user: Some(v1::User {
                id,
                name: "Renamed".to_owned(),
                ..Default::default()
            }),
            update_mask: None,
        };
        tokio::spawn(async move { users.update_user(rename).await })
    });
    eventually("both wait for the lock", async || {
        let waiting = backends(&owner, "wait_event_type = 'Lock'").await?;
        ensure!(waiting.len() == 2, "{waiting:?}");
        Ok(())
    })
    .await?;
    // Whatever is asked for, of whichever version.
    shed(users.get_user(get).await, "TOO_MANY_CALLS");
    let other = users2.get_user(v2::GetUserRequest { id: 1 }).await;
    shed(other, "TOO_MANY_CALLS");
    let bad = users.get_user(v1::GetUserRequest { id: -1 }).await;
    shed(bad, "TOO_MANY_CALLS");
    let health = probe(small.address(), WHOLE_SERVER, PATIENCE).await?;
    assert_eq!(health, Serving::Serving, "it is asked all the same");
    // A stream is none of them.
    let mut stream = users2
        .stream_users(v2::StreamUsersRequest::default())
        .await?
        .into_inner();
    stream.message().await?.context("a message")?;
    assert!(stream.message().await?.is_none());

    locker.batch_execute("ROLLBACK").await?;
    for call in waiting {
        call.await??;
    }
    for id in [1, 2, 1, 2] {
        users.get_user(v1::GetUserRequest { id }).await?;
    }
    small.process.stop().await?;
    system.finish().await
}

#[tokio::test]
async fn streams_have_places_of_their_own() -> anyhow::Result<()> {
    let system = System::start().await?;
    let owner = owner(&system).await?;
    let fill = "INSERT INTO users.users (name, email)
                SELECT rpad('Number ' || number, 200, 'x'), number || '@many.example.com'
                FROM generate_series(1, 150000) AS number";
    owner.batch_execute(fill).await?;
    let log = system.folder().join("user-service-small.log");
    let small = UserService::start_with(&system.broker, &["--streams-max", "1"], &log).await?;
    small.is_ready().await?;
    let mut users = UserServiceClient::new(suite::channel(small.address()).await?);
    let everybody = v1::StreamUsersRequest::default();
    for _ in 0..3 {
        // As soon as the one before is gone.
        let stream = eventually("there is a place", async || {
            let answer = users.clone().stream_users(everybody).await;
            Ok(answer?.into_inner())
        });
        let mut stream = stream.await?;
        stream.message().await?.context("a message")?;
        for _ in 0..2 {
            shed(users.stream_users(everybody).await, "TOO_MANY_STREAMS");
            users.get_user(v1::GetUserRequest { id: 1 }).await?;
        }
        drop(stream);
    }
    small.process.stop().await?;
    system.finish().await
}

#[tokio::test]
async fn a_request_that_is_too_large_is_refused_with_a_reason() -> anyhow::Result<()> {
    let system = System::start().await?;
    let mut users = system.users_v1().await?;
    // Too long for a name, and not too large for a request.
    let long = create(user(&"x".repeat(60_000), "carol@example.com"));
    let long = users.create_user(long).await;
    refused(long, Code::InvalidArgument, Some("user.name"));
    for bytes in [70_000, 500_000] {
        let large = create(user(&"x".repeat(bytes), "carol@example.com"));
        let status = refused(
            users.create_user(large).await,
            Code::ResourceExhausted,
            None,
        );
        let info = status.get_details_error_info().context("a reason")?;
        assert_eq!(info.reason, "MESSAGE_TOO_LARGE");
        assert!(status.get_details_retry_info().is_none(), "{status:?}");
    }
    users.get_user(v1::GetUserRequest { id: 1 }).await?;
    system.finish().await
}
