//! Measures what the issues ask for, prints a table, and writes it as JSON
//! under docs/bench. `cargo xtask bench` builds everything with the release
//! profile and runs it.

mod gateway;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::{Parser, Subcommand};
use neon_api::types::BranchCreateRequest;
use serde_json::{Value, json};
use suite::{Broker, EmulatorProcess, Folder, UserService, example_config};

#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// A ready branch of the freshly seeded database, and a second start of the
    /// whole system.
    Branch {
        /// Branches to time.
        #[arg(long, default_value_t = 20)]
        rounds: usize,
        /// Starts to time.
        #[arg(long, default_value_t = 5)]
        starts: usize,
    },
    /// Forwarding against a direct connection, and the wake of a suspended
    /// endpoint.
    Gateway {
        /// Runs of each kind, in turns.
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// How long each takes.
        #[arg(long, default_value_t = 5)]
        seconds: u32,
        /// Wakes to time.
        #[arg(long, default_value_t = 20)]
        wakes: usize,
    },
}

/// One line of a table.
struct Row {
    what: &'static str,
    target: &'static str,
    target_ms: f64,
    times: Vec<Duration>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    ensure!(
        !cfg!(debug_assertions),
        "a debug build measures nothing of worth: run `cargo xtask bench`"
    );
    let (rounds, starts) = match Cli::parse().what {
        What::Branch { rounds, starts } => (rounds, starts),
        What::Gateway {
            rounds,
            seconds,
            wakes,
        } => return gateway::run(rounds, seconds, wakes).await,
    };
    let rows = [branches(rounds).await?, second_starts(starts).await?];
    print(&rows);
    write("branch", &rows)
}

/// From the create request to the first query answered.
async fn branches(rounds: usize) -> anyhow::Result<Row> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let broker = Broker::start(&folder, &emulator, &example_config()).await?;
    broker.is_ready().await?;
    broker.process.stop().await?;
    let (client, project) = (emulator.client(), emulator.project());
    let branches = client.list_all_branches(project, None).await?.branches;
    let parent = branches
        .iter()
        .find(|branch| branch.name == "api_v1_branch")
        .context("the broker made api_v1_branch")?;
    let mut times = Vec::new();
    for round in 0..rounds {
        let begun = Instant::now();
        let request = BranchCreateRequest::named(format!("bench-{round}"))
            .parent(parent.id.clone())
            .read_write_endpoint();
        let created = client.create_branch(project, &request).await?;
        emulator.finished(&created.operations).await?;
        let session = emulator.connect(&created.branch.id).await?;
        let row = session
            .query_one("SELECT count(*) FROM users.users", &[])
            .await?;
        times.push(begun.elapsed());
        ensure!(
            row.get::<_, i64>(0) == 2,
            "the branch has its parent's rows"
        );
        let deleted = client
            .delete_branch(project, &created.branch.id)
            .await?
            .context("it was there")?;
        emulator.finished(&deleted.operations).await?;
    }
    emulator.stop().await?;
    Ok(Row {
        what: "ready branch of the seeded database",
        target: "< 300 ms",
        target_ms: 300.0,
        times,
    })
}

/// Emulator, broker and user-service on a folder that is there already, as
/// `cargo xtask up` starts them: until both versions of users answer.
async fn second_starts(starts: usize) -> anyhow::Result<Row> {
    let folder = Folder::new()?;
    let mut times = Vec::new();
    for start in 0..=starts {
        let begun = Instant::now();
        let emulator = EmulatorProcess::start(&folder.join("data")).await?;
        let broker = Broker::start(&folder, &emulator, &example_config()).await?;
        broker.is_ready().await?;
        let users = UserService::start(&folder, &broker).await?;
        users.is_ready().await?;
        // The first one makes everything.
        if start > 0 {
            times.push(begun.elapsed());
        }
        users.process.stop().await?;
        broker.process.stop().await?;
        emulator.stop().await?;
    }
    Ok(Row {
        what: "second start of the whole system",
        target: "< 5 s",
        target_ms: 5_000.0,
        times,
    })
}

impl Row {
    fn median(&self) -> f64 {
        self.milliseconds()[self.times.len() / 2]
    }

    fn milliseconds(&self) -> Vec<f64> {
        let mut sorted: Vec<f64> = self
            .times
            .iter()
            .map(|time| time.as_secs_f64() * 1_000.0)
            .collect();
        sorted.sort_by(f64::total_cmp);
        sorted
    }
}

fn print(rows: &[Row]) {
    println!(
        "{:<40} {:>4} {:>10} {:>10} {:>10}  {:<10}",
        "", "n", "median ms", "min", "max", "target"
    );
    for row in rows {
        let sorted = row.milliseconds();
        println!(
            "{:<40} {:>4} {:>10.1} {:>10.1} {:>10.1}  {:<10} {}",
            row.what,
            sorted.len(),
            row.median(),
            sorted.first().copied().unwrap_or_default(),
            sorted.last().copied().unwrap_or_default(),
            row.target,
            if row.median() < row.target_ms {
                "met"
            } else {
                "MISSED"
            },
        );
    }
}

fn write(name: &str, rows: &[Row]) -> anyhow::Result<()> {
    let round = |value: f64| (value * 10.0).round() / 10.0;
    let rows: Vec<_> = rows
        .iter()
        .map(|row| {
            json!({
                "what": row.what,
                "median_ms": round(row.median()),
                "ratio_to_target": (row.median() / row.target_ms * 100.0).round() / 100.0,
                "target": row.target,
                "milliseconds": row.milliseconds().into_iter().map(round).collect::<Vec<_>>(),
            })
        })
        .collect();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let report = json!({ "bench": name, "cores": cores, "fsync": "off", "rows": rows });
    write_report(name, &report)
}

fn write_report(name: &str, report: &Value) -> anyhow::Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../docs/bench/{name}.json"));
    std::fs::create_dir_all(path.parent().context("a folder")?)?;
    std::fs::write(&path, serde_json::to_string_pretty(report)? + "\n")
        .with_context(|| format!("write {}", path.display()))
}
