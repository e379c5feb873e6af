//! Read-only endpoints of branches: made where broker.toml asks for them, told to who has
//! a lease, and left alone otherwise.

use anyhow::{Context, ensure};
use neon_api::BranchId;
use neon_api::types::{Endpoint, EndpointState, EndpointType};
use proto::broker::v1::revoke_leases_request::Which;
use proto::broker::v1::{
    Access, AcquireLeaseRequest, ApplyRequest, Connection, CreateBranchRequest,
    DeleteBranchRequest, Lease, RotateCredentialsRequest, Step, WatchBindingRequest,
};
use suite::{Config, Faults, eventually, request_faults};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::broker_leasing::{Bench, V1, V2, code, ephemeral, on_binding, on_branch};
use crate::broker_switch::branch_made;

const BRANCH: &str = "branch = \"api_v1_branch\"\n";
const WISH: &str = "read_only_endpoint = true # a test\n";
/// A row, and how many there are of it.
pub(crate) const WRITE: &str =
    "INSERT INTO users (name, email) VALUES ('Carol', 'carol@example.com')";
pub(crate) const CAROLS: &str = "SELECT count(*) FROM users WHERE name = 'Carol'";

/// Has broker.toml ask for a read-only endpoint on v1's branch.
pub(crate) fn asked(config: &Config) -> anyhow::Result<()> {
    let text = config.text()?;
    let asking = text.replacen(BRANCH, &format!("{BRANCH}{WISH}"), 1);
    ensure!(asking != text, "broker.toml has v1's branch");
    config.write(&asking)
}

/// Has broker.toml ask for none any more.
pub(crate) fn asked_no_more(config: &Config) -> anyhow::Result<()> {
    config.write(&config.text()?.replace(WISH, ""))
}

/// The read-only endpoints of a branch.
pub(crate) async fn replicas(bench: &Bench, branch: &BranchId) -> anyhow::Result<Vec<Endpoint>> {
    let (client, project) = (bench.emulator.client(), bench.emulator.project());
    let answer = client.list_branch_endpoints(project, branch).await?;
    let mut all = answer.endpoints;
    all.retain(|one| one.endpoint_type == EndpointType::ReadOnly);
    Ok(all)
}

/// Deletes them.
pub(crate) async fn replicas_deleted(bench: &Bench, branch: &BranchId) -> anyhow::Result<()> {
    let (client, project) = (bench.emulator.client(), bench.emulator.project());
    for replica in replicas(bench, branch).await? {
        // It may be served before its start is recorded: 423.
        let deleted = eventually("it can be deleted", async || {
            Ok(client.delete_endpoint(project, &replica.id).await?)
        })
        .await?;
        let operations = deleted.context("it was there")?.operations;
        bench.emulator.finished(&operations).await?;
    }
    Ok(())
}

pub(crate) async fn applied(bench: &Bench) -> anyhow::Result<Vec<Step>> {
    let mut config = bench.broker.config().await?;
    let answer = config.apply(ApplyRequest::default()).await?;
    Ok(answer.into_inner().steps)
}

/// A session on the read-only endpoint, once the role has come there.
pub(crate) async fn reader(bench: &Bench, connection: &Connection) -> anyhow::Result<Client> {
    ensure!(!connection.replica_uri.is_empty(), "{connection:?}");
    let session = eventually("the role is on the replica", async || {
        bench.session(&connection.replica_uri).await
    })
    .await?;
    let is_replica = value(&session, "SELECT pg_is_in_recovery()").await?;
    ensure!(is_replica == "t", "{is_replica}");
    Ok(session)
}

/// The one value that a query gives.
pub(crate) async fn value(session: &Client, query: &str) -> anyhow::Result<String> {
    let messages = session.simple_query(query).await?;
    let value = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    Ok(value.context("a row")?.to_owned())
}

/// Waits until a query gives that value: a replica is some milliseconds behind.
pub(crate) async fn shows(session: &Client, query: &str, wanted: &str) -> anyhow::Result<()> {
    eventually("the replica shows it", async || {
        let found = value(session, query).await?;
        ensure!(found == wanted, "{found}");
        Ok(())
    })
    .await
}

