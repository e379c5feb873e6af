//! The broker, its state on the disk: what it answers in a second and how fast,
//! leases given and renewed, branches that wait for one, many callers at once for one
//! missing branch, and a fleet that watches.

mod client;
mod crowd;
mod fleet;
mod generations;
mod leases;
mod reads;
mod warm;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::builder::RangedU64ValueParser;
use clap::{Args, ValueEnum};
use suite::{Broker, Config, EmulatorProcess, Folder, StateDatabase};

use crate::pace::{Round, as_fast_as_answered};
use crate::table::{Row, Table};
use crate::wire::{Call, Wire};
use client::Client;

/// Few, as a service has them: calls share them.
const CONNECTIONS: usize = 4;

#[derive(Debug, Args)]
pub(crate) struct Sizes {
    /// What to measure; without any, everything.
    #[arg(value_enum)]
    parts: Vec<Part>,
    /// How often each thing is measured, in turns.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long each time takes.
    #[arg(long, default_value_t = 2)]
    seconds: u64,
    /// Leases that are acquired, one after another, of each kind.
    #[arg(long, default_value_t = 100)]
    leases: usize,
    /// Ephemeral branches that are acquired, one after another, of each kind.
    #[arg(long, default_value_t = 30)]
    branches: usize,
    /// Callers at once for one missing branch.
    #[arg(long, default_value_t = 10_000)]
    callers: usize,
    /// Holders of the fleet, each with a lease that it watches and renews: there are
    /// 10,000 leases at most.
    #[arg(long, default_value_t = 10_000, value_parser = at_least_one())]
    holders: usize,
    /// How often each of them renews its lease, every 30 s, while that is measured.
    #[arg(long, default_value_t = 2, value_parser = at_least_one())]
    periods: usize,
    /// Watchers of a binding that gets new generations.
    #[arg(long, default_value_t = 1_000, value_parser = at_least_one())]
    watchers: usize,
    /// Services whose replicas those are: for each a role is made anew.
    #[arg(long, default_value_t = 10, value_parser = at_least_one())]
    watching_services: usize,
    /// New generations that they see, of each kind.
    #[arg(long, default_value_t = 10, value_parser = at_least_one())]
    generations: usize,
}

/// What can be measured alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Reads,
    Leases,
    Warm,
    Crowd,
    Fleet,
}

impl Part {
    /// Those that one broker is measured with, one after another.
    const OF_ONE_BROKER: [Part; 4] = [Part::Reads, Part::Leases, Part::Warm, Part::Crowd];
}

impl Sizes {
    /// Whether everything is measured.
    pub(crate) fn is_everything(&self) -> bool {
        self.parts.is_empty()
    }

    fn has(&self, part: Part) -> bool {
        self.is_everything() || self.parts.contains(&part)
    }

    fn time(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

/// A broker whose bindings are ready.
struct Place {
    emulator: EmulatorProcess,
    database: StateDatabase,
    database_emulator: EmulatorProcess,
    broker: Broker,
    config: Config,
    clients: Vec<Client>,
    wires: Vec<Wire>,
    _folder: Folder,
}

pub(crate) async fn run(sizes: &Sizes) -> anyhow::Result<Vec<Row>> {
    let mut rows = Table::default();
    if Part::OF_ONE_BROKER.iter().any(|part| sizes.has(*part)) {
        of_one_broker(sizes, &mut rows).await?;
    }
    if sizes.has(Part::Fleet) {
        fleet::measure(sizes, &mut rows).await?;
    }
    Ok(rows.0)
}

async fn of_one_broker(sizes: &Sizes, rows: &mut Table) -> anyhow::Result<()> {
    let place = Place::start().await?;
    if sizes.has(Part::Reads) {
        reads::measure(&place, sizes, rows).await?;
    }
    if sizes.has(Part::Leases) {
        leases::acquire(&place, sizes, rows).await?;
        leases::renew(&place, sizes, rows).await?;
    }
    if sizes.has(Part::Warm) {
        warm::measure(&place, sizes, rows).await?;
    }
    if sizes.has(Part::Crowd) {
        crowd::measure(&place, sizes, rows).await?;
    }
    place.stop().await
}

fn at_least_one() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..)
}

impl Place {
    async fn start() -> anyhow::Result<Self> {
        let folder = Folder::on_disk()?;
        let emulator = EmulatorProcess::start_with_admin(&folder.join("data")).await?;
        let (database_emulator, database) = StateDatabase::durable(&folder.join("state")).await?;
        let config = Config::copy(&folder)?;
        let broker = Broker::start_beside(&database, &folder, &emulator, &config.path()).await?;
        broker.is_ready().await?;
        let clients = Client::connect(broker.address(), CONNECTIONS).await?;
        let mut wires = Vec::new();
        for _ in 0..CONNECTIONS {
            wires.push(Wire::connect(broker.address()).await?);
        }
        Ok(Self {
            emulator,
            database,
            database_emulator,
            broker,
            config,
            clients,
            wires,
            _folder: folder,
        })
    }

    /// The clients in turn, so that each connection has its share.
    fn client(&self, number: usize) -> Client {
        self.clients[number % self.clients.len()].clone()
    }

    /// Calls on all connections, as fast as the answers come.
    async fn round(&self, call: &Call, time: Duration) -> anyhow::Result<Round> {
        let calls = Arc::from([call.clone()]);
        as_fast_as_answered(&self.pid()?, &self.wires, &calls, time).await
    }

    /// The broker's process.
    fn pid(&self) -> anyhow::Result<String> {
        Ok(self.broker.process.pid()?.to_string())
    }

    /// Goes up with each transaction that the broker commits.
    async fn commits(&self) -> anyhow::Result<i64> {
        let session = self.database.session(&self.database_emulator).await?;
        let row = session.query_one("SELECT version FROM broker.head", &[]);
        Ok(row.await.context("the state database's head")?.get(0))
    }

    async fn stop(self) -> anyhow::Result<()> {
        self.broker.process.stop().await?;
        self.emulator.stop().await?;
        self.database_emulator.stop().await
    }
}
