//! Replicas that are made anew because they could go no further.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, ensure};
use neon_api::EndpointId;
use neon_api::types::{
    BranchCreateRequest, BranchRestoreRequest, EndpointCreateRequest, EndpointSettingsData,
    EndpointUpdate, EndpointUpdateRequest,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use suite::{Folder, Http, count, eventually};

use super::replicated::{Replicated, notes, slot};

#[tokio::test]
async fn a_replica_shows_what_its_branch_is_restored_to() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let main = Replicated::start(&folder).await?;
    let (client, project) = (main.emulator.client(), main.emulator.project());
    let dev = main.emulator.branch("dev", None).await?;
    let replica = client
        .create_endpoint(
            project,
            &EndpointCreateRequest::read_only(dev.branch.id.clone()),
        )
        .await?;
    main.done(&replica).await?;
    let replica = replica.endpoint.id;
    let session = main.emulator.connect(&dev.branch.id).await?;
    session
        .execute("INSERT INTO note (text) VALUES ('old')", &[])
        .await?;
    main.shows(&replica, &["old"]).await?;
    let uri = main.uri(&replica, "neondb_owner").await?;
    main.write("restored").await?;

    let restore = BranchRestoreRequest::from_branch(main.id.clone()).preserve_under_name("kept");
    let restored = client
        .restore_branch(project, &dev.branch.id, &restore)
        .await?;
    main.emulator.finished(&restored.operations).await?;
    let session = main.open(&uri).await?;
    assert_eq!(notes(&session).await?, ["restored"], "at once");
    // And what is written then.
    main.emulator
        .connect(&dev.branch.id)
        .await?
        .execute("INSERT INTO note (text) VALUES ('later')", &[])
        .await?;
    main.shows(&replica, &["restored", "later"]).await?;

    // What was kept has no slot that would keep its WAL for ever.
    let kept = client.list_all_branches(project, Some("kept")).await?;
    let kept = kept.branches[0].id.clone();
    assert!(main.slot_folders(&kept)?.is_empty());
    assert_eq!(main.folders()?, [replica.to_string()]);
    main.finish().await
}

#[tokio::test]
async fn a_replica_goes_with_its_name_to_the_branch_that_takes_its_place() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let branch = Replicated::start(&folder).await?;
    let replica = branch.add().await?;
    branch.write("in the snapshot").await?;
    let http = Http::of(&branch.emulator);
    let project = format!("/projects/{}", branch.emulator.project());
    let path = format!("{project}/branches/{}/snapshot", branch.id);
    let made = http.expect(200, "POST", &path, json!({})).await?;
    settle(&branch, &http).await?;
    branch.write("after it").await?;
    branch
        .shows(&replica, &["in the snapshot", "after it"])
        .await?;
    let path = format!("{project}/snapshots/{}/restore", made.text("/snapshot/id"));
    let body = json!({"finalize_restore": true});
    let restored = http.expect(200, "POST", &path, body).await?;
    let endpoints = restored.at("/endpoints").as_array().context("a list")?;
    assert_eq!(endpoints.len(), 2);
    settle(&branch, &http).await?;
    branch.shows(&replica, &["in the snapshot"]).await?;
    assert!(branch.slot_folders(&branch.id)?.is_empty());
    let new = Replicated {
        id: restored.text("/branch/id").parse()?,
        ..branch
    };
    new.write("new").await?;
    new.shows(&replica, &["in the snapshot", "new"]).await?;
    assert_eq!(new.slots().await?, [slot(&replica)]);
    new.finish().await
}

