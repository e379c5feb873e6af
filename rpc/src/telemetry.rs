//! What a server says about itself: log lines, and traces.

use std::{io::IsTerminal, time::Duration};

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::Level;
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::{FilterExt as _, filter_fn},
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

use crate::traces;

/// How long spans that were not exported yet may take, at the end, in seconds.
const FLUSH_SECONDS_MAX: u64 = 3;

/// What has to be told that the process ends.
#[derive(Debug)]
#[must_use = "spans that were not exported yet are lost without `Telemetry::end`"]
pub struct Telemetry(Option<SdkTracerProvider>);

/// Log lines go to stderr, down to `info` or as RUST_LOG says, in colour when
/// stderr is a terminal. Traces go to OTEL_EXPORTER_OTLP_ENDPOINT, if that is set, as
/// those of `service`. Calling it again changes nothing. Needs a tokio runtime.
pub fn init(service: &'static str) -> Telemetry {
    start(service, true)
}

/// As [`init`], without log lines: for a command, whose stderr is for its user.
pub fn init_traces(service: &'static str) -> Telemetry {
    start(service, false)
}

fn start(service: &'static str, logs: bool) -> Telemetry {
    let (filter, refused) = filter(std::env::var("RUST_LOG").ok());
    let log = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_filter(filter.and(
            // Without the hint what libraries say at `trace` is asked about each time.
            filter_fn(|about| about.target() != traces::TARGET).with_max_level_hint(Level::TRACE),
        ));
    let (provider, failed) = match traces::provider(service) {
        Ok(provider) => (provider, None),
        Err(error) => (None, Some(error)),
    };
    // None of them without a filter, as a layer that is `None` would be: then every span
    // would be made, for nobody.
    let mut layers: Vec<Box<dyn Layer<Registry> + Send + Sync>> = Vec::new();
    if logs {
        layers.push(log.boxed());
    }
    if let Some(provider) = &provider {
        let spans = tracing_opentelemetry::layer()
            .with_tracer(provider.tracer(service))
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_filter(
                filter_fn(|about| {
                    about.is_span()
                        && about.target() == traces::TARGET
                        && *about.level() <= Level::INFO
                })
                .with_max_level_hint(Level::INFO),
            );
        layers.push(spans.boxed());
    }
    let first = tracing_subscriber::registry()
        .with(layers)
        .try_init()
        .is_ok();
    if !first {
        return Telemetry(None);
    }
    if let Some(error) = refused {
        tracing::warn!(%error, "RUST_LOG is not a filter; logging at info");
    }
    if let Some(error) = failed {
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        tracing::warn!(%error, cause, "no traces are exported");
    }
    Telemetry(provider)
}

impl Telemetry {
    /// Exports what was not exported yet.
    pub async fn end(self) {
        let Some(provider) = self.0 else { return };
        let limit = Duration::from_secs(FLUSH_SECONDS_MAX);
        // It waits for what this runtime has to send.
        let ending = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(limit));
        if let Ok(Err(error)) = ending.await {
            tracing::warn!(%error, "the last spans are not exported");
        }
    }
}

fn filter(variable: Option<String>) -> (EnvFilter, Option<tracing_subscriber::filter::ParseError>) {
    let info = || EnvFilter::new("info");
    match variable.as_deref().map(str::trim) {
        None | Some("") => (info(), None),
        Some(text) => match EnvFilter::try_new(text) {
            Ok(filter) => (filter, None),
            Err(error) => (info(), Some(error)),
        },
    }
}

#[cfg(test)]
mod tests {
    use tracing::level_filters::LevelFilter;

    use super::{filter, start};
    use crate::traces;

    /// h2 alone has some spans at `trace` for each frame: more than the call itself. And
    /// those of traces are for an exporter.
    #[tokio::test]
    async fn nobody_is_asked_about_what_is_not_wanted() {
        start("test", true).end().await;
        if std::env::var_os("RUST_LOG").is_none() {
            assert_eq!(LevelFilter::current(), LevelFilter::INFO);
        }
        assert!(traces::behind("test").is_disabled());
    }

    #[test]
    fn falls_back_to_info() {
        let level = |text: Option<&str>| filter(text.map(String::from)).0.to_string();
        assert_eq!(level(None), "info");
        assert_eq!(level(Some(" ")), "info");
        assert_eq!(level(Some("debug")), "debug");
        assert_eq!(level(Some("a=b=c")), "info");
        assert!(filter(Some("a=b=c".into())).1.is_some());
    }
}
