//! Answers: read, and written again as they were.

use neon_api::types::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::samples;

/// Reads `sample` as a `T` and expects to write the same again; the value.
fn round_trip<T: Serialize + DeserializeOwned>(sample: Value) -> T {
    let value: T = serde_json::from_value(sample.clone()).unwrap();
    assert_eq!(serde_json::to_value(&value).unwrap(), sample);
    value
}

#[test]
fn branches() {
    round_trip::<Branch>(samples::branch_least());
    round_trip::<BranchResponse>(json!({"branch": samples::branch()}));
    round_trip::<BranchResponse>(json!({
        "branch": samples::branch(),
        "annotation": samples::annotation()
    }));
    round_trip::<BranchOperations>(json!({
        "branch": samples::branch(),
        "operations": [samples::operation()]
    }));
    let page: BranchesResponse = round_trip(json!({
        "branches": [samples::branch(), samples::branch_least()],
        "annotations": {"br-small-term-a1b2c3d4": samples::annotation()},
        "pagination": {"next": "b3BhcXVl", "sort_by": "updated_at", "sort_order": "desc"}
    }));
    let notes = &page.annotations[&page.branches[0].id].value;
    assert_eq!(notes["made-by"], "branch-broker");
    assert_eq!(page.branches[0].current_state, BranchState::Init);
    assert_eq!(page.branches[0].pending_state, Some(BranchState::Ready));
}

#[test]
fn a_created_branch_with_and_without_connections() {
    let created: CreatedBranch = round_trip(samples::created_branch());
    let connections = created.connection_uris.unwrap();
    assert_eq!(connections[0].connection_uri.expose(), samples::uri());
    let parameters = &connections[0].connection_parameters;
    assert_eq!(parameters.password.expose(), samples::PASSWORD);

    let mut sample = samples::created_branch();
    sample.as_object_mut().unwrap().remove("connection_uris");
    assert_eq!(round_trip::<CreatedBranch>(sample).connection_uris, None);
}

#[test]
fn endpoints() {
    round_trip::<EndpointsResponse>(json!({
        "endpoints": [samples::endpoint(), samples::endpoint_least()]
    }));
    let answer: EndpointOperations = round_trip(json!({
        "endpoint": samples::endpoint(),
        "operations": []
    }));
    assert_eq!(answer.endpoint.endpoint_type, EndpointType::ReadWrite);
    assert_eq!(answer.endpoint.suspend_timeout_seconds, -1);
}

#[test]
fn projects() {
    round_trip::<ProjectResponse>(json!({"project": samples::project_least()}));
    round_trip::<ProjectOperations>(json!({"project": samples::project(), "operations": []}));
    round_trip::<CreatedProject>(samples::created_project());
    round_trip::<ProjectsResponse>(json!({
        "projects": [samples::project_list_item()],
        "unavailable_project_ids": ["calm-sea-12345678"],
        "pagination": {"cursor": "late-frost-12345678"},
        "applications": {"late-frost-12345678": ["github", "datadog"]},
        "integrations": {}
    }));
}

#[test]
fn roles_and_databases() {
    round_trip::<RolesResponse>(json!({"roles": [samples::role()]}));
    round_trip::<RoleOperations>(json!({
        "role": samples::role(),
        "operations": [samples::operation()]
    }));
    round_trip::<RolePasswordResponse>(json!({"password": samples::PASSWORD}));
    round_trip::<DatabasesResponse>(json!({"databases": [samples::database()]}));
    round_trip::<DatabaseOperations>(json!({
        "database": samples::database(),
        "operations": []
    }));
}

