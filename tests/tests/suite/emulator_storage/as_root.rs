//! What needs file systems of its own, which only root can mount. `cargo xtask
//! test` leaves these out, and says so, where it is not root.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};
use neon_api::types::{BranchCreateRequest, OperationStatus};
use serde_json::Value;
use suite::{Bank, EmulatorProcess, Folder, Http, LoopImage, count, eventually};

/// XFS wants 300 MB.
const IMAGE_MB: u64 = 3_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn branches_of_a_busy_parent_are_whole_on_btrfs() -> anyhow::Result<()> {
    branches_are_whole("btrfs", "auto", "btrfs").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn branches_of_a_busy_parent_are_whole_with_reflinks_on_btrfs() -> anyhow::Result<()> {
    branches_are_whole("btrfs", "reflink", "reflink").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn branches_of_a_busy_parent_are_whole_on_xfs() -> anyhow::Result<()> {
    branches_are_whole("xfs", "auto", "reflink").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn branches_of_a_busy_parent_are_whole_on_ext4() -> anyhow::Result<()> {
    branches_are_whole("ext4", "auto", "copy").await
}

async fn branches_are_whole(file_system: &str, wish: &str, method: &str) -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let image = LoopImage::new(folder.path(), file_system, IMAGE_MB)?;
    // As much as the image has room for: the bank is busy all the time.
    let history = ["--history-wal-megabytes-max", "256"];
    let flags = [&["--admin", "--storage", wish][..], &history].concat();
    let address = suite::free_address()?;
    let emulator = EmulatorProcess::start_with(&image.join("data"), &address, &flags).await?;
    let main = emulator.main_branch().await?;
    let bank = Bank::open(&emulator, &main).await?;
    for round in 0..count(4, 15) {
        bank.branch_and_check(&emulator, &main, round).await?;
    }
    bank.close().await?;

    // Restored, suspended, branched again: as on any file system.
    let (client, project) = (emulator.client(), emulator.project());
    let dev = emulator.branch("dev", Some(&main)).await?.branch.id;
    let session = emulator.connect(&dev).await?;
    session.batch_execute("DELETE FROM account").await?;
    let endpoint = client.list_branch_endpoints(project, &dev).await?.endpoints[0]
        .id
        .clone();
    let suspended = client.suspend_endpoint(project, &endpoint).await?;
    emulator.finished(&suspended.operations).await?;
    let empty = emulator.branch("empty", Some(&dev)).await?.branch.id;
    let session = emulator.connect(&empty).await?;
    let left = session.query_one("SELECT count(*) FROM account", &[]);
    assert_eq!(left.await?.get::<_, i64>(0), 0);
    let restore = serde_json::json!({ "source_branch_id": main });
    let path = format!("/projects/{project}/branches/{empty}/restore");
    Http::of(&emulator)
        .expect(200, "POST", &path, restore)
        .await?;
    eventually("the restore is done", async || {
        let branch = client.get_branch(project, &empty).await?.branch;
        ensure!(
            branch.current_state.as_str() == "ready",
            "{:?}",
            branch.current_state
        );
        Ok(())
    })
    .await?;
    let session = eventually("it answers again", async || emulator.connect(&empty).await).await?;
    Bank::check(&session).await?;

    let report = Http::of(&emulator)
        .admin()
        .call("GET", "/storage", Value::Null)
        .await?;
    assert_eq!(report.text("/method"), method);
    assert_eq!(report.text("/file_system"), file_system);
    for branch in report.at("/branches").as_array().context("a list")? {
        assert_eq!(branch["cloned_by"], *method, "{branch}");
    }
    emulator.stop().await
}

#[tokio::test]
async fn a_storage_image_is_found_again_after_a_kill() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let data = folder.join("data");
    let flags = ["--storage-image", "512M", "--admin"];
    let mut emulator = EmulatorProcess::start_with(&data, &suite::free_address()?, &flags).await?;
    let report = Http::of(&emulator)
        .admin()
        .call("GET", "/storage", Value::Null)
        .await?;
    assert_ne!(report.text("/method"), "copy");
    let main = emulator.main_branch().await?;
    let session = emulator.connect(&main).await?;
    session
        .batch_execute("CREATE TABLE note (round bigint)")
        .await?;
    for round in 0..count(3, 20) {
        let session = emulator.connect(&main).await?;
        let round = i64::try_from(round)?;
        session
            .execute("INSERT INTO note VALUES ($1)", &[&round])
            .await?;
        let branch = emulator.branch(&format!("round-{round}"), None).await?;
        ensure!(
            !data.join("storage/branches").exists(),
            "the mount is seen outside of the emulator"
        );
        // What Postgres is left running holds the old mount.
        let listen = emulator.kill().await?;
        // Without the flag as well.
        emulator = EmulatorProcess::start_at(&data, &listen).await?;
        assert_eq!(loop_devices(&data)?, 1, "round {round}");
        let session = emulator.connect(&branch.branch.id).await?;
        let rows = session.query_one("SELECT count(*) FROM note", &[]).await?;
        assert_eq!(rows.get::<_, i64>(0), round + 1);
    }
    emulator.stop().await?;
    eventually("the loop device is free", async || {
        ensure!(loop_devices(&data)? == 0, "it is not");
        Ok(())
    })
    .await
}

/// A clone that does not fit fails that one request.
#[tokio::test]
async fn a_full_disk_fails_one_request() -> anyhow::Result<()> {
    const MEGABYTES: u64 = 400;
    let folder = Folder::new()?;
    let image = LoopImage::new(folder.path(), "ext4", MEGABYTES)?;
    let data = image.join("data");
    let emulator = EmulatorProcess::start(&data).await?;
    let (client, project) = (emulator.client(), emulator.project());
    let main = emulator.main_branch().await?;
    let session = emulator.connect(&main).await?;
    session
        .batch_execute(
            "CREATE TABLE big AS SELECT n, repeat('x', 900) AS filler \
             FROM generate_series(1, 90000) n",
        )
        .await?;
    let mut failed = None;
    // The first may fit.
    for round in 0..4 {
        let name = format!("round-{round}");
        let request = BranchCreateRequest::named(&name).read_write_endpoint();
        let created = client.create_branch(project, &request).await?;
        if emulator.finished(&created.operations).await.is_err() {
            failed = Some(created);
            break;
        }
    }
    let failed = failed.context("four copies do not fit")?;
    let operation = client
        .get_operation(project, failed.operations[0].id)
        .await?;
    let operation = operation.operation;
    assert_eq!(operation.status, OperationStatus::Failed);
    let error = operation.error.context("a failed operation says why")?;
    for word in ["is full", "ext4", data.to_str().context("UTF-8")?] {
        assert!(error.contains(word), "{word}: {error}");
    }
    // Nothing of it is there, and all else works.
    let branches = client.list_all_branches(project, None).await?.branches;
    assert!(branches.iter().all(|branch| branch.id != failed.branch.id));
    let half_made = data.join("branches").join(failed.branch.id.as_str());
    ensure!(!half_made.exists(), "{} is left", half_made.display());
    session
        .batch_execute("INSERT INTO big VALUES (0, 'after')")
        .await?;
    let emulator = emulator.kill_and_start().await?;
    let session = emulator.connect(&main).await?;
    let rows = session.query_one("SELECT count(*) FROM big", &[]).await?;
    assert_eq!(rows.get::<_, i64>(0), 90_001);
    emulator.stop().await
}

/// How many loop devices have the image of this data folder.
fn loop_devices(data: &Path) -> anyhow::Result<usize> {
    let output = Command::new("/sbin/losetup")
        .arg("-j")
        .arg(data.join("storage.img"))
        .output()
        .context("run losetup")?;
    ensure!(output.status.success(), "{output:?}");
    Ok(String::from_utf8(output.stdout)?.lines().count())
}

/// The past, where images are snapshots and WAL is archived by copies.
#[tokio::test]
async fn points_of_the_past_are_what_they_were_on_btrfs() -> anyhow::Result<()> {
    points_are_right("btrfs").await
}

#[tokio::test]
async fn points_of_the_past_are_what_they_were_on_xfs() -> anyhow::Result<()> {
    points_are_right("xfs").await
}

async fn points_are_right(file_system: &str) -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let image = LoopImage::new(folder.path(), file_system, IMAGE_MB)?;
    let data = image.join("data");
    let emulator = EmulatorProcess::start(&data).await?;
    crate::emulator_history::check_points(&emulator, &data).await?;
    emulator.stop().await
}
