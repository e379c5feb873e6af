//! Calls that change nothing, against a health check on the same server.

use std::time::Duration;

use proto::broker::v1 as pb;
use tonic_health::pb::HealthCheckRequest;

use super::client::BINDING;
use super::{Place, Sizes};
use crate::pace::{CALLERS, Round, paced, push_rates};
use crate::table::{Row, Table, percentile};
use crate::wire::Call;

const RATIO_MIN: f64 = 0.7;
const P99_MS_MAX: f64 = 2.0;
/// What connections and caches take to be as they stay.
const WARM_UP_MS: u64 = 500;

pub(super) async fn measure(place: &Place, sizes: &Sizes, rows: &mut Table) -> anyhow::Result<()> {
    let health_check = Call::new(
        "/grpc.health.v1.Health/Check",
        &HealthCheckRequest::default(),
    );
    let name = BINDING.to_owned();
    let lease = place.client(0).acquire(BINDING, "bench-reads").await?;
    let reads = [
        Call::new(
            "/broker.v1.BindingService/GetBinding",
            &pb::GetBindingRequest { name },
        ),
        Call::new(
            "/broker.v1.BindingService/ListBindings",
            &pb::ListBindingsRequest::default(),
        ),
        Call::new(
            "/broker.v1.LeaseService/GetLease",
            &pb::GetLeaseRequest { name: lease },
        ),
    ];
    let warm_up = Duration::from_millis(WARM_UP_MS);
    place.round(&health_check, warm_up).await?;
    for read in &reads {
        place.round(read, warm_up).await?;
    }
    // In turns: the machine's other work is in all of them.
    let mut health = Vec::new();
    let mut rounds: Vec<Vec<Round>> = reads.iter().map(|_| Vec::new()).collect();
    for _ in 0..sizes.rounds {
        health.push(place.round(&health_check, sizes.time()).await?);
        for (read, rounds) in reads.iter().zip(&mut rounds) {
            rounds.push(place.round(read, sizes.time()).await?);
        }
    }
    push("health check", &health, rows);
    for (read, rounds) in reads.iter().zip(&rounds) {
        let name = read.name;
        push(name, rounds, rows);
        let pairs = rounds.iter().zip(&health);
        let ratios = pairs.map(|(read, health)| read.rate / health.rate);
        let what = format!("{name} against the health check, each round");
        let row = Row::new(what, ratios.collect()).unit("ratio");
        rows.push(row.at_least(RATIO_MIN));
    }

    let mut health_tails = Vec::new();
    let mut tails: Vec<Vec<f64>> = reads.iter().map(|_| Vec::new()).collect();
    for _ in 0..sizes.rounds {
        let rate = half(&health);
        health_tails.push(p99_at(place, &health_check, rate, sizes.time()).await?);
        for ((read, rounds), tails) in reads.iter().zip(&rounds).zip(&mut tails) {
            tails.push(p99_at(place, read, half(rounds), sizes.time()).await?);
        }
    }
    for (read, tails) in reads.iter().zip(tails) {
        let what = format!("p99 of {} at half its rate, each round", read.name);
        rows.push(Row::new(what, tails).below(P99_MS_MAX));
    }
    let what = "beside it: p99 of the health check at half its rate, each round";
    rows.push(Row::new(what, health_tails));
    Ok(())
}

/// Half the rate that was reached.
fn half(rounds: &[Round]) -> f64 {
    let rates: Vec<f64> = rounds.iter().map(|round| round.rate).collect();
    percentile(&rates, 50) / 2.0
}

/// Of calls at an even pace.
async fn p99_at(place: &Place, call: &Call, rate: f64, time: Duration) -> anyhow::Result<f64> {
    let (wires, call) = (place.wires.clone(), call.clone());
    let latencies = paced(rate, time, move |number| {
        let wire = wires[number % wires.len()].clone();
        let call = call.clone();
        async move { wire.call(&call).await }
    });
    Ok(percentile(&latencies.await?, 99))
}

fn push(name: &str, rounds: &[Round], rows: &mut Table) {
    let processor = |of: &str| format!("beside it: processor time of the {of} for a {name}");
    let whats = [
        format!("{name} at {CALLERS} callers"),
        processor("broker"),
        processor("client"),
    ];
    push_rates(rounds, whats, rows);
}
