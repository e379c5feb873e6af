//! Branches: from the request to the first answered query, on each file system,
//! of parents that are idle, large, or busy; beside it what Postgres itself has.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Args;
use neon_api::BranchId;
use neon_api::types::BranchCreateRequest;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use suite::{EmulatorProcess, Folder, Http, LoopImage};

use crate::load::Load;
use crate::table::{Row, Table, milliseconds, percentile};

const IMAGE_MB: u64 = 24_000;
/// Far beyond what any branch takes.
const BRANCH_SECONDS_MAX: u64 = 120;
/// Somebody who waits for a port looks this often.
const CONNECT_RETRY_MS: u64 = 2;
const BIG_ROWS_A_GIGABYTE: i64 = 950_000;
/// How long the load alone is watched.
const USUAL_SECONDS: u64 = 5;
const AWAKE: usize = 20;

#[derive(Debug, Args)]
pub(crate) struct Sizes {
    /// How often most things are timed; what takes seconds is timed 5 times.
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// The size of a large parent.
    #[arg(long, default_value_t = 2)]
    gigabytes: i64,
    /// Branches to make on the image that can share blocks.
    #[arg(long, default_value_t = 1_000)]
    branches: usize,
    /// As neon-emulator has it: process or machine.
    #[arg(long, default_value = "process")]
    pub(crate) durability: String,
}

/// An emulator on one file system.
struct Place {
    file_system: String,
    emulator: EmulatorProcess,
    main: BranchId,
    /// Unmounted after the emulator's end.
    _image: Option<LoopImage>,
}

pub(crate) async fn run(sizes: &Sizes) -> anyhow::Result<Vec<Row>> {
    let mut rows = Table::default();
    let is_root = nix::unistd::geteuid().is_root();
    that_copies(is_root, sizes, &mut rows).await?;
    if !is_root {
        eprintln!("not root: XFS and btrfs images cannot be mounted and are left out");
        return Ok(rows.0);
    }
    for (name, idle_ms, large_ms) in [("xfs", 100.0, 150.0), ("btrfs", 60.0, 60.0)] {
        let folder = Folder::on_disk()?;
        let place = Place::on_image(&folder, name, sizes).await?;
        rows.push(
            place
                .idle("fresh parent", sizes.rounds)
                .await?
                .below(idle_ms),
        );
        place.fill(sizes.gigabytes).await?;
        let what = format!("{} GB parent", sizes.gigabytes);
        rows.push(place.idle(&what, sizes.rounds).await?.below(large_ms));
        rows.push(place.paced(sizes).await?);
        place.emulator.stop().await?;
    }
    many(sizes, &mut rows).await?;
    Ok(rows.0)
}

/// A file system that cannot share blocks: as root ext4 on an image of its own,
/// which no earlier work has slowed down, else the one that there is.
async fn that_copies(is_root: bool, sizes: &Sizes, rows: &mut Table) -> anyhow::Result<()> {
    const SLOW_ROUNDS: usize = 5;
    let open = async |folder: &Folder| match is_root {
        true => Place::on_image(folder, "ext4", sizes).await,
        false => Place::open(folder.join("data"), None, sizes).await,
    };
    let folder = Folder::on_disk()?;
    let place = open(&folder).await?;
    rows.push(place.idle("fresh parent", sizes.rounds).await?.below(100.0));
    place.databases("fresh", sizes.rounds, rows).await?;
    rows.push(place.base_backup("fresh", sizes.rounds)?);
    place.saturated(sizes.rounds, rows).await?;
    place.emulator.stop().await?;

    let folder = Folder::on_disk()?;
    let place = open(&folder).await?;
    place.fill(sizes.gigabytes).await?;
    let what = format!("{} GB", sizes.gigabytes);
    rows.push(place.idle(&format!("{what} parent"), SLOW_ROUNDS).await?);
    // What is timed beside it writes its size into the WAL each time.
    place.forget_history().await?;
    place.databases(&what, SLOW_ROUNDS, rows).await?;
    rows.push(place.base_backup(&what, SLOW_ROUNDS)?);
    place.emulator.stop().await
}

