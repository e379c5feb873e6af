//! Each fault while a branch is made for a lease, kept for it, and deleted after it:
//! one branch, the right answer, and nothing left.

use anyhow::{Context, ensure};
use proto::broker::v1::{Access, RenewLeaseRequest};
use suite::{Faults, StateDatabase, eventually, request_faults};

use super::{Bench, V1, ephemeral, seconds};

const ALL: &str = "/projects/{project_id}/branches";
const ONE: &str = "/projects/{project_id}/branches/{branch_id}";

/// Fails unless nothing is left of any lease: no branch, no open row in the ledger.
async fn nothing_is_left(bench: &Bench, before: usize) -> anyhow::Result<()> {
    let database = StateDatabase::of(&bench.emulator).await?;
    let session = database.session(&bench.emulator).await?;
    eventually("nothing is left of the lease", async || {
        let there = bench.branches().await?;
        ensure!(there.len() == before, "{there:?}");
        let open = "SELECT name FROM broker.branches WHERE lease IS NOT NULL AND intent <> 'gone'";
        let open = session.query(open, &[]).await?;
        ensure!(open.is_empty(), "{} rows in the ledger", open.len());
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_lease_gets_one_branch() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let faults = Faults::of(&bench.emulator);
    let before = bench.branches().await?.len();
    for effect in request_faults() {
        let fault = faults.on_route("POST", ALL, effect.clone()).await?;
        let given = bench.acquire(ephemeral(V1, Access::ReadWrite)).await;
        let given = given.with_context(|| effect.to_string())?;
        faults.happened(fault).await?;
        let there = bench.branches().await?;
        ensure!(there.len() == before + 1, "{effect}: {there:?}");
        let session = bench.session(&given.uri).await?;
        session.query_one("SELECT count(*) FROM users", &[]).await?;
        bench.release(&given.lease).await?;
        nothing_is_left(&bench, before)
            .await
            .with_context(|| effect.to_string())?;
    }
    bench.stop().await
}

#[tokio::test]
async fn the_branch_of_a_lease_goes_and_no_other() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let faults = Faults::of(&bench.emulator);
    let kept = bench.acquire(ephemeral(V1, Access::ReadOnly)).await?;
    let before = bench.branches().await?.len();
    for effect in request_faults() {
        let given = bench.acquire(ephemeral(V1, Access::ReadWrite)).await?;
        let fault = faults.on_route("DELETE", ONE, effect.clone()).await?;
        bench.release(&given.lease).await?;
        faults.happened(fault).await?;
        bench
            .is_gone(&given.lease.branch)
            .await
            .with_context(|| effect.to_string())?;
        let there = bench.branches().await?;
        ensure!(there.len() == before, "{effect}: {there:?}");
    }
    bench.session(&kept.uri).await?;
    bench.release(&kept.lease).await?;
    nothing_is_left(&bench, before - 1).await?;
    bench.stop().await
}

#[tokio::test]
async fn the_branch_of_a_lease_is_kept_for_it() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let faults = Faults::of(&bench.emulator);
    let given = bench
        .acquire(proto::broker::v1::AcquireLeaseRequest {
            ttl: Some(seconds(3_000)),
            ..ephemeral(V1, Access::ReadWrite)
        })
        .await?;
    let name = given.lease.name;
    let leases = bench.broker.leases().await?;
    let mut end = given.lease.branch_expire_time.context("an end")?.seconds;
    for (round, effect) in (1..).zip(request_faults()) {
        let fault = faults.on_route("PATCH", ONE, effect.clone()).await?;
        bench.clock.set(round * 2_000)?;
        end = eventually("Neon keeps the branch for longer", async || {
            let renew = RenewLeaseRequest {
                name: name.clone(),
                ttl: Some(seconds(3_000)),
                ..Default::default()
            };
            let mut leases = leases.clone();
            let renewed = leases.renew_lease(renew).await?.into_inner().lease;
            let renewed = renewed.context("a lease")?;
            let until = renewed.expire_time.context("an end")?.seconds;
            let of_branch = renewed.branch_expire_time.context("an end")?.seconds;
            // Never more is promised than Neon has confirmed, not even for a moment.
            if until >= of_branch {
                return Ok(Err(format!("{effect}: {renewed:?}")));
            }
            ensure!(of_branch > end, "{renewed:?}");
            Ok(Ok(of_branch))
        })
        .await
        .with_context(|| effect.to_string())?
        .map_err(anyhow::Error::msg)?;
        faults.happened(fault).await?;
    }
    bench.session(&given.uri).await?;
    bench.stop().await
}
