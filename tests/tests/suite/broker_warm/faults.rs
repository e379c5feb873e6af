//! Neon's bad days, while pools are filled and handed out.

use proto::broker::v1::Access;
use serde_json::json;
use suite::{Faults, request_faults};

use super::{Bench, TWO_OF_V1, V1, ephemeral};

const BRANCHES: &str = "/projects/{project_id}/branches";
const BRANCH: &str = "/projects/{project_id}/branches/{branch_id}";

/// One branch more is handed out and made again for each.
async fn goes_on(bench: &Bench, all: usize) -> anyhow::Result<()> {
    let lease = bench.acquire(ephemeral(V1, Access::ReadWrite)).await?;
    bench.session(&lease.uri).await?;
    bench.release(&lease.lease).await?;
    bench.has_branches(all).await?;
    bench.ready(2).await?;
    Ok(())
}

#[tokio::test]
async fn a_pool_has_its_size_whatever_becomes_of_a_request() -> anyhow::Result<()> {
    let bench = Bench::start(TWO_OF_V1).await?;
    bench.ready(2).await?;
    let all = bench.branches().await?.len();
    let faults = Faults::of(&bench.emulator);
    for (method, route) in [("POST", BRANCHES), ("PATCH", BRANCH), ("DELETE", BRANCH)] {
        for fault in request_faults() {
            faults.on_route(method, route, fault).await?;
            goes_on(&bench, all).await?;
            // What nothing asked for is not the next one's.
            faults.forget().await?;
        }
    }
    bench.stop().await
}

#[tokio::test]
async fn a_branch_that_fails_half_made_goes_and_another_is_made() -> anyhow::Result<()> {
    let bench = Bench::start(TWO_OF_V1).await?;
    bench.ready(2).await?;
    let all = bench.branches().await?.len();
    let faults = Faults::of(&bench.emulator);
    let fails = json!({"fault": "operation_fails", "error": "no room"});
    for action in ["create_branch", "start_compute"] {
        let failed = faults.on_operation(action, fails.clone()).await?;
        let lease = bench.acquire(ephemeral(V1, Access::ReadWrite)).await?;
        faults.happened(failed).await?;
        bench.release(&lease.lease).await?;
        bench.has_branches(all).await?;
        bench.ready(2).await?;
    }
    bench.stop().await
}
