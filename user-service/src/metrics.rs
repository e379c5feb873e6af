//! What user-service tells Prometheus of its pools. Asked at each scrape, of what the
//! pools say of themselves: no query is sent for it, and no branch woken.

use branch_pool::{Phase, PoolState};
use rpc::metrics::{Metrics, Scrape};
use tokio::sync::watch;

/// A pool, and the API version that it is for, as a label.
pub(crate) type Pool = (&'static str, watch::Receiver<PoolState>);

/// Tells at each scrape how the pools are.
pub(crate) fn tell(pools: Vec<Pool>, metrics: &Metrics) {
    metrics.at_scrape(move |scrape| {
        let states: Vec<_> = pools
            .iter()
            .map(|(version, state)| (*version, state.borrow().clone()))
            .collect();
        write(&states, scrape);
    });
}

fn write(states: &[(&'static str, PoolState)], scrape: &mut Scrape<'_>) {
    let mut gauge = |name, help, value: fn(&PoolState) -> Option<f64>| {
        let values = states
            .iter()
            .filter_map(|(version, state)| Some(([("version", *version)], value(state)?)));
        scrape.gauge(name, help, values);
    };
    gauge(
        "pool_ready",
        "Whether the pool has a lease that has not ended, and its branch can be reached",
        |state| Some(f64::from(u8::from(state.phase == Phase::Ready))),
    );
    gauge(
        "pool_generation",
        "The binding's generation that the connections belong to",
        |state| state.generation.map(|number| number as f64),
    );
    gauge(
        "pool_generation_age_seconds",
        "How long that generation has been in use",
        |state| state.generation_age().map(|age| age.as_secs_f64()),
    );
    gauge(
        "pool_turnovers",
        "How often another generation was turned over to",
        |state| Some(state.turnovers as f64),
    );
    gauge("pool_paused", "Whether checkouts are held back", |state| {
        Some(f64::from(u8::from(state.paused_until.is_some())))
    });
    gauge("pool_connections", "Connections that are open", |state| {
        Some(state.size as f64)
    });
    gauge(
        "pool_connections_idle",
        "Connections that are open and not in use",
        |state| Some(state.available as f64),
    );
    gauge(
        "pool_waiting",
        "Calls that wait for a connection",
        |state| Some(state.waiting as f64),
    );
    gauge(
        "pool_failing",
        "Whether the last call to the broker failed, or the last connection was refused",
        |state| Some(f64::from(u8::from(state.last_error.is_some()))),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pool_is_told_of() {
        let metrics = Metrics::default();
        let state = PoolState {
            phase: Phase::Ready,
            generation: Some(7),
            size: 3,
            available: 2,
            last_error: Some("postgresql://role:hunter2@host is no secret here".to_owned()),
            ..PoolState::default()
        };
        let (_one, ready) = watch::channel(state);
        let (_other, connecting) = watch::channel(PoolState::default());
        tell(vec![("v1", ready), ("v2", connecting)], &metrics);
        let text = metrics.text();
        for line in [
            "pool_ready{version=\"v1\"} 1.0",
            "pool_ready{version=\"v2\"} 0.0",
            "pool_generation{version=\"v1\"} 7.0",
            "pool_connections_idle{version=\"v1\"} 2.0",
            "pool_failing{version=\"v1\"} 1.0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
        assert!(!text.contains("pool_generation{version=\"v2\"}"), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
}
