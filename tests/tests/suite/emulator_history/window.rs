//! How much of the past there is: by the project's window, and by what its WAL
//! may take.

use anyhow::{Context, ensure};
use neon_api::BranchId;
use neon_api::types::BranchCreateRequest;
use serde_json::json;
use suite::{EmulatorProcess, Folder, Http, eventually};

use super::ledger::{check_branch, has_history, write};

/// A history that is begun again has no hole, and nothing of the one before.
#[tokio::test]
async fn a_window_of_nothing_is_the_end_of_a_history() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let data = folder.join("data");
    let emulator = EmulatorProcess::start(&data).await?;
    let (client, project) = (emulator.client(), emulator.project());
    let main = emulator.main_branch().await?;
    let suspended = emulator.branch("suspended", None).await?.branch.id;
    for branch in [&main, &suspended] {
        has_history(&data, branch).await?;
    }
    emulator.suspend(&suspended).await?;
    let session = emulator.connect(&main).await?;
    session
        .batch_execute("CREATE TABLE entry (number bigint, filler text)")
        .await?;
    let before = write(&session, 1..=10, 0).await?;

    keeps(&emulator, 0).await?;
    for branch in [&main, &suspended] {
        eventually("its history is gone", async || {
            ensure!(!data.join("history").join(branch.as_str()).exists());
            Ok(())
        })
        .await?;
    }
    let meanwhile = write(&session, 11..=30, 10).await?;
    ensure!(!data.join("history").join(main.as_str()).exists());

    keeps(&emulator, 86_400).await?;
    has_history(&data, &main).await?;
    let after = write(&session, 31..=60, 30).await?;
    // What is not in the archive is nowhere.
    emulator.suspend(&main).await?;
    for (round, entry) in after.iter().step_by(7).enumerate() {
        check_branch(&emulator, &main, entry, round).await?;
    }
    for entry in [&before[5], &meanwhile[5], &meanwhile[15]] {
        let request = BranchCreateRequest::named("hole")
            .parent(main.clone())
            .at_lsn(entry.lsn.clone());
        let refused = client.create_branch(project, &request).await;
        let reason = refused.err().context("it is refused")?.to_string();
        ensure!(reason.contains("before the branch's history"), "{reason}");
    }
    emulator.stop().await
}

/// More WAL than there may be: the history begins later, and the log says so.
#[tokio::test]
async fn a_history_has_no_more_wal_than_it_may() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let data = folder.join("data");
    let flags = ["--history-wal-megabytes-max", "16"];
    let address = suite::free_address()?;
    let emulator = EmulatorProcess::start_with(&data, &address, &flags).await?;
    let (client, project) = (emulator.client(), emulator.project());
    let main = emulator.main_branch().await?;
    has_history(&data, &main).await?;
    let session = emulator.connect(&main).await?;
    session
        .batch_execute("CREATE TABLE entry (number bigint, filler text)")
        .await?;
    let first = write(&session, 1..=2, 0).await?.remove(0);
    session
        .batch_execute(
            "CREATE TABLE noise AS \
               SELECT repeat(md5(n::text), 20) AS text FROM generate_series(1, 40000) n",
        )
        .await?;
    eventually("the oldest WAL is gone", async || {
        let megabytes = archived(&emulator, &main)?;
        ensure!(megabytes <= 16, "{megabytes} MB");
        Ok(())
    })
    .await?;
    let log = emulator.process().log();
    ensure!(log.contains("--history-wal-megabytes-max"), "{log}");
    let request = BranchCreateRequest::named("gone")
        .parent(main.clone())
        .at_lsn(first.lsn);
    let refused = client.create_branch(project, &request).await;
    let reason = refused.err().context("it is refused")?.to_string();
    ensure!(reason.contains("before the branch's history"), "{reason}");
    let last = write(&session, 3..=4, 2).await?.remove(0);
    check_branch(&emulator, &main, &last, 0).await?;
    emulator.stop().await
}

async fn keeps(emulator: &EmulatorProcess, seconds: i64) -> anyhow::Result<()> {
    let path = format!("/projects/{}", emulator.project());
    let change = json!({"project": {"history_retention_seconds": seconds}});
    let http = Http::of(emulator);
    http.expect(200, "PATCH", &path, change).await?;
    Ok(())
}

/// How many segments, of a megabyte each, there are.
fn archived(emulator: &EmulatorProcess, branch: &BranchId) -> anyhow::Result<usize> {
    let folder = emulator.data().join("history").join(branch.as_str());
    Ok(std::fs::read_dir(folder.join("wal"))?.count())
}
