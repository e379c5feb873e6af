//! The system as a whole: what seed 000 shows, and bad days.

use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proto::users::{v1, v2};
use suite::{System, eventually};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

/// Seed 000's two answers, exactly, but for the etags that it did not have.
#[tokio::test]
async fn both_versions_answer_as_in_the_seed() -> anyhow::Result<()> {
    let system = System::start().await?;
    let users = system
        .users_v1()
        .await?
        .list_users(v1::ListUsersRequest::default())
        .await?
        .into_inner();
    let etags = users.users.iter().map(|user| user.etag.clone());
    let etags: Vec<String> = etags.collect();
    let user = |id: usize, name: &str, email: &str| v1::User {
        id: id as i32,
        name: name.to_owned(),
        email: email.to_owned(),
        etag: etags[id - 1].clone(),
    };
    assert_eq!(
        users,
        v1::ListUsersResponse {
            users: vec![
                user(1, "Alice", "alice@example.com"),
                user(2, "Bob", "bob@example.com"),
            ],
            next_page_token: String::new(),
        }
    );
    let users = system
        .users_v2()
        .await?
        .list_users(v2::ListUsersRequest::default())
        .await?
        .into_inner();
    let etags = users.users.iter().map(|user| user.etag.clone());
    let etags: Vec<String> = etags.collect();
    let user = |id: usize, name: &str, email: &str, age, city: &str| v2::User {
        id: id as i32,
        name: name.to_owned(),
        email: email.to_owned(),
        age: Some(age),
        city: Some(city.to_owned()),
        etag: etags[id - 1].clone(),
    };
    assert_eq!(
        users,
        v2::ListUsersResponse {
            users: vec![
                user(1, "Alice", "alice@example.com", 25, "New York"),
                user(2, "Bob", "bob@example.com", 30, "San Francisco"),
            ],
            next_page_token: String::new(),
        }
    );
    system.finish().await
}

#[tokio::test]
async fn versions_are_isolated() -> anyhow::Result<()> {
    let system = System::start().await?;
    let (mut v1, mut v2) = (system.users_v1().await?, system.users_v2().await?);
    let carol = v2::User {
        name: "Carol".to_owned(),
        email: "carol@example.com".to_owned(),
        age: Some(41),
        ..Default::default()
    };
    let created = v2
        .create_user(v2::CreateUserRequest {
            user: Some(carol),
            ..Default::default()
        })
        .await?
        .into_inner()
        .user
        .context("a user")?;
    let in_v1 = v1.list_users(v1::ListUsersRequest::default()).await?;
    assert_eq!(in_v1.into_inner().users.len(), 2, "v1 does not see it");
    let in_v2 = v2.list_users(v2::ListUsersRequest::default()).await?;
    assert_eq!(in_v2.into_inner().users.last(), Some(&created));
    // And the other way round, with the same email.
    let carol = v1::User {
        name: "Other Carol".to_owned(),
        email: "carol@example.com".to_owned(),
        ..Default::default()
    };
    v1.create_user(v1::CreateUserRequest {
        user: Some(carol),
        ..Default::default()
    })
    .await?;
    let in_v2 = v2.list_users(v2::ListUsersRequest::default()).await?;
    assert_eq!(in_v2.into_inner().users.len(), 3);
    system.finish().await
}

#[tokio::test]
async fn queries_go_on_without_the_broker_and_leases_after_it() -> anyhow::Result<()> {
    let mut system = System::start().await?;
    let mut users = system.users_v1().await?;
    let mut leases = system.broker.leases().await?;
    let lease = leases
        .acquire_lease(proto::broker::v1::AcquireLeaseRequest {
            target: Some(proto::broker::v1::acquire_lease_request::Target::Binding(
                "services/users/versions/v1".to_owned(),
            )),
            ..Default::default()
        })
        .await?
        .into_inner();
    let lease_name = lease.lease.context("a lease")?.name;

    let pid = Pid::from_raw(system.broker.process.pid()?);
    // Stopped, it answers nothing; killed, it does not even listen.
    kill(pid, Signal::SIGSTOP)?;
    users.list_users(v1::ListUsersRequest::default()).await?;
    kill(pid, Signal::SIGCONT)?;
    system.broker = system.broker.kill_and_start().await?;
    users.list_users(v1::ListUsersRequest::default()).await?;
    system.broker.is_ready().await?;
    users.list_users(v1::ListUsersRequest::default()).await?;

    let renewed = system
        .broker
        .leases()
        .await?
        .renew_lease(proto::broker::v1::RenewLeaseRequest {
            name: lease_name.clone(),
            ttl: None,
            ..Default::default()
        })
        .await?
        .into_inner();
    assert_eq!(renewed.lease.context("a lease")?.name, lease_name);
    // Its connection is as good as it was.
    let uri = lease.connection.context("a connection")?.uri;
    let session = suite::connect(&uri, system.emulator.data()).await?;
    session.query("SELECT id FROM users", &[]).await?;
    system.finish().await
}

