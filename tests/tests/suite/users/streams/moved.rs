//! Streams whose binding moves to another branch under them.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use branch_pool::{Binding, BranchPool, Options};
use proto::users::v1;
use proto::users::v1::user_service_server::UserService as _;
use rpc::page::PageTokens;
use suite::{System, eventually};
use tokio_stream::StreamExt as _;
use tonic::{Code, Request};
use tonic_types::StatusExt;
use user_service::users::{Users, V1};

use super::{MANY, begun, fill, rest};
use crate::details::refused;
use crate::sessions::{backends, owner};
use crate::users_moving::{fork, switch};

/// The service's own is 45 s: a stream of a test would have to last as long.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(100);
/// One of the names that [`backends`] looks for.
const HOLDER: &str = "user-service-in-a-hurry";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_outlasts_the_time_to_drain_does_not_look_whole() -> anyhow::Result<()> {
    let system = System::start().await?;
    let next = fork(&system, "next").await?;
    let owner = owner(&system).await?;
    fill(&owner, MANY).await?;
    let options = Options::default()
        .holder(HOLDER)
        .drain_timeout(DRAIN_TIMEOUT);
    let url = format!("http://{}", system.broker.address());
    let pool = BranchPool::connect(&url, Binding::new("users", "v1"), options).await?;
    let users = Users::<V1>::new(pool.clone(), PageTokens::random());
    let everybody = || Request::new(v1::StreamUsersRequest::default());
    let mut stream = users.stream_users(everybody()).await?.into_inner();
    stream.next().await.context("a message")??;
    let its = format!("application_name = '{HOLDER}'");
    eventually("Postgres waits", async || {
        let waiting = backends(&owner, &format!("{its} AND wait_event = 'ClientWrite'")).await?;
        ensure!(waiting.len() == 1, "{waiting:?}");
        Ok(())
    })
    .await?;

    switch(&system, &next, false).await?;
    eventually("its session is ended", async || {
        let left = backends(&owner, &its).await?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
    .await?;
    let status = loop {
        match stream.next().await {
            Some(Ok(_)) => {}
            Some(Err(status)) => break status,
            None => bail!("it looks whole"),
        }
    };
    let status = refused(Err::<(), _>(status), Code::Unavailable, None);
    assert!(status.get_details_retry_info().is_some(), "{status:?}");
    let reason = status.get_details_error_info().map(|info| info.reason);
    assert_eq!(reason.as_deref(), Some("DATABASE_UNAVAILABLE"));
    assert!(stream.next().await.is_none(), "that was the end");

    // Who tries again has all of the next branch, which is Alice and Bob.
    let mut stream = users.stream_users(everybody()).await?.into_inner();
    let all = stream.next().await.context("a message")??.users;
    assert_eq!(all.len(), 2, "{all:?}");
    assert!(stream.next().await.is_none());
    pool.close().await;
    system.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_has_begun_comes_to_its_end_on_the_branch_before() -> anyhow::Result<()> {
    let system = System::start().await?;
    let next = fork(&system, "next").await?;
    fill(&owner(&system).await?, MANY).await?;
    let mut users = system.users_v1().await?;
    let (first, mut stream) = begun(&mut users).await?;
    // The switch is over when the stream is.
    let (others, ()) = tokio::try_join!(
        async {
            eventually("v1 is on the next branch", async || {
                let everybody = v1::ListUsersRequest::default();
                let answer = users.clone().list_users(everybody).await?;
                let found = answer.into_inner().users.len();
                ensure!(found == 2, "{found} users");
                Ok(())
            })
            .await?;
            rest(&mut stream).await
        },
        switch(&system, &next, false),
    )?;
    assert_eq!(first + others.len(), MANY as usize + 2);
    system.finish().await
}
