//! Ephemeral branches that are migrated before their lease is given.

use anyhow::Context;
use proto::broker::v1::acquire_lease_request::Target;
use proto::broker::v1::{Access, AcquireLeaseRequest, EphemeralBranch};
use tonic::Code;
use tonic_types::StatusExt as _;

use super::{Bench, V1};

fn migrated(parent: &str, access: Access, request_id: &str) -> AcquireLeaseRequest {
    AcquireLeaseRequest {
        target: Some(Target::Ephemeral(EphemeralBranch {
            parent: parent.to_owned(),
            migrate: true,
            ..Default::default()
        })),
        access: access.into(),
        holder: "suite".to_owned(),
        request_id: request_id.to_owned(),
        ..Default::default()
    }
}

#[tokio::test]
async fn the_newest_revisions_are_there_with_their_rights() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let mut leases = bench.broker.leases().await?;
    let id = uuid::Uuid::new_v4().to_string();
    // v1 stops before the revision that adds the city.
    let request = migrated(V1, Access::ReadOnly, &id);
    let first = leases.acquire_lease(request.clone()).await?.into_inner();
    let again = leases.acquire_lease(request).await?.into_inner();
    assert_eq!(again, first, "the same request, the same lease");
    let uri = first.connection.context("a connection")?.uri;
    let session = suite::connect(&uri, bench.emulator.data()).await?;
    let rows = session.query("SELECT name, city FROM users", &[]).await?;
    assert_eq!(rows.len(), 2, "its parent's rows");
    let refused = session.batch_execute("DELETE FROM users").await;
    refused.err().context("it may read alone")?;
    // A tool that migrates finds all done, and can go on.
    let request = migrated(V1, Access::Ddl, "");
    let ddl = leases.acquire_lease(request).await?.into_inner();
    let uri = ddl.connection.context("a connection")?.uri;
    let session = suite::connect(&uri, bench.emulator.data()).await?;
    session
        .batch_execute("ALTER TABLE users DROP COLUMN city, ADD COLUMN town text")
        .await?;
    let done = "SELECT count(*) FROM __diesel_schema_migrations";
    let done: i64 = session.query_one(done, &[]).await?.get(0);
    assert_eq!(done, 3);
    bench.stop().await
}

#[tokio::test]
async fn a_revision_that_fails_gives_no_lease_and_leaves_no_branch() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let name = "2027-01-01-000000_break";
    let revision = bench.config.folder().join("migrations/users").join(name);
    std::fs::create_dir(&revision)?;
    std::fs::write(revision.join("up.sql"), "ALTER TABLE no_such ADD id int;")?;
    std::fs::write(revision.join("down.sql"), "")?;
    let mut leases = bench.broker.leases().await?;
    let id = uuid::Uuid::new_v4().to_string();
    for _ in 0..2 {
        let refused = leases.acquire_lease(migrated(V1, Access::Ddl, &id)).await;
        let status = refused.err().context("no lease")?;
        assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
        let info = status.get_details_error_info().context("a reason")?;
        assert_eq!(info.reason, "MIGRATION_FAILED");
        assert!(status.message().contains(name), "{status:?}");
        assert!(status.message().contains("no_such"), "{status:?}");
    }
    let run = ["run", "--ephemeral", "--parent", V1, "--migrate"];
    let ended = bench.output(&[&run[..], &["--", "true"]].concat()).await?;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.err.contains(name), "{ended:?}");
    bench.nothing_is_left().await?;
    // Corrected, the same request gets its lease.
    std::fs::write(
        revision.join("up.sql"),
        "ALTER TABLE users ADD nickname text;",
    )?;
    let request = migrated(V1, Access::Ddl, &id);
    let given = leases.acquire_lease(request).await?.into_inner();
    given.lease.context("a lease")?;
    bench.stop().await
}
