//! Leases that are taken back, and credentials that are rotated.

use anyhow::{Context, ensure};
use proto::broker::v1::revoke_leases_request::Which;
use proto::broker::v1::{
    Access, AuditAction, LeaseState, ListAuditEventsRequest, RenewLeaseRequest,
    RestoreBranchRequest, RotateCredentialsRequest, WatchBindingRequest,
};
use proto::google::longrunning::operation::Result as Outcome;
use proto::google::longrunning::{Operation, WaitOperationRequest};
use suite::eventually;
use tonic::Code;

use super::{Bench, V1, V2, ephemeral, on_binding};
use crate::details::refused;
use crate::emulator_history::ledger::has_history;

#[tokio::test]
async fn a_revoked_lease_ends_now_and_the_holders_others_move() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let (one, other) = (
        bench.acquire(on_binding(V1, Access::ReadWrite)).await?,
        bench.acquire(on_binding(V1, Access::ReadWrite)).await?,
    );
    assert_eq!(one.role, other.role, "replicas share");
    let stranger = proto::broker::v1::AcquireLeaseRequest {
        holder: "stranger".to_owned(),
        ..on_binding(V1, Access::ReadWrite)
    };
    let stranger = bench.acquire(stranger).await?;
    let session = bench.session(&one.uri).await?;
    let beside = bench.session(&stranger.uri).await?;
    let mut leases = bench.broker.leases().await?;
    let request = WatchBindingRequest {
        lease: other.lease.name.clone(),
        ..Default::default()
    };
    let requests =
        tokio_stream::StreamExt::chain(tokio_stream::once(request), tokio_stream::pending());
    let mut states = leases.watch_binding(requests).await?.into_inner();
    let first = states.message().await?.context("a state")?;
    let connected = |state: proto::broker::v1::WatchBindingResponse| {
        let current = state.current.context("a target")?;
        current.connection.context("a connection")
    };
    assert_eq!(connected(first)?.role, other.role);

    let revoked = bench.revoke(Which::Lease(one.lease.name.clone())).await?;
    assert_eq!(revoked.len(), 1);
    // It acted before it answered.
    assert!(
        session.query("SELECT 1", &[]).await.is_err(),
        "the session ended"
    );
    assert!(bench.session(&one.uri).await.is_err(), "nobody logs in");
    beside.query("SELECT 1", &[]).await?;
    refused(
        bench.get(&one.lease.name).await.map(tonic::Response::new),
        Code::NotFound,
        None,
    );
    let renew = RenewLeaseRequest {
        name: one.lease.name.clone(),
        ..Default::default()
    };
    refused(leases.renew_lease(renew).await, Code::NotFound, None);
    // The other one is told where it is now.
    let moved = connected(states.message().await?.context("a state")?)?;
    assert_ne!(moved.role, other.role);
    let session = bench.session(&moved.uri).await?;
    session.query("SELECT name FROM users", &[]).await?;
    assert_eq!(bench.get(&other.lease.name).await?.role, moved.role);

    // All of a service, on whatever branch, and what was its own branch.
    let own = bench.acquire(ephemeral(V2, Access::Ddl)).await?;
    let revoked = bench
        .revoke(Which::Service("services/users".to_owned()))
        .await?;
    assert_eq!(revoked.len(), 3);
    assert!(session.query("SELECT 1", &[]).await.is_err());
    assert!(beside.query("SELECT 1", &[]).await.is_err());
    bench.is_gone(&own.lease.branch).await?;
    let ended = states.message().await.err().context("an end")?;
    assert_eq!(ended.code(), Code::NotFound);
    assert_eq!(bench.list("").await?, []);
    let of_users = ListAuditEventsRequest {
        service: "users".to_owned(),
        ..Default::default()
    };
    let mut audit = bench.broker.audit().await?;
    let events = audit.list_audit_events(of_users).await?.into_inner().events;
    let times = |action| {
        events
            .iter()
            .filter(|event| event.action() == action)
            .count()
    };
    assert_eq!(times(AuditAction::Revoked), 4);
    assert_eq!(times(AuditAction::Closed), 4);
    assert!(events.iter().any(|event| event.message.contains("a test")));
    bench.stop().await
}

