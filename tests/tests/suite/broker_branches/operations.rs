use anyhow::Context;
use prost::Message;
use proto::broker::v1 as pb;
use proto::google::longrunning::{
    CancelOperationRequest, DeleteOperationRequest, GetOperationRequest, ListOperationsRequest,
    WaitOperationRequest,
};
use serde_json::json;
use tonic::Code;
use tonic_types::StatusExt;

use super::{Place, refusal};
use crate::details::refused;

#[tokio::test]
async fn operations_are_followed_listed_and_forgotten() -> anyhow::Result<()> {
    let place = Place::start().await?;
    let mut operations = place.operations.clone();
    let dev = place.make("dev").await?;
    place.make("other").await?;
    let list = |filter: &str, page_size| ListOperationsRequest {
        filter: filter.to_owned(),
        page_size,
        ..Default::default()
    };
    let all = operations
        .list_operations(list("", 0))
        .await?
        .into_inner()
        .operations;
    assert_eq!(all.len(), 2);
    let filter = format!(
        "done = true AND method = CreateBranch AND branch = \"{}\"",
        dev.name
    );
    let mine = operations
        .list_operations(list(&filter, 0))
        .await?
        .into_inner()
        .operations;
    assert_eq!(mine.len(), 1);
    let metadata = mine[0].metadata.clone().context("metadata")?;
    let metadata = pb::BranchOperationMetadata::decode(&*metadata.value)?;
    assert_eq!(
        (&*metadata.method, &metadata.branch),
        ("CreateBranch", &dev.name)
    );
    assert!(metadata.create_time.is_some() && metadata.end_time.is_some());
    let page = operations.list_operations(list("", 1)).await?.into_inner();
    assert_eq!(page.operations, all[..1]);
    let next = ListOperationsRequest {
        page_token: page.next_page_token,
        ..list("", 1)
    };
    let next = operations.list_operations(next).await?.into_inner();
    assert_eq!(
        (&next.operations[..], &*next.next_page_token),
        (&all[1..], "")
    );
    let wrong = operations.list_operations(list("size = 1", 0)).await;
    refused(wrong, Code::InvalidArgument, Some("filter"));

    let name = all[0].name.clone();
    let get = GetOperationRequest { name: name.clone() };
    assert_eq!(
        operations.get_operation(get.clone()).await?.into_inner(),
        all[0]
    );
    let delete = DeleteOperationRequest { name: name.clone() };
    operations.delete_operation(delete).await?;
    refused(
        operations.get_operation(get).await,
        Code::NotFound,
        Some("name"),
    );
    let get = GetOperationRequest {
        name: "dev".to_owned(),
    };
    refused(
        operations.get_operation(get).await,
        Code::InvalidArgument,
        Some("name"),
    );
    place.stop().await
}

#[tokio::test]
async fn what_has_changed_nothing_yet_is_cancelled() -> anyhow::Result<()> {
    let place = Place::start().await?;
    let (mut branches, mut operations) = (place.branches.clone(), place.operations.clone());
    let dev = place.make("dev").await?;
    // One that takes its time keeps the other back.
    let slow =
        json!({"fault": "delay", "milliseconds": 3_000, "after": false, "body_contains": "slow"});
    let route = "/projects/{project_id}/branches";
    place.faults.on_route("POST", route, slow).await?;
    let slow = branches.create_branch(super::create("slow")).await;
    suite::eventually("the slow one is on its way", async || {
        let requests = place.faults.requests().await?;
        let mut posts = requests.iter().filter(|request| request.method == "POST");
        posts.nth(1).context("a second creation")?;
        Ok(())
    })
    .await?;
    let delete = pb::DeleteBranchRequest {
        name: dev.name,
        ..Default::default()
    };
    let waiting = branches.delete_branch(delete).await?.into_inner();
    assert!(!waiting.done);
    let name = waiting.name.clone();
    let running = DeleteOperationRequest { name: name.clone() };
    let running = operations.delete_operation(running).await;
    refused(running, Code::FailedPrecondition, None);
    operations
        .cancel_operation(CancelOperationRequest { name: name.clone() })
        .await?;
    let request = WaitOperationRequest {
        name,
        timeout: None,
    };
    let ended = operations.wait_operation(request).await?.into_inner();
    let status = refusal(ended.result.context("a result")?)?;
    assert_eq!(status.code(), Code::Cancelled);
    let info = status.get_details_error_info().context("a reason")?;
    assert_eq!(info.reason, "OPERATION_CANCELLED");
    super::branch(place.end(slow).await?)?;
    assert_eq!(place.names().await?, ["dev", "main", "slow"]);
    place.stop().await
}
