//! How long a new generation takes to all who watch a binding, and acknowledge: by a
//! rotation of its credentials, and by a switch to another branch and back.

use std::collections::BTreeSet;
use std::pin::pin;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use futures_util::{StreamExt as _, stream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::client::{BINDING, Client};
use super::watch::{Seen, Watch, have_taken_over};
use super::{Place, Sizes};
use crate::table::{Row, Table, percentile};

/// As the issue has it.
const LAST_MS_MAX: f64 = 100.0;
/// What the watchers share.
const CONNECTIONS: usize = 20;
/// Watchers that come at the same time.
const COMING_MAX: usize = 32;
/// Far beyond what a generation takes to all.
const SEEN_SECONDS_MAX: u64 = 60;
/// The branch that the binding is switched to, and back from.
const OTHER_BRANCH: &str = "bench-other";

pub(super) async fn measure(sizes: &Sizes, rows: &mut Table) -> anyhow::Result<()> {
    let place = Place::start().await?;
    let mut audience = Audience::gather(&place, sizes).await?;
    rotate(&place, sizes, &mut audience, rows).await?;
    switch(&place, sizes, &mut audience, rows).await?;
    drop(audience);
    place.stop().await
}

/// From the moment that the first one sees it: the roles are made before.
async fn rotate(
    place: &Place,
    sizes: &Sizes,
    audience: &mut Audience,
    rows: &mut Table,
) -> anyhow::Result<()> {
    let (mut totals, mut spreads) = (Vec::new(), Spreads::default());
    let mut client = place.client(0);
    for _ in 0..sizes.generations {
        audience.is_quiet(place).await?;
        let begun = Instant::now();
        let (_, seen) = tokio::try_join!(client.rotate(BINDING), audience.next())?;
        spreads.push_after(begun, &seen, &mut totals)?;
    }
    let (watchers, holders) = (sizes.watchers, sizes.watching_services);
    let name = format!("RotateCredentials from the first of {watchers} watchers");
    spreads.into_rows(&name, rows);
    let what = format!(
        "beside it: RotateCredentials of {holders} holders, from the call to the last watcher"
    );
    rows.push(Row::new(what, totals));
    Ok(())
}

/// From the moment that the first one sees it: the roles are made before, while the
/// generation is pending.
async fn switch(
    place: &Place,
    sizes: &Sizes,
    audience: &mut Audience,
    rows: &mut Table,
) -> anyhow::Result<()> {
    let mut client = place.client(0);
    let home = client.binding(BINDING).await?.branch;
    let other = client.fork(OTHER_BRANCH, &home).await?;
    let targets = [other, home];
    let (mut totals, mut spreads) = (Vec::new(), Spreads::default());
    for target in targets.iter().cycle().take(sizes.generations) {
        audience.is_quiet(place).await?;
        let begun = Instant::now();
        let (_, seen) = tokio::try_join!(client.switch(BINDING, target), audience.next())?;
        spreads.push_after(begun, &seen, &mut totals)?;
    }
    let watchers = sizes.watchers;
    let name = format!("SwitchBinding from the first of {watchers} watchers");
    spreads.into_rows(&name, rows);
    let what =
        format!("beside it: SwitchBinding of {watchers} watchers, from the call to the last");
    rows.push(Row::new(what, totals));
    Ok(())
}

/// Watchers of one binding, each by a lease of its own.
struct Audience {
    count: usize,
    /// What their watches come by.
    _clients: Vec<Client>,
    /// What they have seen last.
    generation: i64,
    watches: JoinSet<anyhow::Result<()>>,
    seen: mpsc::Receiver<Seen>,
}

impl Audience {
    async fn gather(place: &Place, sizes: &Sizes) -> anyhow::Result<Self> {
        let clients = Client::connect(place.broker.address(), CONNECTIONS).await?;
        let (sharing, services) = (clients.clone(), sizes.watching_services);
        let coming = stream::iter(0..sizes.watchers).map(move |number| {
            let mut client = sharing[number % CONNECTIONS].clone();
            let holder = format!("bench-watching-{}", number % services);
            async move {
                let lease = client.acquire(BINDING, &holder).await?;
                Watch::open(&mut client, &lease).await
            }
        });
        let mut coming = pin!(coming.buffer_unordered(COMING_MAX));
        let mut watches = JoinSet::new();
        // No watcher waits for the others to be heard.
        let (told, seen) = mpsc::channel(sizes.watchers.max(1));
        while let Some(watch) = coming.next().await {
            let watch = watch.context("a watcher comes")?;
            watches.spawn(watch.follow(told.clone()));
        }
        let generation = place.client(0).binding(BINDING).await?.generation;
        Ok(Self {
            count: sizes.watchers,
            _clients: clients,
            generation,
            watches,
            seen,
        })
    }

    /// Waits until it is stored that all have taken over what they have seen.
    async fn is_quiet(&self, place: &Place) -> anyhow::Result<()> {
        have_taken_over(place, self.count, self.generation).await
    }

    /// When each of them sees the next generation.
    async fn next(&mut self) -> anyhow::Result<Vec<Instant>> {
        let (mut times, mut generations) = (Vec::with_capacity(self.count), BTreeSet::new());
        let all = async {
            while times.len() < self.count {
                tokio::select! {
                    Some(seen) = self.seen.recv() => {
                        times.push(seen.at);
                        generations.insert(seen.generation);
                    }
                    Some(ended) = self.watches.join_next() => {
                        ended?.context("a watch")?;
                        bail!("a watch has ended");
                    }
                    else => bail!("no watch is open"),
                }
            }
            Ok(())
        };
        let limit = Duration::from_secs(SEEN_SECONDS_MAX);
        let in_time = timeout(limit, all).await;
        in_time.with_context(|| {
            let seen = times.len();
            format!("{seen} of {} have seen the generation", self.count)
        })??;
        ensure!(generations.len() == 1, "one generation: {generations:?}");
        self.generation = generations.first().copied().unwrap_or_default();
        Ok(times)
    }
}

/// How far apart watchers see a generation, each round, in milliseconds.
#[derive(Default)]
struct Spreads {
    p50: Vec<f64>,
    p99: Vec<f64>,
    last: Vec<f64>,
}

impl Spreads {
    /// When the watchers have seen it, from when the first one did; and, into `totals`,
    /// the last one from when it was asked for.
    fn push_after(
        &mut self,
        begun: Instant,
        seen: &[Instant],
        totals: &mut Vec<f64>,
    ) -> anyhow::Result<()> {
        let first = seen.iter().min().copied().context("a watcher")?;
        let last = seen.iter().max().copied().context("a watcher")?;
        totals.push(since(begun, last));
        let latencies: Vec<f64> = seen.iter().map(|at| since(first, *at)).collect();
        self.p50.push(percentile(&latencies, 50));
        self.p99.push(percentile(&latencies, 99));
        self.last.push(percentile(&latencies, 100));
        Ok(())
    }

    fn into_rows(self, name: &str, rows: &mut Table) {
        let row = |what: &str, values| Row::new(format!("{name}: {what}"), values);
        rows.push(row("the last, each round", self.last).below(LAST_MS_MAX));
        rows.push(row("p99, each round", self.p99));
        rows.push(row("p50, each round", self.p50));
    }
}

fn since(begun: Instant, at: Instant) -> f64 {
    at.duration_since(begun).as_secs_f64() * 1_000.0
}
