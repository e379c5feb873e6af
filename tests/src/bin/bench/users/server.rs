//! A server that is measured, and the connections to it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use suite::Process;

use super::Place;
use super::serve::{self, Kind};
use crate::pace::{CALLERS, Round, as_fast_as_answered, push_rates};
use crate::table::{Row, Table};
use crate::wire::{Call, Wire};

/// What connections, caches and statements take to be as they stay.
const WARM_UP: Duration = Duration::from_millis(500);

pub(super) struct Server {
    pub(super) name: &'static str,
    pub(super) pid: String,
    /// One for each caller.
    wires: Vec<Wire>,
    /// `None`: it is the system's.
    process: Option<Process>,
}

impl Server {
    /// The system's own.
    pub(super) async fn user_service(place: &Place) -> anyhow::Result<Self> {
        let users = &place.system.users;
        Ok(Self {
            name: "user-service",
            pid: users.process.pid()?.to_string(),
            wires: connect(users.address()).await?,
            process: None,
        })
    }

    /// One of those that it is compared with.
    pub(super) async fn start(kind: Kind, place: &Place) -> anyhow::Result<Self> {
        let lease = place.lease(kind.name()).await?;
        let (process, address) = serve::start(kind, &place.system, &lease).await?;
        Ok(Self {
            name: kind.name(),
            pid: process.pid()?.to_string(),
            wires: connect(&address).await?,
            process: Some(process),
        })
    }

    pub(super) async fn stop(self) -> anyhow::Result<()> {
        match self.process {
            Some(process) => process.stop().await,
            None => Ok(()),
        }
    }

    /// One of its connections.
    pub(super) fn wire(&self) -> anyhow::Result<&Wire> {
        self.wires.first().context("a connection")
    }

    async fn round(&self, calls: &Arc<[Call]>, time: Duration) -> anyhow::Result<Round> {
        as_fast_as_answered(&self.pid, &self.wires, calls, time).await
    }
}

/// A server with calls, and what rounds of them have shown.
pub(super) struct Run<'s> {
    pub(super) server: &'s Server,
    calls: Arc<[Call]>,
    rounds: Vec<Round>,
}

impl<'s> Run<'s> {
    pub(super) fn new(server: &'s Server, calls: Arc<[Call]>) -> Self {
        Self {
            server,
            calls,
            rounds: Vec::new(),
        }
    }
}

/// Rounds of all of them in turns: the machine's other work is in all.
pub(super) async fn in_turns(
    runs: &mut [Run<'_>],
    rounds: usize,
    time: Duration,
) -> anyhow::Result<()> {
    for run in &*runs {
        run.server.round(&run.calls, WARM_UP).await?;
    }
    for _ in 0..rounds {
        for run in &mut *runs {
            run.rounds.push(run.server.round(&run.calls, time).await?);
        }
    }
    Ok(())
}

/// What each has shown; `name` is the method's.
pub(super) fn push_each(name: &str, runs: &[Run<'_>], rows: &mut Table) {
    for run in runs {
        let what = format!("{name} at {CALLERS} connections, {}", run.server.name);
        let processor = |of| format!("beside it: processor time of the {of}, {what}");
        let (server, client) = (processor("server"), processor("client"));
        push_rates(&run.rounds, [what, server, client], rows);
    }
}

/// The rate of one against the other's, each round.
pub(super) fn against(name: &str, one: &Run<'_>, other: &Run<'_>) -> Row {
    let pairs = one.rounds.iter().zip(&other.rounds);
    let ratios = pairs.map(|(one, other)| one.rate / other.rate).collect();
    let (one, other) = (one.server.name, other.server.name);
    let what = format!("{name} at {CALLERS} connections, {one} against {other}, each round");
    Row::new(what, ratios).unit("ratio")
}

async fn connect(address: &str) -> anyhow::Result<Vec<Wire>> {
    let mut wires = Vec::new();
    for _ in 0..CALLERS {
        wires.push(Wire::connect(address).await?);
    }
    Ok(wires)
}