async fn acquire(
    bench: &Bench,
    request: AcquireLeaseRequest,
) -> anyhow::Result<(Lease, Connection)> {
    let mut leases = bench.broker.leases().await?;
    let given = leases.acquire_lease(request).await?.into_inner();
    let connection = given.connection.context("a connection")?;
    Ok((given.lease.context("a lease")?, connection))
}

/// Who logs in, and where.
fn parts(uri: &str) -> anyhow::Result<(&str, &str)> {
    uri.split_once('@').context("a URI with a role")
}

#[tokio::test]
async fn a_lease_is_told_the_read_only_endpoint_of_its_branch() -> anyhow::Result<()> {
    let bench = Bench::start_with(asked).await?;
    let (_, connection) = acquire(&bench, on_binding(V1, Access::ReadWrite)).await?;
    let reading = reader(&bench, &connection).await?;
    let (who, place) = parts(&connection.uri)?;
    let (same, other) = parts(&connection.replica_uri)?;
    assert_eq!(who, same, "by one role and one password");
    assert_ne!(place, other);
    let shown = format!("{connection:?}");
    assert!(!shown.contains("postgresql:"), "{shown}");

    assert_eq!(
        code(&reading, WRITE).await,
        Some(SqlState::READ_ONLY_SQL_TRANSACTION)
    );
    shows(&reading, CAROLS, "0").await?;
    let writing = bench.session(&connection.uri).await?;
    assert_eq!(value(&writing, "SELECT pg_is_in_recovery()").await?, "f");
    writing.batch_execute(WRITE).await?;
    shows(&reading, CAROLS, "1").await?;

    // Whatever the lease is, it leads there the same way.
    let pooled = AcquireLeaseRequest {
        pooled: true,
        ..on_binding(V1, Access::ReadWrite)
    };
    let (_, through_pooler) = acquire(&bench, pooled).await?;
    let (same, pooler) = parts(&through_pooler.replica_uri)?;
    assert_eq!(who, same);
    assert_ne!(other, pooler, "its pooler has an address of its own");
    reader(&bench, &through_pooler).await?;
    let (_, only_reads) = acquire(&bench, on_binding(V1, Access::ReadOnly)).await?;
    let session = reader(&bench, &only_reads).await?;
    shows(&session, CAROLS, "1").await?;
    let v1 = bench.branch_named("api_v1_branch").await?;
    let (_, by_branch) = acquire(&bench, on_branch(&v1, Access::ReadOnly)).await?;
    assert_eq!(by_branch.replica_uri, only_reads.replica_uri);

    // Without one it is empty; a fork inherits none.
    for request in [
        on_binding(V2, Access::ReadWrite),
        ephemeral(V1, Access::Ddl),
    ] {
        let (lease, without) = acquire(&bench, request).await?;
        assert_eq!(without.replica_uri, "", "{lease:?}");
    }
    // Who has no lease sees no connection at all.
    let request = WatchBindingRequest {
        binding: V1.to_owned(),
        ..Default::default()
    };
    let mut leases = bench.broker.leases().await?;
    let watching = leases.watch_binding(tokio_stream::once(request)).await?;
    let state = watching.into_inner().message().await?.context("a state")?;
    let current = state.current.context("a target")?;
    assert_eq!(current.connection, None);
    bench.stop().await
}

/// That of a branch which no binding lives on, and which goes with it.
#[tokio::test]
async fn a_branch_may_be_made_with_a_read_only_endpoint() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let request = CreateBranchRequest {
        read_only_endpoint: true,
        ..Default::default()
    };
    let name = branch_made(&bench, "dev", request).await?;
    let dev = bench.branch_named("dev").await?;
    let (lease, connection) = acquire(&bench, on_branch(&dev, Access::ReadWrite)).await?;
    let reading = reader(&bench, &connection).await?;
    bench
        .session(&connection.uri)
        .await?
        .batch_execute(WRITE)
        .await?;
    shows(&reading, CAROLS, "1").await?;
    bench.release(&lease).await?;
    let request = DeleteBranchRequest {
        name: name.clone(),
        ..Default::default()
    };
    let mut branches = bench.broker.branches().await?;
    branches.delete_branch(request).await?;
    bench.is_gone(&name).await?;
    let (client, project) = (bench.emulator.client(), bench.emulator.project());
    let left = client.list_endpoints(project).await?.endpoints;
    assert!(left.iter().all(|one| one.branch_id != dev), "{left:?}");
    bench.stop().await
}

