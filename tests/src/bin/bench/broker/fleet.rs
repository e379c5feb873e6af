//! A fleet: holders that each watch their lease and renew it, over connections that
//! they share and over one each, and what they take the broker while nothing happens.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures_util::{StreamExt as _, stream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::client::{BINDING, Client};
use super::watch::{Seen, Watch, have_taken_over};
use super::{Place, Sizes, generations};
use crate::pace::paced;
use crate::table::{Row, Table, percentile};
use crate::usage::{allow_descriptors, processor_seconds, resident};

/// As the issue has it, and the three below.
const CONNECTIONS: usize = 100;
/// How often each holder renews its lease.
const PERIOD: Duration = Duration::from_secs(30);
/// How long it only looks, for comparison.
const LOOKING: Duration = Duration::from_secs(10);
/// Of one core.
const BROKER_PERCENT_MAX: f64 = 10.0;
const BROKER_MB_MAX: f64 = 200.0;
/// Services whose replicas the holders are: the replicas of one share a role.
const SERVICES: usize = 20;
/// Holders that join at the same time.
const JOINING_MAX: usize = 32;
/// Descriptors for whatever is no connection of a holder.
const DESCRIPTORS_BESIDE: u64 = 1_000;

/// Each on a broker of its own: memory that one has left behind is not the next one's.
pub(super) async fn measure(sizes: &Sizes, rows: &mut Table) -> anyhow::Result<()> {
    generations::measure(sizes, rows).await?;
    let shared = CONNECTIONS.min(sizes.holders);
    hold(sizes, shared, true, rows).await?;
    hold(sizes, sizes.holders, false, rows).await
}

/// What a fleet takes over so many connections. `asked`: whether the targets are for
/// that many.
async fn hold(
    sizes: &Sizes,
    connections: usize,
    asked: bool,
    rows: &mut Table,
) -> anyhow::Result<()> {
    // Before the broker is started, which inherits it.
    allow_descriptors(u64::try_from(connections)? + DESCRIPTORS_BESIDE)?;
    let place = Place::start().await?;
    let pid = place.pid()?;
    let before = resident(&pid)?;
    let mut fleet = Fleet::join(&place, connections, sizes.holders).await?;
    // Each holder renews once before anything counts.
    fleet.renew(&pid).await?;
    let mut periods = Vec::new();
    for _ in 0..sizes.periods {
        periods.push(fleet.renew(&pid).await?);
        fleet.is_whole()?;
    }
    let after = resident(&pid)?;
    let looking = fleet.look(&pid).await?;
    drop(fleet);
    place.stop().await?;

    let name = format!("{} holders on {connections} connections", sizes.holders);
    let named = |what: &str, values| Row::new(format!("{name}: {what}"), values);
    let targeted = |row: Row, most| if asked { row.below(most) } else { row };
    let values = |of: fn(&Period) -> f64| periods.iter().map(of).collect();
    let row = named(
        "processor time of the broker",
        values(|one| one.broker_percent),
    );
    rows.push(targeted(row.unit("% of a core"), BROKER_PERCENT_MAX));
    let row = named(
        "beside it: that of the client",
        values(|one| one.client_percent),
    );
    rows.push(row.unit("% of a core"));
    let row = named(
        "beside it: that of the broker for as many GetBinding instead",
        vec![looking],
    );
    rows.push(row.unit("% of a core"));
    let row = named("resident memory of the broker", vec![after.now_mb]);
    rows.push(targeted(row.unit("MB"), BROKER_MB_MAX));
    let row = named("beside it: at most, since it began", vec![after.most_mb]);
    rows.push(row.unit("MB"));
    let row = named("beside it: before they came", vec![before.now_mb]);
    rows.push(row.unit("MB"));
    rows.push(named("p50 of RenewLease", values(|one| one.p50_ms)));
    rows.push(named("p99 of RenewLease", values(|one| one.p99_ms)));
    let row = named("renewals that failed", values(|one| one.failures as f64));
    rows.push(row.unit("calls").at_most(0.0));
    Ok(())
}

