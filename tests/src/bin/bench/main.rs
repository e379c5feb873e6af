//! Measures what the issues ask for, prints a table, and writes it as JSON
//! under docs/bench. `cargo xtask bench` builds everything with the release
//! profile and runs it.

mod branch;
mod broker;
mod engine;
mod gateway;
mod load;
mod table;

use anyhow::ensure;
use clap::{Parser, Subcommand};

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
}

// One thread: what is measured runs on the same cores, and has the others.
#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    ensure!(
        !cfg!(debug_assertions),
        "a debug build measures nothing of worth: run `cargo xtask bench`"
    );
    let what = Cli::parse().what;
    let is_everything = match &what {
        What::Broker(sizes) => sizes.is_everything(),
        What::Branch { .. } | What::Engine(_) | What::Gateway { .. } => true,
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
    };
    table::print(&rows);
    table::write(name, &durability, &rows, is_everything)
}
