//! A broker that is killed in the middle of a mutation: what it began is ended
//! after it, by itself or by another, and nothing is done twice.

use anyhow::{Context, ensure};
use proto::broker::v1 as pb;
use proto::broker::v1::branch_service_client::BranchServiceClient;
use proto::google::longrunning::operation::Result as Ended;
use proto::google::longrunning::{ListOperationsRequest, Operation, WaitOperationRequest};
use serde_json::{Value, json};
use suite::{Broker, StateDatabase, eventually};
use tonic::Status;
use tonic::transport::Channel;

use super::{Place, create};

const ALL: &str = "/projects/{project_id}/branches";
const ONE: &str = "/projects/{project_id}/branches/{branch_id}";
const ID: &str = "6b8b4567-327b-43c6-a43c-986966334873";

/// Something that is asked for under a request id.
#[derive(Debug, Clone)]
pub(super) enum Mutation {
    Create(pb::CreateBranchRequest),
    Update(pb::UpdateBranchRequest),
    Delete(pb::DeleteBranchRequest),
    Reset(pb::ResetBranchRequest),
    Restore(pb::RestoreBranchRequest),
    SetDefault(pb::SetDefaultBranchRequest),
}

/// What it was answered with.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Answer {
    Begun(Operation),
    Branch(pb::Branch),
}

impl Mutation {
    pub(super) fn create(name: &str) -> Self {
        Self::Create(pb::CreateBranchRequest {
            request_id: ID.to_owned(),
            ..create(name)
        })
    }

    fn rename(branch: &pb::Branch, name: &str) -> Self {
        Self::Update(pb::UpdateBranchRequest {
            branch: Some(pb::Branch {
                name: branch.name.clone(),
                display_name: name.to_owned(),
                etag: branch.etag.clone(),
                ..Default::default()
            }),
            request_id: ID.to_owned(),
            ..Default::default()
        })
    }

    pub(super) fn delete(branch: &pb::Branch) -> Self {
        Self::Delete(pb::DeleteBranchRequest {
            name: branch.name.clone(),
            etag: branch.etag.clone(),
            request_id: ID.to_owned(),
        })
    }

    fn reset(branch: &pb::Branch) -> Self {
        Self::Reset(pb::ResetBranchRequest {
            name: branch.name.clone(),
            etag: branch.etag.clone(),
            request_id: ID.to_owned(),
            ..Default::default()
        })
    }

    fn restore(branch: &pb::Branch, kept: &str) -> Self {
        Self::Restore(pb::RestoreBranchRequest {
            name: branch.name.clone(),
            etag: branch.etag.clone(),
            source: branch.parent.clone(),
            preserve_under_name: kept.to_owned(),
            request_id: ID.to_owned(),
            ..Default::default()
        })
    }

    fn set_default(branch: &pb::Branch) -> Self {
        Self::SetDefault(pb::SetDefaultBranchRequest {
            name: branch.name.clone(),
            request_id: ID.to_owned(),
        })
    }

    pub(super) async fn send(
        self,
        mut branches: BranchServiceClient<Channel>,
    ) -> Result<Answer, Status> {
        let branch = |branch: Option<pb::Branch>| Answer::Branch(branch.unwrap_or_default());
        Ok(match self {
            Self::Create(asked) => Answer::Begun(branches.create_branch(asked).await?.into_inner()),
            Self::Delete(asked) => Answer::Begun(branches.delete_branch(asked).await?.into_inner()),
            Self::Reset(asked) => Answer::Begun(branches.reset_branch(asked).await?.into_inner()),
            Self::Restore(asked) => {
                Answer::Begun(branches.restore_branch(asked).await?.into_inner())
            }
            Self::Update(asked) => branch(branches.update_branch(asked).await?.into_inner().branch),
            Self::SetDefault(asked) => branch(
                branches
                    .set_default_branch(asked)
                    .await?
                    .into_inner()
                    .branch,
            ),
        })
    }

    fn method(&self) -> &'static str {
        match self {
            Self::Create(_) => "CreateBranch",
            Self::Update(_) => "UpdateBranch",
            Self::Delete(_) => "DeleteBranch",
            Self::Reset(_) => "ResetBranch",
            Self::Restore(_) => "RestoreBranch",
            Self::SetDefault(_) => "SetDefaultBranch",
        }
    }

    /// What it is at Neon.
    fn route(&self) -> (&'static str, String) {
        match self {
            Self::Create(_) => ("POST", ALL.to_owned()),
            Self::Update(_) => ("PATCH", ONE.to_owned()),
            Self::Delete(_) => ("DELETE", ONE.to_owned()),
            Self::Reset(_) | Self::Restore(_) => ("POST", format!("{ONE}/restore")),
            Self::SetDefault(_) => ("POST", format!("{ONE}/set_as_default")),
        }
    }
}

