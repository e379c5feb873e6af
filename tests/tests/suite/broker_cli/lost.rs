//! `broker run` whose broker goes, or takes the lease away.

use proto::broker::v1::RevokeLeasesRequest;
use proto::broker::v1::revoke_leases_request::Which;

use super::{Bench, V1};

const EPHEMERAL: [&str; 3] = ["--ephemeral", "--parent", V1];

#[tokio::test]
async fn a_broker_that_dies_ends_no_command() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let flags = [&EPHEMERAL[..], &["--ttl", "3s"]].concat();
    let mut running = bench.run(&flags, "exit 3").await?;
    let lease = bench.lease().await?;
    let Bench {
        folder,
        config,
        emulator,
        broker,
    } = bench;
    broker.process.kill().await?;
    let warned = running.warned().await?;
    assert!(warned.contains(&lease.name), "{warned}");
    assert!(warned.contains("the command goes on"), "{warned}");
    let ended = running.finish().await?;
    assert_eq!(ended.code, Some(3), "{ended:?}");
    assert!(ended.err.contains(&lease.branch), "{ended:?}");
    assert!(ended.err.contains("goes by itself"), "{ended:?}");
    // As it says.
    let broker = suite::Broker::start(&folder, &emulator, &config.path()).await?;
    broker.is_ready().await?;
    let bench = Bench {
        folder,
        config,
        emulator,
        broker,
    };
    bench.nothing_is_left().await?;
    bench.stop().await
}

#[tokio::test]
async fn a_broker_that_comes_back_is_not_missed() -> anyhow::Result<()> {
    let mut bench = Bench::start().await?;
    let running = bench.run(&EPHEMERAL, "exit 4").await?;
    bench.broker = bench.broker.kill_and_start().await?;
    bench.broker.is_ready().await?;
    let ended = running.finish().await?;
    assert_eq!((ended.code, &*ended.err), (Some(4), ""), "{ended:?}");
    bench.nothing_is_left().await?;
    bench.stop().await
}

#[tokio::test]
async fn a_lease_that_is_revoked_is_told_of() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let flags = [&EPHEMERAL[..], &["--ttl", "5s"]].concat();
    let mut running = bench.run(&flags, "true").await?;
    let request = RevokeLeasesRequest {
        which: Some(Which::Lease(bench.lease().await?.name)),
        ..Default::default()
    };
    bench.broker.leases().await?.revoke_leases(request).await?;
    let warned = running.warned().await?;
    assert!(warned.contains("was released or revoked"), "{warned}");
    let ended = running.finish().await?;
    assert_eq!((ended.code, &*ended.err), (Some(0), ""), "{ended:?}");
    bench.nothing_is_left().await?;
    bench.stop().await
}