#[tokio::test]
async fn a_database_outage_is_unavailable_and_heals() -> anyhow::Result<()> {
    let system = System::start().await?;
    let mut users = system.users_v1().await?;
    let (client, project) = (system.emulator.client(), system.emulator.project());
    let branches = client.list_all_branches(project, None).await?.branches;
    let v1_branch = branches
        .iter()
        .find(|branch| branch.name == "api_v1_branch")
        .context("the branch of v1")?;
    // One that is suspended wakes: nobody notices.
    system.emulator.suspend(&v1_branch.id).await?;
    users.list_users(v1::ListUsersRequest::default()).await?;
    system.emulator.disable(&v1_branch.id, true).await?;
    let outage = users.list_users(v1::ListUsersRequest::default()).await;
    let status = crate::details::refused(outage, tonic::Code::Unavailable, None);
    assert!(
        tonic_types::StatusExt::get_details_retry_info(&status).is_some(),
        "{status:?}"
    );
    // The other version lives on another branch.
    let mut other = system.users_v2().await?;
    other.list_users(v2::ListUsersRequest::default()).await?;

    system.emulator.disable(&v1_branch.id, false).await?;
    eventually("v1 answers again", async || {
        Ok(users
            .clone()
            .list_users(v1::ListUsersRequest::default())
            .await?)
    })
    .await?;
    system.finish().await
}

#[tokio::test]
async fn health_is_told_per_service() -> anyhow::Result<()> {
    let system = System::start().await?;
    let channel = suite::channel(system.users.address()).await?;
    let mut health = HealthClient::new(channel);
    for service in ["", "users.v1.UserService", "users.v2.UserService"] {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        let answer = health.check(request).await?.into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service:?}");
    }
    system.finish().await
}

/// grpcurl asks for v1 and falls back to v1alpha; both have to answer.
#[tokio::test]
async fn reflection_answers_in_both_versions() -> anyhow::Result<()> {
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    use tonic_reflection::pb::{v1, v1alpha};
    use v1alpha::server_reflection_client::ServerReflectionClient as AlphaClient;
    use v1alpha::server_reflection_request::MessageRequest as AlphaRequest;
    use v1alpha::server_reflection_response::MessageResponse as AlphaResponse;

    let system = System::start().await?;
    for (address, wanted) in [
        (system.users.address(), "users.v2.UserService"),
        (system.broker.address(), "broker.v1.LeaseService"),
    ] {
        let channel = suite::channel(address).await?;
        let request = v1::ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::ListServices(String::new())),
        };
        let mut answers = ServerReflectionClient::new(channel.clone())
            .server_reflection_info(tokio_stream::once(request))
            .await?
            .into_inner();
        let answer = answers.message().await?.context("an answer")?;
        let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
            panic!("a list, not {answer:?}");
        };
        assert!(list.service.iter().any(|service| service.name == wanted));

        let request = v1alpha::ServerReflectionRequest {
            host: String::new(),
            message_request: Some(AlphaRequest::FileContainingSymbol(wanted.to_owned())),
        };
        let mut answers = AlphaClient::new(channel)
            .server_reflection_info(tokio_stream::once(request))
            .await?
            .into_inner();
        let answer = answers.message().await?.context("an answer")?;
        assert!(
            matches!(
                answer.message_response,
                Some(AlphaResponse::FileDescriptorResponse(_))
            ),
            "{answer:?}"
        );
    }
    system.finish().await
}