/// The branch cannot be reached: the revocation is not forgotten, and acts when it
/// can.
#[tokio::test]
async fn a_revocation_that_fails_is_shown_as_stuck_and_tried_again() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let given = bench.acquire(on_binding(V1, Access::ReadWrite)).await?;
    let branch = bench.branch_named("api_v1_branch").await?;
    bench.emulator.disable(&branch, true).await?;
    let revoked = bench
        .revoke(Which::Branch(format!("branches/{branch}")))
        .await?;
    assert_eq!(revoked.len(), 1);
    assert_eq!(revoked[0].state(), LeaseState::Revoking);
    eventually("it is stuck, with the reason", async || {
        let shown = bench.list("state = REVOKING").await?;
        let shown = shown.first().context("the lease")?;
        ensure!(shown.state_message.contains("stuck"), "{shown:?}");
        ensure!(shown.state_message.contains("connect"), "{shown:?}");
        Ok(())
    })
    .await?;
    // Its time being up does not end it: its sessions might go on.
    bench.clock.set(3_700)?;
    assert_eq!(bench.list("state = REVOKING").await?.len(), 1);
    bench.emulator.disable(&branch, false).await?;
    eventually("it is closed", async || {
        let shown = bench.list("").await?;
        ensure!(shown.is_empty(), "{shown:?}");
        Ok(())
    })
    .await?;
    assert!(bench.session(&given.uri).await.is_err());
    bench.stop().await
}

/// Roles come back with the data of the past. Nobody gets in with them.
#[tokio::test]
async fn what_was_revoked_stays_dead_after_a_restore_and_a_fork() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let lost = bench.acquire(on_binding(V1, Access::ReadWrite)).await?;
    let keeps = proto::broker::v1::AcquireLeaseRequest {
        holder: "another".to_owned(),
        ..on_binding(V1, Access::ReadWrite)
    };
    let keeps = bench.acquire(keeps).await?;
    let branch = bench.branch_named("api_v1_branch").await?;
    // It begins soon after the branch's first start.
    has_history(bench.emulator.data(), &branch).await?;
    let owner = bench.emulator.connect(&branch).await?;
    let row = owner
        .query_one("SELECT pg_current_wal_lsn()::text", &[])
        .await?;
    let lsn: String = row.get(0);
    drop(owner);
    bench.revoke(Which::Lease(lost.lease.name.clone())).await?;
    assert!(bench.session(&lost.uri).await.is_err());
    // v1's past, from which the role comes back.
    let restore = RestoreBranchRequest {
        name: format!("branches/{branch}"),
        preserve_under_name: "before".to_owned(),
        point: Some(proto::broker::v1::restore_branch_request::Point::Lsn(lsn)),
        ..Default::default()
    };
    let mut branches = bench.broker.branches().await?;
    done(&bench, branches.restore_branch(restore).await?.into_inner()).await?;
    assert!(
        bench.session(&lost.uri).await.is_err(),
        "it came back to life"
    );
    // Who was not revoked goes on.
    let session = bench.session(&keeps.uri).await?;
    session.query("SELECT name FROM users", &[]).await?;
    let owner = bench.emulator.connect(&branch).await?;
    let there = owner
        .query("SELECT 1 FROM pg_roles WHERE rolname = $1", &[&lost.role])
        .await?;
    assert!(there.is_empty(), "the role itself is dropped");

    // A fork, made for nobody's binding, lets nobody in either.
    let create = proto::broker::v1::CreateBranchRequest {
        branch: Some(proto::broker::v1::Branch {
            display_name: "fork".to_owned(),
            parent: format!("branches/{branch}"),
            ..Default::default()
        }),
        ..Default::default()
    };
    done(&bench, branches.create_branch(create).await?.into_inner()).await?;
    let fork = bench.branch_named("fork").await?;
    let there = bench.emulator.uri(&fork).await?;
    let (_, address) = there.expose().split_once('@').context("a URI")?;
    let (credentials, _) = keeps.uri.split_once('@').context("a URI")?;
    let crossed = format!("{credentials}@{address}");
    assert!(
        bench.session(&crossed).await.is_err(),
        "v1's holder gets into the fork"
    );
    bench.stop().await
}

/// Waits until an operation has ended well.
async fn done(bench: &Bench, operation: Operation) -> anyhow::Result<()> {
    let wait = WaitOperationRequest {
        name: operation.name,
        timeout: None,
    };
    let mut operations = bench.broker.operations().await?;
    let ended = operations.wait_operation(wait).await?.into_inner();
    match ended.result {
        Some(Outcome::Response(_)) => Ok(()),
        other => anyhow::bail!("{other:?}"),
    }
}