/// Settings that a replica must have no less of than its branch's writer.
#[tokio::test]
async fn settings_of_the_two_sides_may_differ() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let branch = Replicated::start(&folder).await?;
    let replica = branch.add().await?;
    let set = async |endpoint: &EndpointId, transactions: &str| {
        let settings = [
            ("max_prepared_transactions", transactions),
            ("work_mem", "7MB"),
        ];
        let update = EndpointUpdate {
            settings: Some(EndpointSettingsData {
                pg_settings: Some(
                    settings
                        .map(|(name, value)| (name.to_owned(), value.to_owned()))
                        .into(),
                ),
                ..EndpointSettingsData::default()
            }),
            ..EndpointUpdate::default()
        };
        let client = branch.emulator.client();
        let request = EndpointUpdateRequest { endpoint: update };
        let answer = client
            .update_endpoint(branch.emulator.project(), endpoint, &request)
            .await?;
        branch.done(&answer).await
    };
    let shown = async |name: &str| {
        let session = branch.connect(&replica).await?;
        let row = session.query_one(&format!("SHOW {name}"), &[]).await?;
        anyhow::Ok(row.get::<_, String>(0))
    };
    // The writer gets more than its replica has, which runs.
    set(&branch.writer, "5").await?;
    branch.write("5 and 0").await?;
    branch.shows(&replica, &["5 and 0"]).await?;
    assert_eq!(shown("max_prepared_transactions").await?, "5");
    assert_eq!(shown("work_mem").await?, "4MB");
    // The replica asks for less, and for more.
    set(&replica, "2").await?;
    assert_eq!(shown("max_prepared_transactions").await?, "5");
    assert_eq!(shown("work_mem").await?, "7MB");
    set(&replica, "9").await?;
    assert_eq!(shown("max_prepared_transactions").await?, "9");
    branch.write("5 and 9").await?;
    branch.shows(&replica, &["5 and 0", "5 and 9"]).await?;
    // It is started while the writer is suspended, which has more when it comes.
    branch.suspend(&replica).await?;
    branch.suspend(&branch.writer).await?;
    set(&replica, "1").await?;
    set(&branch.writer, "8").await?;
    branch.wake(&replica).await?;
    branch.shows(&replica, &["5 and 0", "5 and 9"]).await?;
    branch.wake(&branch.writer).await?;
    branch.write("8 and 1").await?;
    branch
        .shows(&replica, &["5 and 0", "5 and 9", "8 and 1"])
        .await?;
    assert_eq!(shown("max_prepared_transactions").await?, "8");
    branch.finish().await
}

/// Roles of the API may drop a slot that nobody uses at the moment. A replica
/// whose WAL is gone is made anew.
#[tokio::test]
async fn a_replica_whose_slot_is_lost_is_made_anew() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let branch = Replicated::start(&folder).await?;
    let replica = branch.add().await?;
    branch.write("before").await?;
    branch.shows(&replica, &["before"]).await?;
    // Its walreceiver dies, and its postmaster cannot start another.
    let postmaster = Pid::from_raw(branch.postmaster(&replica)?);
    let receiver = branch
        .connect(&replica)
        .await?
        .query_one(
            "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walreceiver'",
            &[],
        )
        .await?
        .get(0);
    kill(postmaster, Signal::SIGSTOP)?;
    kill(Pid::from_raw(receiver), Signal::SIGKILL)?;
    let session = branch.emulator.connect(&branch.id).await?;
    eventually("the slot can be dropped", async || {
        let drop = "SELECT pg_drop_replication_slot($1::text::name)";
        Ok(session.execute(drop, &[&slot(&replica)]).await?)
    })
    .await?;
    branch.write("meanwhile").await?;
    kill(postmaster, Signal::SIGCONT)?;
    branch.shows(&replica, &["before", "meanwhile"]).await?;
    assert_ne!(branch.postmaster(&replica)?, postmaster.as_raw());
    assert_eq!(branch.slots().await?, [slot(&replica)]);
    assert!(branch.log(&replica)?.contains("does not exist"));
    branch.finish().await
}

/// One that does not answer is given some seconds, and then made anew.
#[tokio::test]
async fn a_frozen_replica_does_not_hold_up_its_branch() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let branch = Replicated::start(&folder).await?;
    let (frozen, other) = (branch.add().await?, branch.add().await?);
    let postmaster = branch.postmaster(&frozen)?;
    kill(Pid::from_raw(postmaster), Signal::SIGSTOP)?;
    branch.suspend(&branch.writer).await?;
    branch.wake(&branch.writer).await?;
    branch.write("after").await?;
    branch.shows(&other, &["after"]).await?;
    kill(Pid::from_raw(postmaster), Signal::SIGCONT)?;
    branch.shows(&frozen, &["after"]).await?;
    assert_ne!(branch.postmaster(&frozen)?, postmaster, "made anew");
    branch.finish().await
}

