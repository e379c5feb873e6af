use anyhow::Context;
use prost_types::FieldMask;
use proto::broker::v1 as pb;
use proto::google::longrunning::operation::Result as Ended;
use tonic::Code;
use tonic_types::StatusExt;

use super::{Place, branch, create, id};
use crate::details::refused;

const POST: &str = "/projects/{project_id}/branches";

#[tokio::test]
async fn a_branch_is_made_once_for_the_same_request() -> anyhow::Result<()> {
    let place = Place::start().await?;
    let mut branches = place.branches.clone();
    let dev = place.make("dev").await?;
    assert!(
        dev.managed && !dev.default && !dev.etag.is_empty(),
        "{dev:?}"
    );
    assert_eq!(dev.state(), pb::BranchState::Ready);
    assert_eq!(
        place.make("dev").await?.name,
        dev.name,
        "found, not doubled"
    );
    let other = pb::CreateBranchRequest {
        schema_only: true,
        ..create("dev")
    };
    let field = Some("branch.display_name");
    let status = refused(
        branches.create_branch(other).await,
        Code::AlreadyExists,
        field,
    );
    let info = status.get_details_error_info().context("a reason")?;
    assert_eq!(info.reason, "BRANCH_EXISTS");
    let main = create("main");
    refused(
        branches.create_branch(main).await,
        Code::AlreadyExists,
        field,
    );
    assert_eq!(place.faults.count("POST", POST, Some(201)).await?, 1);

    // A request id is one request's.
    let with_id = |name: &str| pb::CreateBranchRequest {
        request_id: "6b8b4567-327b-43c6-a43c-986966334873".to_owned(),
        ..create(name)
    };
    let begun = branches.create_branch(with_id("once")).await?.into_inner();
    let again = branches.create_branch(with_id("once")).await?.into_inner();
    assert_eq!(again.name, begun.name, "the same operation");
    let reused = branches.create_branch(with_id("twice")).await;
    let status = refused(reused, Code::InvalidArgument, Some("request_id"));
    let info = status.get_details_error_info().context("a reason")?;
    assert_eq!(info.reason, "REQUEST_ID_REUSED");
    place.stop().await
}

#[tokio::test]
async fn a_branch_is_made_as_it_was_asked_for() -> anyhow::Result<()> {
    let place = Place::start().await?;
    let make = async |request: pb::CreateBranchRequest| -> anyhow::Result<pb::Branch> {
        branch(
            place
                .end(place.branches.clone().create_branch(request).await)
                .await?,
        )
    };
    let (client, project) = (place.emulator.client(), place.emulator.project());
    let base = place.make("base").await?;
    let end = super::in_an_hour();
    let end = prost_types::Timestamp {
        nanos: 0,
        ..end.into()
    };
    let mut request = create("short");
    let wanted = request.branch.get_or_insert_default();
    wanted.parent.clone_from(&base.name);
    wanted.expire_time = Some(end);
    request.read_only_endpoint = true;
    let short = make(request).await?;
    assert_eq!((&short.parent, short.expire_time), (&base.name, Some(end)));
    let endpoints = client.list_branch_endpoints(project, &id(&short)?).await?;
    let mut kinds: Vec<_> = endpoints
        .endpoints
        .iter()
        .map(|endpoint| endpoint.endpoint_type.as_str())
        .collect();
    kinds.sort_unstable();
    assert_eq!(kinds, ["read_only", "read_write"]);

    let mut request = create("safe");
    request.branch.get_or_insert_default().protected = true;
    let safe = make(request).await?;
    assert!(safe.protected);
    let bare = make(pb::CreateBranchRequest {
        schema_only: true,
        ..create("bare")
    })
    .await?;
    assert_eq!(bare.parent, "");

    // At a place in the log: the one that this branch was made from.
    let lsn = base.parent_lsn.clone();
    let request = pb::CreateBranchRequest {
        point: Some(pb::create_branch_request::Point::Lsn(
            "FFFFFFFF/0".to_owned(),
        )),
        ..create("future")
    };
    let ended = place
        .end(place.branches.clone().create_branch(request).await)
        .await?;
    let status = super::refusal(ended)?;
    refused(Err::<(), _>(status), Code::OutOfRange, Some("lsn"));
    assert!(!lsn.is_empty());
    assert!(!place.names().await?.contains(&"future".to_owned()));
    place.stop().await
}

