//! Branches that go with their lease.

use anyhow::{Context, ensure};
use proto::broker::v1::acquire_lease_request::Target;
use proto::broker::v1::{
    Access, AcquireLeaseRequest, EphemeralBranch, LeaseState, RenewLeaseRequest, ephemeral_branch,
};
use serde_json::json;
use suite::{Faults, StateDatabase, eventually};
use tonic::Code;

use super::{Bench, V1, V2, ephemeral, seconds};
use crate::details::refused;
use crate::emulator_history::ledger::has_history;

#[tokio::test]
async fn a_branch_of_its_own_can_be_changed_and_goes_with_the_lease() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let before = bench.branches().await?.len();
    let given = bench.acquire(ephemeral(V2, Access::Ddl)).await?;
    let lease = &given.lease;
    assert_eq!(lease.state(), LeaseState::Active);
    assert_eq!(lease.service, "services/users");
    assert!(
        !lease.parent.is_empty() && lease.parent != lease.branch,
        "{lease:?}"
    );
    let session = bench.session(&given.uri).await?;
    // Any migration tool can run: the parent's tables are its own, and it makes more.
    session
        .batch_execute(
            "CREATE SCHEMA IF NOT EXISTS users;
             ALTER TABLE users ADD COLUMN nickname text;
             CREATE TABLE notes (id bigserial PRIMARY KEY, body text NOT NULL);
             CREATE INDEX ON users (nickname);
             CREATE TYPE mood AS ENUM ('well', 'unwell');
             CREATE VIEW named AS SELECT id, nickname FROM users;
             INSERT INTO notes (body) VALUES ('x');
             INSERT INTO __diesel_schema_migrations (version) VALUES ('20270101');
             DROP VIEW named;
             CREATE TEMPORARY TABLE scratch (id int);",
        )
        .await?;
    let rows = session.query("SELECT nickname FROM users", &[]).await?;
    assert!(rows.len() >= 2, "the parent's rows");
    // Who reads there reads what was added.
    let branch = lease.branch.trim_start_matches("branches/").parse()?;
    let reading = bench
        .acquire(super::on_branch(&branch, Access::ReadOnly))
        .await?;
    let reader = bench.session(&reading.uri).await?;
    reader.query("SELECT body FROM notes", &[]).await?;
    // Nobody else's branch has changed.
    let parent = bench
        .acquire(super::on_binding(V2, Access::ReadWrite))
        .await?;
    let other = bench.session(&parent.uri).await?;
    assert!(
        other
            .query("SELECT nickname FROM users", &[])
            .await
            .is_err()
    );

    bench.release(&reading.lease).await?;
    bench.release(lease).await?;
    bench.is_gone(&lease.branch).await?;
    assert_eq!(bench.branches().await?.len(), before);
    bench.stop().await
}

#[tokio::test]
async fn the_end_of_a_lease_is_the_end_of_its_branch() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let short = bench.acquire(ephemeral(V1, Access::ReadWrite)).await?;
    let long = bench.acquire(AcquireLeaseRequest {
        ttl: Some(seconds(3_000)),
        ..ephemeral(V1, Access::ReadWrite)
    });
    let long = long.await?;
    assert_ne!(short.lease.branch, long.lease.branch);
    let end = |lease: &proto::broker::v1::Lease| lease.branch_expire_time.map(|time| time.seconds);
    // Neon's own end of the branch is behind the lease's.
    let of = |lease: &proto::broker::v1::Lease| lease.expire_time.map(|time| time.seconds);
    assert!(end(&short.lease) > of(&short.lease), "{:?}", short.lease);
    bench.clock.set(70)?;
    bench.is_gone(&short.lease.branch).await?;
    bench.session(&long.uri).await?;

    // Renewed again and again, it outlives what Neon was told at first.
    let first = end(&long.lease).context("an end")?;
    let begun = long.lease.create_time.context("a time")?.seconds;
    let leases = bench.broker.leases().await?;
    let renew = RenewLeaseRequest {
        name: long.lease.name.clone(),
        ttl: Some(seconds(3_000)),
        ..Default::default()
    };
    for moved in [1_500, 3_000, 3_500, 4_500, 6_000] {
        bench.clock.set(moved)?;
        let renewed = eventually("it is granted for a while, and Neon is told", async || {
            let mut leases = leases.clone();
            let renewed = leases.renew_lease(renew.clone()).await?.into_inner().lease;
            let renewed = renewed.context("a lease")?;
            let until = of(&renewed).context("a time")?;
            ensure!(until - begun - moved >= 900, "{renewed:?}");
            // What is moved on behind the answer is there in the end.
            let lease = bench.get(&long.lease.name).await?;
            let (end, until) = (
                end(&lease).context("an end")?,
                of(&lease).context("a time")?,
            );
            ensure!(end - until >= 900, "{lease:?}");
            Ok(renewed)
        })
        .await?;
        assert!(of(&renewed) < end(&renewed), "{renewed:?}");
    }
    let last = bench.get(&long.lease.name).await?;
    assert!(end(&last).context("an end")? > first);
    bench.session(&long.uri).await?;
    bench.stop().await
}

#[tokio::test]
async fn a_dead_broker_leaks_no_branch() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let given = bench.acquire(ephemeral(V1, Access::ReadOnly)).await?;
    let Bench {
        folder,
        clock,
        emulator,
        broker,
        config,
    } = bench;
    broker.process.kill().await?;
    // Neon does it, a while later than the lease.
    clock.set(60 + 3_600)?;
    let (client, project) = (emulator.client(), emulator.project());
    eventually("Neon has deleted it", async || {
        let there = client.list_all_branches(project, None).await?.branches;
        let is_it = |id: &str| given.lease.branch.ends_with(id);
        ensure!(
            !there.iter().any(|one| is_it(one.id.as_str())),
            "it is there"
        );
        Ok(())
    })
    .await?;
    // And the next broker does not mind.
    let broker = super::broker(&folder, &emulator, &config, &clock).await?;
    broker.is_ready().await?;
    let mut leases = broker.leases().await?;
    leases
        .acquire_lease(ephemeral(V1, Access::ReadOnly))
        .await?;
    broker.process.stop().await?;
    emulator.stop().await
}

