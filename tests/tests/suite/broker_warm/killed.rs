//! Brokers that are killed while they make branches and hand them out, and that share a
//! pool.

use std::collections::BTreeSet;

use anyhow::{Context, ensure};
use proto::broker::v1::lease_service_client::LeaseServiceClient;
use proto::broker::v1::{Access, AcquireLeaseRequest, ListLeasesRequest, ReleaseLeaseRequest};
use suite::{Broker, count, eventually};
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinSet;

use super::{Bench, TWO_OF_V1, V1, ephemeral, given};

/// Longer than all lives together take, and less than a branch's age.
const TTL_SECONDS: i64 = 1_800;

/// Acquires and releases until the broker is gone, and tells of each lease that it has.
async fn busy(address: String, told: UnboundedSender<String>) {
    let work = async {
        let mut leases = LeaseServiceClient::new(suite::channel(&address).await?);
        for round in 0_u32.. {
            let request = AcquireLeaseRequest {
                ttl: Some(prost_types::Duration {
                    seconds: TTL_SECONDS,
                    nanos: 0,
                }),
                ..ephemeral(V1, Access::ReadWrite)
            };
            let given = given(leases.acquire_lease(request).await?.into_inner())?;
            match round % 4 {
                0 => told.send(given.lease.branch)?,
                _ => {
                    let release = ReleaseLeaseRequest {
                        name: given.lease.name,
                        ..Default::default()
                    };
                    leases.release_lease(release).await?;
                    told.send(String::new())?;
                }
            }
        }
        Ok::<(), anyhow::Error>(())
    };
    // It ends when the broker does.
    let _ = work.await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_leaks_no_branch_and_the_pool_is_filled_again() -> anyhow::Result<()> {
    let mut bench = Bench::start(TWO_OF_V1).await?;
    bench.ready(2).await?;
    let before = bench.branches().await?.len();
    let mut kept = BTreeSet::new();
    for life in 0..count(4, 15) {
        let (told, mut hear) = tokio::sync::mpsc::unbounded_channel();
        let mut callers = JoinSet::new();
        for _ in 0..2 {
            callers.spawn(busy(bench.broker.address().to_owned(), told.clone()));
        }
        drop(told);
        // Each time at another moment of what goes on.
        let mut note = |branch: String| {
            let is_new = branch.is_empty() || kept.insert(branch.clone());
            ensure!(is_new, "{branch} was handed out twice");
            Ok(())
        };
        for _ in 0..(1 + life * 5 % 7) {
            note(hear.recv().await.context("the callers go on")?)?;
        }
        bench.broker = bench.broker.kill_and_start().await?;
        while let Some(branch) = hear.recv().await {
            note(branch)?;
        }
        while callers.join_next().await.is_some() {}
        bench.broker.is_ready().await?;
    }
    // What leases have is there, under its own name.
    eventually("Neon has the names of what was handed out", async || {
        let there = bench.branches().await?;
        for branch in &kept {
            let mut there = there.iter();
            let found = there.find(|one| branch.ends_with(one.id.as_str()));
            let name = &found.context("a lease's branch is there")?.name;
            ensure!(name.starts_with("lease/"), "{name}");
        }
        Ok(())
    })
    .await?;
    // A minute after the last lease's end nothing but the pool is left.
    bench.clock.set(TTL_SECONDS + 61)?;
    eventually("no lease is left", async || {
        let mut leases = bench.broker.leases().await?;
        let left = leases.list_leases(ListLeasesRequest::default()).await?;
        let left = left.into_inner().leases;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
    .await?;
    bench.has_branches(before).await?;
    bench.ready(2).await?;
    bench.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_brokers_never_hand_out_the_same_branch() -> anyhow::Result<()> {
    let bench = Bench::start(&TWO_OF_V1.replace("size = 2", "size = 3")).await?;
    let ready = bench.ready(3).await?;
    let log = bench.folder.join("other.log");
    let other =
        Broker::start_logging(&bench.folder, &bench.emulator, &bench.config.path(), &log).await?;
    other.is_ready().await?;
    let mut callers = JoinSet::new();
    for number in 0..8 {
        let broker = [&bench.broker, &other][number % 2];
        let mut leases = broker.leases().await?;
        callers.spawn(async move {
            let request = AcquireLeaseRequest {
                holder: format!("suite-{number}"),
                ..ephemeral(V1, Access::ReadWrite)
            };
            given(leases.acquire_lease(request).await?.into_inner())
        });
    }
    let mut branches = BTreeSet::new();
    while let Some(answer) = callers.join_next().await {
        let lease = answer??;
        bench.session(&lease.uri).await?;
        let branch = lease.branch().to_owned();
        ensure!(branches.insert(branch), "{lease:?} was handed out twice");
    }
    assert_eq!(branches.len(), 8);
    assert!(ready.iter().all(|branch| branches.contains(branch)));
    // The pool is the same to both, and the other fills it when this one is gone.
    let Bench {
        folder,
        clock,
        config,
        emulator,
        broker,
    } = bench;
    broker.process.kill().await?;
    let bench = Bench {
        folder,
        clock,
        config,
        emulator,
        broker: other,
    };
    bench.ready(3).await?;
    bench.stop().await
}