/// How often Neon was asked for it.
async fn sent(place: &Place, mutation: &Mutation) -> anyhow::Result<usize> {
    let (method, route) = mutation.route();
    let requests = place.faults.requests().await?;
    let same = requests
        .iter()
        .filter(|request| request.method == method && request.route == route);
    Ok(same.count())
}

/// Asks for it and returns once Neon was asked, which answers with that effect.
pub(super) async fn begin(
    place: &Place,
    mutation: &Mutation,
    effect: Value,
) -> anyhow::Result<tokio::task::JoinHandle<Result<Answer, Status>>> {
    let before = sent(place, mutation).await?;
    let (method, route) = mutation.route();
    place.faults.on_route(method, &route, effect).await?;
    let sending = tokio::spawn(mutation.clone().send(place.branches.clone()));
    eventually("Neon is asked", async || {
        let now = sent(place, mutation).await?;
        ensure!(now > before, "{now} requests");
        Ok(())
    })
    .await?;
    Ok(sending)
}

/// The operation of that method, of which there is one, when it is done.
async fn ended(place: &Place, method: &str) -> anyhow::Result<Operation> {
    let list = ListOperationsRequest {
        filter: format!("method = {method}"),
        ..Default::default()
    };
    // Another broker hears of it a moment later.
    let mut operation = eventually("there is one operation", async || {
        let mut operations = place.operations.clone();
        let list = operations.list_operations(list.clone()).await?.into_inner();
        let [operation] = &list.operations[..] else {
            anyhow::bail!("one operation, not {:?}", list.operations);
        };
        Ok(operation.clone())
    })
    .await?;
    let mut operations = place.operations.clone();
    while !operation.done {
        let wait = WaitOperationRequest {
            name: operation.name,
            timeout: None,
        };
        operation = operations.wait_operation(wait).await?.into_inner();
    }
    Ok(operation)
}

/// Fails unless the ledger knows what became of everything.
pub(super) async fn settled(place: &Place) -> anyhow::Result<()> {
    let session = StateDatabase::of(&place.emulator).await?;
    let session = session.session(&place.emulator).await?;
    eventually("the ledger is settled", async || {
        let open = "SELECT name, intent FROM broker.branches WHERE intent IN ('create', 'delete')
                    OR (intent = 'preserve' AND branch IS NULL)";
        let open = session.query(open, &[]).await?;
        let open: Vec<(String, String)> = open.iter().map(|row| (row.get(0), row.get(1))).collect();
        ensure!(open.is_empty(), "{open:?}");
        Ok(())
    })
    .await
}

/// Asks for it, kills the broker once it has asked Neon, and starts it again: the
/// operation ends well, Neon was asked so often, and the same request is told the
/// same. The place as it is then, and what came of it.
async fn killed(
    place: Place,
    mutation: Mutation,
    effect: Value,
    times: usize,
) -> anyhow::Result<(Place, Ended)> {
    let before = sent(&place, &mutation).await?;
    let sending = begin(&place, &mutation, effect).await?;
    let place = place.kill_and_start().await?;
    // It was cut off, or had its answer before.
    drop(sending.await?);
    let operation = ended(&place, mutation.method()).await?;
    let again = mutation.clone().send(place.branches.clone()).await?;
    match again {
        Answer::Begun(again) => ensure!(again == operation, "{again:?}"),
        Answer::Branch(again) => {
            let result = operation.result.clone().context("a result")?;
            ensure!(again == super::branch(result)?, "{again:?}");
        }
    }
    let times_sent = sent(&place, &mutation).await? - before;
    ensure!(times_sent == times, "sent {times_sent} times");
    settled(&place).await?;
    Ok((place, operation.result.context("a result")?))
}

/// The work is done after the kill; it is done and nobody hears; it is not done.
fn effects() -> [(Value, usize); 3] {
    [
        (
            json!({"fault": "delay", "milliseconds": 2_000, "after": false}),
            1,
        ),
        (
            json!({"fault": "delay", "milliseconds": 20_000, "after": true}),
            1,
        ),
        (json!({"fault": "gateway_timeout", "after": false}), 2),
    ]
}

