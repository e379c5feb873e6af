//! Branches that wait for nobody any more.

use anyhow::{Context, ensure};
use proto::broker::v1::{Access, AcquireLeaseRequest, GetBindingRequest, ResetBranchRequest};
use suite::eventually;

use super::{Bench, TWO_OF_V1, V1, V2, ephemeral};

impl Bench {
    /// Waits until others wait in their place, and they are gone.
    async fn replaced(&self, before: &[String]) -> anyhow::Result<Vec<String>> {
        eventually("others wait", async || {
            let ready = self.ready(before.len()).await?;
            let is_old = |branch: &String| before.contains(branch);
            ensure!(!ready.iter().any(is_old), "{ready:?} {before:?}");
            Ok(ready)
        })
        .await
    }
}

#[tokio::test]
async fn a_branch_gets_no_older_than_declared() -> anyhow::Result<()> {
    let bench = Bench::start(&format!("{TWO_OF_V1}max_age = \"20m\"\n")).await?;
    let young = bench.ready(2).await?;
    let leased = bench.acquire(AcquireLeaseRequest {
        ttl: Some(prost_types::Duration {
            seconds: 3_000,
            nanos: 0,
        }),
        ..ephemeral(V1, Access::ReadWrite)
    });
    let leased = leased.await?;
    let before = bench.ready(2).await?;
    assert!(before.iter().any(|branch| young.contains(branch)));
    bench.clock.set(21 * 60)?;
    bench.replaced(&before).await?;
    // One that a lease has stays for as long as that.
    bench.session(&leased.uri).await?;
    bench.stop().await
}

#[tokio::test]
async fn a_parent_that_was_migrated_has_new_branches() -> anyhow::Result<()> {
    let bench = Bench::start(TWO_OF_V1).await?;
    let before = bench.ready(2).await?;
    // To the newest.
    let revision = "revision = \"2026-01-20-090000_lists_and_request_ids\"";
    bench.apply(|text| text.replace(revision, "")).await?;
    let ready = bench.replaced(&before).await?;
    let lease = bench.acquire(ephemeral(V1, Access::ReadWrite)).await?;
    assert!(ready.iter().any(|one| one == lease.branch()), "{lease:?}");
    let session = bench.session(&lease.uri).await?;
    session.query("SELECT age, city FROM users", &[]).await?;
    bench.stop().await
}

#[tokio::test]
async fn a_parent_that_was_reset_has_new_branches() -> anyhow::Result<()> {
    let bench = Bench::start(&TWO_OF_V1.replace("/v1", "/v2")).await?;
    let before = bench.ready(2).await?;
    let binding = GetBindingRequest {
        name: V2.to_owned(),
    };
    let mut bindings = bench.broker.bindings().await?;
    let binding = bindings.get_binding(binding).await?.into_inner().binding;
    let reset = ResetBranchRequest {
        name: binding.context("a binding")?.branch,
        // They are its children.
        preserve_under_name: "kept".to_owned(),
        ..Default::default()
    };
    bench.broker.branches().await?.reset_branch(reset).await?;
    let ready = bench.replaced(&before).await?;
    let lease = bench.acquire(ephemeral(V2, Access::ReadWrite)).await?;
    assert!(ready.iter().any(|one| one == lease.branch()), "{lease:?}");
    bench.stop().await
}

#[tokio::test]
async fn a_pool_that_is_declared_no_more_leaves_nothing() -> anyhow::Result<()> {
    let bench = Bench::start(TWO_OF_V1).await?;
    bench.ready(2).await?;
    let lease = bench.acquire(ephemeral(V1, Access::ReadWrite)).await?;
    bench.ready(2).await?;
    let there = bench.branches().await?.len();
    bench
        .apply(|text| text.replace("size = 2", "size = 1"))
        .await?;
    bench.ready(1).await?;
    bench.has_branches(there - 1).await?;
    bench
        .apply(|text| text.replace("size = 1", "size = 2"))
        .await?;
    bench.ready(2).await?;
    bench.apply(|text| text.replace(TWO_OF_V1, "")).await?;
    bench.ready(0).await?;
    bench.has_branches(there - 2).await?;
    bench.session(&lease.uri).await?;
    bench.release(&lease.lease).await?;
    bench.has_branches(there - 3).await?;
    bench.stop().await
}

/// Somebody else deletes one: it is not handed out for long.
#[tokio::test]
async fn one_that_is_there_no_more_waits_no_more() -> anyhow::Result<()> {
    let bench = Bench::start(TWO_OF_V1).await?;
    let before = bench.ready(2).await?;
    let (client, project) = (bench.emulator.client(), bench.emulator.project());
    for branch in &before {
        let deleted = client.delete_branch(project, &branch.parse()?).await?;
        let deleted = deleted.context("it was there")?;
        bench.emulator.finished(&deleted.operations).await?;
    }
    // A broker that begins to work in the background looks at once.
    let Bench {
        folder,
        clock,
        config,
        emulator,
        broker,
    } = bench;
    let broker = broker.kill_and_start().await?;
    let bench = Bench {
        folder,
        clock,
        config,
        emulator,
        broker,
    };
    bench.broker.is_ready().await?;
    bench.replaced(&before).await?;
    bench.stop().await
}