/// Holders that have a lease each, and watch it.
struct Fleet {
    /// Holders have them in turns.
    clients: Vec<Client>,
    /// One for each holder.
    leases: Vec<String>,
    watches: JoinSet<anyhow::Result<()>>,
}

/// All leases renewed once.
struct Period {
    /// Processor time against the time that went by.
    broker_percent: f64,
    client_percent: f64,
    p50_ms: f64,
    p99_ms: f64,
    failures: usize,
}

impl Fleet {
    /// Returns when all watches are open, and it is stored that they have a say.
    async fn join(place: &Place, connections: usize, holders: usize) -> anyhow::Result<Self> {
        let clients = Client::connect(place.broker.address(), connections).await?;
        let sharing = clients.clone();
        let joining = stream::iter(0..holders).map(move |number| {
            let mut client = sharing[number % connections].clone();
            async move {
                let holder = format!("bench-fleet-{}", number % SERVICES);
                let lease = client.acquire(BINDING, &holder).await?;
                let watch = Watch::open(&mut client, &lease).await?;
                anyhow::Ok((lease, watch))
            }
        });
        let mut joining = pin!(joining.buffered(JOINING_MAX));
        // Nothing new is to be seen here.
        let (seen, _) = mpsc::channel::<Seen>(1);
        let (mut leases, mut watches) = (Vec::with_capacity(holders), JoinSet::new());
        while let Some(joined) = joining.next().await {
            let (lease, watch) = joined.context("a holder joins")?;
            leases.push(lease);
            watches.spawn(watch.follow(seen.clone()));
        }
        have_taken_over(place, holders, 1).await?;
        Ok(Self {
            clients,
            leases,
            watches,
        })
    }

    /// Renews each lease once, evenly over the period. `pid` is the broker's.
    async fn renew(&self, pid: &str) -> anyhow::Result<Period> {
        let rate = self.leases.len() as f64 / PERIOD.as_secs_f64();
        let (clients, leases) = (self.clients.clone(), self.leases.clone());
        let failures = Arc::new(AtomicUsize::new(0));
        let failed = Arc::clone(&failures);
        let (broker, client) = (processor_seconds(pid)?, processor_seconds("self")?);
        let begun = Instant::now();
        let latencies = paced(rate, PERIOD, move |number| {
            let mut client = clients[number % clients.len()].clone();
            let lease = leases[number % leases.len()].clone();
            let failed = Arc::clone(&failed);
            async move {
                if let Err(error) = client.renew(lease).await
                    && failed.fetch_add(1, Ordering::Relaxed) == 0
                {
                    // One stands for all: they are counted.
                    eprintln!("a renewal failed: {error:#}");
                }
                Ok(())
            }
        });
        let latencies = latencies.await?;
        let percent = |seconds: f64| seconds * 100.0 / begun.elapsed().as_secs_f64();
        Ok(Period {
            broker_percent: percent(processor_seconds(pid)? - broker),
            client_percent: percent(processor_seconds("self")? - client),
            p50_ms: percentile(&latencies, 50),
            p99_ms: percentile(&latencies, 99),
            failures: failures.load(Ordering::Relaxed),
        })
    }

    /// As many calls a second that change nothing: what remains of the processor time of
    /// the broker, in percent.
    async fn look(&self, pid: &str) -> anyhow::Result<f64> {
        let rate = self.leases.len() as f64 / PERIOD.as_secs_f64();
        let clients = self.clients.clone();
        let (broker, begun) = (processor_seconds(pid)?, Instant::now());
        let looks = paced(rate, LOOKING, move |number| {
            let mut client = clients[number % clients.len()].clone();
            async move { client.binding(BINDING).await.map(drop) }
        });
        looks.await?;
        let seconds = processor_seconds(pid)? - broker;
        Ok(seconds * 100.0 / begun.elapsed().as_secs_f64())
    }

    /// That every watch is still open: one that has ended takes nothing.
    fn is_whole(&mut self) -> anyhow::Result<()> {
        if let Some(ended) = self.watches.try_join_next() {
            ended?.context("a watch of the fleet")?;
            bail!("a watch of the fleet has ended");
        }
        Ok(())
    }
}
