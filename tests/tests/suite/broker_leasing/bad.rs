//! Requests that cannot be, and what they leave: nothing.

use proto::broker::v1::acquire_lease_request::Target;
use proto::broker::v1::ephemeral_branch::Point;
use proto::broker::v1::{
    Access, AcquireLeaseRequest, EphemeralBranch, GetLeaseRequest, ListLeasesRequest,
    RevokeLeasesRequest, RotateCredentialsRequest,
};
use tonic::Code;

use super::{Bench, V1, V2, ephemeral, on_binding, seconds};
use crate::details::refused;

#[tokio::test]
async fn bad_leases_are_refused_by_field_and_leave_nothing() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let before = bench.branches().await?.len();
    let mut leases = bench.broker.leases().await?;
    let on = |target| AcquireLeaseRequest {
        target: Some(target),
        ..Default::default()
    };
    let of = |parent: &str, point| {
        on(Target::Ephemeral(EphemeralBranch {
            parent: parent.to_owned(),
            point,
            ..Default::default()
        }))
    };
    let missing = "branches/br-not-there-12345678";
    let invalid = Code::InvalidArgument;
    for (request, code, field) in [
        (AcquireLeaseRequest::default(), invalid, "binding"),
        (on(Target::Branch("main".to_owned())), invalid, "branch"),
        (
            on(Target::Branch(missing.to_owned())),
            Code::NotFound,
            "branch",
        ),
        (of("", None), invalid, "ephemeral.parent"),
        (of("users/v1", None), invalid, "ephemeral.parent"),
        (of(missing, None), Code::NotFound, "ephemeral.parent"),
        (
            of("services/users/versions/v9", None),
            Code::NotFound,
            "ephemeral.parent",
        ),
        (
            of(V1, Some(Point::Lsn("x".to_owned()))),
            invalid,
            "ephemeral.lsn",
        ),
        (on_binding(V1, Access::Ddl), invalid, "access"),
        (
            AcquireLeaseRequest {
                access: 9,
                ..ephemeral(V1, Access::Ddl)
            },
            invalid,
            "access",
        ),
        (
            AcquireLeaseRequest {
                ttl: Some(seconds(0)),
                ..ephemeral(V1, Access::Ddl)
            },
            invalid,
            "ttl",
        ),
        (
            AcquireLeaseRequest {
                ttl: Some(seconds(-5)),
                ..on_binding(V1, Access::ReadOnly)
            },
            invalid,
            "ttl",
        ),
        (
            AcquireLeaseRequest {
                service: "services/orders".to_owned(),
                ..on_binding(V1, Access::ReadOnly)
            },
            invalid,
            "service",
        ),
        (
            AcquireLeaseRequest {
                service: "users".to_owned(),
                ..ephemeral(V2, Access::Ddl)
            },
            invalid,
            "service",
        ),
        (
            AcquireLeaseRequest {
                request_id: "1".to_owned(),
                ..ephemeral(V2, Access::Ddl)
            },
            invalid,
            "request_id",
        ),
        (
            AcquireLeaseRequest {
                holder: "a\nb".to_owned(),
                ..ephemeral(V2, Access::Ddl)
            },
            invalid,
            "holder",
        ),
    ] {
        refused(leases.acquire_lease(request).await, code, Some(field));
    }
    let revoke = |which| RevokeLeasesRequest {
        which,
        ..Default::default()
    };
    use proto::broker::v1::revoke_leases_request::Which;
    for (which, code, field) in [
        (None, invalid, Some("lease")),
        (Some(Which::Lease("x".to_owned())), invalid, Some("lease")),
        (
            Some(Which::Lease(
                "leases/0b5a1e0c-7a0e-4b0e-9d55-0d6d3a1f8a22".to_owned(),
            )),
            Code::NotFound,
            None,
        ),
        (
            Some(Which::Branch("main".to_owned())),
            invalid,
            Some("branch"),
        ),
        (
            Some(Which::Service("users".to_owned())),
            invalid,
            Some("service"),
        ),
        (
            Some(Which::Service("services/none".to_owned())),
            Code::NotFound,
            Some("service"),
        ),
    ] {
        refused(leases.revoke_leases(revoke(which)).await, code, field);
    }
    let long = RevokeLeasesRequest {
        reason: "x".repeat(300),
        ..revoke(Some(Which::Service("services/users".to_owned())))
    };
    refused(leases.revoke_leases(long).await, invalid, Some("reason"));
    let get = |name: &str| GetLeaseRequest {
        name: name.to_owned(),
    };
    refused(
        leases.get_lease(get("leases/1")).await,
        invalid,
        Some("name"),
    );
    let list = |filter: &str, page_token: &str, page_size| ListLeasesRequest {
        filter: filter.to_owned(),
        page_token: page_token.to_owned(),
        page_size,
    };
    for (request, field) in [
        (list("color = red", "", 0), "filter"),
        (list("", "x", 0), "page_token"),
        (list("", "", -1), "page_size"),
        (list("", "", 1_001), "page_size"),
    ] {
        refused(leases.list_leases(request).await, invalid, Some(field));
    }
    // A token is of one list with one filter.
    for holder in ["a", "b"] {
        let request = AcquireLeaseRequest {
            holder: holder.to_owned(),
            ..on_binding(V1, Access::ReadOnly)
        };
        bench.acquire(request).await?;
    }
    let page = leases.list_leases(list("", "", 1)).await?.into_inner();
    assert_eq!(page.leases.len(), 1);
    let next = leases
        .list_leases(list("", &page.next_page_token, 1))
        .await?
        .into_inner();
    assert_ne!(next.leases[0].name, page.leases[0].name);
    assert_eq!(next.next_page_token, "");
    let other = list("service = users", &page.next_page_token, 1);
    refused(leases.list_leases(other).await, invalid, Some("page_token"));
    let mut bindings = bench.broker.bindings().await?;
    let rotate = |name: &str| RotateCredentialsRequest {
        name: name.to_owned(),
        ..Default::default()
    };
    refused(
        bindings.rotate_credentials(rotate("v1")).await,
        invalid,
        Some("name"),
    );
    let unknown = rotate("services/users/versions/v9");
    refused(
        bindings.rotate_credentials(unknown).await,
        Code::NotFound,
        Some("name"),
    );

    assert_eq!(bench.branches().await?.len(), before);
    assert_eq!(bench.list("").await?.len(), 2);
    bench.stop().await
}
