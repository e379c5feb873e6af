//! Metrics, as Prometheus reads them.
//!
//! Two kinds: counters and histograms, which are told what happens when it happens,
//! and gauges of what is, which are asked at each scrape and kept by nobody.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

pub use crate::call_metrics::code_name;
pub use prometheus_client::metrics::{
    counter::Counter, family::Family, gauge::Gauge, histogram::Histogram,
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeGaugeValue, prometheus_text},
    metrics::MetricType,
    registry::{Metric, Registry},
};

/// What [`Metrics::text`] is written in.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Bounds of a histogram's buckets, in seconds: from what is answered out of memory
/// to what waits for a branch to be made.
const SECONDS: [f64; 15] = [
    0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0,
];

/// Labels that are known beforehand: a look at a family makes nothing new.
pub type Labels<const N: usize> = [(&'static str, &'static str); N];

/// All metrics of a process. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Metrics(Arc<Mutex<Registry>>);

impl Metrics {
    /// Adds one that is told what happens. A counter's name gets `_total` when it is
    /// written.
    pub fn register(&self, name: &str, help: &str, metric: impl Metric) {
        self.with(|registry| registry.register(name, help, metric));
    }

    /// Adds what is asked at each scrape.
    pub fn at_scrape(&self, ask: impl Fn(&mut Scrape<'_>) + Send + Sync + 'static) {
        self.with(|registry| registry.register_collector(Box::new(AtScrape(ask))));
    }

    /// All of them, as text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = self.with(|registry| prometheus_text::encode(&mut text, registry));
        text
    }

    fn with<T>(&self, work: impl FnOnce(&mut Registry) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A histogram of how long something takes.
pub fn seconds() -> Histogram {
    Histogram::new(SECONDS)
}

/// One scrape in the making.
#[derive(Debug)]
pub struct Scrape<'a>(DescriptorEncoder<'a>);

impl Scrape<'_> {
    /// Writes a gauge: what it is now, by its labels. Without labels: `[([], value)]`.
    pub fn gauge<'l, V: EncodeGaugeValue, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = ([(&'l str, &'l str); N], V)>,
    ) {
        let write = || {
            let gauge = MetricType::Gauge;
            let mut metric = self.0.encode_descriptor(name, help, None, gauge)?;
            values.into_iter().try_for_each(|(labels, value)| match N {
                0 => metric.encode_gauge(&value),
                _ => metric.encode_family(&labels)?.encode_gauge(&value),
            })
        };
        // Writing to a String does not fail.
        let _: fmt::Result = write();
    }
}

struct AtScrape<F>(F);

impl<F: Fn(&mut Scrape<'_>) + Send + Sync + 'static> Collector for AtScrape<F> {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        (self.0)(&mut Scrape(encoder));
        Ok(())
    }
}

impl<F> fmt::Debug for AtScrape<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AtScrape")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happened_and_what_is_are_written_as_prometheus_reads_them() {
        let metrics = Metrics::default();
        let calls = Family::<[(&'static str, &'static str); 1], Counter>::default();
        metrics.register("calls", "Calls", calls.clone());
        calls.get_or_create(&[("code", "OK")]).inc();
        metrics.at_scrape(|scrape| {
            scrape.gauge("leases", "Leases", [([("state", "active")], 7)]);
            scrape.gauge("leader", "Leads", [([], 1_i64)]);
        });
        let text = metrics.text();
        for line in [
            "# TYPE calls_total counter",
            "calls_total{code=\"OK\"} 1",
            "# TYPE leases gauge",
            "leases{state=\"active\"} 7",
            "leader 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
    }
}
