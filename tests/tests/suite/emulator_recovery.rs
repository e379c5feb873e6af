//! A clone's first start, which replays what its parent wrote meanwhile, cut
//! off.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, ensure};
use neon_api::types::{BranchCreateRequest, EndpointCreateRequest, OperationStatus};
use neon_api::{BranchId, EndpointId};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use suite::{EmulatorProcess, Folder, PATIENCE, count, eventually};

/// Postgres's name for a backup label that it has read.
const LABEL_READ: &str = "backup_label.old";
/// How many starts may be over before the signal comes.
const MISSED_MAX: usize = 30;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_recovery_that_is_cut_off_begins_again() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let main = emulator.main_branch().await?;
    let session = emulator.connect(&main).await?;
    session
        .batch_execute(
            "CREATE TABLE kept (id int); INSERT INTO kept VALUES (1); \
             CREATE TABLE big AS SELECT n, repeat('x', 500) AS filler FROM generate_series(1, 60000) n",
        )
        .await?;
    let writing = Arc::new(AtomicBool::new(true));
    let writer = {
        let (session, writing) = (emulator.connect(&main).await?, Arc::clone(&writing));
        tokio::spawn(async move {
            session
                .batch_execute("CREATE TABLE noise (text text)")
                .await?;
            while writing.load(Ordering::Relaxed) {
                session
                    .batch_execute(
                        "INSERT INTO noise SELECT repeat('y', 500) FROM generate_series(1, 4000); \
                         TRUNCATE noise",
                    )
                    .await?;
            }
            anyhow::Ok(())
        })
    };
    let (mut cut_off, mut missed) = (0, 0);
    while cut_off < count(2, 8) {
        let name = format!("clone-{cut_off}-{missed}");
        let request = BranchCreateRequest::named(&name).parent(main.clone());
        let (client, project) = (emulator.client(), emulator.project());
        let branch = client.create_branch(project, &request).await?;
        emulator.finished(&branch.operations).await?;
        let branch = branch.branch.id;
        let data = emulator.data().join("branches").join(branch.as_str());
        // A fast shutdown, as of what an earlier run left, cuts it off as well.
        let signal = [Signal::SIGKILL, Signal::SIGINT][(cut_off + missed) % 2];
        let killer = tokio::task::spawn_blocking(move || end_when_the_label_is_read(&data, signal));
        let created = client
            .create_endpoint(project, &EndpointCreateRequest::read_write(branch.clone()))
            .await?;
        killer.await??;
        if is_cut_off(&emulator, created.operations[0].id).await? {
            cut_off += 1;
        } else {
            missed += 1;
            ensure!(missed <= MISSED_MAX, "the signal comes too late each time");
        }
        // It can be cloned as it is.
        let request = BranchCreateRequest::named(format!("of-{name}"))
            .parent(branch.clone())
            .read_write_endpoint();
        let child = eventually("a clone is taken", async || {
            Ok(client.create_branch(project, &request).await?)
        })
        .await?;
        emulator.finished(&child.operations).await?;
        is_whole(&emulator, &child.branch.id, &child.endpoints[0].id).await?;
        is_whole(&emulator, &branch, &created.endpoint.id).await?;
        for branch in [&child.branch.id, &branch] {
            let deleted = client.delete_branch(project, branch).await?;
            emulator
                .finished(&deleted.context("it was there")?.operations)
                .await?;
        }
    }
    writing.store(false, Ordering::Relaxed);
    writer.await??;
    emulator.stop().await
}

/// Ends the server that starts on this data directory as soon as it replays.
/// Looks without a pause: a replay is over in some hundredths of a second.
fn end_when_the_label_is_read(data: &Path, signal: Signal) -> anyhow::Result<()> {
    let begun = Instant::now();
    while !data.join(LABEL_READ).exists() {
        let waited = begun.elapsed() < PATIENCE;
        ensure!(waited, "no start reads the label in {}", data.display());
        std::thread::yield_now();
    }
    let pid = std::fs::read_to_string(data.join("postmaster.pid")).context("read the pid")?;
    let pid = pid.lines().next().context("a pid")?.trim().parse()?;
    // It may have ended meanwhile.
    let _ = kill(Pid::from_raw(pid), signal);
    Ok(())
}

async fn is_cut_off(
    emulator: &EmulatorProcess,
    operation: neon_api::OperationId,
) -> anyhow::Result<bool> {
    eventually("the start is over", async || {
        let found = emulator
            .client()
            .get_operation(emulator.project(), operation)
            .await?;
        let status = found.operation.status;
        ensure!(status.is_final(), "{status}");
        Ok(status == OperationStatus::Failed)
    })
    .await
}

/// Starts the endpoint, unless it is being started, and reads.
async fn is_whole(
    emulator: &EmulatorProcess,
    branch: &BranchId,
    endpoint: &EndpointId,
) -> anyhow::Result<()> {
    let project = emulator.project();
    // 423 while the emulator itself starts it again.
    let started = eventually("a start is taken", async || {
        Ok(emulator.client().start_endpoint(project, endpoint).await?)
    })
    .await?;
    emulator.finished(&started.operations).await?;
    let session = eventually("it takes connections", async || {
        emulator.connect(branch).await
    })
    .await?;
    let kept = session.query("SELECT FROM kept", &[]).await?;
    ensure!(kept.len() == 1, "what the parent had is there");
    let row = session.query_one("SELECT count(*) FROM big", &[]).await?;
    ensure!(row.get::<_, i64>(0) == 60_000, "all of it");
    Ok(())
}
