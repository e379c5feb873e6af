//! read_only endpoints: replicas that stream from their branch's writer.

mod remade;
mod replicated;
mod requests;

use anyhow::{Context, ensure};
use neon_api::EndpointId;
use neon_api::types::{
    BranchCreateRequest, BranchCreateRequestEndpointOptions, BranchUpdateRequest,
    EndpointCreateRequest, EndpointType, RoleCreateRequest,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use replicated::{Replicated, notes, slot};
use suite::{Folder, count, eventually};
use tokio_postgres::error::SqlState;

#[tokio::test]
async fn replicas_show_what_is_written_and_refuse_writes() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let branch = Replicated::start(&folder).await?;
    let (one, two) = (branch.add().await?, branch.add().await?);
    branch.write("before").await?;
    for replica in [&one, &two] {
        let session = branch.shows(replica, &["before"]).await?;
        let refused = session
            .execute("INSERT INTO note (text) VALUES ('here')", &[])
            .await;
        let refused = refused.err().context("a replica takes no writes")?;
        assert_eq!(refused.code(), Some(&SqlState::READ_ONLY_SQL_TRANSACTION));
    }

    // A role of the API and its new password, and a role of SQL.
    let (client, project) = (branch.emulator.client(), branch.emulator.project());
    let created = client
        .create_role(project, &branch.id, &RoleCreateRequest::named("app"))
        .await?;
    branch.emulator.finished(&created.operations).await?;
    let uri = branch.uri(&two, "app").await?;
    eventually("the role is on the replica", async || {
        branch.open(&uri).await
    })
    .await?;
    let reset = client
        .reset_role_password(project, &branch.id, "app")
        .await?;
    branch.emulator.finished(&reset.operations).await?;
    let new = branch.uri(&two, "app").await?;
    eventually("the new password is", async || branch.open(&new).await).await?;
    assert!(branch.open(&uri).await.is_err(), "the old one is not");

    // One goes; the other does not notice.
    let deleted = client.delete_endpoint(project, &one).await?;
    branch
        .emulator
        .finished(&deleted.context("it was there")?.operations)
        .await?;
    assert_eq!(branch.folders()?, [two.to_string()]);
    assert_eq!(branch.slots().await?, [slot(&two)]);
    branch.write("after").await?;
    branch.shows(&two, &["before", "after"]).await?;
    branch.finish().await
}

#[tokio::test]
async fn either_side_suspends_and_starts_in_any_order() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let branch = Replicated::start(&folder).await?;
    let replica = branch.add().await?;
    branch.write("1").await?;
    let session = branch.shows(&replica, &["1"]).await?;

    // The writer goes and comes back: the same replica, the same session.
    branch.write("2").await?;
    branch.suspend(&branch.writer).await?;
    assert_eq!(notes(&session).await?, ["1", "2"], "nothing was lost");
    branch.wake(&branch.writer).await?;
    branch.write("3").await?;
    eventually("it follows again", async || {
        let notes = notes(&session).await?;
        ensure!(notes == ["1", "2", "3"], "{notes:?}");
        Ok(())
    })
    .await?;

    // A slot that an accident left goes when the writer starts; a caller's own
    // stays.
    let owner = branch.emulator.connect(&branch.id).await?;
    for slot in ["ep_calm_dawn_a1b2c3d4", "mine"] {
        let make = "SELECT pg_create_physical_replication_slot($1::text::name)";
        owner.execute(make, &[&slot]).await?;
    }
    branch.suspend(&branch.writer).await?;
    branch.wake(&branch.writer).await?;
    assert_eq!(branch.slots().await?, [slot(&replica), "mine".to_owned()]);
    branch
        .emulator
        .connect(&branch.id)
        .await?
        .execute("SELECT pg_drop_replication_slot('mine')", &[])
        .await?;

    // The replica goes and leaves nothing.
    branch.suspend(&replica).await?;
    assert!(session.simple_query("SELECT 1").await.is_err(), "cut");
    assert!(branch.folders()?.is_empty());
    assert!(branch.slots().await?.is_empty());
    branch.write("4").await?;
    branch.wake(&replica).await?;
    branch.shows(&replica, &["1", "2", "3", "4"]).await?;

    // Both go, the writer first; the replica comes back first.
    branch.suspend(&branch.writer).await?;
    branch.suspend(&replica).await?;
    assert!(branch.folders()?.is_empty());
    assert!(branch.slot_folders(&branch.id)?.is_empty());
    branch.wake(&replica).await?;
    branch.shows(&replica, &["1", "2", "3", "4"]).await?;
    branch.wake(&branch.writer).await?;
    branch.write("5").await?;
    branch.shows(&replica, &["1", "2", "3", "4", "5"]).await?;

    // A branch of its branch has nothing of it.
    let child = branch.emulator.branch("child", Some(&branch.id)).await?;
    let session = branch.emulator.connect(&child.branch.id).await?;
    session
        .execute("INSERT INTO note (text) VALUES ('child')", &[])
        .await?;
    let slots = session
        .query("SELECT FROM pg_replication_slots WHERE NOT temporary", &[])
        .await?;
    assert!(slots.is_empty());

    // The writer goes for good.
    let (client, project) = (branch.emulator.client(), branch.emulator.project());
    let deleted = client.delete_endpoint(project, &branch.writer).await?;
    branch
        .emulator
        .finished(&deleted.context("it was there")?.operations)
        .await?;
    branch.shows(&replica, &["1", "2", "3", "4", "5"]).await?;
    branch.finish().await
}