impl Place {
    /// On an image with this file system.
    async fn on_image(folder: &Folder, file_system: &str, sizes: &Sizes) -> anyhow::Result<Self> {
        let image = LoopImage::new(folder.path(), file_system, IMAGE_MB)?;
        Place::open(image.join("data"), Some(image), sizes).await
    }

    async fn open(data: PathBuf, image: Option<LoopImage>, sizes: &Sizes) -> anyhow::Result<Self> {
        let flags = ["--admin", "--durability", &sizes.durability];
        let emulator = EmulatorProcess::start_with(&data, &suite::free_address()?, &flags).await?;
        let report = Http::of(&emulator).admin();
        let report = report.call("GET", "/storage", Value::Null).await?;
        eprintln!("measuring on {}", report.text("/file_system"));
        Ok(Self {
            file_system: format!(
                "{} ({})",
                report.text("/file_system"),
                report.text("/method")
            ),
            main: emulator.main_branch().await?,
            emulator,
            _image: image,
        })
    }

    /// Keeps no more WAL than Postgres itself does.
    async fn forget_history(&self) -> anyhow::Result<()> {
        let path = format!("/projects/{}", self.emulator.project());
        let change = json!({"project": {"history_retention_seconds": 0}});
        let changed = Http::of(&self.emulator)
            .call("PATCH", &path, change)
            .await?;
        let seconds = changed.at("/project/history_retention_seconds");
        ensure!(
            *seconds == json!(0),
            "history_retention_seconds is {seconds}"
        );
        Ok(())
    }

    /// Rows of a kilobyte, in a table and its index.
    async fn fill(&self, gigabytes: i64) -> anyhow::Result<()> {
        let rows = gigabytes * BIG_ROWS_A_GIGABYTE;
        let session = self.emulator.connect(&self.main).await?;
        session
            .batch_execute(&format!(
                "CREATE TABLE big AS SELECT n::bigint AS id, 0 AS changes, repeat(md5(n::text), 32) AS filler \
                 FROM generate_series(1, {rows}) n; \
                 ALTER TABLE big ADD PRIMARY KEY (id)"
            ))
            .await
            .context("fill the parent")?;
        Ok(session.batch_execute("VACUUM ANALYZE big").await?)
    }

    /// From the request to the first answered query.
    async fn branch(&self, name: &str) -> anyhow::Result<(f64, BranchId)> {
        let begun = Instant::now();
        let request = BranchCreateRequest::named(name)
            .parent(self.main.clone())
            .read_write_endpoint();
        let client = self.emulator.client();
        let created = client
            .create_branch(self.emulator.project(), &request)
            .await?;
        let branch = created.branch.id.clone();
        let uri = self.emulator.uri(&branch).await?;
        loop {
            if let Ok(session) = suite::connect(uri.expose(), self.emulator.data()).await {
                session.query_one("SELECT 1", &[]).await?;
                break;
            }
            ensure!(
                begun.elapsed() < Duration::from_secs(BRANCH_SECONDS_MAX),
                "no branch in {BRANCH_SECONDS_MAX} s"
            );
            tokio::time::sleep(Duration::from_millis(CONNECT_RETRY_MS)).await;
        }
        let time = milliseconds(begun);
        self.emulator.finished(&created.operations).await?;
        Ok((time, branch))
    }

    async fn delete(&self, branch: &BranchId) -> anyhow::Result<()> {
        let client = self.emulator.client();
        let deleted = client
            .delete_branch(self.emulator.project(), branch)
            .await?
            .context("it was there")?;
        self.emulator.finished(&deleted.operations).await
    }

    async fn branches(&self, rounds: usize) -> anyhow::Result<Vec<f64>> {
        let mut times = Vec::new();
        // The first warms up what a measurement is not about.
        for round in 0..=rounds {
            let (time, branch) = self.branch(&format!("bench-{round}")).await?;
            if round > 0 {
                times.push(time);
            }
            self.delete(&branch).await?;
        }
        Ok(times)
    }

