//! Roles that are closed before they are made: who makes them was slow.

use anyhow::{Context, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proto::broker::v1::revoke_leases_request::Which;
use proto::broker::v1::{Access, RevokeLeasesRequest};
use suite::{Broker, StateDatabase, eventually};

use super::{Bench, V1, V2, given, on_binding};

/// One broker has written a role down and waits for the branch to wake. Another takes
/// it, with all that its holder has, and finds nothing to close. What the first makes
/// then goes again, and the lease has another.
#[tokio::test]
async fn a_role_that_was_closed_before_it_was_made_does_not_stay() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let log = bench.folder.join("other.log");
    let (folder, config) = (&bench.folder, bench.config.path());
    let other = Broker::start_logging(folder, &bench.emulator, &config, &log).await?;
    other.is_ready().await?;
    let database = StateDatabase::of(&bench.emulator).await?;
    let state = database.session(&bench.emulator).await?;
    let held = bench.acquire(on_binding(V2, Access::ReadWrite)).await?;
    let v1 = bench.branch_named("api_v1_branch").await?;
    bench.emulator.suspend(&v1).await?;

    let mut leases = bench.broker.leases().await?;
    let acquiring = tokio::spawn(async move {
        let request = on_binding(V1, Access::ReadWrite);
        leases.acquire_lease(request).await
    });
    let role = eventually("the role is written down", async || {
        let ask = "SELECT role FROM broker.roles WHERE branch = $1";
        let found = state.query_opt(ask, &[&v1.as_str()]).await?;
        let role: String = found.context("not yet")?.get(0);
        Ok(role)
    })
    .await?;
    let slow = Pid::from_raw(bench.broker.process.pid()?);
    kill(slow, Signal::SIGSTOP)?;
    let revoke = RevokeLeasesRequest {
        which: Some(Which::Lease(held.lease.name)),
        reason: "a test".to_owned(),
        ..Default::default()
    };
    let revoked = other.leases().await?.revoke_leases(revoke).await;
    let ask = "SELECT status FROM broker.roles WHERE role = $1";
    let status: String = state.query_one(ask, &[&role]).await?.get(0);
    kill(slow, Signal::SIGCONT)?;
    ensure!(revoked?.into_inner().leases.len() == 1);
    assert_eq!(status, "closed");

    let given = given(acquiring.await??.into_inner())?;
    assert_ne!(given.role, role);
    bench.session(&given.uri).await?;
    let owner = bench.emulator.connect(&v1).await?;
    let there = owner
        .query("SELECT 1 FROM pg_roles WHERE rolname = $1", &[&role])
        .await?;
    assert!(there.is_empty(), "{role} is there");
    other.process.stop().await?;
    bench.stop().await
}
