//! What each method asks for.

use neon_api::types::*;
use neon_api::{BranchId, EndpointId, Error, OperationId};
use serde_json::json;

use crate::samples;
use crate::server::{KEY, Reply, Server, project};

fn branch() -> BranchId {
    "br-small-term-a1b2c3d4".parse().unwrap()
}

fn endpoint() -> EndpointId {
    "ep-little-smoke-a1b2c3d4".parse().unwrap()
}

/// Calls a method against a server that gives one answer, expects it to be read,
/// and expects the request's line below `/api/v2`.
macro_rules! assert_route {
    ($reply:expr, $line:literal, |$client:ident| $call:expr) => {{
        let server = Server::start([$reply]).await;
        let $client = server.client();
        let answer = $call.await;
        assert!(answer.is_ok(), "{}: {:?}", $line, answer.err());
        let (method, path) = $line.split_once(' ').unwrap();
        let request = server.request().await;
        assert_eq!(request.line, format!("{method} /api/v2{path}"));
    }};
}

#[tokio::test]
async fn a_request_carries_the_key_and_its_body() {
    let server = Server::start([Reply::json(201, &samples::created_branch())]).await;
    let request = BranchCreateRequest::named("feat1").read_write_endpoint();

    let created = server.client().create_branch(&project(), &request).await;

    assert_eq!(created.unwrap().branch.id, branch());
    let received = server.request().await;
    assert_eq!(
        received.line,
        "POST /api/v2/projects/late-frost-12345678/branches"
    );
    let bearer = format!("Bearer {KEY}");
    assert_eq!(received.header("authorization"), Some(bearer.as_str()));
    assert_eq!(received.header("content-type"), Some("application/json"));
    assert_eq!(received.header("accept"), Some("application/json"));
    let user_agent = received.header("user-agent").unwrap();
    assert!(user_agent.starts_with("neon-api/"), "{user_agent}");
    assert_eq!(
        received.json(),
        json!({"branch": {"name": "feat1"}, "endpoints": [{"type": "read_write"}]})
    );
}

#[tokio::test]
async fn projects() {
    let one = json!({"project": samples::project(), "operations": []});
    let query = ProjectListQuery {
        limit: Some(5),
        search: Some("a b&c".to_owned()),
        ..ProjectListQuery::default()
    };
    assert_route!(
        Reply::json(200, &json!({"projects": [samples::project_list_item()]})),
        "GET /projects?limit=5&search=a+b%26c",
        |client| client.list_projects(&query)
    );
    assert_route!(
        Reply::json(200, &one),
        "GET /projects/late-frost-12345678",
        |client| client.get_project(&project())
    );
    assert_route!(
        Reply::json(201, &samples::created_project()),
        "POST /projects",
        |client| client.create_project(&ProjectCreateRequest::named("x"))
    );
    assert_route!(
        Reply::json(200, &one),
        "PATCH /projects/late-frost-12345678",
        |client| client.update_project(&project(), &ProjectUpdateRequest::default())
    );
    assert_route!(
        Reply::json(200, &one),
        "DELETE /projects/late-frost-12345678",
        |client| client.delete_project(&project())
    );
}

#[tokio::test]
async fn branches() {
    let one = json!({"branch": samples::branch(), "operations": []});
    assert_route!(
        Reply::json(200, &one),
        "GET /projects/late-frost-12345678/branches/br-small-term-a1b2c3d4",
        |client| client.get_branch(&project(), &branch())
    );
    let update = BranchUpdateRequest::default().never_expires();
    assert_route!(
        Reply::json(200, &one),
        "PATCH /projects/late-frost-12345678/branches/br-small-term-a1b2c3d4",
        |client| client.update_branch(&project(), &branch(), &update)
    );
    assert_route!(
        Reply::json(200, &one),
        "DELETE /projects/late-frost-12345678/branches/br-small-term-a1b2c3d4",
        |client| client.delete_branch(&project(), &branch())
    );
    let restore = BranchRestoreRequest::from_branch(branch());
    assert_route!(
        Reply::json(200, &one),
        "POST /projects/late-frost-12345678/branches/br-small-term-a1b2c3d4/restore",
        |client| client.restore_branch(&project(), &branch(), &restore)
    );
    assert_route!(
        Reply::json(200, &one),
        "POST /projects/late-frost-12345678/branches/br-small-term-a1b2c3d4/set_as_default",
        |client| client.set_default_branch(&project(), &branch())
    );
    let mut query = BranchSchemaQuery::database("neondb");
    query.format = Some(SchemaFormat::Json);
    assert_route!(
        Reply::json(200, &json!({"json": {"tables": []}})),
        "GET /projects/late-frost-12345678/branches/br-small-term-a1b2c3d4/schema?db_name=neondb&format=json",
        |client| client.get_branch_schema(&project(), &branch(), &query)
    );
    let query = SchemaCompareQuery::database("neondb").base(branch());
    assert_route!(
        Reply::json(200, &json!({"diff": ""})),
        "GET /projects/late-frost-12345678/branches/br-small-term-a1b2c3d4/compare_schema?base_branch_id=br-small-term-a1b2c3d4&db_name=neondb",
        |client| client.compare_branch_schema(&project(), &branch(), &query)
    );
}