    async fn idle(&self, what: &str, rounds: usize) -> anyhow::Result<Row> {
        let times = self.branches(rounds).await?;
        Ok(Row::new(
            format!("branch of an idle {what}, {}", self.file_system),
            times,
        ))
    }

    async fn paced(&self, sizes: &Sizes) -> anyhow::Result<Row> {
        const WRITES_A_SECOND: u32 = 200;
        let session = self.emulator.connect(&self.main).await?;
        let rows = sizes.gigabytes * BIG_ROWS_A_GIGABYTE;
        let load = Load::paced(session, rows, WRITES_A_SECOND).await?;
        let times = self.branches(sizes.rounds).await?;
        load.end().await?;
        let what = format!(
            "branch of a {} GB parent at {WRITES_A_SECOND} writes/s, {}",
            sizes.gigabytes, self.file_system
        );
        Ok(Row::new(what, times).below(250.0))
    }

    async fn saturated(&self, rounds: usize, rows: &mut Table) -> anyhow::Result<()> {
        const CLIENTS: usize = 4;
        let load = Load::tpc_b(&self.emulator, &self.main, CLIENTS).await?;
        tokio::time::sleep(Duration::from_secs(USUAL_SECONDS)).await;
        let usual = percentile(&load.take_latencies(), 99);
        let (mut times, mut above) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            load.take_latencies();
            let (time, branch) = self.branch(&format!("busy-{round}")).await?;
            above.push(percentile(&load.take_latencies(), 99) - usual);
            times.push(time);
            self.delete(&branch).await?;
        }
        load.end().await?;
        let parent = format!(
            "parent under TPC-B, {CLIENTS} clients, {}",
            self.file_system
        );
        rows.push(Row::new(format!("branch of a fresh {parent}"), times).below(800.0));
        rows.push(Row::new(format!("p99 of a write above its usual, {parent}"), above).below(50.0));
        Ok(())
    }

    /// CREATE DATABASE … TEMPLATE, both ways, of the database that was filled.
    async fn databases(&self, size: &str, rounds: usize, rows: &mut Table) -> anyhow::Result<()> {
        let session = self.emulator.connect(&self.main).await?;
        session.batch_execute("CREATE DATABASE elsewhere").await?;
        let uri = self.emulator.uri(&self.main).await?;
        let elsewhere = uri.expose().replace("/neondb?", "/elsewhere?");
        drop(session);
        let session = suite::connect(&elsewhere, self.emulator.data()).await?;
        for strategy in ["WAL_LOG", "FILE_COPY"] {
            let mut times = Vec::new();
            for _ in 0..rounds {
                let begun = Instant::now();
                let create = format!("CREATE DATABASE copied TEMPLATE neondb STRATEGY {strategy}");
                suite::eventually("nobody is connected to it", async || {
                    Ok(session.batch_execute(&create).await?)
                })
                .await?;
                times.push(milliseconds(begun));
                session.batch_execute("DROP DATABASE copied").await?;
            }
            let what = format!(
                "beside it: CREATE DATABASE TEMPLATE {strategy}, {size}, {}",
                self.file_system
            );
            rows.push(Row::new(what, times));
        }
        session.batch_execute("SELECT 1").await?;
        Ok(())
    }

    /// pg_basebackup of the parent, without a start of its result.
    fn base_backup(&self, size: &str, rounds: usize) -> anyhow::Result<Row> {
        let data = self.emulator.data();
        let program = postgres_program("pg_basebackup")?;
        let branch = data.join("branches").join(self.main.as_str());
        let pid_file = std::fs::read_to_string(branch.join("postmaster.pid"))?;
        let port = pid_file.lines().nth(3).context("its port")?.to_owned();
        // The emulator's own file has no line for it, and comes back at a start.
        let rules = std::fs::read_to_string(branch.join("pg_hba.conf"))?;
        let more = "local replication cloud_admin peer map=emulator\n";
        std::fs::write(branch.join("pg_hba.conf"), format!("{more}{rules}"))?;
        let pid = pid_file.lines().next().context("its pid")?.parse()?;
        kill(Pid::from_raw(pid), Signal::SIGHUP)?;
        let mut times = Vec::new();
        for round in 0..rounds {
            let target = data.join(format!("backup-{round}"));
            let begun = Instant::now();
            let output = Command::new(&program)
                .args(["--username", "cloud_admin", "--port", &port, "--host"])
                .arg(data.join("sockets"))
                .args(["--checkpoint", "fast", "--no-sync", "--pgdata"])
                .arg(&target)
                .stdin(Stdio::null())
                .output()?;
            times.push(milliseconds(begun));
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "pg_basebackup: {said}");
            std::fs::remove_dir_all(&target)?;
        }
        let what = format!(
            "beside it: pg_basebackup, not started, {size}, {}",
            self.file_system
        );
        Ok(Row::new(what, times))
    }
}

