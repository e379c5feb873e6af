//! Leases: acquired by holders that have no role yet and by one that has, and
//! renewed by many.

use std::time::Instant;

use super::client::BINDING;
use super::{Place, Sizes};
use crate::pace::paced;
use crate::table::{Row, Table, milliseconds, percentile};

const NEW_ROLE_MS_MAX: f64 = 15.0;
const SAME_ROLE_MS_MAX: f64 = 2.0;
const RENEW_MS_MAX: f64 = 5.0;
const RENEWALS_A_SECOND: f64 = 1_000.0;
/// Another branch than that on which roles are made before.
const RENEWED_BINDING: &str = "services/users/versions/v2";
/// Services that hold leases, each with so many replicas: 200 leases.
const HOLDERS: usize = 20;
const REPLICAS: usize = 10;

/// One caller, one lease after another. Callers without an identity are told
/// apart by the holder that they name.
pub(super) async fn acquire(place: &Place, sizes: &Sizes, rows: &mut Table) -> anyhow::Result<()> {
    let mut client = place.client(0);
    // The branch is awake, and somebody was there before.
    client.acquire(BINDING, "bench-first").await?;
    let mut new = Vec::new();
    for number in 0..sizes.leases {
        let holder = format!("bench-{number}");
        let begun = Instant::now();
        client.acquire(BINDING, &holder).await?;
        new.push(milliseconds(begun));
    }
    let what = "AcquireLease, the holder's role made at that moment";
    rows.push(Row::new(what, new).below(NEW_ROLE_MS_MAX));
    let mut same = Vec::new();
    for _ in 0..sizes.leases {
        let begun = Instant::now();
        client.acquire(BINDING, "bench-0").await?;
        same.push(milliseconds(begun));
    }
    let what = "AcquireLease, the holder's role there";
    rows.push(Row::new(what, same).below(SAME_ROLE_MS_MAX));
    Ok(())
}

/// All leases in turn, at an even pace.
pub(super) async fn renew(place: &Place, sizes: &Sizes, rows: &mut Table) -> anyhow::Result<()> {
    let mut leases = Vec::new();
    for number in 0..HOLDERS * REPLICAS {
        let holder = format!("bench-renewing-{}", number % HOLDERS);
        let mut client = place.client(number);
        leases.push(client.acquire(RENEWED_BINDING, &holder).await?);
    }
    let (mut tails, mut middles, mut shares) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..sizes.rounds {
        let before = place.commits().await?;
        let (clients, leases) = (place.clients.clone(), leases.clone());
        let latencies = paced(RENEWALS_A_SECOND, sizes.time(), move |number| {
            let mut client = clients[number % clients.len()].clone();
            let lease = leases[number % leases.len()].clone();
            async move { client.renew(lease).await }
        });
        let latencies = latencies.await?;
        let commits = place.commits().await? - before;
        tails.push(percentile(&latencies, 99));
        middles.push(percentile(&latencies, 50));
        shares.push(latencies.len() as f64 / commits as f64);
    }
    let what = "p99 of RenewLease at 1,000 a second, 200 leases, each round";
    rows.push(Row::new(what, tails).below(RENEW_MS_MAX));
    let what = "beside it: the median of RenewLease, each round";
    rows.push(Row::new(what, middles));
    let what = "beside it: renewals that share a commit of the state database";
    rows.push(Row::new(what, shares).unit("a commit"));
    Ok(())
}