#[tokio::test]
async fn endpoints() {
    let one = json!({"endpoint": samples::endpoint(), "operations": [samples::operation()]});
    let all = json!({"endpoints": [samples::endpoint()]});
    assert_route!(
        Reply::json(200, &all),
        "GET /projects/late-frost-12345678/branches/br-small-term-a1b2c3d4/endpoints",
        |client| client.list_branch_endpoints(&project(), &branch())
    );
    assert_route!(
        Reply::json(200, &all),
        "GET /projects/late-frost-12345678/endpoints",
        |client| client.list_endpoints(&project())
    );
    assert_route!(
        Reply::json(200, &one),
        "GET /projects/late-frost-12345678/endpoints/ep-little-smoke-a1b2c3d4",
        |client| client.get_endpoint(&project(), &endpoint())
    );
    let create = EndpointCreateRequest::read_write(branch());
    assert_route!(
        Reply::json(201, &one),
        "POST /projects/late-frost-12345678/endpoints",
        |client| client.create_endpoint(&project(), &create)
    );
    let update = EndpointUpdateRequest::default();
    assert_route!(
        Reply::json(200, &one),
        "PATCH /projects/late-frost-12345678/endpoints/ep-little-smoke-a1b2c3d4",
        |client| client.update_endpoint(&project(), &endpoint(), &update)
    );
    assert_route!(
        Reply::json(200, &one),
        "DELETE /projects/late-frost-12345678/endpoints/ep-little-smoke-a1b2c3d4",
        |client| client.delete_endpoint(&project(), &endpoint())
    );
    assert_route!(
        Reply::json(200, &one),
        "POST /projects/late-frost-12345678/endpoints/ep-little-smoke-a1b2c3d4/start",
        |client| client.start_endpoint(&project(), &endpoint())
    );
    assert_route!(
        Reply::json(200, &one),
        "POST /projects/late-frost-12345678/endpoints/ep-little-smoke-a1b2c3d4/suspend",
        |client| client.suspend_endpoint(&project(), &endpoint())
    );
    assert_route!(
        Reply::json(200, &one),
        "POST /projects/late-frost-12345678/endpoints/ep-little-smoke-a1b2c3d4/restart",
        |client| client.restart_endpoint(&project(), &endpoint())
    );
}

#[tokio::test]
async fn databases() {
    let one = json!({"database": samples::database(), "operations": []});
    assert_route!(
        Reply::json(200, &json!({"databases": [samples::database()]})),
        "GET /projects/late-frost-12345678/branches/br-small-term-a1b2c3d4/databases",
        |client| client.list_databases(&project(), &branch())
    );
    assert_route!(
        Reply::json(200, &one),
        "GET /projects/late-frost-12345678/branches/br-small-term-a1b2c3d4/databases/neondb",
        |client| client.get_database(&project(), &branch(), "neondb")
    );
    let create = DatabaseCreateRequest::new("app", "neondb_owner");
    assert_route!(
        Reply::json(201, &one),
        "POST /projects/late-frost-12345678/branches/br-small-term-a1b2c3d4/databases",
        |client| client.create_database(&project(), &branch(), &create)
    );
    let update = DatabaseUpdateRequest::default();
    assert_route!(
        Reply::json(200, &one),
        "PATCH /projects/late-frost-12345678/branches/br-small-term-a1b2c3d4/databases/app",
        |client| client.update_database(&project(), &branch(), "app", &update)
    );
    assert_route!(
        Reply::json(200, &one),
        "DELETE /projects/late-frost-12345678/branches/br-small-term-a1b2c3d4/databases/app",
        |client| client.delete_database(&project(), &branch(), "app")
    );
}

