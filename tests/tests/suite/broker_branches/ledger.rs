//! Whose a branch is: by annotation or by a row of the ledger, and by nothing else.

use anyhow::{Context, ensure};
use proto::broker::v1 as pb;
use suite::{StateDatabase, eventually};
use tonic::Code;
use tonic_types::StatusExt as _;

use super::killed::{Mutation, settled};
use super::{Place, create, id, refusal};
use crate::details::refused;

#[tokio::test]
async fn what_a_restore_kept_is_ours_and_can_be_deleted() -> anyhow::Result<()> {
    let place = Place::start().await?;
    let mut branches = place.branches.clone();
    let dev = place.make("dev").await?;
    let restore = pb::RestoreBranchRequest {
        name: dev.name.clone(),
        source: dev.parent.clone(),
        preserve_under_name: "kept".to_owned(),
        ..Default::default()
    };
    let ended = place.end(branches.restore_branch(restore).await).await?;
    let dev = super::branch(ended)?;
    let kept = place.get(&dev.parent).await?;
    ensure!(kept.managed, "{kept:?}");
    let list = pb::ListBranchesRequest {
        filter: "managed = true".to_owned(),
        ..Default::default()
    };
    let list = branches.list_branches(list).await?.into_inner().branches;
    let names: Vec<&str> = list.iter().map(|one| &*one.display_name).collect();
    assert_eq!(names, ["dev", "kept"]);
    for gone in [&dev, &kept] {
        let delete = pb::DeleteBranchRequest {
            name: gone.name.clone(),
            ..Default::default()
        };
        let ended = place.end(branches.delete_branch(delete).await).await?;
        ensure!(refusal(ended).is_err(), "it is deleted");
    }
    assert_eq!(place.names().await?, ["main"]);
    settled(&place).await?;
    place.stop().await
}

/// What a crash left is settled: and what has no annotation and no row with its id
/// is nobody's to delete, whatever is written of its name.
#[tokio::test]
async fn what_a_crash_left_is_settled_and_nothing_of_others_is_touched() -> anyhow::Result<()> {
    let place = Place::start().await?;
    let mut branches = place.branches.clone();
    for name in ["theirs", "theirs-too", "theirs-again"] {
        place.emulator.branch(name, None).await?;
    }
    let (gone, parent) = (place.make("gone").await?, place.make("parent").await?);
    let mut child = create("child");
    child.branch.get_or_insert_default().parent = parent.name.clone();
    let child = super::branch(place.end(branches.create_branch(child).await).await?)?;
    let made = place.make("made").await?;
    let session = StateDatabase::of(&place.emulator).await?;
    let session = session.session(&place.emulator).await?;
    let left = format!(
        "WITH head AS (UPDATE broker.head SET version = version + 1 RETURNING version)
         INSERT INTO broker.branches (name, version, branch, intent, update_time)
         SELECT left_.name, head.version, left_.branch, left_.intent, now() - interval '1 hour'
         FROM head, (VALUES ('theirs', NULL, 'create'), ('theirs-too', NULL, 'preserve'),
             ('theirs-again', 'br-other-branch-a1b2c3d4', 'own'),
             ('never', NULL, 'create'), ('made', NULL, 'create'),
             ('gone', '{}', 'delete'), ('parent', '{}', 'delete'),
             ('went', 'br-went-before-a1b2c3d4', 'delete')) AS left_ (name, branch, intent)
         ON CONFLICT (name) DO UPDATE SET version = excluded.version,
             branch = excluded.branch, intent = excluded.intent,
             update_time = excluded.update_time",
        id(&gone)?,
        id(&parent)?,
    );
    session.batch_execute(&left).await?;
    settled(&place).await?;
    let names = [
        "child",
        "made",
        "main",
        "parent",
        "theirs",
        "theirs-again",
        "theirs-too",
    ];
    assert_eq!(place.names().await?, names);
    let rows = "SELECT name, intent, branch FROM broker.branches ORDER BY name";
    let rows = session.query(rows, &[]).await?;
    let rows: Vec<(String, String, Option<String>)> = rows
        .iter()
        .map(|row| (row.get(0), row.get(1), row.get(2)))
        .collect();
    let own = |branch: &pb::Branch| Ok::<_, anyhow::Error>(Some(id(branch)?.to_string()));
    let of = |name: &str| {
        let row = rows.iter().find(|(of, _, _)| of == name);
        row.map(|(_, intent, branch)| (intent.as_str(), branch.clone()))
    };
    assert_eq!(of("made"), Some(("own", own(&made)?)));
    assert_eq!(of("parent"), Some(("own", own(&parent)?)), "it has a child");
    assert_eq!(of("child"), Some(("own", own(&child)?)));
    for name in ["theirs", "theirs-too", "never", "gone", "went"] {
        assert_eq!(of(name), Some(("gone", None)), "{name}");
    }
    let list = pb::ListBranchesRequest::default();
    let list = branches.list_branches(list).await?.into_inner().branches;
    for theirs in list
        .into_iter()
        .filter(|one| one.display_name.starts_with("theirs"))
    {
        ensure!(!theirs.managed, "{theirs:?}");
        let refusal = Mutation::delete(&theirs).send(place.branches.clone()).await;
        let status = refused(refusal, Code::FailedPrecondition, None);
        let info = status.get_details_error_info().context("a reason")?;
        assert_eq!(info.reason, "BRANCH_NOT_OURS");
    }
    // A row whose branch went by itself goes too.
    let place = place.kill_and_start().await?;
    eventually("it is not in the ledger any more", async || {
        let row = "SELECT intent FROM broker.branches WHERE name = 'theirs-again'";
        let intent: String = session.query_one(row, &[]).await?.get(0);
        ensure!(intent == "gone", "{intent}");
        Ok(())
    })
    .await?;
    assert_eq!(place.names().await?, names);
    place.stop().await
}

/// Nobody hears of an update any more, and it is made all the same.
#[tokio::test]
async fn a_change_outlives_its_callers_deadline() -> anyhow::Result<()> {
    let place = Place::start().await?;
    let dev = place.make("dev").await?;
    let slow = serde_json::json!({"fault": "delay", "milliseconds": 2_000, "after": false});
    let route = "/projects/{project_id}/branches/{branch_id}";
    let fault = place.faults.on_route("PATCH", route, slow).await?;
    let mut request = tonic::Request::new(pb::UpdateBranchRequest {
        branch: Some(pb::Branch {
            name: dev.name.clone(),
            display_name: "other".to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    });
    request.set_timeout(std::time::Duration::from_millis(500));
    let cut = place.branches.clone().update_branch(request).await;
    ensure!(cut.is_err(), "{cut:?}");
    place.faults.happened(fault).await?;
    eventually("it has the name", async || {
        let now = place.get(&dev.name).await?;
        ensure!(now.display_name == "other", "{now:?}");
        Ok(())
    })
    .await?;
    settled(&place).await?;
    place.stop().await
}
