//! What the broker tells of itself to Prometheus.
//!
//! What happens is counted when it happens. What is, leases and generations, is looked
//! up in the state at each scrape, so that it cannot be wrong. Labels have few values,
//! names that broker.toml declares among them: never a lease, a holder or a branch.

use std::collections::BTreeMap;
use std::time::Duration;

use rpc::metrics::{Family, Histogram, Labels, Scrape, code_name};
use tonic::Code;

use crate::bindings::{Binding, Status};
use crate::leases::{Lease, Target};
use crate::leasing::WarmNumbers;
use crate::server::Broker;
use crate::state::Data;

/// What is counted. Clones count together.
#[derive(Debug, Clone)]
pub struct Metrics {
    acquire_seconds: Family<Labels<2>, Histogram>,
}

/// What leases are on, as a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum On {
    /// A binding.
    Binding,
    /// A branch.
    Branch,
    /// A branch of its own.
    Ephemeral,
}

impl Metrics {
    /// Nothing yet, counted there.
    pub fn new(metrics: &rpc::metrics::Metrics) -> Metrics {
        let new = Metrics {
            acquire_seconds: Family::new_with_constructor(rpc::metrics::seconds),
        };
        let help = "How long AcquireLease took, by what it was for and the code that it ended with";
        metrics.register("broker_acquire_seconds", help, new.acquire_seconds.clone());
        new
    }

    /// A lease was asked for.
    pub fn acquired(&self, on: On, code: Code, took: Duration) {
        let labels = [("target", on.as_str()), ("outcome", code_name(code))];
        let seconds = self.acquire_seconds.get_or_create(&labels);
        seconds.observe(took.as_secs_f64());
    }
}

impl On {
    const ALL: [On; 3] = [On::Binding, On::Branch, On::Ephemeral];

    fn as_str(self) -> &'static str {
        match self {
            On::Binding => "binding",
            On::Branch => "branch",
            On::Ephemeral => "ephemeral",
        }
    }

    fn of(lease: &Lease) -> On {
        match lease.request.target {
            Target::Binding(_) => On::Binding,
            Target::Branch(_) => On::Branch,
            Target::Ephemeral { .. } => On::Ephemeral,
        }
    }
}

/// Tells at each scrape what is.
pub fn tell(broker: &Broker, metrics: &rpc::metrics::Metrics) {
    let broker = broker.clone();
    metrics.at_scrape(move |scrape| {
        let number = i64::from;
        let build = [([("version", env!("CARGO_PKG_VERSION"))], 1_i64)];
        scrape.gauge("broker_build_info", "This broker", build);
        let help = "Whether callers are answered: what is stored was read, and the clock is right";
        let open = number(broker.state.check().is_ok());
        scrape.gauge("broker_state_open", help, [([], open)]);
        let help = "Whether this broker works in the background";
        let leads = number(broker.state.leader().borrow().is_some());
        scrape.gauge("broker_state_leader", help, [([], leads)]);
        let watchers = broker.watches.count();
        scrape.gauge("broker_watchers", "Watches that are open", [([], watchers)]);
        broker.state.read(|data| of_state(data, scrape));
        of_pools(&broker.leasing.warm_numbers(), scrape);
        of_bindings(&broker.bindings.list(), scrape);
    });
}

fn of_state(data: &Data, scrape: &mut Scrape<'_>) {
    let mut leases = BTreeMap::new();
    for state in ["active", "revoking"] {
        leases.extend(On::ALL.map(|on| ((state, on), 0_u64)));
    }
    for lease in data.leases.values() {
        let state = match lease.revoked {
            None => "active",
            Some(_) => "revoking",
        };
        *leases.entry((state, On::of(lease))).or_default() += 1;
    }
    let leases = leases.into_iter().map(|((state, on), count)| {
        let labels = [("state", state), ("target", on.as_str())];
        (labels, count)
    });
    let help = "Leases that have not ended, of all brokers on the state database";
    scrape.gauge("broker_leases", help, leases);

    let closing = data.roles.values().filter(|role| role.failures > 0).count();
    let help = "Login roles that could not be closed yet";
    scrape.gauge("broker_roles_stuck", help, [([], closing)]);
    let help = "Operations that go on, of all brokers on the state database";
    scrape.gauge(
        "broker_operations_running",
        help,
        [([], data.running.len())],
    );
}

fn of_pools(numbers: &WarmNumbers, scrape: &mut Scrape<'_>) {
    let pools = numbers.pools.iter();
    let counts = pools.flat_map(|one| {
        let pool = one.pool.as_str();
        [
            ([("pool", pool), ("state", "ready")], one.count.ready),
            ([("pool", pool), ("state", "making")], one.count.making),
            ([("pool", pool), ("state", "declared")], one.size),
        ]
    });
    let help = "Branches of each warm pool, and how many are declared";
    scrape.gauge("broker_warm_branches", help, counts);
    let help = "Callers here that wait for a place among the ephemeral branches";
    scrape.gauge("broker_ephemeral_waiting", help, [([], numbers.waiting)]);
}

fn of_bindings(bindings: &[std::sync::Arc<Binding>], scrape: &mut Scrape<'_>) {
    let named = bindings.iter().map(|binding| {
        let name = binding.spec.name.to_string();
        (name, binding)
    });
    let named: Vec<_> = named.collect();
    let generations = named.iter().map(|(name, binding)| {
        let generation = binding
            .target
            .as_ref()
            .map_or(0, |target| target.generation);
        ([("binding", name.as_str())], generation)
    });
    let help = "The generation of each binding; 0 while it leads nowhere";
    scrape.gauge("broker_binding_generation", help, generations);
    let ready = named.iter().map(|(name, binding)| {
        let is_ready = i64::from(binding.status == Status::Ready);
        ([("binding", name.as_str())], is_ready)
    });
    let help = "Whether leases are given on each binding";
    scrape.gauge("broker_binding_ready", help, ready);
}

/// What keeps the broker from being ready, in words that name no secret and no error.
pub fn not_ready(broker: &Broker) -> Vec<String> {
    if let Err(error) = broker.state.check() {
        return vec![error.to_string()];
    }
    let waiting = broker.bindings.list().into_iter().filter_map(|binding| {
        let how = match binding.status {
            Status::Ready | Status::Retired => return None,
            Status::Preparing(_) => "is being prepared",
            Status::Failed(_) => "could not be made ready",
        };
        Some(format!("{} {how}", binding.spec.name))
    });
    waiting.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_lease_has_its_line_before_there_is_one() {
        let metrics = rpc::metrics::Metrics::default();
        metrics.at_scrape(|scrape| of_state(&Data::default(), scrape));
        let text = metrics.text();
        for state in ["active", "revoking"] {
            for on in ["binding", "branch", "ephemeral"] {
                let line = format!("broker_leases{{state=\"{state}\",target=\"{on}\"}} 0");
                assert!(text.lines().any(|found| found == line), "{line}: {text}");
            }
        }
    }
}
