//! Neon away while the broker serves, bindings that move or cannot, callers who
//! say nothing.

use anyhow::{Context, ensure};
use proto::broker::v1::acquire_lease_request::Target;
use proto::broker::v1::{
    AcquireLeaseRequest, ApplyRequest, Binding, BindingState, GetBindingRequest,
    ListBindingsRequest,
};
use suite::{Broker, Config, EmulatorProcess, Folder, eventually};
use tonic::Code;

use crate::details::refused;

const V2: &str = "services/users/versions/v2";

async fn binding(broker: &Broker, name: &str) -> anyhow::Result<Binding> {
    let request = GetBindingRequest {
        name: name.to_owned(),
    };
    let answer = broker.bindings().await?.get_binding(request).await?;
    answer.into_inner().binding.context("a binding")
}

/// An apply that came at a bad time is finished by itself, whatever Neon says
/// meanwhile to a broker that serves.
#[tokio::test]
async fn an_apply_that_neon_missed_is_finished_later() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let data = folder.join("data");
    let emulator = EmulatorProcess::start(&data).await?;
    let config = Config::copy(&folder)?;
    let whole = config.v1_alone()?;
    let broker = Broker::start(&folder, &emulator, &config.path()).await?;
    broker.is_ready().await?;

    let listen = emulator.kill().await?;
    config.write(&whole)?;
    let missed = broker.config().await?.apply(ApplyRequest::default()).await;
    refused(missed, Code::Unavailable, None);
    assert_eq!(binding(&broker, V2).await?.state(), BindingState::Preparing);

    let strange = EmulatorProcess::start_with_key(&data, &listen, "another_key").await?;
    eventually("the key is refused", async || {
        let log = broker.process.log();
        ensure!(log.contains("does not accept the API key"), "{log}");
        Ok(())
    })
    .await?;
    let listen = strange.kill().await?;
    let emulator = EmulatorProcess::start_at(&data, &listen).await?;
    eventually("v2 is ready", async || {
        let binding = binding(&broker, V2).await?;
        ensure!(binding.state() == BindingState::Ready, "{binding:?}");
        Ok(())
    })
    .await?;
    broker.process.stop().await?;
    emulator.stop().await
}

#[tokio::test]
async fn a_binding_says_where_it_leads_and_a_request_follows_it() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let config = Config::copy(&folder)?;
    let broker = Broker::start(&folder, &emulator, &config.path()).await?;
    broker.is_ready().await?;
    let mut leases = broker.leases().await?;
    let request = AcquireLeaseRequest {
        target: Some(Target::Binding(V2.to_owned())),
        request_id: "6f0d5f4e-2f6e-4d0c-8a57-3a4c2f3f7e01".to_owned(),
        ..Default::default()
    };
    let first = leases.acquire_lease(request.clone()).await?.into_inner();
    let first = first.lease.context("a lease")?;

    // It cannot move: it stays, and says why.
    let whole = config.text()?;
    let moved = whole.replace("api_v2_branch", "api_v2_again");
    config.write(&moved.replace("parent = \"api_v1_branch\"", "parent = \"nowhere\""))?;
    let apply = broker.config().await?.apply(ApplyRequest::default()).await;
    refused(apply, Code::FailedPrecondition, None);
    let stays = binding(&broker, V2).await?;
    assert_eq!(stays.state(), BindingState::Ready);
    assert_eq!(stays.branch_display_name, "api_v2_branch");
    assert_eq!(stays.branch, first.branch);
    assert!(stays.state_message.contains("nowhere"), "{stays:?}");

    // It moves: the same request is answered with where it leads now.
    config.write(&moved)?;
    broker
        .config()
        .await?
        .apply(ApplyRequest::default())
        .await?;
    let now = binding(&broker, V2).await?;
    assert_eq!(now.branch_display_name, "api_v2_again");
    assert_eq!((now.state_message.as_str(), now.generation), ("", 2));
    let again = leases.acquire_lease(request).await?.into_inner();
    let lease = again.lease.context("a lease")?;
    assert_eq!(lease.name, first.name, "the same lease");
    assert_eq!((&lease.branch, lease.generation), (&now.branch, 2));
    let uri = again.connection.context("a connection")?.uri;
    suite::connect(&uri, emulator.data()).await?;
    broker.process.stop().await?;
    emulator.stop().await
}

#[tokio::test]
async fn page_tokens_outlive_the_broker_and_silent_watches_do_not() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let broker = Broker::start(&folder, &emulator, &suite::example_config()).await?;
    broker.is_ready().await?;
    let request = ListBindingsRequest {
        page_size: 1,
        ..Default::default()
    };
    let mut bindings = broker.bindings().await?;
    let page = bindings.list_bindings(request).await?.into_inner();
    let broker = broker.kill_and_start().await?;
    broker.is_ready().await?;
    let request = ListBindingsRequest {
        page_size: 1,
        page_token: page.next_page_token,
    };
    let mut bindings = broker.bindings().await?;
    let page = bindings.list_bindings(request).await?.into_inner();
    assert_eq!(page.bindings[0].name, V2);

    let mut leases = broker.leases().await?;
    let silent = leases.watch_binding(tokio_stream::pending()).await;
    refused(silent, Code::DeadlineExceeded, None);
    broker.process.stop().await?;
    emulator.stop().await
}
