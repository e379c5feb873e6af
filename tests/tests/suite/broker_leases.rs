//! Leases, bindings and branches through the broker's API.

use anyhow::Context;
use proto::broker::v1::acquire_lease_request::Target;
use proto::broker::v1::{
    Access, AcquireLeaseRequest, AcquireLeaseResponse, GetBindingRequest, GetBranchRequest,
    ListBindingsRequest, ListBranchesRequest, ReleaseLeaseRequest, RenewLeaseRequest,
    WatchBindingRequest,
};
use suite::System;
use tonic::Code;

use crate::details::refused;

const V1: &str = "services/users/versions/v1";
const V2: &str = "services/users/versions/v2";

fn acquire(binding: &str) -> AcquireLeaseRequest {
    AcquireLeaseRequest {
        target: Some(Target::Binding(binding.to_owned())),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_lease_opens_its_branch_and_no_more() -> anyhow::Result<()> {
    let system = System::start().await?;
    let mut leases = system.broker.leases().await?;
    let v1 = leases.acquire_lease(acquire(V1)).await?.into_inner();
    let uri = v1.connection.context("a connection")?.uri;
    assert!(uri.contains("sslmode=require"), "TLS as Neon asks");
    assert!(
        !uri.contains("neondb_owner"),
        "owner credentials leave for no one"
    );
    let session = suite::connect(&uri, system.emulator.data()).await?;
    // The tables are found without a schema: search_path sits on the role.
    let rows = session
        .query("SELECT name FROM users ORDER BY id", &[])
        .await?;
    assert_eq!(rows[0].get::<_, String>(0), "Alice");
    session
        .execute("UPDATE users SET name = name WHERE id = 1", &[])
        .await?;
    for statement in [
        "CREATE TABLE users.extra (id int)",
        "CREATE TABLE public.extra (id int)",
        "ALTER TABLE users ADD COLUMN extra int",
        "DROP TABLE users",
        "TRUNCATE users",
        "DELETE FROM users.__diesel_schema_migrations",
        "UPDATE branch_broker.seeds SET file = 'x'",
        "CREATE ROLE more LOGIN",
        "CREATE SCHEMA more",
        "CREATE DATABASE more",
        "SET ROLE neondb_owner",
    ] {
        let refused = session.batch_execute(statement).await;
        assert!(refused.is_err(), "{statement}");
    }

    let read_only = leases
        .acquire_lease(AcquireLeaseRequest {
            access: Access::ReadOnly.into(),
            ..acquire(V1)
        })
        .await?
        .into_inner();
    let uri_read_only = read_only.connection.context("a connection")?.uri;
    let session = suite::connect(&uri_read_only, system.emulator.data()).await?;
    session.query("SELECT name FROM users", &[]).await?;
    for statement in [
        "UPDATE users SET name = name",
        "INSERT INTO users (name, email) VALUES ('x', 'x@example.com')",
        "DELETE FROM users",
        "SELECT nextval('users_id_seq')",
    ] {
        assert!(
            session.batch_execute(statement).await.is_err(),
            "{statement}"
        );
    }

    // v1's credential on v2's branch, which inherited v1's roles.
    let v2 = leases.acquire_lease(acquire(V2)).await?.into_inner();
    let uri_v2 = v2.connection.context("a connection")?.uri;
    let credentials = |uri: &str| uri.split_once('@').map(|(left, _)| left.to_owned());
    let address = |uri: &str| uri.split_once('@').map(|(_, right)| right.to_owned());
    for uri in [&uri, &uri_read_only] {
        let crossed = format!(
            "{}@{}",
            credentials(uri).context("a URI")?,
            address(&uri_v2).context("a URI")?
        );
        let refused = suite::connect(&crossed, system.emulator.data()).await;
        assert!(refused.is_err(), "a v1 credential opens v2's branch");
    }
    system.finish().await
}

#[tokio::test]
async fn leases_are_renewed_released_and_repeated() -> anyhow::Result<()> {
    let system = System::start().await?;
    let mut leases = system.broker.leases().await?;
    let seconds = |seconds| prost_types::Duration { seconds, nanos: 0 };
    let request = AcquireLeaseRequest {
        ttl: Some(seconds(60)),
        holder: "suite".to_owned(),
        request_id: "0b5a1e0c-7a0e-4b0e-9d55-0d6d3a1f8a11".to_owned(),
        ..acquire(V1)
    };
    let first = leases.acquire_lease(request.clone()).await?.into_inner();
    let second = leases.acquire_lease(request.clone()).await?.into_inner();
    let lease = first.lease.context("a lease")?;
    assert_eq!(second.lease.as_ref(), Some(&lease), "repeated, not doubled");
    assert_eq!(
        (lease.binding.as_str(), lease.holder.as_str()),
        (V1, "suite")
    );
    let other_body = AcquireLeaseRequest {
        access: Access::ReadOnly.into(),
        ..request.clone()
    };
    refused(
        leases.acquire_lease(other_body).await,
        Code::InvalidArgument,
        Some("request_id"),
    );

    let renew = RenewLeaseRequest {
        name: lease.name.clone(),
        ttl: Some(seconds(600)),
        ..Default::default()
    };
    let renewed = leases.renew_lease(renew.clone()).await?.into_inner();
    let before = lease.expire_time.context("a time")?;
    let after = renewed
        .lease
        .context("a lease")?
        .expire_time
        .context("a time")?;
    assert!(
        after.seconds >= before.seconds + 500,
        "{before:?} {after:?}"
    );
    // Never beyond the maximum: broker.toml says an hour.
    let long = AcquireLeaseRequest {
        ttl: Some(seconds(10 * 3_600)),
        ..acquire(V1)
    };
    let long = leases.acquire_lease(long).await?.into_inner();
    let granted = long
        .lease
        .context("a lease")?
        .expire_time
        .context("a time")?;
    assert!(granted.seconds <= before.seconds + 3_600, "{granted:?}");

    let release = ReleaseLeaseRequest {
        name: lease.name.clone(),
        ..Default::default()
    };
    leases.release_lease(release.clone()).await?;
    leases.release_lease(release).await?;
    refused(leases.renew_lease(renew).await, Code::NotFound, None);
    system.finish().await
}

#[tokio::test]
async fn bad_requests_name_their_field() -> anyhow::Result<()> {
    let system = System::start().await?;
    let invalid = Code::InvalidArgument;
    let mut leases = system.broker.leases().await?;
    for (binding, code) in [
        ("", invalid),
        ("users/v1", invalid),
        ("services/users", invalid),
        ("services/Users/versions/v1", invalid),
        ("services/users/versions/v3", Code::NotFound),
        ("services/orders/versions/v1", Code::NotFound),
    ] {
        let field = (code == invalid).then_some("binding");
        refused(leases.acquire_lease(acquire(binding)).await, code, field);
        let mut bindings = system.broker.bindings().await?;
        let request = GetBindingRequest {
            name: binding.to_owned(),
        };
        let field = (code == invalid).then_some("name");
        refused(bindings.get_binding(request).await, code, field);
    }
    refused(
        leases.acquire_lease(AcquireLeaseRequest::default()).await,
        invalid,
        Some("binding"),
    );
    for seconds in [0, -1] {
        let ttl = Some(prost_types::Duration { seconds, nanos: 0 });
        let request = AcquireLeaseRequest { ttl, ..acquire(V1) };
        refused(leases.acquire_lease(request).await, invalid, Some("ttl"));
    }
    let request = AcquireLeaseRequest {
        access: 99,
        ..acquire(V1)
    };
    refused(leases.acquire_lease(request).await, invalid, Some("access"));
    let request = AcquireLeaseRequest {
        request_id: "again".to_owned(),
        ..acquire(V1)
    };
    refused(
        leases.acquire_lease(request).await,
        invalid,
        Some("request_id"),
    );
    for name in ["", "x", "leases/", "branches/x"] {
        let request = RenewLeaseRequest {
            name: name.to_owned(),
            ttl: None,
            ..Default::default()
        };
        refused(leases.renew_lease(request).await, invalid, Some("name"));
        let request = ReleaseLeaseRequest {
            name: name.to_owned(),
            ..Default::default()
        };
        refused(leases.release_lease(request).await, invalid, Some("name"));
    }

    let mut branches = system.broker.branches().await?;
    for (name, code) in [
        ("", invalid),
        ("api_v1_branch", invalid),
        ("branches/UPPER", invalid),
        ("branches/br-no-such-12345678", Code::NotFound),
    ] {
        let request = GetBranchRequest {
            name: name.to_owned(),
        };
        let field = (code == invalid).then_some("name");
        refused(branches.get_branch(request).await, code, field);
    }
    let mut bindings = system.broker.bindings().await?;
    for page_size in [-1, 1_001] {
        let request = ListBranchesRequest {
            page_size,
            ..Default::default()
        };
        refused(
            branches.list_branches(request).await,
            invalid,
            Some("page_size"),
        );
        let request = ListBindingsRequest {
            page_size,
            ..Default::default()
        };
        refused(
            bindings.list_bindings(request).await,
            invalid,
            Some("page_size"),
        );
    }
    let page = bindings
        .list_bindings(ListBindingsRequest {
            page_size: 1,
            ..Default::default()
        })
        .await?
        .into_inner();
    assert_eq!(
        (page.bindings.len(), page.bindings[0].name.as_str()),
        (1, V1)
    );
    let next = bindings
        .list_bindings(ListBindingsRequest {
            page_size: 1,
            page_token: page.next_page_token.clone(),
        })
        .await?
        .into_inner();
    assert_eq!(next.bindings[0].name, V2);
    assert!(next.next_page_token.is_empty());
    for page_token in ["forged", &page.next_page_token] {
        let request = ListBranchesRequest {
            page_size: 1,
            page_token: page_token.to_owned(),
            ..Default::default()
        };
        refused(
            branches.list_branches(request).await,
            invalid,
            Some("page_token"),
        );
    }
    system.finish().await
}

#[tokio::test]
async fn a_watch_tells_the_state_at_once() -> anyhow::Result<()> {
    let system = System::start().await?;
    let mut leases = system.broker.leases().await?;
    let AcquireLeaseResponse { lease, connection } =
        leases.acquire_lease(acquire(V1)).await?.into_inner();
    let (lease, connection) = (
        lease.context("a lease")?,
        connection.context("a connection")?,
    );

    // Who names the binding observes, and sees no credentials.
    let observe = WatchBindingRequest {
        binding: V1.to_owned(),
        ..Default::default()
    };
    let mut states = leases
        .watch_binding(tokio_stream::once(observe))
        .await?
        .into_inner();
    let current = states
        .message()
        .await?
        .context("a state")?
        .current
        .context("a target")?;
    assert_eq!(current.generation, lease.generation);
    assert_eq!(current.branch, lease.branch);
    assert!(current.connection.is_none());
    // Who names a lease gets its connection.
    let follow = WatchBindingRequest {
        lease: lease.name.clone(),
        ..Default::default()
    };
    let mut states = leases
        .watch_binding(tokio_stream::once(follow.clone()))
        .await?
        .into_inner();
    let current = states.message().await?.context("a state")?.current;
    assert_eq!(current.context("a target")?.connection, Some(connection));

    for request in [
        WatchBindingRequest::default(),
        WatchBindingRequest {
            binding: V1.to_owned(),
            lease: lease.name.clone(),
            ..Default::default()
        },
        WatchBindingRequest {
            binding: "users/v1".to_owned(),
            ..Default::default()
        },
    ] {
        let answer = leases.watch_binding(tokio_stream::once(request)).await;
        let first = match answer {
            Ok(stream) => stream.into_inner().message().await,
            Err(status) => Err(status),
        };
        refused(first, Code::InvalidArgument, None);
    }
    let unknown = WatchBindingRequest {
        binding: "services/users/versions/v9".to_owned(),
        ..Default::default()
    };
    let answer = leases.watch_binding(tokio_stream::once(unknown)).await;
    let first = match answer {
        Ok(stream) => stream.into_inner().message().await,
        Err(status) => Err(status),
    };
    refused(first, Code::NotFound, None);
    system.finish().await
}
