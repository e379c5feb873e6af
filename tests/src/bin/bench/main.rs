//! Measures what the issues ask for, prints a table, and writes it as JSON
//! under docs/bench. `cargo xtask bench` builds everything with the release
//! profile and runs it.

mod branch;
mod broker;
mod engine;
mod gateway;
mod load;
mod migrate;
mod pace;
mod table;
mod usage;
mod users;
mod wire;

use anyhow::ensure;
use clap::{Parser, Subcommand};
use tokio::runtime::{Builder, Runtime};

/// The user-service's, so that what it is compared with differs in what is compared.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
    /// Branches of idle and busy parents, small and large, on each file system.
    Engine(engine::Sizes),
    /// Reads against a health check, leases, many callers of one missing branch, and
    /// a fleet that watches, with a durable state.
    Broker(broker::Sizes),
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
    /// How revisions stand, many of them run against psql, and a rehearsal.
    Migrate(migrate::Sizes),
    /// The user-service against servers that do no more than they must, its stream
    /// against COPY, and what it takes.
    Users(users::Sizes),
    /// One of those servers.
    #[command(hide = true)]
    Serve(users::ServeArgs),
}

fn main() -> anyhow::Result<()> {
    let what = Cli::parse().what;
    if let What::Serve(args) = what {
        return Runtime::new()?.block_on(users::serve(args));
    }
    ensure!(
        !cfg!(debug_assertions),
        "a debug build measures nothing of worth: run `cargo xtask bench`"
    );
    // One thread: what is measured runs on the same cores, and has the others.
    let mut runtime = Builder::new_current_thread();
    runtime.enable_all().build()?.block_on(measure(what))
}

async fn measure(what: What) -> anyhow::Result<()> {
    let is_everything = match &what {
        What::Broker(sizes) => sizes.is_everything(),
        What::Users(sizes) => sizes.is_everything(),
        What::Branch { .. }
        | What::Engine(_)
        | What::Gateway { .. }
        | What::Migrate(_)
        | What::Serve(_) => true,
    };
    let (name, durability, rows) = match what {
        What::Branch { rounds, starts } => {
            let rows = vec![
                branch::branches(rounds).await?,
                branch::second_starts(starts).await?,
            ];
            ("branch", "process".to_owned(), rows)
        }
        What::Engine(sizes) => (
            "engine",
            sizes.durability.clone(),
            engine::run(&sizes).await?,
        ),
        What::Broker(sizes) => ("broker", "machine".to_owned(), broker::run(&sizes).await?),
        What::Gateway {
            rounds,
            seconds,
            wakes,
        } => {
            let rows = gateway::run(rounds, seconds, wakes).await?;
            ("gateway", "process".to_owned(), rows)
        }
        What::Migrate(sizes) => ("migrate", "process".to_owned(), migrate::run(&sizes).await?),
        What::Users(sizes) => ("users", "process".to_owned(), users::run(&sizes).await?),
        What::Serve(args) => return users::serve(args).await,
    };
    table::print(&rows);
    table::write(name, &durability, &rows, is_everything)
}