/// A branch that no endpoint writes is changed by the API alone, and its
/// replica shows it.
#[tokio::test]
async fn a_branch_may_have_a_replica_alone() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let branch = Replicated::start(&folder).await?;
    branch.write("inherited").await?;
    let emulator = &branch.emulator;
    let (client, project) = (emulator.client(), emulator.project());
    // Under a protected parent its passwords are its own.
    let protect = BranchUpdateRequest::default().protected(true);
    client.update_branch(project, &branch.id, &protect).await?;
    let request = BranchCreateRequest::named("read")
        .parent(branch.id.clone())
        .endpoint(BranchCreateRequestEndpointOptions::new(
            EndpointType::ReadOnly,
        ));
    let created = client.create_branch(project, &request).await?;
    emulator.finished(&created.operations).await?;
    let (id, replica) = (created.branch.id, created.endpoints[0].id.clone());
    let uris = created.connection_uris.context("an address")?;
    let session = branch.open(&uris[0].connection_uri).await?;
    assert_eq!(notes(&session).await?, ["inherited"]);
    assert_eq!(
        branch.uri(&replica, "neondb_owner").await?,
        uris[0].connection_uri
    );
    let main = branch.emulator.uri(&branch.id).await?;
    let password = |uri: &str| uri.split(['/', ':', '@']).nth(4).map(str::to_owned);
    assert_ne!(
        password(main.expose()),
        password(uris[0].connection_uri.expose())
    );
    assert!(emulator.uri(&id).await.is_err(), "no endpoint writes");

    let role = RoleCreateRequest::named("late");
    let made = client.create_role(project, &id, &role).await?;
    emulator.finished(&made.operations).await?;
    let uri = branch.uri(&replica, "late").await?;
    branch
        .open(&uri)
        .await
        .context("at once: it was waited for")?;

    let writer = EndpointCreateRequest::read_write(id.clone());
    let writer = client.create_endpoint(project, &writer).await?;
    emulator.finished(&writer.operations).await?;
    emulator
        .connect(&id)
        .await?
        .execute("INSERT INTO note (text) VALUES ('own')", &[])
        .await?;
    branch.shows(&replica, &["inherited", "own"]).await?;

    let deleted = client.delete_branch(project, &id).await?;
    emulator
        .finished(&deleted.context("it was there")?.operations)
        .await?;
    assert!(branch.folders()?.is_empty(), "they go with the branch");
    branch.finish().await
}

