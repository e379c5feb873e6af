use anyhow::Context;
use proto::broker::v1 as pb;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::{Place, create, id};
use crate::details::refused;

const NONE: &str = "branches/br-no-such-branch-a1b2c3d4";

/// The reason of a refusal with that code, which names that field.
#[track_caller]
fn reason<T: std::fmt::Debug>(
    result: Result<T, Status>,
    code: Code,
    field: Option<&str>,
) -> String {
    let status = refused(result, code, field);
    let info = status.get_details_error_info();
    info.map(|info| info.reason).unwrap_or_default()
}

#[tokio::test]
async fn bad_input_names_its_field_and_changes_nothing() -> anyhow::Result<()> {
    let place = Place::start().await?;
    let mut branches = place.branches.clone();
    let time = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
    let named = |change: &dyn Fn(&mut pb::Branch)| {
        let mut request = create("dev");
        change(request.branch.get_or_insert_default());
        request
    };
    let point = pb::create_branch_request::Point::Lsn("here".to_owned());
    for (field, request) in [
        ("branch.display_name", create("")),
        ("branch.display_name", create(" dev")),
        ("branch.display_name", create(&"d".repeat(257))),
        ("branch", named(&|branch| branch.managed = true)),
        ("branch", named(&|branch| branch.name = NONE.to_owned())),
        (
            "branch.parent",
            named(&|branch| branch.parent = "main".to_owned()),
        ),
        (
            "branch.expire_time",
            named(&|branch| branch.expire_time = time(1)),
        ),
        (
            "branch.expire_time",
            named(&|branch| branch.expire_time = time(4_000_000_000)),
        ),
        (
            "branch.expire_time",
            named(&|branch| branch.expire_time = time(i64::MAX)),
        ),
        (
            "branch.protected",
            named(&|branch| {
                branch.protected = true;
                branch.expire_time = time(4_000_000_000);
            }),
        ),
        (
            "lsn",
            pb::CreateBranchRequest {
                point: Some(point),
                ..create("dev")
            },
        ),
        (
            "schema_only",
            pb::CreateBranchRequest {
                point: Some(pb::create_branch_request::Point::Lsn("0/1".to_owned())),
                schema_only: true,
                ..create("dev")
            },
        ),
        (
            "request_id",
            pb::CreateBranchRequest {
                request_id: "1".to_owned(),
                ..create("dev")
            },
        ),
    ] {
        let said = format!("{request:?}");
        let answer = branches.create_branch(request).await;
        assert_eq!(
            reason(answer, Code::InvalidArgument, Some(field)),
            "INVALID_FIELDS",
            "{said}"
        );
    }
    let unknown = named(&|branch| branch.parent = NONE.to_owned());
    let answer = branches.create_branch(unknown).await;
    assert_eq!(
        reason(answer, Code::NotFound, Some("branch.parent")),
        "BRANCH_NOT_FOUND"
    );

    let restore = pb::RestoreBranchRequest {
        name: NONE.to_owned(),
        ..Default::default()
    };
    for field in ["time", "preserve_under_name"] {
        let answer = branches.restore_branch(restore.clone()).await;
        assert_eq!(
            reason(answer, Code::InvalidArgument, Some(field)),
            "INVALID_FIELDS"
        );
    }
    let mask = |path: &str| pb::UpdateBranchRequest {
        branch: Some(pb::Branch {
            name: NONE.to_owned(),
            ..Default::default()
        }),
        update_mask: Some(prost_types::FieldMask {
            paths: vec![path.to_owned()],
        }),
        ..Default::default()
    };
    for (path, field) in [
        ("state", "update_mask"),
        ("display_name", "branch.display_name"),
        ("*", "branch.display_name"),
    ] {
        let answer = branches.update_branch(mask(path)).await;
        assert_eq!(
            reason(answer, Code::InvalidArgument, Some(field)),
            "INVALID_FIELDS"
        );
    }
    // What is not there, and what is no name.
    for (name, code) in [(NONE, Code::NotFound), ("main", Code::InvalidArgument)] {
        let name = name.to_owned();
        let request = pb::DeleteBranchRequest {
            name: name.clone(),
            ..Default::default()
        };
        reason(branches.delete_branch(request).await, code, Some("name"));
        let request = pb::ResetBranchRequest {
            name: name.clone(),
            ..Default::default()
        };
        reason(branches.reset_branch(request).await, code, Some("name"));
        let request = pb::SetDefaultBranchRequest {
            name: name.clone(),
            ..Default::default()
        };
        reason(
            branches.set_default_branch(request).await,
            code,
            Some("name"),
        );
        let database = "neondb".to_owned();
        let request = pb::GetSchemaRequest {
            name: name.clone(),
            database,
            ..Default::default()
        };
        reason(branches.get_schema(request).await, code, Some("name"));
        let database = String::new();
        let request = pb::CompareSchemasRequest {
            name,
            database,
            ..Default::default()
        };
        reason(
            branches.compare_schemas(request).await,
            Code::InvalidArgument,
            Some("database"),
        );
    }
    assert_eq!(place.names().await?, ["main"]);
    place.stop().await
}