#[tokio::test]
async fn a_branch_is_changed_and_deleted() -> anyhow::Result<()> {
    let place = Place::start().await?;
    let mut branches = place.branches.clone();
    let dev = place.make("dev").await?;
    let change = |branch: pb::Branch, paths: &[&str]| pb::UpdateBranchRequest {
        branch: Some(branch),
        update_mask: Some(FieldMask {
            paths: paths.iter().map(|path| (*path).to_owned()).collect(),
        }),
        ..Default::default()
    };
    let renamed = pb::Branch {
        display_name: "prod".to_owned(),
        protected: true,
        ..dev.clone()
    };
    let answer = branches
        .update_branch(change(renamed.clone(), &["display_name", "protected"]))
        .await?;
    let now = answer.into_inner().branch.context("a branch")?;
    assert_eq!((&*now.display_name, now.protected), ("prod", true));
    assert_ne!(now.etag, dev.etag);
    // The same again, with the etag of before.
    let stale = branches
        .update_branch(change(renamed, &["protected"]))
        .await;
    let status = refused(stale, Code::Aborted, None);
    let info = status.get_details_error_info().context("a reason")?;
    assert_eq!(info.reason, "ETAG_MISMATCH");

    let delete = |name: &str| pb::DeleteBranchRequest {
        name: name.to_owned(),
        ..Default::default()
    };
    let kept = branches.delete_branch(delete(&dev.name)).await;
    let status = refused(kept, Code::FailedPrecondition, None);
    let info = status.get_details_error_info().context("a reason")?;
    assert_eq!(info.reason, "BRANCH_PROTECTED");
    let open = pb::Branch {
        name: dev.name.clone(),
        ..Default::default()
    };
    branches
        .update_branch(change(open.clone(), &["protected"]))
        .await?;

    // Given an end, and none.
    let end = super::in_an_hour();
    let ends = pb::Branch {
        expire_time: Some(end.into()),
        ..open.clone()
    };
    let request = pb::UpdateBranchRequest {
        branch: Some(ends),
        ..Default::default()
    };
    let answer = branches.update_branch(request).await?.into_inner();
    assert!(answer.branch.context("a branch")?.expire_time.is_some());
    let answer = branches
        .update_branch(change(open, &["expire_time"]))
        .await?
        .into_inner();
    assert_eq!(answer.branch.context("a branch")?.expire_time, None);

    let ended = place
        .end(branches.delete_branch(delete(&dev.name)).await)
        .await?;
    let Ended::Response(any) = ended else {
        anyhow::bail!("{ended:?}");
    };
    assert_eq!(any.type_url, "type.googleapis.com/google.protobuf.Empty");
    assert_eq!(place.names().await?, ["main"]);
    place.stop().await
}

#[tokio::test]
async fn a_default_branch_is_chosen_and_schemas_are_compared() -> anyhow::Result<()> {
    let place = Place::start().await?;
    let mut branches = place.branches.clone();
    let dev = place.make("dev").await?;
    let main = place.get(&dev.parent).await?;
    let session = place.emulator.connect(&id(&dev)?).await?;
    session
        .batch_execute("CREATE TABLE note (text text)")
        .await?;

    let schema = pb::GetSchemaRequest {
        name: dev.name.clone(),
        database: "neondb".to_owned(),
        ..Default::default()
    };
    let sql = branches.get_schema(schema).await?.into_inner().schema;
    assert!(sql.contains("CREATE TABLE public.note"), "{sql}");
    let compare = |name: &str, base: &str| pb::CompareSchemasRequest {
        name: name.to_owned(),
        base: base.to_owned(),
        database: "neondb".to_owned(),
        ..Default::default()
    };
    let diff = branches
        .compare_schemas(compare(&dev.name, ""))
        .await?
        .into_inner()
        .diff;
    assert!(diff.starts_with("--- a/neondb\n+++ b/neondb\n"), "{diff}");
    assert!(diff.contains("\n+CREATE TABLE public.note"), "{diff}");
    let same = compare(&dev.name, &dev.name);
    assert_eq!(branches.compare_schemas(same).await?.into_inner().diff, "");
    let root = branches.compare_schemas(compare(&main.name, "")).await;
    refused(root, Code::InvalidArgument, Some("base"));

    for chosen in [&dev, &main, &main] {
        let request = pb::SetDefaultBranchRequest {
            name: chosen.name.clone(),
            ..Default::default()
        };
        let answer = branches.set_default_branch(request).await?.into_inner();
        let now = answer.branch.context("a branch")?;
        assert!(now.default && now.name == chosen.name, "{now:?}");
    }
    place.stop().await
}