#[tokio::test]
async fn a_repeated_request_has_one_branch_and_a_past_point_its_data() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let before = bench.branches().await?.len();
    let request = AcquireLeaseRequest {
        request_id: "0b5a1e0c-7a0e-4b0e-9d55-0d6d3a1f8a22".to_owned(),
        ..ephemeral(V1, Access::ReadWrite)
    };
    let first = bench.acquire(request.clone()).await?;
    let again = bench.acquire(request).await?;
    assert_eq!((&again.lease, &again.uri), (&first.lease, &first.uri));
    assert_eq!(bench.branches().await?.len(), before + 1);

    // The parent as it was before its rows were changed.
    let parent = first.lease.parent.trim_start_matches("branches/").parse()?;
    has_history(bench.emulator.data(), &parent).await?;
    let writer = bench
        .acquire(super::on_binding(V1, Access::ReadWrite))
        .await?;
    let writer = bench.session(&writer.uri).await?;
    // Its log is not a lease's to look at.
    let owner = bench.emulator.connect(&parent).await?;
    let row = owner
        .query_one("SELECT pg_current_wal_lsn()::text", &[])
        .await?;
    let lsn: String = row.get(0);
    writer
        .batch_execute("UPDATE users SET name = 'later'")
        .await?;
    let past = AcquireLeaseRequest {
        target: Some(Target::Ephemeral(EphemeralBranch {
            parent: V1.to_owned(),
            point: Some(ephemeral_branch::Point::Lsn(lsn)),
            ..Default::default()
        })),
        ..ephemeral(V1, Access::ReadOnly)
    };
    let past = bench.acquire(past).await?;
    let session = bench.session(&past.uri).await?;
    let rows = session
        .query("SELECT name FROM users ORDER BY id", &[])
        .await?;
    assert_eq!(rows[0].get::<_, String>(0), "Alice");

    // One of an expiring branch cannot be.
    let child = ephemeral(&past.lease.branch, Access::ReadOnly);
    refused(
        bench.broker.leases().await?.acquire_lease(child).await,
        Code::FailedPrecondition,
        Some("ephemeral.parent"),
    );
    let future = AcquireLeaseRequest {
        target: Some(Target::Ephemeral(EphemeralBranch {
            parent: V1.to_owned(),
            point: Some(ephemeral_branch::Point::Lsn("FF/0".to_owned())),
            ..Default::default()
        })),
        ..ephemeral(V1, Access::ReadOnly)
    };
    refused(
        bench.broker.leases().await?.acquire_lease(future).await,
        Code::OutOfRange,
        Some("ephemeral.lsn"),
    );
    bench.stop().await
}

/// What has no row and no annotation of the broker's is left alone, whatever it is
/// called.
#[tokio::test]
async fn a_branch_that_only_looks_like_a_leases_is_never_deleted() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let given = bench.acquire(ephemeral(V1, Access::ReadOnly)).await?;
    let (client, project) = (bench.emulator.client(), bench.emulator.project());
    let request =
        neon_api::types::BranchCreateRequest::named("lease/11111111-2222-3333-4444-555555555555");
    let made = client.create_branch(project, &request).await?;
    bench.emulator.finished(&made.operations).await?;
    // The lease's own, under another name, goes all the same; the other stays.
    let own = given.lease.branch.trim_start_matches("branches/").parse()?;
    let rename = neon_api::types::BranchUpdateRequest::default().rename("kept?");
    let renamed = client.update_branch(project, &own, &rename).await?;
    bench.emulator.finished(&renamed.operations).await?;
    bench.release(&given.lease).await?;
    bench.is_gone(&given.lease.branch).await?;
    let left = bench.branches().await?;
    assert!(left.iter().any(|branch| branch.id == made.branch.id));
    bench.stop().await
}

/// Written down, and never made: a branch that somebody else gives that name is theirs.
#[tokio::test]
async fn a_branch_that_has_a_leases_name_is_not_deleted_for_it() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let faults = Faults::of(&bench.emulator);
    let never = json!({"fault": "unavailable", "count": 1_000});
    faults
        .on_route("POST", "/projects/{project_id}/branches", never)
        .await?;
    let refused = bench.acquire(ephemeral(V1, Access::ReadOnly)).await.err();
    refused.context("no branch, no lease")?;
    faults.forget().await?;
    let session = StateDatabase::of(&bench.emulator).await?;
    let session = session.session(&bench.emulator).await?;
    let written = "SELECT name FROM broker.branches WHERE lease IS NOT NULL";
    let name: String = session.query_one(written, &[]).await?.get(0);
    let (client, project) = (bench.emulator.client(), bench.emulator.project());
    let request = neon_api::types::BranchCreateRequest::named(&name);
    let made = client.create_branch(project, &request).await?;
    bench.emulator.finished(&made.operations).await?;
    bench.clock.set(600)?;
    eventually("the broker says that it is not its own", async || {
        let log = bench.broker.process.log();
        ensure!(log.contains("a lease's branch is still there"), "{log}");
        Ok(())
    })
    .await?;
    let left = bench.branches().await?;
    assert!(left.iter().any(|branch| branch.id == made.branch.id));
    bench.stop().await
}
