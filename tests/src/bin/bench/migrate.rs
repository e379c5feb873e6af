//! Migrations: how each revision stands, many of them run, and what a rehearsal takes
//! beside its SQL.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Args;
use proto::broker::v1 as pb;
use proto::broker::v1::migrate_request::{Up, Wish};
use suite::{Broker, Config, EmulatorProcess, Folder};
use tokio::process::Command;

use crate::table::{Row, Table, milliseconds};

const V2: &str = "services/users/versions/v2";
/// The last revision that is not made for this.
const BEFORE: &str = "2026-02-14-090000_add_age_and_city";

#[derive(Debug, Args)]
pub(crate) struct Sizes {
    /// Revisions.
    #[arg(long, default_value_t = 500)]
    revisions: usize,
    /// How often each thing is measured, in turns.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

pub(crate) async fn run(sizes: &Sizes) -> anyhow::Result<Vec<Row>> {
    let folder = Folder::on_disk()?;
    let config = Config::copy(&folder)?;
    let revisions = config.folder().join("migrations/users");
    let names: Vec<String> = (0..sizes.revisions)
        .map(|index| format!("2027-01-01-{index:06}_table"))
        .collect();
    for (index, name) in names.iter().enumerate() {
        let revision = revisions.join(name);
        std::fs::create_dir_all(&revision)?;
        let up = format!("CREATE TABLE t{index} (id bigint PRIMARY KEY, name text NOT NULL);\n");
        std::fs::write(revision.join("up.sql"), up)?;
        std::fs::write(revision.join("down.sql"), format!("DROP TABLE t{index};\n"))?;
    }
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let broker = Broker::start(&folder, &emulator, &config.path()).await?;
    broker.is_ready().await?;
    let mut rows = Table::default();
    status(&broker, sizes, &mut rows).await?;
    up(&emulator, &broker, &revisions, &names, sizes, &mut rows).await?;
    rehearsals(&broker, &revisions, sizes, &mut rows).await?;
    broker.process.stop().await?;
    emulator.stop().await?;
    Ok(rows.0)
}

async fn status(broker: &Broker, sizes: &Sizes, rows: &mut Table) -> anyhow::Result<()> {
    const ASKED: usize = 20;
    let mut migrations = broker.migrations().await?;
    let mut times = Vec::new();
    for _ in 0..ASKED {
        let request = pb::GetMigrationStatusRequest {
            binding: V2.to_owned(),
            ..Default::default()
        };
        let begun = Instant::now();
        let status = migrations.get_migration_status(request).await?.into_inner();
        times.push(milliseconds(begun));
        ensure!(
            status.revisions.len() > sizes.revisions,
            "{}",
            status.revisions.len()
        );
    }
    let what = format!("status of {} revisions", sizes.revisions);
    rows.push(Row::new(what, times).below(50.0));
    Ok(())
}

/// The broker's engine and psql, in turns, on the same branch.
async fn up(
    emulator: &EmulatorProcess,
    broker: &Broker,
    revisions: &Path,
    names: &[String],
    sizes: &Sizes,
    rows: &mut Table,
) -> anyhow::Result<()> {
    let client = emulator.client();
    let found = client
        .list_all_branches(emulator.project(), Some("api_v2_branch"))
        .await?;
    let branch = found.branches.first().context("v2's branch")?;
    let uri = emulator.uri(&branch.id).await?;
    let uri = uri.expose();
    let (mut engine, mut psql, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..sizes.rounds {
        migrate(broker, Wish::To(BEFORE.to_owned())).await?;
        let plain = files(uri, revisions, names.iter(), "up.sql").await?;
        files(uri, revisions, names.iter().rev(), "down.sql").await?;
        let ours = migrate(broker, Wish::Up(Up { count: 0 })).await?;
        psql.push(plain);
        engine.push(ours);
        ratios.push(ours / plain);
    }
    let count = names.len();
    rows.push(Row::new(format!("{count} revisions up"), engine));
    rows.push(Row::new(format!("psql with the same {count} files"), psql));
    let ratio = Row::new("revisions up, of psql with the same files", ratios);
    rows.push(ratio.unit("times").at_most(1.2));
    Ok(())
}

async fn migrate(broker: &Broker, wish: Wish) -> anyhow::Result<f64> {
    let mut migrations = broker.migrations().await?;
    let request = pb::MigrateRequest {
        binding: V2.to_owned(),
        wish: Some(wish),
        ..Default::default()
    };
    let begun = Instant::now();
    let mut steps = migrations.migrate(request).await?.into_inner();
    while steps.message().await?.is_some() {}
    Ok(milliseconds(begun))
}

/// psql, one session.
async fn files(
    uri: &str,
    revisions: &Path,
    names: impl Iterator<Item = &String>,
    file: &str,
) -> anyhow::Result<f64> {
    let mut command = Command::new("psql");
    command.args(["--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1"]);
    command.args(["--command", "SET search_path = users"]);
    for name in names {
        command.arg("--file").arg(revisions.join(name).join(file));
    }
    let begun = Instant::now();
    let ended = command.arg(uri).output().await;
    let ended = ended.context("run psql: install the package postgresql-client")?;
    let took = milliseconds(begun);
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    ensure!(ended.status.success(), "{said}");
    Ok(took)
}

async fn rehearsals(
    broker: &Broker,
    revisions: &Path,
    sizes: &Sizes,
    rows: &mut Table,
) -> anyhow::Result<()> {
    // The example database: without what was made for the other measurements.
    migrate(broker, Wish::To(BEFORE.to_owned())).await?;
    for entry in std::fs::read_dir(revisions)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("2027") {
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    let next = revisions.join("2027-01-01-000000_next");
    std::fs::create_dir_all(&next)?;
    std::fs::write(next.join("up.sql"), "ALTER TABLE users ADD country text;")?;
    std::fs::write(next.join("down.sql"), "ALTER TABLE users DROP country;")?;
    let mut migrations = broker.migrations().await?;
    let mut times = Vec::new();
    for _ in 0..sizes.rounds * 2 {
        let request = pb::RehearseRequest {
            binding: V2.to_owned(),
            ..Default::default()
        };
        let report = migrations.rehearse(request).await?.into_inner();
        ensure!(report.verdict() == pb::RehearsalVerdict::Pass, "{report:?}");
        let took = |took: Option<prost_types::Duration>| {
            let took = took.and_then(|took| Duration::try_from(took).ok());
            took.unwrap_or_default().as_secs_f64() * 1e3
        };
        times.push(took(report.duration) - took(report.sql_duration));
    }
    rows.push(Row::new("rehearsal, beside its SQL", times).below(1_000.0));
    Ok(())
}