#[test]
fn operations_connections_schemas_and_errors() {
    round_trip::<OperationResponse>(json!({"operation": samples::operation()}));
    round_trip::<OperationsResponse>(json!({
        "operations": [samples::operation_least()],
        "pagination": {"cursor": "2026-01-10T09:00:00.123456789Z"}
    }));
    round_trip::<ConnectionUriResponse>(json!({"uri": samples::uri()}));
    round_trip::<BranchSchemaCompareResponse>(json!({"diff": "+CREATE TABLE t ();"}));
    round_trip::<BranchSchemaResponse>(json!({"sql": "CREATE TABLE t ();"}));
    round_trip::<BranchSchemaResponse>(json!({"json": {"tables": [{
        "schema": "users",
        "name": "users",
        "columns": [{"name": "id", "type": "bigint", "nullable": false, "generated": true}],
        "constraints": [{
            "type": "foreign key",
            "columns": ["city"],
            "name": "users_city_fkey",
            "referenced_table": {"schema": "users", "table": "cities", "columns": ["id"]}
        }]
    }]}}));
    round_trip::<GeneralError>(json!({
        "request_id": "63f5d1a5-3d0e-4b3a-8f6c-1a2b3c4d5e6f",
        "code": "BRANCH_ALREADY_EXISTS",
        "message": "branch already exists"
    }));
}

#[test]
fn unknown_enum_values_are_kept_as_sent() {
    let sample = samples::with(
        samples::operation(),
        json!({"action": "defragment_moon", "status": "pondering"}),
    );
    let operation: Operation = round_trip(sample);
    assert_eq!(
        operation.action,
        OperationAction::Unknown("defragment_moon".to_owned())
    );
    assert_eq!(operation.status.to_string(), "pondering");
    assert!(!operation.status.is_final());

    let sample = samples::with(samples::branch(), json!({"current_state": "asleep"}));
    let branch: Branch = round_trip(sample);
    assert_eq!(branch.current_state.as_str(), "asleep");

    let sample = samples::with(
        samples::endpoint(),
        json!({"type": "write_only", "current_state": "shy", "provisioner": "abacus"}),
    );
    round_trip::<Endpoint>(sample);
}

#[test]
fn known_enum_values_are_never_unknown() {
    assert_eq!(BranchState::from("archived"), BranchState::Archived);
    assert_eq!(
        OperationStatus::from("cancelling"),
        OperationStatus::Cancelling
    );
    assert_eq!(InitSource::from("schema-only"), InitSource::SchemaOnly);
}

#[test]
fn which_operation_statuses_are_an_end() {
    let verdict = |text: &str| {
        let status = OperationStatus::from(text);
        (status.is_final(), status.is_success(), status.is_failure())
    };
    for text in ["finished", "skipped"] {
        assert_eq!(verdict(text), (true, true, false), "{text}");
    }
    for text in ["failed", "error", "cancelled"] {
        assert_eq!(verdict(text), (true, false, true), "{text}");
    }
    for text in ["scheduling", "running", "cancelling", "anything"] {
        assert_eq!(verdict(text), (false, false, false), "{text}");
    }
}

#[test]
fn unknown_fields_and_null_lists_are_tolerated() {
    let sample = samples::with(samples::branch_least(), json!({"slug": {"new": [1]}}));
    serde_json::from_value::<Branch>(sample).unwrap();

    let page: BranchesResponse =
        serde_json::from_value(json!({"branches": null, "annotations": null})).unwrap();
    assert_eq!(page, BranchesResponse::default());
    let page: BranchesResponse = serde_json::from_value(json!({"branches": []})).unwrap();
    assert_eq!(page, BranchesResponse::default());
}

#[test]
fn fields_announced_to_go_away_may_be_missing() {
    let mut sample = samples::endpoint();
    for name in ["pooler_enabled", "pooler_mode", "proxy_host"] {
        sample.as_object_mut().unwrap().remove(name);
    }
    let endpoint: Endpoint = serde_json::from_value(sample).unwrap();
    assert!(!endpoint.pooler_enabled);
}

#[test]
fn a_missing_required_field_is_an_error() {
    let mut sample = samples::branch();
    sample.as_object_mut().unwrap().remove("default");
    let error = serde_json::from_value::<Branch>(sample).unwrap_err();
    assert_eq!(error.to_string(), "missing field `default`");
}