#[tokio::test]
async fn roles() {
    let one = json!({"role": samples::role(), "operations": []});
    assert_route!(
        Reply::json(200, &json!({"roles": [samples::role()]})),
        "GET /projects/late-frost-12345678/branches/br-small-term-a1b2c3d4/roles",
        |client| client.list_roles(&project(), &branch())
    );
    assert_route!(
        Reply::json(200, &one),
        "GET /projects/late-frost-12345678/branches/br-small-term-a1b2c3d4/roles/alice",
        |client| client.get_role(&project(), &branch(), "alice")
    );
    assert_route!(
        Reply::json(201, &one),
        "POST /projects/late-frost-12345678/branches/br-small-term-a1b2c3d4/roles",
        |client| client.create_role(&project(), &branch(), &RoleCreateRequest::named("alice"))
    );
    assert_route!(
        Reply::json(200, &one),
        "DELETE /projects/late-frost-12345678/branches/br-small-term-a1b2c3d4/roles/alice",
        |client| client.delete_role(&project(), &branch(), "alice")
    );
    assert_route!(
        Reply::json(200, &json!({"password": samples::PASSWORD})),
        "GET /projects/late-frost-12345678/branches/br-small-term-a1b2c3d4/roles/alice/reveal_password",
        |client| client.reveal_role_password(&project(), &branch(), "alice")
    );
    assert_route!(
        Reply::json(200, &one),
        "POST /projects/late-frost-12345678/branches/br-small-term-a1b2c3d4/roles/alice/reset_password",
        |client| client.reset_role_password(&project(), &branch(), "alice")
    );
}

#[tokio::test]
async fn connections_and_operations() {
    let query = ConnectionUriQuery::new("neondb", "neondb_owner")
        .branch(branch())
        .endpoint(endpoint())
        .pooled(true);
    assert_route!(
        Reply::json(200, &json!({"uri": samples::uri()})),
        "GET /projects/late-frost-12345678/connection_uri?branch_id=br-small-term-a1b2c3d4&endpoint_id=ep-little-smoke-a1b2c3d4&database_name=neondb&role_name=neondb_owner&pooled=true",
        |client| client.get_connection_uri(&project(), &query)
    );
    let query = OperationListQuery {
        cursor: Some("2026-01-10T09:00:00Z".to_owned()),
        limit: Some(1),
    };
    assert_route!(
        Reply::json(200, &json!({"operations": [samples::operation()]})),
        "GET /projects/late-frost-12345678/operations?cursor=2026-01-10T09%3A00%3A00Z&limit=1",
        |client| client.list_operations(&project(), &query)
    );
    let id: OperationId = "a07f8772-1877-4da9-a939-3a3ae62d1d8d".parse().unwrap();
    assert_route!(
        Reply::json(200, &json!({"operation": samples::operation()})),
        "GET /projects/late-frost-12345678/operations/a07f8772-1877-4da9-a939-3a3ae62d1d8d",
        |client| client.get_operation(&project(), id)
    );
}

#[tokio::test]
async fn names_are_percent_encoded() {
    let one = json!({"role": samples::role()});
    assert_route!(
        Reply::json(200, &one),
        "GET /projects/late-frost-12345678/branches/br-small-term-a1b2c3d4/roles/a%2Fb%3Fc%20%25d%23%C3%A9",
        |client| client.get_role(&project(), &branch(), "a/b?c %d#é")
    );
}

#[tokio::test]
async fn a_name_that_would_change_the_route_is_not_sent() {
    let server = Server::start([]).await;
    for name in ["", ".", ".."] {
        let error = server
            .client()
            .delete_database(&project(), &branch(), name)
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Name { .. }), "{error:?}");
        assert!(error.is_not_sent() && !error.may_repeat() && !error.outcome_is_unknown());
    }
}

#[tokio::test]
async fn deleting_what_is_not_there_is_nothing() {
    let replies = [(); 4].map(|()| Reply::text(204, &[], ""));
    let server = Server::start(replies).await;
    let (client, project, branch) = (server.client(), project(), branch());
    let answer = client.delete_branch(&project, &branch).await.unwrap();
    assert_eq!(answer, None);
    let answer = client.delete_endpoint(&project, &endpoint()).await.unwrap();
    assert_eq!(answer, None);
    let answer = client.delete_database(&project, &branch, "app").await;
    assert_eq!(answer.unwrap(), None);
    let answer = client.delete_role(&project, &branch, "alice").await;
    assert_eq!(answer.unwrap(), None);
    assert_eq!(server.requests().await.len(), 4);
}
