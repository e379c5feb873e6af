//! `neon-emulator`: the Neon API on local Postgres.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use neon_api::Secret;
use neon_emulator::doctor::{self, Checkup, Finding, Severity};
use neon_emulator::{
    Config, Durability, Emulator, ImageSize, Limits, StorageWish, enter_private_mounts,
    has_storage_image,
};
use tokio::signal::unix::{SignalKind, signal};
use tracing::warn;
use tracing_subscriber::EnvFilter;

/// The Neon API on local Postgres, for developing and testing without an
/// account.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the API until SIGTERM or Ctrl-C. The key that callers have to show
    /// is read from NEON_API_KEY.
    Serve(Serve),
    /// Say what a start with these flags would find: Postgres, its user, the
    /// address, the data folder and how branches are cloned there. Exit code 1
    /// if something prevents a start.
    Doctor(Place),
}

#[derive(Debug, Args)]
struct Serve {
    #[command(flatten)]
    place: Place,
    /// The PgBouncer for pooled addresses, 1.21 or later. Left out: found by
    /// itself; without one they lead to Postgres itself.
    #[arg(long, env = "NEON_EMULATOR_PGBOUNCER", value_name = "PROGRAM")]
    pgbouncer: Option<PathBuf>,
    /// For tests only: use a PgBouncer that is too old, and loses prepared
    /// statements.
    #[arg(long, hide = true)]
    unsafe_old_pgbouncer: bool,
    /// What data survive.
    #[arg(long, env = "NEON_EMULATOR_DURABILITY", value_enum, default_value_t)]
    durability: Durability,
    #[command(flatten)]
    limits: Limits,
    /// For tests only: add the seconds that FILE holds to the time.
    #[arg(long, value_name = "FILE", hide = true)]
    unsafe_test_clock: Option<PathBuf>,
    /// Have routes for tests, at /admin/v1: faults on request, and what was
    /// asked of the API.
    #[arg(
        long,
        env = "NEON_EMULATOR_ADMIN",
        value_parser = clap::builder::FalseyValueParser::new()
    )]
    admin: bool,
}

/// What a start finds, or does not.
#[derive(Debug, Args)]
struct Place {
    /// Where the API listens: a loopback address.
    #[arg(long, env = "NEON_EMULATOR_LISTEN", default_value = "127.0.0.1:7430")]
    listen: SocketAddr,
    /// The folder for everything that is kept: branches, state, certificates.
    #[arg(long, env = "NEON_EMULATOR_DATA")]
    data: PathBuf,
    /// The folder of postgres and initdb. Left out: found by itself, or
    /// installed with apt-get.
    #[arg(long, env = "NEON_EMULATOR_POSTGRES_BIN")]
    postgres_bin: Option<PathBuf>,
    /// Who runs Postgres where the emulator is root. Left out: postgres, else
    /// nobody.
    #[arg(long, env = "NEON_EMULATOR_POSTGRES_USER")]
    postgres_user: Option<String>,
    /// How branches are cloned: the cheapest way that the file system of the data
    /// folder has, or this one, and then no other.
    #[arg(long, env = "NEON_EMULATOR_STORAGE", value_enum, default_value_t)]
    storage: StorageWish,
    /// Keep the branches in a file system of their own (btrfs, else XFS) in a file
    /// of this size in the data folder, 8G say: for a file system that cannot
    /// share blocks, ext4 for one. Needs root. Once made, it is used without this
    /// flag as well.
    #[arg(long, env = "NEON_EMULATOR_STORAGE_IMAGE", value_name = "SIZE")]
    storage_image: Option<ImageSize>,
}

fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
    let done = match Cli::parse().command {
        Command::Serve(arguments) => run(arguments),
        Command::Doctor(place) => return examine(place),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn examine(place: Place) -> ExitCode {
    let findings = doctor::examine(&Checkup {
        listen: place.listen,
        data: place.data,
        postgres_bin: place.postgres_bin,
        postgres_user: place.postgres_user,
        storage: place.storage,
        storage_image: place.storage_image,
    });
    for finding in &findings {
        println!("{finding}");
    }
    let is_problem = |finding: &Finding| finding.severity == Severity::Problem;
    match findings
        .iter()
        .filter(|finding| is_problem(finding))
        .count()
    {
        0 => ExitCode::SUCCESS,
        count => {
            println!("\n{count} of these prevent a start.");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Serve) -> anyhow::Result<()> {
    // While there is one thread.
    let place = &arguments.place;
    if place.storage_image.is_some() || has_storage_image(&place.data) {
        enter_private_mounts()?;
    }
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the runtime")?
        .block_on(serve(arguments))
}

async fn serve(arguments: Serve) -> anyhow::Result<()> {
    let key = std::env::var("NEON_API_KEY")
        .context("NEON_API_KEY is not set: set it to the key that callers will show")?;
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let place = arguments.place;
    let emulator = Emulator::start(Config {
        listen: place.listen,
        data: place.data,
        key: Secret::from(key),
        postgres_bin: place.postgres_bin,
        postgres_user: place.postgres_user,
        pgbouncer: arguments.pgbouncer,
        use_old_pgbouncer: arguments.unsafe_old_pgbouncer,
        storage: place.storage,
        storage_image: place.storage_image,
        durability: arguments.durability,
        limits: arguments.limits,
        test_clock: arguments.unsafe_test_clock,
        admin: arguments.admin,
    });
    // A signal that comes meanwhile is acted upon after the start: half started,
    // there would be servers that nobody stops.
    let emulator = emulator.await?;
    println!("Neon API  http://{}/api/v2", emulator.address());
    if let Some(project) = emulator.project() {
        println!("project   {project}");
    }
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tokio::select! {
        () = emulator.stop() => {}
        _ = terminate.recv() => warn!("asked a second time: leaving Postgres to the next start"),
        _ = interrupt.recv() => warn!("asked a second time: leaving Postgres to the next start"),
    }
    Ok(())
}
