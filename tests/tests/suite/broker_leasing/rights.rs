//! What a lease's role may do, and where it may not go.

use anyhow::{Context, ensure};
use proto::broker::v1::{Access, AcquireLeaseRequest, ApplyRequest, ListLeasesRequest};
use suite::{Secured, eventually};
use tokio_postgres::error::SqlState;
use tonic::Code;

use super::{Bench, V1, code, ephemeral, on_binding, on_branch};
use crate::details::refused;

/// A second service, in a database of its own.
const ORDERS: &str = r#"
[services.orders]
database = "orders"
schema = "orders"
migrations = "migrations/orders"
statement_timeout = "1s"
[services.orders.versions.v1]
branch = "api_v1_branch"
connections = 4
"#;

async fn with_orders() -> anyhow::Result<Bench> {
    let bench = Bench::start().await?;
    let branch = bench.branch_named("api_v1_branch").await?;
    let (client, project) = (bench.emulator.client(), bench.emulator.project());
    let request = neon_api::types::DatabaseCreateRequest::new("orders", "neondb_owner");
    let made = client.create_database(project, &branch, &request).await?;
    bench.emulator.finished(&made.operations).await?;
    let folder = bench
        .config
        .folder()
        .join("migrations/orders/2026-01-01-000000_create");
    std::fs::create_dir_all(&folder)?;
    std::fs::write(
        folder.join("up.sql"),
        "CREATE TABLE orders (id bigint PRIMARY KEY);",
    )?;
    std::fs::write(folder.join("down.sql"), "DROP TABLE orders;")?;
    bench
        .config
        .write(&format!("{}\n{ORDERS}", bench.config.text()?))?;
    bench
        .broker
        .config()
        .await?
        .apply(ApplyRequest::default())
        .await?;
    Ok(bench)
}

#[tokio::test]
async fn a_role_reaches_no_other_service_and_no_other_database() -> anyhow::Result<()> {
    let bench = with_orders().await?;
    let orders = bench
        .acquire(on_binding("services/orders/versions/v1", Access::ReadWrite))
        .await?;
    let users = bench.acquire(on_binding(V1, Access::ReadWrite)).await?;
    assert_ne!(orders.role, users.role);
    let session = bench.session(&orders.uri).await?;
    session
        .batch_execute("INSERT INTO orders VALUES (1)")
        .await?;
    // The timeout sits on the role, as its search_path does.
    let slow = code(&session, "SELECT pg_sleep(30)").await;
    assert_eq!(slow, Some(SqlState::QUERY_CANCELED));
    let denied = Some(SqlState::INSUFFICIENT_PRIVILEGE);
    for statement in [
        "CREATE TABLE more (id int)",
        "CREATE TABLE public.more (id int)",
        "ALTER TABLE orders ADD COLUMN more int",
        "CREATE SCHEMA more",
        "CREATE TEMPORARY TABLE more (id int)",
    ] {
        assert_eq!(code(&session, statement).await, denied, "{statement}");
    }
    // Each stays out of the other's database: CONNECT is nobody's by being somebody.
    for (uri, from, to) in [
        (&orders.uri, "/orders?", "/neondb?"),
        (&users.uri, "/neondb?", "/orders?"),
    ] {
        let crossed = uri.replace(from, to);
        let error = bench.session(&crossed).await.err().context("refused")?;
        let error: &tokio_postgres::Error = error.downcast_ref().context("by Postgres")?;
        assert_eq!(error.code(), denied.as_ref(), "{error}");
    }
    // Who has several services has to say which.
    let branch = bench.branch_named("api_v1_branch").await?;
    let mut leases = bench.broker.leases().await?;
    refused(
        leases
            .acquire_lease(on_branch(&branch, Access::ReadOnly))
            .await,
        Code::InvalidArgument,
        Some("service"),
    );
    let named = AcquireLeaseRequest {
        service: "services/orders".to_owned(),
        ..on_branch(&branch, Access::ReadOnly)
    };
    let reading = bench.acquire(named).await?;
    let session = bench.session(&reading.uri).await?;
    session.query("SELECT id FROM orders", &[]).await?;
    assert_eq!(
        code(&session, "INSERT INTO orders VALUES (2)").await,
        denied
    );
    bench.stop().await
}