/// Many branches, of which few are awake.
async fn many(sizes: &Sizes, rows: &mut Table) -> anyhow::Result<()> {
    let folder = Folder::on_disk()?;
    let place = Place::on_image(&folder, "xfs", sizes).await?;
    let client = place.emulator.client();
    let project = place.emulator.project();
    let mut times = Vec::new();
    for number in 0..sizes.branches {
        let begun = Instant::now();
        let mut request =
            BranchCreateRequest::named(format!("b-{number}")).parent(place.main.clone());
        if number < AWAKE {
            request = request.read_write_endpoint();
        }
        let created = client.create_branch(project, &request).await?;
        place.emulator.finished(&created.operations).await?;
        times.push(milliseconds(begun));
    }
    let what = format!(
        "{} branches, {AWAKE} awake, {}",
        sizes.branches, place.file_system
    );
    rows.push(Row::new(format!("{what}: each"), times));
    let mut times = Vec::new();
    for _ in 0..sizes.rounds {
        let begun = Instant::now();
        let answer = Http::of(&place.emulator)
            .call(
                "GET",
                &format!("/projects/{project}/branches?limit=10000"),
                Value::Null,
            )
            .await?;
        times.push(milliseconds(begun));
        let found = answer.at("/branches").as_array().map_or(0, Vec::len);
        ensure!(found == sizes.branches + 1, "{found} are listed");
    }
    rows.push(Row::new(format!("{what}: list them"), times).below(50.0));
    let memory = memory_mb(place.emulator.data(), place.emulator.process().pid()?)?;
    rows.push(
        Row::new(format!("{what}: memory"), vec![memory])
            .unit("MB")
            .below(8_192.0),
    );
    place.emulator.stop().await
}

/// What the emulator and its servers have for themselves, and their share of
/// what they have together.
fn memory_mb(data: &Path, emulator: i32) -> anyhow::Result<f64> {
    let mut kilobytes = 0.0;
    for entry in std::fs::read_dir("/proc")? {
        let path = entry?.path();
        let is_emulator = path
            .file_name()
            .is_some_and(|name| *name == *emulator.to_string());
        let is_server = std::fs::read_link(path.join("cwd")).is_ok_and(|cwd| cwd.starts_with(data));
        if !is_emulator && !is_server {
            continue;
        }
        let rollup = std::fs::read_to_string(path.join("smaps_rollup")).unwrap_or_default();
        let pss = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
        let pss = pss.and_then(|rest| rest.split_whitespace().next());
        kilobytes += pss.and_then(|number| number.parse().ok()).unwrap_or(0.0);
    }
    ensure!(kilobytes > 0.0, "no process was measured");
    Ok(kilobytes / 1_024.0)
}

fn postgres_program(name: &str) -> anyhow::Result<PathBuf> {
    Ok(neon_emulator::Installation::find(None)?.bin().join(name))
}