/// A clone that is torn, or that misses what was written while it was made,
/// would show another sum.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_starts_while_its_branch_is_written() -> anyhow::Result<()> {
    const ACCOUNTS: i32 = 20_000;
    let folder = Folder::new()?;
    let branch = Replicated::start(&folder).await?;
    branch
        .emulator
        .connect(&branch.id)
        .await?
        .batch_execute(&format!(
            "CREATE TABLE account (id int PRIMARY KEY, balance bigint NOT NULL, filler text); \
             INSERT INTO account SELECT n, 100, repeat('x', 200) FROM generate_series(1, {ACCOUNTS}) n; \
             CREATE TABLE total (transfers bigint); INSERT INTO total VALUES (0)"
        ))
        .await?;
    let running = Arc::new(AtomicBool::new(true));
    let mut writers = tokio::task::JoinSet::new();
    for seed in 1..=3 {
        let session = branch.emulator.connect(&branch.id).await?;
        let running = Arc::clone(&running);
        writers.spawn(async move {
            let mut step: i32 = seed;
            while running.load(Ordering::Relaxed) {
                step = step.wrapping_mul(1_103_515_245).wrapping_add(12_345);
                let from = (step >> 3).rem_euclid(ACCOUNTS) + 1;
                let to = from % ACCOUNTS + 1;
                let transfer = format!(
                    "BEGIN; UPDATE account SET balance = balance - 1 WHERE id = {from}; \
                     UPDATE account SET balance = balance + 1 WHERE id = {to}; \
                     UPDATE total SET transfers = transfers + 1; COMMIT"
                );
                if session.batch_execute(&transfer).await.is_err() {
                    // Another writer was in the way.
                    session.batch_execute("ROLLBACK").await?;
                }
            }
            anyhow::Ok(())
        });
    }
    for round in 0..count(3, 15) {
        let replica = branch.add().await?;
        let session = branch.connect(&replica).await?;
        let sum = "SELECT sum(balance)::bigint, count(*) FROM account";
        let row = session.query_one(sum, &[]).await?;
        assert_eq!(row.get::<_, i64>(0), i64::from(ACCOUNTS) * 100, "{round}");
        assert_eq!(row.get::<_, i64>(1), i64::from(ACCOUNTS), "{round}");
        let transfers = async |session: &tokio_postgres::Client| {
            let row = session
                .query_one("SELECT transfers FROM total", &[])
                .await?;
            anyhow::Ok(row.get::<_, i64>(0))
        };
        let now = transfers(&branch.emulator.connect(&branch.id).await?).await?;
        eventually("the replica catches up", async || {
            let there = transfers(&session).await?;
            ensure!(there >= now, "{there} of {now}");
            Ok(())
        })
        .await?;
        let client = branch.emulator.client();
        let deleted = client
            .delete_endpoint(branch.emulator.project(), &replica)
            .await?;
        branch.done(&deleted.context("it was there")?).await?;
    }
    running.store(false, Ordering::Relaxed);
    while let Some(writer) = writers.join_next().await {
        writer??;
    }
    assert!(branch.slots().await?.is_empty());
    branch.finish().await
}

/// A branch of a branch with replicas is made while they run.
#[tokio::test]
async fn clones_and_replicas_do_not_get_in_each_others_way() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let branch = Replicated::start(&folder).await?;
    let replica = branch.add().await?;
    branch.write("parent").await?;
    let (client, project) = (branch.emulator.client(), branch.emulator.project());
    let request = BranchCreateRequest::named("idle").parent(branch.id.clone());
    let child = client.create_branch(project, &request).await?;
    branch.emulator.finished(&child.operations).await?;
    assert!(branch.slot_folders(&child.branch.id)?.is_empty());
    let signal = branch
        .emulator
        .data()
        .join("branches")
        .join(child.branch.id.as_str())
        .join("standby.signal");
    assert!(!signal.exists());
    branch.shows(&replica, &["parent"]).await?;

    let deleted = client.delete_project(project).await?;
    assert_eq!(deleted.project.id, *project);
    eventually("its replicas go with the project", async || {
        let left = branch.folders()?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
    .await?;
    branch.finish().await
}

/// Waits until the project has nothing to do.
async fn settle(branch: &Replicated, http: &Http) -> anyhow::Result<()> {
    let path = format!("/projects/{}/operations", branch.emulator.project());
    eventually("the operations are done", async || {
        let answer = http.expect(200, "GET", &path, json!(null)).await?;
        let operations = answer.at("/operations").as_array().context("a list")?;
        for operation in operations {
            ensure!(operation["status"] == "finished", "{operation}");
        }
        Ok(())
    })
    .await
}
