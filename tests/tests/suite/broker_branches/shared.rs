//! Operations and requests of brokers that share a state.

use anyhow::{Context, ensure};
use proto::broker::v1 as pb;
use proto::broker::v1::acquire_lease_request::Target;
use proto::google::longrunning::{
    CancelOperationRequest, GetOperationRequest, WaitOperationRequest,
};
use serde_json::json;
use suite::{Broker, Config, EmulatorProcess, Faults, Folder, eventually};
use tonic::Code;
use tonic_types::StatusExt as _;

use super::killed::{Answer, Mutation, begin};
use super::{Place, create, refusal};
use crate::details::refused;

const V1: &str = "services/users/versions/v1";
const V2: &str = "services/users/versions/v2";

#[tokio::test]
async fn operations_are_followed_and_cancelled_at_any_broker() -> anyhow::Result<()> {
    let place = Place::start().await?;
    let config = place.folder.join("broker.toml");
    let log = place.folder.join("other.log");
    let other = Broker::start_logging(&place.folder, &place.emulator, &config, &log).await?;
    other.is_ready().await?;
    let mut operations = other.operations().await?;
    let dev = place.make("dev").await?;
    // One that takes its time keeps the other back.
    let slow = json!({"fault": "delay", "milliseconds": 4_000, "after": false});
    let creation = Mutation::create("slow");
    let Answer::Begun(slow) = begin(&place, &creation, slow).await?.await?? else {
        anyhow::bail!("an operation");
    };
    let waiting = Mutation::delete(&dev).send(place.branches.clone()).await?;
    let Answer::Begun(waiting) = waiting else {
        anyhow::bail!("an operation");
    };
    let get = |name: &str| GetOperationRequest {
        name: name.to_owned(),
    };
    let seen = eventually("the other knows it", async || {
        let mut operations = operations.clone();
        Ok(operations.get_operation(get(&waiting.name)).await?)
    })
    .await?;
    assert_eq!(seen.into_inner(), waiting);
    let cancel = CancelOperationRequest {
        name: waiting.name.clone(),
    };
    operations.cancel_operation(cancel).await?;
    let wait = |name: &str| WaitOperationRequest {
        name: name.to_owned(),
        timeout: None,
    };
    let ended = operations.wait_operation(wait(&waiting.name)).await?;
    let status = refusal(ended.into_inner().result.context("a result")?)?;
    assert_eq!(status.code(), Code::Cancelled);

    // The same request, at the other: the same operation.
    let again = creation.clone().send(other.branches().await?).await?;
    let Answer::Begun(again) = again else {
        anyhow::bail!("an operation");
    };
    assert_eq!(again.name, slow.name);
    let reused = pb::CreateBranchRequest {
        request_id: match creation {
            Mutation::Create(request) => request.request_id,
            _ => String::new(),
        },
        ..create("else")
    };
    let reused = other.branches().await?.create_branch(reused).await;
    let status = refused(reused, Code::InvalidArgument, Some("request_id"));
    let info = status.get_details_error_info().context("a reason")?;
    assert_eq!(info.reason, "REQUEST_ID_REUSED");
    let ended = operations.wait_operation(wait(&slow.name)).await?;
    let ended = ended.into_inner();
    super::branch(ended.result.clone().context("a result")?)?;
    let here = place
        .operations
        .clone()
        .get_operation(get(&slow.name))
        .await?;
    assert_eq!(here.into_inner(), ended);
    assert_eq!(place.names().await?, ["dev", "main", "slow"]);
    other.process.stop().await?;
    place.stop().await
}

/// A request that is done is refused by the check when it comes again, unless it is
/// known: at a broker that has not heard of it yet as well.
#[tokio::test]
async fn a_deletion_that_is_asked_for_again_elsewhere_is_not_refused() -> anyhow::Result<()> {
    let place = Place::start().await?;
    let config = place.folder.join("broker.toml");
    let log = place.folder.join("other.log");
    let other = Broker::start_logging(&place.folder, &place.emulator, &config, &log).await?;
    other.is_ready().await?;
    let dev = place.make("dev").await?;
    let deletion = Mutation::delete(&dev);
    let Answer::Begun(begun) = deletion.clone().send(place.branches.clone()).await? else {
        anyhow::bail!("an operation");
    };
    place.end(Ok(tonic::Response::new(begun.clone()))).await?;
    let Answer::Begun(again) = deletion.send(other.branches().await?).await? else {
        anyhow::bail!("an operation");
    };
    assert_eq!(again.name, begun.name);
    other.process.stop().await?;
    place.stop().await
}

fn acquire(binding: &str) -> pb::AcquireLeaseRequest {
    pb::AcquireLeaseRequest {
        target: Some(Target::Binding(binding.to_owned())),
        holder: "suite".to_owned(),
        ..Default::default()
    }
}

async fn branch_of(broker: &Broker, binding: &str) -> anyhow::Result<String> {
    let request = pb::GetBindingRequest {
        name: binding.to_owned(),
    };
    let binding = broker.bindings().await?.get_binding(request).await?;
    let binding = binding.into_inner().binding.context("a binding")?;
    ensure!(!binding.branch.is_empty(), "{binding:?}");
    Ok(binding.branch)
}

