//! What is told of each request to Neon: how it ended and how long it took, to metrics
//! and traces. By its route, never by what is in a path.

use std::future::Future;
use std::time::Instant;

use rpc::metrics::{Counter, Family, Histogram, Labels, Metrics};
use rpc::traces;
use tracing::field::Empty;
use tracing::{Instrument as _, Span};

use super::Neon;

/// How a request ends whose caller waits no longer.
const CUT_OFF: &str = "cut_off";

/// What is counted of all requests. Clones count together.
#[derive(Debug, Clone)]
pub(super) struct Counts {
    requests: Family<Labels<3>, Counter>,
    seconds: Family<Labels<2>, Histogram>,
}

impl Default for Counts {
    fn default() -> Counts {
        Counts {
            requests: Family::default(),
            seconds: Family::new_with_constructor(rpc::metrics::seconds),
        }
    }
}

/// One request that is under way.
struct Request<'a> {
    counts: &'a Counts,
    route: [(&'static str, &'static str); 2],
    begun: Instant,
    outcome: &'static str,
    span: Span,
}

impl Neon {
    /// Counts requests there, and tells what is left of the account's budget.
    pub fn tell(&self, metrics: &Metrics) {
        let Counts { requests, seconds } = &self.shared.counts;
        let help = "Requests that were sent to Neon, by how they ended";
        metrics.register("broker_neon_requests", help, requests.clone());
        let help = "How long Neon took to answer";
        metrics.register("broker_neon_request_seconds", help, seconds.clone());
        let shared = std::sync::Arc::clone(&self.shared);
        metrics.at_scrape(move |scrape| {
            let budget = &shared.budget;
            let help = "Requests that the account's budget would let through at once now";
            scrape.gauge(
                "broker_neon_budget_remaining",
                help,
                [([], budget.remaining())],
            );
            let help = "Requests that wait for the budget, callers' and the background's";
            let (callers, background) = budget.waiting();
            let waiting = [
                ([("priority", "caller")], callers),
                ([("priority", "background")], background),
            ];
            scrape.gauge("broker_neon_requests_waiting", help, waiting);
        });
    }

    /// Sends a request, once. It is told of, whatever comes of it.
    pub(super) async fn told<T>(
        &self,
        route: &'static str,
        request: impl Future<Output = Result<T, neon_api::Error>>,
    ) -> Result<T, neon_api::Error> {
        let mut told = Request::begin(&self.shared.counts, route);
        let answer = request.instrument(told.span.clone()).await;
        told.end(answer.as_ref().err());
        answer
    }
}

impl<'a> Request<'a> {
    fn begin(counts: &'a Counts, route: &'static str) -> Request<'a> {
        let (method, template) = parts(route);
        Request {
            counts,
            route: [("route", template), ("method", method)],
            begun: Instant::now(),
            outcome: CUT_OFF,
            span: tracing::info_span!(
                target: traces::TARGET,
                "request",
                otel.name = route,
                otel.kind = "client",
                otel.status_code = Empty,
                http.request.method = method,
                http.response.status_code = Empty,
                url.template = template,
                "error.type" = Empty,
            ),
        }
    }

    fn end(&mut self, error: Option<&neon_api::Error>) {
        self.outcome = outcome(error);
        if let Some(status) = error.and_then(neon_api::Error::status) {
            self.span.record("http.response.status_code", status);
        }
    }
}

impl Drop for Request<'_> {
    fn drop(&mut self) {
        let [route, method] = self.route;
        let labels = [route, method, ("outcome", self.outcome)];
        self.counts.requests.get_or_create(&labels).inc();
        let seconds = self.counts.seconds.get_or_create(&self.route);
        seconds.observe(self.begun.elapsed().as_secs_f64());
        if self.outcome != outcome(None) {
            self.span.record("error.type", self.outcome);
            self.span.record("otel.status_code", "ERROR");
        }
    }
}

/// The method and the path of a route.
fn parts(route: &'static str) -> (&'static str, &'static str) {
    route.split_once(' ').unwrap_or(("", route))
}

/// How a request ended: one of few words. Statuses that decide something have their
/// number.
fn outcome(error: Option<&neon_api::Error>) -> &'static str {
    use neon_api::{Error, Phase};
    let Some(error) = error else { return "2xx" };
    match error {
        Error::Api { status, .. } | Error::NotJson { status, .. } => status_word(*status),
        Error::Transport {
            timed_out: true, ..
        } => "timeout",
        Error::Transport {
            phase: Phase::Connect,
            ..
        } => "unreachable",
        Error::Transport {
            phase: Phase::Exchange,
            ..
        } => "lost",
        Error::Decode { .. } | Error::TooLarge { .. } | Error::TooManyPages { .. } => "unreadable",
        Error::Name { .. } | Error::Encode { .. } => "not_sent",
    }
}

fn status_word(status: u16) -> &'static str {
    match status {
        400 => "400",
        401 => "401",
        403 => "403",
        404 => "404",
        409 => "409",
        412 => "412",
        422 => "422",
        423 => "423",
        429 => "429",
        500 => "500",
        502 => "502",
        503 => "503",
        504 => "504",
        _ => match status / 100 {
            3 => "3xx",
            4 => "4xx",
            5 => "5xx",
            _ => "other",
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_told_by_its_route_and_its_end() {
        let counts = Counts::default();
        let route = "GET /projects/{project_id}";
        Request::begin(&counts, route).end(None);
        drop(Request::begin(&counts, route));
        let metrics = Metrics::default();
        metrics.register("requests", "Requests", counts.requests.clone());
        let text = metrics.text();
        for outcome in ["2xx", "cut_off"] {
            let line = format!(
                "requests_total{{route=\"/projects/{{project_id}}\",method=\"GET\",\
                 outcome=\"{outcome}\"}} 1"
            );
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
    }

    #[test]
    fn statuses_are_few_words() {
        let words: std::collections::BTreeSet<_> = (0..=u16::MAX).map(status_word).collect();
        assert_eq!(words.len(), 17, "{words:?}");
        assert_eq!((status_word(418), status_word(423)), ("4xx", "423"));
    }
}
