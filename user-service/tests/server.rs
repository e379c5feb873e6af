//! The server without a broker: it starts, says so, and refuses in time. What
//! it answers with one is for the whole-system tests.

use std::time::Duration;

use anyhow::{Context, Result};
use proto::users::{v1, v2};
use rpc::{
    health::{Serving, WHOLE_SERVER, probe},
    limits::Limits,
    page::PageTokens,
    security::Security,
    server::Listener,
};
use tokio::{sync::oneshot, task::JoinHandle};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt;
use user_service::server::{CALLS_MAX, Error, STREAMS_MAX, Settings, UserServer};

/// What no step here takes, unless something is broken.
const PATIENCE: Duration = Duration::from_secs(20);

const LIMITS: Limits = Limits {
    calls_max: CALLS_MAX,
    streams_max: STREAMS_MAX,
};

struct Running {
    address: String,
    v1: v1::user_service_client::UserServiceClient<Channel>,
    v2: v2::user_service_client::UserServiceClient<Channel>,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<Result<(), Error>>,
}

impl Running {
    async fn without_broker() -> Result<Self> {
        let listener = Listener::bind("127.0.0.1:0".parse()?, Security::default()).await?;
        let address = listener.address().to_string();
        // Bound and let go: nobody answers there.
        let nobody = Listener::bind("127.0.0.1:0".parse()?, Security::default())
            .await?
            .address();
        let server = UserServer::new(Settings {
            broker_url: format!("http://{nobody}"),
            credentials: Default::default(),
            pool_size: None,
            tokens: PageTokens::random(),
            limits: LIMITS,
        })?;
        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn(server.serve(listener, None, async {
            let _ = stopped.await;
        }));
        let channel = Endpoint::from_shared(format!("http://{address}"))?
            .connect()
            .await?;
        Ok(Self {
            address,
            v1: v1::user_service_client::UserServiceClient::new(channel.clone()),
            v2: v2::user_service_client::UserServiceClient::new(channel),
            stop,
            serving,
        })
    }

    async fn stop(self) -> Result<()> {
        self.stop.send(()).ok().context("the server is gone")?;
        tokio::time::timeout(PATIENCE, self.serving).await???;
        Ok(())
    }
}

fn delete(id: i32) -> v2::DeleteUserRequest {
    v2::DeleteUserRequest {
        id,
        ..Default::default()
    }
}

fn refused<T>(answer: Result<T, Status>) -> Result<Status> {
    answer.err().context("answered as if all were well")
}

fn violations(status: &Status) -> Vec<String> {
    let bad = status.get_details_bad_request();
    let violations = bad.into_iter().flat_map(|bad| bad.field_violations);
    violations.map(|violation| violation.field).collect()
}

#[tokio::test]
async fn without_a_broker_every_call_asks_to_try_again() -> Result<()> {
    let mut running = Running::without_broker().await?;
    for service in [WHOLE_SERVER, "users.v1.UserService", "users.v2.UserService"] {
        let answer = probe(&running.address, service, PATIENCE).await?;
        assert_eq!(answer, Serving::NotServing, "{service}");
    }
    let user = v2::User {
        id: 1,
        name: "Alice".to_owned(),
        ..v2::User::default()
    };
    for status in [
        refused(running.v1.get_user(v1::GetUserRequest { id: 1 }).await)?,
        refused(running.v1.list_users(v1::ListUsersRequest::default()).await)?,
        refused(running.v2.delete_user(delete(1)).await)?,
        refused(
            running
                .v1
                .stream_users(v1::StreamUsersRequest::default())
                .await,
        )?,
        refused(
            running
                .v2
                .batch_get_users(v2::BatchGetUsersRequest { ids: vec![1] })
                .await,
        )?,
        refused(
            running
                .v2
                .update_user(v2::UpdateUserRequest {
                    user: Some(user),
                    update_mask: None,
                })
                .await,
        )?,
    ] {
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        assert!(status.get_details_retry_info().is_some(), "{status:?}");
        let info = status.get_details_error_info().context("no ErrorInfo")?;
        assert_eq!(info.reason, "DATABASE_UNAVAILABLE");
    }
    running.stop().await
}

#[tokio::test]
async fn bad_input_is_refused_before_a_connection_is_asked_for() -> Result<()> {
    let mut running = Running::without_broker().await?;
    let v1_user = v1::User {
        id: 3,
        name: String::new(),
        email: "nobody".to_owned(),
        etag: "of somebody".to_owned(),
    };
    let v2_user = v2::User {
        id: 1,
        age: Some(-1),
        city: Some("a\0b".to_owned()),
        ..v2::User::default()
    };
    let mask = |path: &str| {
        Some(prost_types::FieldMask {
            paths: vec![path.to_owned()],
        })
    };
    let cases = [
        (
            refused(running.v1.get_user(v1::GetUserRequest { id: 0 }).await)?,
            vec!["id"],
        ),
        (
            refused(running.v2.delete_user(delete(-1)).await)?,
            vec!["id"],
        ),
        (
            refused(
                running
                    .v1
                    .batch_get_users(v1::BatchGetUsersRequest { ids: vec![1, 0] })
                    .await,
            )?,
            vec!["ids[1]"],
        ),
        (
            refused(
                running
                    .v1
                    .list_users(v1::ListUsersRequest {
                        page_size: 1001,
                        page_token: "forged".to_owned(),
                        filter: "age = 3".to_owned(),
                        order_by: "age".to_owned(),
                    })
                    .await,
            )?,
            vec!["page_size", "filter", "order_by", "page_token"],
        ),
        (
            refused(
                running
                    .v2
                    .create_user(v2::CreateUserRequest::default())
                    .await,
            )?,
            vec!["user"],
        ),
        (
            refused(
                running
                    .v1
                    .create_user(v1::CreateUserRequest {
                        user: Some(v1_user.clone()),
                        request_id: "no-uuid".to_owned(),
                    })
                    .await,
            )?,
            vec![
                "request_id",
                "user.id",
                "user.etag",
                "user.name",
                "user.email",
            ],
        ),
        (
            refused(
                running
                    .v1
                    .update_user(v1::UpdateUserRequest {
                        user: Some(v1_user),
                        update_mask: mask("age"),
                    })
                    .await,
            )?,
            vec!["update_mask"],
        ),
        (
            refused(
                running
                    .v2
                    .update_user(v2::UpdateUserRequest {
                        user: Some(v2_user),
                        update_mask: mask("*"),
                    })
                    .await,
            )?,
            vec!["user.name", "user.email", "user.age", "user.city"],
        ),
    ];
    for (status, fields) in cases {
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert_eq!(violations(&status), fields, "{status:?}");
    }
    running.stop().await
}

#[tokio::test]
async fn a_broker_address_that_is_none_ends_the_start() {
    let server = UserServer::new(Settings {
        credentials: Default::default(),
        broker_url: "not an address".to_owned(),
        pool_size: None,
        tokens: PageTokens::random(),
        limits: LIMITS,
    });
    assert!(
        matches!(server, Err(Error::FailedPool { version: "v1", .. })),
        "{server:?}"
    );
}
