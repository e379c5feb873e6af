//! No more ephemeral branches than there may be, and those who wait for one.

use std::time::Duration;

use anyhow::{Context, ensure};
use proto::broker::v1::{Access, AcquireLeaseRequest};
use suite::{Secured, eventually};
use tokio::task::JoinHandle;
use tonic::Code;
use tonic_types::StatusExt as _;

use super::{Bench, Given, TWO_OF_V1, V1, V2, ephemeral, given};

fn at_most(branches: usize) -> impl FnOnce(String) -> String {
    move |text| {
        let cap = format!("max_ttl = \"1h\"\nephemeral_branches_max = {branches}");
        text.replace("max_ttl = \"1h\"", &cap)
    }
}

impl Bench {
    /// A caller who asks from now on, and stands in line as the `number`th who ever did.
    async fn waits(
        &self,
        number: usize,
        request: tonic::Request<AcquireLeaseRequest>,
    ) -> anyhow::Result<JoinHandle<anyhow::Result<Given>>> {
        let mut leases = self.broker.leases().await?;
        let caller = tokio::spawn(async move {
            let answer = leases.acquire_lease(request).await?;
            given(answer.into_inner())
        });
        eventually("the caller waits", async || {
            let log = self.broker.process.log();
            let waiting = log
                .matches("a caller waits for an ephemeral branch")
                .count();
            ensure!(waiting == number, "{waiting}, not {number}");
            Ok(())
        })
        .await?;
        Ok(caller)
    }

    async fn ephemeral_branches(&self) -> anyhow::Result<usize> {
        let there = self.branches().await?;
        let is_ephemeral = |name: &str| name.starts_with("lease/") || name.starts_with("warm/");
        Ok(there.iter().filter(|one| is_ephemeral(&one.name)).count())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_wait_in_order_and_who_leaves_costs_nobody_a_branch() -> anyhow::Result<()> {
    let bench = Bench::start_with("", at_most(2)).await?;
    let ask = || tonic::Request::new(ephemeral(V1, Access::ReadWrite));
    let one = bench.acquire(ask().into_inner()).await?;
    let two = bench.acquire(ask().into_inner()).await?;
    let first = bench.waits(1, ask()).await?;
    let leaves = bench.waits(2, ask()).await?;
    let mut hurried = ask();
    hurried.set_timeout(Duration::from_secs(2));
    let hurried = bench.waits(3, hurried).await?;
    let last = bench.waits(4, ask()).await?;

    let error = hurried.await?.err().context("its time was up")?;
    let status = error.downcast_ref::<tonic::Status>().context("a status")?;
    let is_over = matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled);
    assert!(is_over, "{status:?}");
    leaves.abort();
    assert!(leaves.await.is_err_and(|error| error.is_cancelled()));
    assert_eq!(bench.ephemeral_branches().await?, 2);
    assert!(!first.is_finished() && !last.is_finished());

    bench.release(&one.lease).await?;
    let first = first.await??;
    assert!(!last.is_finished(), "one at a time");
    assert_eq!(bench.ephemeral_branches().await?, 2);
    bench.release(&two.lease).await?;
    let last = last.await??;
    for lease in [&first, &last] {
        bench.session(&lease.uri).await?;
        bench.release(&lease.lease).await?;
    }
    eventually("nothing is left", async || {
        let left = bench.ephemeral_branches().await?;
        ensure!(left == 0, "{left} are left");
        Ok(())
    })
    .await?;
    bench.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_at_the_cap_hands_out_what_waits_and_lets_callers_go_first() -> anyhow::Result<()> {
    let bench = Bench::start_with(TWO_OF_V1, at_most(3)).await?;
    let ask = |parent| tonic::Request::new(ephemeral(parent, Access::ReadWrite));
    let ready = bench.ready(2).await?;
    let cold = bench.acquire(ask(V2).into_inner()).await?;
    // All three are there: who wants what waits is given it, others wait.
    let waiting = bench.waits(1, ask(V2)).await?;
    let warm = bench.acquire(ask(V1).into_inner()).await?;
    assert!(ready.iter().any(|one| one == warm.branch()), "{warm:?}");
    assert!(!waiting.is_finished());
    bench.release(&cold.lease).await?;
    let waited = waiting.await??;
    assert!(bench.ephemeral_branches().await? <= 3);
    assert_eq!(
        bench.ready(1).await?.len(),
        1,
        "there is no room for another"
    );
    bench.release(&waited.lease).await?;
    bench.ready(2).await?;
    bench.stop().await
}

#[tokio::test]
async fn a_cap_that_the_pools_fill_is_refused() -> anyhow::Result<()> {
    let bench = Bench::start(TWO_OF_V1).await?;
    let refused = bench.apply(at_most(2)).await.err().context("refused")?;
    assert!(
        format!("{refused:#}").contains("the warm pools keep 2 by themselves"),
        "{refused:#}"
    );
    bench.stop().await
}

#[tokio::test]
async fn a_caller_has_no_more_than_granted_of_a_pool() -> anyhow::Result<()> {
    let secured = Secured::start(&format!(
        r#"{TWO_OF_V1}
[grants.ci]
caller = "token:ci"
ephemeral = [{{ bindings = ["{V1}"], access = ["read_write"], max = 1 }}]
"#
    ))
    .await?;
    let ready = async |count: usize| {
        eventually("so many were made", async || {
            let log = secured.broker.log();
            let made = log.matches("a warm branch is ready").count();
            ensure!(made == count, "{made}: {log}");
            Ok(())
        })
        .await
    };
    ready(2).await?;
    let credentials = secured.token("ci").await?;
    let mut leases = secured.clients(&credentials)?.leases;
    let one = leases
        .acquire_lease(ephemeral(V1, Access::ReadWrite))
        .await?;
    let one = given(one.into_inner())?;
    // It has its lease's name from the beginning.
    let name = one.lease.name.replace("leases/", "warm/");
    assert!(secured.broker.log().contains(&name), "{one:?}");
    let another = leases.acquire_lease(ephemeral(V1, Access::ReadWrite)).await;
    let status = another.err().context("max")?;
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    let reason = status.get_details_error_info().map(|info| info.reason);
    assert_eq!(reason.as_deref(), Some("TOO_MANY_EPHEMERAL_BRANCHES"));
    let denied = leases.acquire_lease(ephemeral(V1, Access::Ddl)).await;
    let status = denied.err().context("not granted")?;
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
    ready(3).await?;
    secured.finish().await
}