#[tokio::test]
async fn a_branch_has_as_many_roles_as_it_may() -> anyhow::Result<()> {
    let bench = Bench::start_with(|config| {
        let text = config.text()?;
        config.write(&text.replace("[leases]", "[leases]\nroles_per_branch_max = 3"))
    })
    .await?;
    let as_holder = |holder: &str| AcquireLeaseRequest {
        holder: holder.to_owned(),
        ..on_binding(V1, Access::ReadOnly)
    };
    let mut given = Vec::new();
    for holder in ["a", "b", "c"] {
        given.push(bench.acquire(as_holder(holder)).await?);
    }
    let mut leases = bench.broker.leases().await?;
    let error = leases
        .acquire_lease(as_holder("d"))
        .await
        .err()
        .context("one too many")?;
    assert_eq!(error.code(), Code::ResourceExhausted, "{error:?}");
    // Another of one that is there, and another branch, have room.
    bench.acquire(as_holder("a")).await?;
    bench
        .acquire(AcquireLeaseRequest {
            holder: "d".to_owned(),
            ..on_binding(super::V2, Access::ReadOnly)
        })
        .await?;
    bench.release(&given[1].lease).await?;
    eventually("there is room again", async || {
        bench.acquire(as_holder("d")).await?;
        Ok(())
    })
    .await?;
    bench.stop().await
}

const GRANTS: &str = r#"
[grants.ci]
caller = "token:ci"
lease = [{ branches = ["feature*"], services = ["users"], access = ["read_only"] }]
ephemeral = [{ bindings = ["services/users/versions/v1"], access = ["ddl"], max = 1 }]
[grants.ops]
caller = "token:ops"
admin = true
"#;

#[tokio::test]
async fn a_caller_has_of_branches_what_it_is_granted() -> anyhow::Result<()> {
    let secured = Secured::start(GRANTS).await?;
    let ci = secured.token("ci").await?;
    let ops = secured.token("ops").await?;
    let mut leases = secured.clients(&ci)?.leases;
    let mut all = secured.clients(&ops)?.leases;
    let given = leases
        .acquire_lease(ephemeral(V1, Access::Ddl))
        .await?
        .into_inner();
    let lease = given.lease.context("a lease")?;
    assert_eq!(lease.holder, "token:ci");
    let error = leases
        .acquire_lease(ephemeral(V1, Access::Ddl))
        .await
        .err()
        .context("max")?;
    assert_eq!(error.code(), Code::ResourceExhausted, "{error:?}");
    for request in [
        ephemeral(V1, Access::ReadWrite),
        ephemeral(super::V2, Access::Ddl),
        on_binding(V1, Access::ReadOnly),
        // By its own name, which is not one of the granted.
        AcquireLeaseRequest {
            target: Some(proto::broker::v1::acquire_lease_request::Target::Branch(
                lease.branch.clone(),
            )),
            ..on_binding("", Access::ReadOnly)
        },
    ] {
        let shown = format!("{request:?}");
        let error = leases
            .acquire_lease(request)
            .await
            .err()
            .context(shown.clone())?;
        assert_eq!(error.code(), Code::PermissionDenied, "{shown}: {error:?}");
    }
    // One sees one's own, who reads sees all, and who has nothing nothing.
    let listed = leases
        .list_leases(ListLeasesRequest::default())
        .await?
        .into_inner();
    assert_eq!(listed.leases.len(), 1);
    let listed = all
        .list_leases(ListLeasesRequest::default())
        .await?
        .into_inner();
    assert_eq!(listed.leases.len(), 1);
    let renew = proto::broker::v1::RenewLeaseRequest {
        name: lease.name.clone(),
        ..Default::default()
    };
    leases.renew_lease(renew.clone()).await?;
    refused(all.renew_lease(renew).await, Code::NotFound, None);
    let revoke = proto::broker::v1::RevokeLeasesRequest {
        which: Some(proto::broker::v1::revoke_leases_request::Which::Lease(
            lease.name.clone(),
        )),
        ..Default::default()
    };
    refused(
        leases.revoke_leases(revoke.clone()).await,
        Code::PermissionDenied,
        None,
    );
    all.revoke_leases(revoke).await?;
    eventually("it may have another", async || {
        let again = leases
            .clone()
            .acquire_lease(ephemeral(V1, Access::Ddl))
            .await;
        ensure!(again.is_ok(), "{:?}", again.err());
        Ok(())
    })
    .await?;
    secured.finish().await
}