#[tokio::test]
async fn nothing_of_others_is_deleted_reset_restored_or_given_an_end() -> anyhow::Result<()> {
    let place = Place::start().await?;
    let mut branches = place.branches.clone();
    let theirs = place.emulator.branch("theirs", None).await?.branch.id;
    let main = place.emulator.main_branch().await?;
    let request = place.make("safe").await?;
    let protected = pb::UpdateBranchRequest {
        branch: Some(pb::Branch {
            protected: true,
            ..request.clone()
        }),
        ..Default::default()
    };
    branches.update_branch(protected).await?;
    let end = super::in_an_hour();
    for (name, why) in [
        (format!("branches/{theirs}"), "BRANCH_NOT_OURS"),
        (format!("branches/{main}"), "BRANCH_DEFAULT"),
        (request.name.clone(), "BRANCH_PROTECTED"),
    ] {
        let code = Code::FailedPrecondition;
        let delete = pb::DeleteBranchRequest {
            name: name.clone(),
            ..Default::default()
        };
        assert_eq!(
            reason(branches.delete_branch(delete).await, code, None),
            why
        );
        let reset = pb::ResetBranchRequest {
            name: name.clone(),
            ..Default::default()
        };
        assert_eq!(reason(branches.reset_branch(reset).await, code, None), why);
        let restore = pb::RestoreBranchRequest {
            name: name.clone(),
            source: format!("branches/{theirs}"),
            point: Some(pb::restore_branch_request::Point::Lsn("0/1".to_owned())),
            preserve_under_name: "kept".to_owned(),
            ..Default::default()
        };
        assert_eq!(
            reason(branches.restore_branch(restore).await, code, None),
            why
        );
        let ends = pb::UpdateBranchRequest {
            branch: Some(pb::Branch {
                name,
                expire_time: Some(end.into()),
                ..Default::default()
            }),
            ..Default::default()
        };
        assert_eq!(reason(branches.update_branch(ends).await, code, None), why);
    }
    assert_eq!(place.names().await?, ["main", "safe", "theirs"]);
    place.stop().await
}

#[tokio::test]
async fn the_tree_stays_a_tree() -> anyhow::Result<()> {
    let place = Place::start().await?;
    let mut branches = place.branches.clone();
    let code = Code::FailedPrecondition;
    let top = place.make("top").await?;
    let mut below = create("below");
    below
        .branch
        .get_or_insert_default()
        .parent
        .clone_from(&top.name);
    let below = super::branch(place.end(branches.create_branch(below).await).await?)?;

    let delete = pb::DeleteBranchRequest {
        name: top.name.clone(),
        ..Default::default()
    };
    let status = refused(branches.delete_branch(delete).await, code, None);
    assert!(status.message().contains("below"), "{status:?}");
    let reset = pb::ResetBranchRequest {
        name: top.name.clone(),
        ..Default::default()
    };
    assert_eq!(
        reason(branches.reset_branch(reset).await, code, None),
        "BRANCH_HAS_CHILDREN"
    );
    let restore = |source: &str, preserve: &str| pb::RestoreBranchRequest {
        name: top.name.clone(),
        source: source.to_owned(),
        preserve_under_name: preserve.to_owned(),
        ..Default::default()
    };
    let cycle = branches.restore_branch(restore(&below.name, "")).await;
    assert_eq!(reason(cycle, code, Some("source")), "BRANCH_CYCLE");
    let taken = branches.restore_branch(restore(&top.parent, "below")).await;
    let field = Some("preserve_under_name");
    assert_eq!(reason(taken, Code::AlreadyExists, field), "BRANCH_EXISTS");
    let unknown = branches
        .restore_branch(restore(super::refused::NONE, ""))
        .await;
    assert_eq!(
        reason(unknown, Code::NotFound, Some("source")),
        "BRANCH_NOT_FOUND"
    );

    // One that expires has no children, and one with children does not expire.
    let end = super::in_an_hour();
    let ends = |name: &str| pb::UpdateBranchRequest {
        branch: Some(pb::Branch {
            name: name.to_owned(),
            expire_time: Some(end.into()),
            ..Default::default()
        }),
        ..Default::default()
    };
    let parent = branches.update_branch(ends(&top.name)).await;
    assert_eq!(reason(parent, code, None), "BRANCH_HAS_CHILDREN");
    branches.update_branch(ends(&below.name)).await?;
    let mut child = create("child");
    child
        .branch
        .get_or_insert_default()
        .parent
        .clone_from(&below.name);
    let child = branches.create_branch(child).await;
    assert_eq!(reason(child, code, Some("branch.parent")), "PARENT_EXPIRES");
    let default = pb::SetDefaultBranchRequest {
        name: below.name.clone(),
        ..Default::default()
    };
    let default = branches.set_default_branch(default).await;
    assert_eq!(reason(default, code, None), "BRANCH_EXPIRES");

    // Kept data let a child live on.
    let ended = place
        .end(branches.restore_branch(restore(&top.parent, "kept")).await)
        .await?;
    let now = super::branch(ended)?;
    assert!(now.managed && now.reset_time.is_some(), "{now:?}");
    let kept = place.get(&now.parent).await?;
    assert_eq!((&*kept.display_name, kept.managed), ("kept", true));
    assert_eq!(place.get(&below.name).await?.parent, kept.name);
    // It is ours, though no annotation came along: the ledger says so.
    let delete = pb::DeleteBranchRequest {
        name: kept.name,
        ..Default::default()
    };
    assert_eq!(
        reason(branches.delete_branch(delete).await, code, None),
        "BRANCH_HAS_CHILDREN"
    );
    let _ = id(&now).context("an id")?;
    place.stop().await
}
