//! `bench`: how fast it is, on this machine.

use std::process::Command;

use anyhow::Result;

use crate::binaries::Binaries;
use crate::process;

/// Measures release builds.
#[derive(clap::Args)]
pub(crate) struct Bench {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// From the request for a branch to its first answered query. Also written
    /// to docs/bench/branch.json.
    Branch,
    /// What the endpoints' gateway costs, and how long a suspended endpoint takes
    /// to wake. Also written to docs/bench/gateway.json. Needs pgbench.
    Gateway,
    /// Branches of idle and busy parents, small and large, on ext4 and, as root,
    /// on XFS and btrfs images. Also written to docs/bench/engine.json.
    Engine,
    /// What a broker with a durable state answers in a second, and how fast, and what
    /// a fleet of watchers takes. Also written to docs/bench/broker.json.
    Broker {
        /// What to measure: reads, leases, warm, crowd, fleet; without any, all of
        /// them. The others stay in the file as they are.
        parts: Vec<String>,
    },
    /// How 500 revisions stand, how long they take against psql, and what a rehearsal
    /// takes beside its SQL. Also written to docs/bench/migrate.json. Needs psql.
    Migrate,
    /// The user-service against servers that do no more than they must, its stream
    /// against COPY, and what it takes. Also written to docs/bench/users.json.
    Users {
        /// What to measure: get, list, connect, stream; without any, all of them. The
        /// others stay in the file as they are.
        parts: Vec<String>,
    },
}

impl Bench {
    pub(crate) fn run(&self) -> Result<()> {
        let (name, parts): (_, &[String]) = match &self.what {
            What::Branch => ("branch", &[]),
            What::Gateway => ("gateway", &[]),
            What::Engine => ("engine", &[]),
            What::Broker { parts } => ("broker", parts),
            What::Migrate => ("migrate", &[]),
            What::Users { parts } => ("users", parts),
        };
        let suite = Binaries::build(true)?;
        process::run(Command::new(suite.path("bench")).arg(name).args(parts))
    }
}
