//! Requests: written as the API wants them, and read again by a server.

use jiff::Timestamp;
use neon_api::BranchId;
use neon_api::types::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

fn branch() -> BranchId {
    "br-small-term-a1b2c3d4".parse().unwrap()
}

fn time() -> Timestamp {
    "2027-01-01T00:00:00Z".parse().unwrap()
}

/// Expects `request` to be written as `wire`, and `wire` to be read as it.
fn assert_wire<T>(request: T, wire: Value)
where
    T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
{
    assert_eq!(serde_json::to_value(&request).unwrap(), wire);
    assert_eq!(serde_json::from_value::<T>(wire).unwrap(), request);
}

#[test]
fn a_branch_is_asked_for_with_its_annotation_beside_it() {
    assert_wire(
        BranchCreateRequest::named("feat1")
            .parent(branch())
            .read_write_endpoint()
            .expires_at(time())
            .annotation([("made-by", "branch-broker")]),
        json!({
            "branch": {
                "name": "feat1",
                "parent_id": "br-small-term-a1b2c3d4",
                "expires_at": "2027-01-01T00:00:00Z"
            },
            "endpoints": [{"type": "read_write"}],
            "annotation_value": {"made-by": "branch-broker"}
        }),
    );
    assert_wire(
        BranchCreateRequest::named("feat2")
            .at_lsn("0/1DE2850")
            .init_source(InitSource::SchemaOnly)
            .protected(),
        json!({"branch": {
            "name": "feat2",
            "parent_lsn": "0/1DE2850",
            "init_source": "schema-only",
            "protected": true
        }}),
    );
    assert_wire(BranchCreateRequest::default(), json!({}));
}

#[test]
fn a_branch_request_of_another_client_is_read() {
    let request: BranchCreateRequest = serde_json::from_value(json!({
        "branch": {"name": "feat2"},
        "endpoints": [],
        "annotation_value": {}
    }))
    .unwrap();
    assert_eq!(request.branch.unwrap().name.as_deref(), Some("feat2"));
    assert_eq!(request.annotation_value, Some(AnnotationValueData::new()));
}

#[test]
fn an_expiry_is_kept_cleared_or_set() {
    assert_wire(
        BranchUpdateRequest::default().rename("other"),
        json!({"branch": {"name": "other"}}),
    );
    assert_wire(
        BranchUpdateRequest::default().never_expires(),
        json!({"branch": {"expires_at": null}}),
    );
    assert_wire(
        BranchUpdateRequest::default().expires_at(time()),
        json!({"branch": {"expires_at": "2027-01-01T00:00:00Z"}}),
    );
    assert_wire(
        BranchUpdateRequest::default().protected(false),
        json!({"branch": {"protected": false}}),
    );
}

#[test]
fn a_time_with_an_offset_is_read() {
    let request: BranchUpdateRequest = serde_json::from_value(json!({
        "branch": {"expires_at": "2027-01-01T02:00:00.000+02:00"}
    }))
    .unwrap();
    assert_eq!(request.branch.expires_at, Change::Set(time()));
}

#[test]
fn a_restore() {
    assert_wire(
        BranchRestoreRequest::from_branch(branch())
            .at_timestamp(time())
            .preserve_under_name("old"),
        json!({
            "source_branch_id": "br-small-term-a1b2c3d4",
            "source_timestamp": "2027-01-01T00:00:00Z",
            "preserve_under_name": "old"
        }),
    );
}

#[test]
fn endpoints_roles_databases_and_projects() {
    assert_wire(
        EndpointCreateRequest::read_only(branch()),
        json!({"endpoint": {"branch_id": "br-small-term-a1b2c3d4", "type": "read_only"}}),
    );
    let mut update = EndpointUpdateRequest::default();
    update.endpoint.suspend_timeout_seconds = Some(-1);
    assert_wire(update, json!({"endpoint": {"suspend_timeout_seconds": -1}}));
    assert_wire(
        RoleCreateRequest::named("alice"),
        json!({"role": {"name": "alice"}}),
    );
    assert_wire(
        RoleCreateRequest::named("group").no_login(),
        json!({"role": {"name": "group", "no_login": true}}),
    );
    assert_wire(
        DatabaseCreateRequest::new("app", "neondb_owner"),
        json!({"database": {"name": "app", "owner_name": "neondb_owner"}}),
    );
    assert_wire(
        ProjectCreateRequest::named("x"),
        json!({"project": {"name": "x"}}),
    );
}