#[tokio::test]
async fn a_creation_makes_one_branch() -> anyhow::Result<()> {
    for (effect, times) in effects() {
        let place = Place::start().await?;
        let (place, ended) = killed(place, Mutation::create("dev"), effect, times).await?;
        let made = super::branch(ended)?;
        ensure!(
            made.managed && made.state() == pb::BranchState::Ready,
            "{made:?}"
        );
        assert_eq!(place.names().await?, ["dev", "main"]);
        place.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_change_is_made() -> anyhow::Result<()> {
    for (effect, times) in effects() {
        let place = Place::start().await?;
        let dev = place.make("dev").await?;
        let rename = Mutation::rename(&dev, "other");
        let (place, ended) = killed(place, rename, effect, times).await?;
        assert_eq!(super::branch(ended)?.display_name, "other");
        assert_eq!(place.names().await?, ["main", "other"]);
        place.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_default_branch_is_set() -> anyhow::Result<()> {
    for (effect, times) in effects() {
        let place = Place::start().await?;
        let dev = place.make("dev").await?;
        let chosen = Mutation::set_default(&dev);
        let (place, ended) = killed(place, chosen, effect, times).await?;
        ensure!(super::branch(ended)?.default);
        ensure!(place.get(&dev.name).await?.default);
        place.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_deletion_deletes_that_branch_and_no_other() -> anyhow::Result<()> {
    for (effect, times) in effects() {
        let place = Place::start().await?;
        place.make("kept").await?;
        let dev = place.make("dev").await?;
        let (place, ended) = killed(place, Mutation::delete(&dev), effect, times).await?;
        ensure!(matches!(ended, Ended::Response(_)), "{ended:?}");
        assert_eq!(place.names().await?, ["kept", "main"]);
        place.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_reset_is_done_once() -> anyhow::Result<()> {
    for (effect, times) in effects() {
        let place = Place::start().await?;
        let dev = place.make("dev").await?;
        let (place, ended) = killed(place, Mutation::reset(&dev), effect, times).await?;
        let now = super::branch(ended)?;
        ensure!(
            now.reset_time.is_some() && now.parent == dev.parent,
            "{now:?}"
        );
        assert_eq!(place.names().await?, ["dev", "main"]);
        place.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_restore_keeps_the_old_data_once_and_they_are_ours() -> anyhow::Result<()> {
    for (effect, times) in effects() {
        let place = Place::start().await?;
        let dev = place.make("dev").await?;
        let restore = Mutation::restore(&dev, "kept");
        let (place, ended) = killed(place, restore, effect, times).await?;
        let kept = place.get(&super::branch(ended)?.parent).await?;
        assert_eq!((&*kept.display_name, kept.managed), ("kept", true));
        assert_eq!(place.names().await?, ["dev", "kept", "main"]);
        place.stop().await?;
    }
    Ok(())
}

/// What had not begun to change anything is done from its beginning, and what was
/// cancelled stays so.
#[tokio::test]
async fn what_waits_its_turn_is_done_after_the_kill() -> anyhow::Result<()> {
    let place = Place::start().await?;
    let (dev, other) = (place.make("dev").await?, place.make("other").await?);
    let slow = json!({"fault": "delay", "milliseconds": 2_000, "after": false});
    begin(&place, &Mutation::reset(&dev), slow).await?;
    let waiting = Mutation::delete(&other)
        .send(place.branches.clone())
        .await?;
    let place = place.kill_and_start().await?;
    let operation = ended(&place, "DeleteBranch").await?;
    ensure!(
        matches!(operation.result, Some(Ended::Response(_))),
        "{operation:?}"
    );
    let Answer::Begun(waiting) = waiting else {
        anyhow::bail!("an operation");
    };
    assert_eq!(waiting.name, operation.name);
    ended(&place, "ResetBranch").await?;
    assert_eq!(place.names().await?, ["dev", "main"]);
    place.stop().await
}

/// Nobody starts the killed one again: the other ends what it began.
#[tokio::test]
async fn another_broker_ends_it() -> anyhow::Result<()> {
    let mut place = Place::start().await?;
    let config = place.folder.join("broker.toml");
    let log = place.folder.join("other.log");
    let other = Broker::start_logging(&place.folder, &place.emulator, &config, &log).await?;
    other.is_ready().await?;
    let creation = Mutation::create("dev");
    let slow = json!({"fault": "delay", "milliseconds": 2_000, "after": false});
    begin(&place, &creation, slow).await?;
    place.branches = other.branches().await?;
    place.operations = other.operations().await?;
    let killed = std::mem::replace(&mut place.broker, other);
    killed.process.kill().await?;
    let operation = ended(&place, "CreateBranch").await?;
    let again = creation.clone().send(place.branches.clone()).await?;
    assert_eq!(again, Answer::Begun(operation));
    assert_eq!(sent(&place, &creation).await?, 1);
    assert_eq!(place.names().await?, ["dev", "main"]);
    settled(&place).await?;
    place.stop().await
}
