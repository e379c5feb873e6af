//! More branches that do not answer than are worked on at once.

use anyhow::ensure;
use futures_util::future::try_join_all;
use neon_api::BranchId;
use proto::broker::v1::revoke_leases_request::Which;
use proto::broker::v1::{Access, AcquireLeaseRequest};
use suite::{count, eventually};

use super::{Bench, V2, on_binding, on_branch};

/// More than the broker closes roles on at once, which is 16.
const DEAD: usize = 18;
const DEAD_FULL: usize = 40;

/// Revocations that fail go on and on, and an end elsewhere is not kept waiting for
/// them; when a branch is there again, its own comes to its end.
#[tokio::test]
async fn dead_branches_hold_up_no_other() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let live = bench.acquire(on_binding(V2, Access::ReadWrite)).await?;
    let parent = bench.branch_named("api_v1_branch").await?;
    // A fork of one that sleeps is the quickest.
    bench.emulator.suspend(&parent).await?;
    let mut dead = Vec::new();
    for number in 0..count(DEAD, DEAD_FULL) {
        let name = format!("dead-{number}");
        let made = bench.emulator.branch(&name, Some(&parent)).await?;
        let branch = made.branch.id;
        let request = AcquireLeaseRequest {
            service: "services/users".to_owned(),
            ..on_branch(&branch, Access::ReadWrite)
        };
        bench.acquire(request).await?;
        bench.emulator.disable(&branch, true).await?;
        dead.push(branch);
    }
    let revoking = dead.iter().map(|branch| bench.revoke(on(branch)));
    try_join_all(revoking).await?;
    let stuck = async || anyhow::Ok(bench.list("state = REVOKING").await?.len());
    ensure!(stuck().await? == dead.len());

    // This one's time is up. That the others' is as well does not end them.
    let v2 = bench.branch_named("api_v2_branch").await?;
    let owner = bench.emulator.connect(&v2).await?;
    bench.clock.set(700)?;
    eventually("the live branch's role is dropped", async || {
        let there = owner
            .query("SELECT 1 FROM pg_roles WHERE rolname = $1", &[&live.role])
            .await?;
        ensure!(there.is_empty(), "it is there");
        Ok(())
    })
    .await?;
    ensure!(stuck().await? == dead.len());

    bench.emulator.disable(&dead[0], false).await?;
    eventually("the one that is back is closed", async || {
        let left = stuck().await?;
        ensure!(left == dead.len() - 1, "{left} of {}", dead.len());
        Ok(())
    })
    .await?;
    bench.stop().await
}

fn on(branch: &BranchId) -> Which {
    Which::Branch(format!("branches/{branch}"))
}
