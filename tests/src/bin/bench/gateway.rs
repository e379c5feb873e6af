//! What the gateway costs: a lookup by key through it and past it, and a
//! connection that starts a suspended endpoint.

use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use suite::{EmulatorProcess, Folder};
use tokio::process::Command;

use crate::table::{Row, milliseconds};

/// As the issue has it.
const CLIENTS: &str = "8";
const RATIO_MIN: f64 = 0.8;
const WAKE_MS_MAX: f64 = 60.0;
/// 1,000,000 rows: more than a lookup touches, less than memory.
const SCALE: &str = "10";

pub(crate) async fn run(rounds: usize, seconds: u32, wakes: usize) -> anyhow::Result<Vec<Row>> {
    let folder = Folder::on_disk()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let through = emulator.uri(&emulator.main_branch().await?).await?;
    let past = past_the_gateway(&emulator, through.expose()).await?;
    pgbench(&["--initialize", "--quiet", "--scale", SCALE, &past]).await?;
    let (mut direct, mut gateway) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        direct.push(lookups(&past, seconds).await?);
        gateway.push(lookups(through.expose(), seconds).await?);
    }
    let wakes = wake(&emulator, wakes).await?;
    emulator.stop().await?;

    // Neighbours in time: the machine's other work is in both.
    let ratios: Vec<f64> = gateway.iter().zip(&direct).map(|(a, b)| a / b).collect();
    Ok(vec![
        Row::new("lookups by key past the gateway, 8 TLS clients", direct).unit("a second"),
        Row::new("lookups by key through the gateway", gateway).unit("a second"),
        Row::new("through the gateway against past it, each pair", ratios)
            .unit("ratio")
            .at_least(RATIO_MIN),
        Row::new("connection that wakes, to its first row", wakes).below(WAKE_MS_MAX),
    ])
}

/// From the connection to a suspended endpoint to its first answered query.
async fn wake(emulator: &EmulatorProcess, wakes: usize) -> anyhow::Result<Vec<f64>> {
    let main = emulator.main_branch().await?;
    // Small: what is measured is the start, not what it replays.
    let branch = emulator.branch("small", Some(&main)).await?.branch.id;
    let uri = emulator.uri(&branch).await?;
    let mut times = Vec::new();
    for _ in 0..wakes {
        emulator.suspend(&branch).await?;
        let begun = Instant::now();
        let session = suite::connect(uri.expose(), emulator.data()).await?;
        session.query_one("SELECT 1", &[]).await?;
        times.push(milliseconds(begun));
    }
    Ok(times)
}

/// The same URI with the port that Postgres itself listens on.
async fn past_the_gateway(emulator: &EmulatorProcess, uri: &str) -> anyhow::Result<String> {
    let main = emulator.main_branch().await?;
    let host = emulator.endpoint(&main).await?.host;
    let folder = emulator.data().join("branches").join(main.as_str());
    let file = std::fs::read_to_string(folder.join("postmaster.pid"))?;
    let port = file.lines().nth(3).context("the server's port")?;
    ensure!(!host.ends_with(&format!(":{port}")), "two ports");
    Ok(uri.replace(&host, &format!("127.0.0.1:{port}")))
}

async fn lookups(uri: &str, seconds: u32) -> anyhow::Result<f64> {
    let seconds = seconds.to_string();
    let arguments = ["--select-only", "--no-vacuum", "--client", CLIENTS];
    let said = pgbench(&[&arguments[..], &["--time", &seconds, uri]].concat()).await?;
    let line = said
        .lines()
        .find_map(|line| line.strip_prefix("tps = "))
        .with_context(|| format!("tps in {said}"))?;
    Ok(line.split(' ').next().unwrap_or_default().parse()?)
}

async fn pgbench(arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new("pgbench")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .await
        .context("run pgbench: install the package postgresql-contrib or postgresql-15")?;
    if !output.status.success() {
        bail!("pgbench: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