/// Only who connects to one wakes it.
#[tokio::test]
async fn a_suspended_read_only_endpoint_stays_asleep() -> anyhow::Result<()> {
    let bench = Bench::start_with(asked).await?;
    let v1 = bench.branch_named("api_v1_branch").await?;
    let all = replicas(&bench, &v1).await?;
    assert_eq!(all.len(), 1, "{all:?}");
    bench.emulator.suspend_endpoint(&all[0].id).await?;

    let (lease, _) = acquire(&bench, on_binding(V1, Access::ReadWrite)).await?;
    assert_eq!(applied(&bench).await?, []);
    let request = RotateCredentialsRequest {
        name: V1.to_owned(),
        ..Default::default()
    };
    let mut bindings = bench.broker.bindings().await?;
    bindings.rotate_credentials(request).await?;
    let (_, connection) = acquire(&bench, on_binding(V1, Access::ReadOnly)).await?;
    bench.revoke(Which::Lease(lease.name)).await?;
    let all = replicas(&bench, &v1).await?;
    assert_eq!(all[0].current_state, EndpointState::Idle, "{all:?}");
    reader(&bench, &connection).await?;
    eventually("it is awake", async || {
        let all = replicas(&bench, &v1).await?;
        ensure!(all[0].current_state == EndpointState::Active, "{all:?}");
        Ok(())
    })
    .await?;
    bench.stop().await
}

/// Its session there stays open, and sees nothing any more.
#[tokio::test]
async fn a_revoked_role_has_no_rights_on_a_read_only_endpoint() -> anyhow::Result<()> {
    const READ: &str = "SELECT FROM users.users";
    let bench = Bench::start_with(asked).await?;
    let (lease, connection) = acquire(&bench, on_binding(V1, Access::ReadWrite)).await?;
    let session = reader(&bench, &connection).await?;
    assert_eq!(code(&session, READ).await, None);
    bench.revoke(Which::Lease(lease.name)).await?;
    eventually("its rights are gone", async || {
        let said = code(&session, READ).await;
        ensure!(said == Some(SqlState::INSUFFICIENT_PRIVILEGE), "{said:?}");
        Ok(())
    })
    .await?;
    let again = bench.session(&connection.replica_uri).await;
    assert!(again.is_err(), "nobody logs in");
    bench.stop().await
}

/// Neon takes any number of them, so that one whose creation was not heard of must not
/// be asked for again.
#[tokio::test]
async fn whatever_goes_wrong_there_is_one() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let v1 = bench.branch_named("api_v1_branch").await?;
    let faults = Faults::of(&bench.emulator);
    for effect in request_faults() {
        let what = effect.to_string();
        asked(&bench.config)?;
        let route = "/projects/{project_id}/endpoints";
        let fault = faults.on_route("POST", route, effect).await?;
        // What an apply could not do goes on being tried.
        eventually("it is made", async || applied(&bench).await)
            .await
            .with_context(|| what.clone())?;
        faults.happened(fault).await?;
        let all = replicas(&bench, &v1).await?;
        ensure!(all.len() == 1, "{what}: {all:?}");
        let (_, connection) = acquire(&bench, on_binding(V1, Access::ReadWrite)).await?;
        reader(&bench, &connection).await.context(what)?;

        // From the first apply on nobody makes another.
        asked_no_more(&bench.config)?;
        eventually("it is asked for no more", async || applied(&bench).await).await?;
        replicas_deleted(&bench, &v1).await?;
        eventually("it is gone", async || applied(&bench).await).await?;
        let (_, without) = acquire(&bench, on_binding(V1, Access::ReadWrite)).await?;
        assert_eq!(without.replica_uri, "");
    }
    bench.stop().await
}