#[tokio::test]
async fn a_replica_comes_back_from_kills() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let mut branch = Replicated::start(&folder).await?;
    let (replica, other) = (branch.add().await?, branch.add().await?);
    let mut written = Vec::new();
    for round in 0..count(2, 8) {
        // Its own Postgres is killed.
        let pid = branch.postmaster(&replica)?;
        kill(Pid::from_raw(pid), Signal::SIGKILL)?;
        written.push(format!("replica {round}"));
        branch.write(&written[written.len() - 1]).await?;
        branch.shows(&replica, &written).await?;
        assert_ne!(branch.postmaster(&replica)?, pid);

        // The writer's is: it does not take the replicas with it.
        let session = branch.connect(&replica).await?;
        let pid = branch.writers_postmaster()?;
        kill(Pid::from_raw(pid), Signal::SIGKILL)?;
        written.push(format!("writer {round}"));
        eventually("the writer is back", async || {
            ensure!(branch.writers_postmaster()? != pid, "the old pid file");
            branch.write(&written[written.len() - 1]).await
        })
        .await?;
        branch.shows(&replica, &written).await?;
        session.simple_query("SELECT 1").await?;

        // The emulator is.
        branch = branch.kill_and_start().await?;
        written.push(format!("emulator {round}"));
        branch.write(&written[written.len() - 1]).await?;
        for replica in [&replica, &other] {
            branch.shows(replica, &written).await?;
        }
        let mut both = [replica.to_string(), other.to_string()];
        both.sort();
        assert_eq!(branch.folders()?, both);
        let mut both = [slot(&replica), slot(&other)];
        both.sort();
        assert_eq!(branch.slots().await?, both);
    }
    // It is killed in the middle of a start.
    branch.suspend(&other).await?;
    let client = branch.emulator.client();
    client
        .start_endpoint(branch.emulator.project(), &other)
        .await?;
    branch = branch.kill_and_start().await?;
    branch.shows(&other, &written).await?;

    let branch = branch.restart().await?;
    branch.shows(&replica, &written).await?;
    branch.finish().await
}

/// An errand on a branch without a writer waits for the branch's replicas, though
/// not for ever: one that replays nothing gets the rest from the next writer.
#[tokio::test]
async fn an_errand_waits_for_a_replica_and_not_for_ever() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let branch = Replicated::start(&folder).await?;
    let replica = branch.add().await?;
    branch.write("before").await?;
    let session = branch.shows(&replica, &["before"]).await?;
    branch.suspend(&branch.writer).await?;
    let replaying = Pid::from_raw(replaying(&branch, &replica)?);
    kill(replaying, Signal::SIGSTOP)?;
    let (client, project) = (branch.emulator.client(), branch.emulator.project());
    let role = RoleCreateRequest::named("late");
    let made = client.create_role(project, &branch.id, &role).await?;
    let finished = branch.emulator.finished(&made.operations).await;
    kill(replaying, Signal::SIGCONT)?;
    finished?;
    let log = branch.emulator.process().log();
    ensure!(log.contains("a replica is behind"), "{log}");
    branch.wake(&branch.writer).await?;
    eventually("the replica has the role", async || {
        let found = session
            .query("SELECT FROM pg_roles WHERE rolname = 'late'", &[])
            .await?;
        ensure!(found.len() == 1);
        Ok(())
    })
    .await?;
    branch.finish().await
}

/// The process of a replica that replays what its branch has written.
fn replaying(branch: &Replicated, replica: &EndpointId) -> anyhow::Result<i32> {
    let postmaster = branch.postmaster(replica)?;
    let children = format!("/proc/{postmaster}/task/{postmaster}/children");
    let children = std::fs::read_to_string(children)?;
    let is_startup = |pid: &&str| {
        let title = std::fs::read_to_string(format!("/proc/{pid}/cmdline"));
        title.is_ok_and(|title| title.contains("startup"))
    };
    let found = children.split_whitespace().find(is_startup);
    Ok(found.context("a startup process")?.parse()?)
}
