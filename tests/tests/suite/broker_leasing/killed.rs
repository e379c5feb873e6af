//! A broker that is killed while it gives leases with branches of their own.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use proto::broker::v1::lease_service_client::LeaseServiceClient;
use proto::broker::v1::{Access, AcquireLeaseRequest, ReleaseLeaseRequest, RenewLeaseRequest};
use suite::{count, eventually};
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinSet;

use super::{Bench, V1, ephemeral, on_binding};

/// Longer than all lives together take.
const TTL_SECONDS: i64 = 1_800;

/// A lease that a caller was told of, and whether it lives: none while its release is
/// not answered.
type Told = (String, Option<bool>);

/// Acquires, renews and releases until the broker is gone.
async fn busy(address: String, is_ephemeral: bool, told: UnboundedSender<Told>) {
    let work = async {
        let mut leases = LeaseServiceClient::new(suite::channel(&address).await?);
        for round in 0_u32.. {
            let request = match is_ephemeral {
                true => AcquireLeaseRequest {
                    ttl: Some(super::seconds(TTL_SECONDS)),
                    ..ephemeral(V1, Access::ReadWrite)
                },
                false => AcquireLeaseRequest {
                    ttl: Some(super::seconds(TTL_SECONDS)),
                    ..on_binding(V1, Access::ReadWrite)
                },
            };
            let lease = leases.acquire_lease(request).await?.into_inner().lease;
            let name = lease.context("a lease")?.name;
            told.send((name.clone(), Some(true)))?;
            let renew = RenewLeaseRequest {
                name: name.clone(),
                ttl: Some(super::seconds(TTL_SECONDS)),
                ..Default::default()
            };
            leases.renew_lease(renew).await?;
            if round % 3 != 0 {
                told.send((name.clone(), None))?;
                let release = ReleaseLeaseRequest {
                    name: name.clone(),
                    ..Default::default()
                };
                leases.release_lease(release).await?;
                told.send((name, Some(false)))?;
            }
        }
        Ok::<(), anyhow::Error>(())
    };
    // It ends when the broker does.
    let _ = work.await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_loses_no_lease_and_leaks_no_branch() -> anyhow::Result<()> {
    let mut bench = Bench::start().await?;
    let before = bench.branches().await?.len();
    let mut all = BTreeMap::new();
    let (mut rounds, mut life) = (0, 0_u32);
    while rounds < count(12, 200) {
        life += 1;
        let (told, mut hear) = tokio::sync::mpsc::unbounded_channel();
        let mut callers = JoinSet::new();
        for is_ephemeral in [true, false] {
            let address = bench.broker.address().to_owned();
            callers.spawn(busy(address, is_ephemeral, told.clone()));
        }
        drop(told);
        // Each time at another moment of what goes on.
        let mut note = |(name, lives): Told| {
            rounds += usize::from(lives == Some(true));
            match lives {
                Some(lives) => all.insert(name, lives),
                None => all.remove(&name),
            };
        };
        for _ in 0..(7 + life * 5 % 23) {
            note(hear.recv().await.context("the callers go on")?);
        }
        bench.broker = bench.broker.kill_and_start().await?;
        while let Some(told) = hear.recv().await {
            note(told);
        }
        while callers.join_next().await.is_some() {}
        bench.broker.is_ready().await?;
        for (name, lives) in &all {
            let there = match bench.get(name).await {
                Ok(_) => true,
                Err(status) if status.code() == tonic::Code::NotFound => false,
                Err(status) => anyhow::bail!("{name}: {status:?}"),
            };
            ensure!(there == *lives, "{name} after life {life}: lives: {lives}");
        }
    }
    // A minute after the last lease's end nothing of them is left.
    bench.clock.set(TTL_SECONDS + 61)?;
    eventually("no lease and no branch is left", async || {
        let left = bench.list("").await?;
        ensure!(left.is_empty(), "{left:?}");
        let branches = bench.branches().await?;
        ensure!(branches.len() == before, "{branches:?}");
        Ok(())
    })
    .await?;
    bench.stop().await
}
