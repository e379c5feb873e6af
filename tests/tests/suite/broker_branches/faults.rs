//! Each fault in each mutation: done once, or not at all, and answered.

use anyhow::{Context, ensure};
use proto::broker::v1 as pb;
use suite::request_faults;

use super::{Place, branch, id};

const ONE: &str = "/projects/{project_id}/branches/{branch_id}";

/// Does something under each fault, each of which has to happen.
async fn under_each(
    place: &Place,
    method: &str,
    route: &str,
    mut act: impl AsyncFnMut(usize) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    for (round, effect) in request_faults().into_iter().enumerate() {
        let fault = place.faults.on_route(method, route, effect.clone()).await?;
        act(round).await.with_context(|| effect.to_string())?;
        place.faults.happened(fault).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_creation_makes_one_branch() -> anyhow::Result<()> {
    let place = Place::start().await?;
    let route = "/projects/{project_id}/branches";
    under_each(&place, "POST", route, async |round| {
        let name = format!("dev-{round}");
        let made = place.make(&name).await?;
        ensure!(
            made.managed && made.state() == pb::BranchState::Ready,
            "{made:?}"
        );
        let names = place.names().await?;
        let same = names.iter().filter(|other| **other == name).count();
        ensure!(same == 1 && names.len() == round + 2, "{names:?}");
        Ok(())
    })
    .await?;
    place.stop().await
}

#[tokio::test]
async fn a_deletion_deletes_that_branch_and_no_other() -> anyhow::Result<()> {
    let place = Place::start().await?;
    place.make("kept").await?;
    under_each(&place, "DELETE", ONE, async |_| {
        let dev = place.make("dev").await?;
        let request = pb::DeleteBranchRequest {
            name: dev.name,
            ..Default::default()
        };
        let ended = place
            .end(place.branches.clone().delete_branch(request).await)
            .await?;
        ensure!(super::refusal(ended).is_err(), "it was deleted");
        ensure!(place.names().await? == ["kept", "main"]);
        Ok(())
    })
    .await?;
    place.stop().await
}

#[tokio::test]
async fn a_change_is_made() -> anyhow::Result<()> {
    let place = Place::start().await?;
    let dev = place.make("dev").await?;
    under_each(&place, "PATCH", ONE, async |round| {
        let request = pb::UpdateBranchRequest {
            branch: Some(pb::Branch {
                name: dev.name.clone(),
                display_name: format!("dev-{round}"),
                ..Default::default()
            }),
            ..Default::default()
        };
        let answer = place
            .branches
            .clone()
            .update_branch(request)
            .await?
            .into_inner();
        let now = answer.branch.context("a branch")?;
        ensure!(now.display_name == format!("dev-{round}"), "{now:?}");
        ensure!(place.get(&dev.name).await? == now);
        ensure!(place.names().await?.len() == 2);
        Ok(())
    })
    .await?;
    place.stop().await
}

#[tokio::test]
async fn a_default_branch_is_set() -> anyhow::Result<()> {
    let place = Place::start().await?;
    let dev = place.make("dev").await?;
    let main = place.get(&dev.parent).await?;
    let route = format!("{ONE}/set_as_default");
    under_each(&place, "POST", &route, async |round| {
        let name = [&dev, &main][round % 2].name.clone();
        let request = pb::SetDefaultBranchRequest {
            name: name.clone(),
            ..Default::default()
        };
        let answer = place.branches.clone().set_default_branch(request).await?;
        ensure!(answer.into_inner().branch.context("a branch")?.default);
        ensure!(place.get(&name).await?.default);
        Ok(())
    })
    .await?;
    place.stop().await
}

#[tokio::test]
async fn a_reset_takes_the_parents_data() -> anyhow::Result<()> {
    let place = Place::start().await?;
    let dev = place.make("dev").await?;
    let route = format!("{ONE}/restore");
    under_each(&place, "POST", &route, async |_| {
        let own = place.emulator.connect(&id(&dev)?).await?;
        own.batch_execute("CREATE TABLE own (id int)").await?;
        let request = pb::ResetBranchRequest {
            name: dev.name.clone(),
            ..Default::default()
        };
        let ended = place
            .end(place.branches.clone().reset_branch(request).await)
            .await?;
        let now = branch(ended)?;
        ensure!(
            now.state() == pb::BranchState::Ready && now.parent == dev.parent,
            "{now:?}"
        );
        let session = place.emulator.connect(&id(&dev)?).await?;
        let own = session
            .query_one("SELECT to_regclass('own')::text", &[])
            .await?;
        ensure!(
            own.get::<_, Option<String>>(0).is_none(),
            "its own data are gone"
        );
        ensure!(place.names().await? == ["dev", "main"]);
        Ok(())
    })
    .await?;
    place.stop().await
}

#[tokio::test]
async fn a_restore_that_keeps_the_old_data_keeps_them_once() -> anyhow::Result<()> {
    let place = Place::start().await?;
    let dev = place.make("dev").await?;
    let route = format!("{ONE}/restore");
    under_each(&place, "POST", &route, async |round| {
        let request = pb::RestoreBranchRequest {
            name: dev.name.clone(),
            source: dev.parent.clone(),
            preserve_under_name: format!("kept-{round}"),
            ..Default::default()
        };
        let ended = place
            .end(place.branches.clone().restore_branch(request).await)
            .await?;
        let now = branch(ended)?;
        ensure!(place.get(&now.parent).await?.display_name == format!("kept-{round}"));
        let names = place.names().await?;
        ensure!(names.len() == round + 3, "{names:?}");
        Ok(())
    })
    .await?;
    place.stop().await
}