#[tokio::test]
async fn rotation_gives_another_role_and_leaves_the_old_one_to_drain() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let given = bench.acquire(on_binding(V1, Access::ReadWrite)).await?;
    let session = bench.session(&given.uri).await?;
    let mut leases = bench.broker.leases().await?;
    let request = WatchBindingRequest {
        lease: given.lease.name.clone(),
        ..Default::default()
    };
    let requests =
        tokio_stream::StreamExt::chain(tokio_stream::once(request), tokio_stream::pending());
    let mut states = leases.watch_binding(requests).await?.into_inner();
    let first = states.message().await?.context("a state")?;
    let generation = first.current.context("a target")?.generation;
    let rotate = RotateCredentialsRequest {
        name: V1.to_owned(),
        request_id: "0b5a1e0c-7a0e-4b0e-9d55-0d6d3a1f8a33".to_owned(),
    };
    let mut bindings = bench.broker.bindings().await?;
    let binding = bindings
        .rotate_credentials(rotate.clone())
        .await?
        .into_inner()
        .binding;
    assert_eq!(binding.context("a binding")?.generation, generation + 1);
    let again = bindings
        .rotate_credentials(rotate)
        .await?
        .into_inner()
        .binding;
    assert_eq!(
        again.context("a binding")?.generation,
        generation + 1,
        "once"
    );
    let told = states
        .message()
        .await?
        .context("a state")?
        .current
        .context("a target")?;
    assert_eq!(told.generation, generation + 1);
    let fresh = told.connection.context("a connection")?;
    assert_ne!(fresh.role, given.role);
    bench
        .session(&fresh.uri)
        .await?
        .query("SELECT name FROM users", &[])
        .await?;
    // What runs on the old one comes to its end by itself.
    session.query("SELECT 1", &[]).await?;
    bench.clock.set(70)?;
    eventually("the old role is dropped", async || {
        ensure!(bench.session(&given.uri).await.is_err(), "it logs in");
        ensure!(
            session.query("SELECT 1", &[]).await.is_err(),
            "its session goes on"
        );
        Ok(())
    })
    .await?;
    bench.session(&fresh.uri).await?;
    bench.stop().await
}

/// An end wakes no suspended branch; the role goes when it is awake again.
#[tokio::test]
async fn an_expired_lease_leaves_a_suspended_branch_asleep() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let given = bench.acquire(on_binding(V1, Access::ReadWrite)).await?;
    let branch = bench.branch_named("api_v1_branch").await?;
    bench.emulator.suspend(&branch).await?;
    bench.clock.set(700)?;
    eventually("the lease has ended", async || {
        ensure!(bench.list("").await?.is_empty(), "it lives");
        Ok(())
    })
    .await?;
    // Looked at a few times by who closes roles.
    let asleep = neon_api::types::EndpointState::Idle;
    let looks = suite::Faults::of(&bench.emulator);
    eventually("it was looked at", async || {
        let seen = looks.requests().await?;
        let lists = seen
            .iter()
            .filter(|one| one.route == "/projects/{project_id}/endpoints");
        ensure!(lists.count() >= 2, "not yet");
        Ok(())
    })
    .await?;
    assert_eq!(
        bench.emulator.endpoint(&branch).await?.current_state,
        asleep
    );
    let role = given.role.clone();
    let owner = bench.emulator.connect(&branch).await?;
    eventually("the role goes", async || {
        let there = owner
            .query("SELECT 1 FROM pg_roles WHERE rolname = $1", &[&role])
            .await?;
        ensure!(there.is_empty(), "it is there");
        Ok(())
    })
    .await?;
    bench.stop().await
}

/// Who changes their own role, and does not come to an end, holds a lock on it. That
/// keeps nobody's revocation waiting, nor those who want a role on the same branch.
#[tokio::test]
async fn an_open_transaction_of_the_holder_holds_up_nobody() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let given = bench.acquire(on_binding(V1, Access::ReadWrite)).await?;
    let session = bench.session(&given.uri).await?;
    session
        .batch_execute("BEGIN; ALTER ROLE CURRENT_USER PASSWORD 'x'")
        .await?;
    let revoked = bench.revoke(Which::Lease(given.lease.name.clone())).await?;
    assert_eq!(revoked.len(), 1);
    // Done when it is answered, not at a later try.
    assert_eq!(bench.list("state = REVOKING").await?, []);
    assert!(session.query("SELECT 1", &[]).await.is_err());
    assert!(bench.session(&given.uri).await.is_err());
    let next = bench.acquire(on_binding(V1, Access::ReadWrite)).await?;
    assert_ne!(next.role, given.role);
    bench.session(&next.uri).await?;
    bench.stop().await
}