#[tokio::test]
async fn while_one_resets_a_branch_the_other_gives_no_lease_on_it() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start_with_admin(&folder.join("data")).await?;
    let config = suite::example_config();
    let one = Broker::start(&folder, &emulator, &config).await?;
    one.is_ready().await?;
    let log = folder.join("other.log");
    let other = Broker::start_logging(&folder, &emulator, &config, &log).await?;
    other.is_ready().await?;
    let mut leases = other.leases().await?;
    leases.acquire_lease(acquire(V2)).await?;

    let faults = Faults::of(&emulator);
    let slow = json!({"fault": "delay", "milliseconds": 6_000, "after": false});
    let route = "/projects/{project_id}/branches/{branch_id}/restore";
    faults.on_route("POST", route, slow).await?;
    let reset = pb::ResetBranchRequest {
        name: branch_of(&one, V2).await?,
        ..Default::default()
    };
    let begun = one
        .branches()
        .await?
        .reset_branch(reset)
        .await?
        .into_inner();
    eventually("it is under way, and known", async || {
        let requests = faults.requests().await?;
        ensure!(
            requests.iter().any(|request| request.route == route),
            "not sent"
        );
        let refused = other.leases().await?.acquire_lease(acquire(V2)).await;
        let status = refused.err().context("a lease was given")?;
        let info = status.get_details_error_info().context("a reason")?;
        ensure!(info.reason == "BINDING_NOT_READY", "{status:?}");
        ensure!(status.code() == Code::Unavailable, "{status:?}");
        ensure!(status.get_details_retry_info().is_some(), "{status:?}");
        Ok(())
    })
    .await?;
    leases.acquire_lease(acquire(V1)).await?;
    let wait = WaitOperationRequest {
        name: begun.name,
        timeout: None,
    };
    let ended = other.operations().await?.wait_operation(wait).await?;
    super::branch(ended.into_inner().result.context("a result")?)?;
    leases.acquire_lease(acquire(V2)).await?;
    one.process.stop().await?;
    other.process.stop().await?;
    emulator.stop().await
}

/// A branch is in use while a lease leads to it, though its binding has moved on,
/// and while a binding of another broker lives on it.
#[tokio::test]
async fn what_others_need_is_not_deleted() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let bare = folder.join("bare.toml");
    std::fs::write(&bare, "[leases]\n")?;
    let other = Broker::start(&folder, &emulator, &bare).await?;
    other.is_ready().await?;
    let config = Config::copy(&folder)?;
    let log = folder.join("one.log");
    let one = Broker::start_logging(&folder, &emulator, &config.path(), &log).await?;
    one.config()
        .await?
        .apply(pb::ApplyRequest::default())
        .await?;

    let before = branch_of(&one, V2).await?;
    let delete = pb::DeleteBranchRequest {
        name: before.clone(),
        ..Default::default()
    };
    let mut elsewhere = other.branches().await?;
    eventually("the other knows the binding", async || {
        let refused = elsewhere.clone().delete_branch(delete.clone()).await;
        let status = refused.err().context("it is deleted")?;
        let info = status.get_details_error_info().context("a reason")?;
        ensure!(info.reason == "BRANCH_IN_USE", "{status:?}");
        ensure!(status.message().contains(V2), "{status:?}");
        Ok(())
    })
    .await?;

    let mut leases = one.leases().await?;
    let given = leases.acquire_lease(acquire(V2)).await?.into_inner();
    let lease = given.lease.context("a lease")?.name;
    let whole = config.text()?;
    config.write(&whole.replace("api_v2_branch", "api_v2_again"))?;
    one.config()
        .await?
        .apply(pb::ApplyRequest::default())
        .await?;
    ensure!(branch_of(&one, V2).await? != before);
    let mut branches = one.branches().await?;
    let leased = branches.delete_branch(delete.clone()).await;
    let status = refused(leased, Code::FailedPrecondition, None);
    let resource = status.get_details_resource_info().context("a resource")?;
    assert_eq!(
        (&*resource.resource_type, &resource.resource_name),
        ("broker.v1.Lease", &lease)
    );
    let release = pb::ReleaseLeaseRequest {
        name: lease,
        ..Default::default()
    };
    leases.release_lease(release).await?;
    let begun = eventually("the other has heard of it", async || {
        Ok(elsewhere.clone().delete_branch(delete.clone()).await?)
    })
    .await?;
    let wait = WaitOperationRequest {
        name: begun.into_inner().name,
        timeout: None,
    };
    let ended = one.operations().await?.wait_operation(wait).await?;
    ensure!(refusal(ended.into_inner().result.context("a result")?).is_err());
    let get = pb::GetBranchRequest { name: before };
    refused(
        elsewhere.get_branch(get).await,
        Code::NotFound,
        Some("name"),
    );
    one.process.stop().await?;
    other.process.stop().await?;
    emulator.stop().await
}
