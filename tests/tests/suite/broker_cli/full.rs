//! Revisions and rehearsals that come to nothing: a disk that is full, a broker that is
//! killed while it rehearses.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};
use suite::{Broker, Config, EmulatorProcess, Folder, LoopImage, eventually};

use super::Bench;
use super::migrate::V2;

const NEXT: &str = "2027-01-01-000000_next";

/// What is left on the disk, in MiB, for tables that take more.
const LEFT_MB: u64 = 20;
/// Without write-ahead log, which would take the server down with it.
const BIG: &str = "CREATE TABLE small (id int);\n\
    CREATE UNLOGGED TABLE big AS\n    \
    SELECT n, repeat('x', 900) AS filler FROM generate_series(1, 40000) n;\n";

#[tokio::test]
async fn a_full_disk_leaves_the_branch_as_it_was() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let config = Config::copy(&folder)?;
    let image = LoopImage::new(folder.path(), "ext4", 600)?;
    let emulator = EmulatorProcess::start(&image.join("data")).await?;
    let broker = Broker::start(&folder, &emulator, &config.path()).await?;
    broker.is_ready().await?;
    let bench = Bench {
        folder,
        config,
        emulator,
        broker,
    };
    let owner = bench.owner_of_v2().await?;
    bench.revision(NEXT, &[("up.sql", BIG)])?;
    let filler = image.join("filler");
    fill(&image.join("."), &filler)?;
    let refused = bench.migrate_refused(&["up", V2]).await?;
    for part in [
        NEXT,
        "up.sql:",
        "No space left on device",
        "all of it is undone",
    ] {
        ensure!(refused.contains(part), "{part}: {refused}");
    }
    let ask = "SELECT to_regclass('users.small') IS NULL AND to_regclass('users.big') IS NULL";
    let is_as_before: bool = owner.query_one(ask, &[]).await?.get(0);
    ensure!(is_as_before, "something is left");
    ensure!(
        bench
            .standings()
            .await?
            .contains(&format!("{NEXT} PENDING"))
    );
    // Whoever makes room runs it again.
    std::fs::remove_file(filler)?;
    assert_eq!(bench.migrate(&["up", V2]).await?, "1 revision\n");
    bench.stop().await?;
    drop(image);
    Ok(())
}

/// Takes all that is free but [`LEFT_MB`].
fn fill(folder: &Path, filler: &Path) -> anyhow::Result<()> {
    let output = Command::new("df")
        .args(["--output=avail", "--block-size=1M"])
        .arg(folder)
        .output()
        .context("run df")?;
    let said = String::from_utf8(output.stdout)?;
    let free: u64 = said.lines().last().context("df says it")?.trim().parse()?;
    let length = format!("{}M", free.saturating_sub(LEFT_MB));
    let filled = Command::new("fallocate")
        .args(["--length", &length])
        .arg(filler)
        .status()
        .context("run fallocate: install the package util-linux")?;
    ensure!(filled.success(), "fallocate {length}: {filled}");
    Ok(())
}

#[tokio::test]
async fn a_rehearsal_whose_broker_is_killed_touches_nothing_and_goes_by_itself()
-> anyhow::Result<()> {
    let mut bench = Bench::start().await?;
    let slow = bench.revision(NEXT, &[("up.sql", "SELECT pg_sleep(600);")])?;
    let mut command = bench.command(&["migrate", "rehearse", V2])?;
    let rehearsing = command.spawn()?;
    let (client, project) = (bench.emulator.client(), bench.emulator.project());
    let throw_away = async || {
        let all = client.list_all_branches(project, None).await?.branches;
        let found: Vec<_> = all
            .into_iter()
            .filter(|branch| branch.name.starts_with("rehearse/"))
            .collect();
        anyhow::Ok(found)
    };
    let id = eventually("the revision runs on a throw-away branch", async || {
        let found = throw_away().await?.pop().context("no branch")?.id;
        let session = bench.emulator.connect(&found).await?;
        let ask = "SELECT 1 FROM pg_stat_activity \
                   WHERE query LIKE 'SELECT pg_sleep%' AND state = 'active'";
        session.query_one(ask, &[]).await.context("nobody sleeps")?;
        Ok(found)
    })
    .await?;
    // The next start would run it.
    std::fs::remove_dir_all(slow)?;
    bench.broker = bench.broker.kill_and_start().await?;
    let ended = super::ended(rehearsing.wait_with_output()).await?;
    ensure!(ended.code == Some(1), "{ended:?}");
    // Neon deletes it, if nobody else does.
    for left in throw_away().await? {
        ensure!(left.id == id, "{left:?}");
        let (made, expires) = (left.created_at, left.expires_at.context("it expires")?);
        let hours = expires.duration_since(made).as_hours();
        ensure!(hours <= 1, "{left:?}");
    }
    bench.broker.is_ready().await?;
    bench.revision(
        NEXT,
        &[
            ("up.sql", "ALTER TABLE users ADD nickname text;"),
            ("down.sql", "ALTER TABLE users DROP nickname;"),
        ],
    )?;
    ensure!(
        bench
            .standings()
            .await?
            .contains(&format!("{NEXT} PENDING"))
    );
    let said = bench.migrate(&["rehearse", V2]).await?;
    ensure!(said.starts_with("PASS, 1 revision"), "{said}");
    bench.stop().await
}
