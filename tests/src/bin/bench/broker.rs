//! The broker, its state on the disk: what it answers in a second and how fast,
//! leases given and renewed, branches that wait for one, and many callers at once for one missing branch.

mod client;
mod crowd;
mod leases;
mod pace;
mod reads;
mod warm;
mod wire;

use std::time::Duration;

use anyhow::Context;
use clap::Args;
use suite::{Broker, Config, EmulatorProcess, Folder, StateDatabase};

use crate::table::{Row, Table};
use client::Client;
use wire::Wire;

/// Few, as a service has them: calls share them.
const CONNECTIONS: usize = 4;

#[derive(Debug, Args)]
pub(crate) struct Sizes {
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
}

impl Sizes {
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
    let place = Place::start().await?;
    let mut rows = Table::default();
    reads::measure(&place, sizes, &mut rows).await?;
    leases::acquire(&place, sizes, &mut rows).await?;
    leases::renew(&place, sizes, &mut rows).await?;
    warm::measure(&place, sizes, &mut rows).await?;
    crowd::measure(&place, sizes, &mut rows).await?;
    place.stop().await?;
    Ok(rows.0)
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

    /// As [`Place::client`].
    fn wire(&self, number: usize) -> Wire {
        self.wires[number % self.wires.len()].clone()
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
