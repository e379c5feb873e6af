#![allow(clippy::unwrap_used)]

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use neon_api::{NeonClient, Secret};
use serde_json::{Value, json};

use super::*;
use crate::neon::{Limits, OwnerUris};

const PROJECT: &str = "late-frost-12345678";
const TIME: &str = "2026-01-01T00:00:00Z";

/// What the scripted Neon does with the next creation.
#[derive(Debug, Clone, Copy)]
enum Creation {
    /// Carried out; a gateway answers in its place.
    AnswerLost,
    /// Not carried out; a gateway answers in its place.
    RequestLost,
}

/// A Neon with one branch, whose endpoints it knows.
#[derive(Default)]
struct Script {
    endpoints: Vec<Value>,
    /// What becomes of creations, before they are carried out and answered.
    creations: VecDeque<Creation>,
    /// Creations that came in.
    asked: usize,
}

type Shared = Arc<Mutex<Script>>;

async fn start(endpoints: Vec<Value>, creations: &[Creation]) -> (Neon, Shared) {
    let script = Arc::new(Mutex::new(Script {
        endpoints,
        creations: creations.iter().copied().collect(),
        asked: 0,
    }));
    let project = format!("/api/v2/projects/{PROJECT}");
    let branch = format!("{project}/branches/br-a");
    let router = Router::new()
        .route(&format!("{branch}/endpoints"), get(list))
        .route(&format!("{branch}/databases"), get(databases))
        .route(&format!("{project}/endpoints"), post(create))
        .route(&format!("{project}/connection_uri"), get(uri))
        .with_state(Arc::clone(&script));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/api/v2", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    let client = NeonClient::new(url.parse().unwrap(), Secret::from("key")).unwrap();
    let neon = Neon::new(client, PROJECT.parse().unwrap(), Limits::NEON);
    (neon, script)
}

async fn list(State(script): State<Shared>) -> Response {
    let endpoints = script.lock().unwrap().endpoints.clone();
    Json(json!({ "endpoints": endpoints })).into_response()
}

async fn create(State(script): State<Shared>, Json(request): Json<Value>) -> Response {
    let mut script = script.lock().unwrap();
    script.asked += 1;
    let creation = script.creations.pop_front();
    let number = script.asked;
    let kind = request["endpoint"]["type"].as_str().unwrap();
    let made = endpoint(&format!("ep-{number}"), kind, TIME, false);
    if !matches!(creation, Some(Creation::RequestLost)) {
        script.endpoints.push(made.clone());
    }
    match creation {
        None => {
            let created = json!({"endpoint": made, "operations": []});
            (StatusCode::CREATED, Json(created)).into_response()
        }
        Some(_) => StatusCode::from_u16(524).unwrap().into_response(),
    }
}

async fn databases() -> Response {
    let database = json!({
        "id": 1,
        "branch_id": "br-a",
        "name": "neondb",
        "owner_name": "owner",
        "created_at": TIME,
        "updated_at": TIME,
    });
    Json(json!({ "databases": [database] })).into_response()
}

async fn uri(Query(query): Query<HashMap<String, String>>) -> Response {
    let endpoint = query.get("endpoint_id").map_or("writer", String::as_str);
    let pooler = match query["pooled"].as_str() {
        "true" => "-pooler",
        _ => "",
    };
    let (role, database) = (&query["role_name"], &query["database_name"]);
    let uri = format!("postgresql://{role}:p@{endpoint}{pooler}/{database}");
    Json(json!({ "uri": uri })).into_response()
}

fn endpoint(id: &str, kind: &str, created_at: &str, disabled: bool) -> Value {
    json!({
        "host": "127.0.0.1",
        "id": id,
        "project_id": PROJECT,
        "branch_id": "br-a",
        "autoscaling_limit_min_cu": 0.25,
        "autoscaling_limit_max_cu": 0.25,
        "region_id": "aws-eu-central-1",
        "type": kind,
        "current_state": "idle",
        "settings": {},
        "disabled": disabled,
        "passwordless_access": false,
        "creation_source": "api",
        "created_at": created_at,
        "updated_at": created_at,
        "suspend_timeout_seconds": 0,
        "provisioner": "k8s-neonvm",
    })
}

fn writer() -> Value {
    endpoint("ep-writer", "read_write", TIME, false)
}

fn branch() -> BranchId {
    "br-a".parse().unwrap()
}

async fn ensure(neon: &Neon, kind: EndpointKind) -> Result<bool, Error> {
    neon.endpoint_ensure(&branch(), kind).await
}

fn asked(script: &Shared) -> usize {
    script.lock().unwrap().asked
}

async fn uris(endpoints: Vec<Value>) -> OwnerUris {
    let (neon, _script) = start(endpoints, &[]).await;
    neon.owner_uris(&branch(), "neondb").await.unwrap()
}

#[tokio::test]
async fn a_branch_gets_one_endpoint_of_each_kind() {
    let (neon, script) = start(Vec::new(), &[]).await;
    for kind in [EndpointKind::ReadWrite, EndpointKind::ReadOnly] {
        assert!(ensure(&neon, kind).await.unwrap());
        assert!(!ensure(&neon, kind).await.unwrap());
    }
    assert_eq!(asked(&script), 2);
    let both = BTreeSet::from([EndpointKind::ReadWrite, EndpointKind::ReadOnly]);
    assert_eq!(neon.endpoints(&branch()).await.unwrap(), both);
}

/// Neon would take each.
#[tokio::test]
async fn many_who_want_a_read_only_endpoint_make_one() {
    let (neon, script) = start(vec![writer()], &[]).await;
    let wanted = (0..10).map(|_| ensure(&neon, EndpointKind::ReadOnly));
    let made = futures_util::future::try_join_all(wanted).await.unwrap();
    assert_eq!(made.iter().filter(|made| **made).count(), 1);
    assert_eq!(asked(&script), 1);
}

#[tokio::test]
async fn an_endpoint_whose_creation_was_not_heard_of_is_looked_for_first() {
    let (neon, script) = start(vec![writer()], &[Creation::AnswerLost]).await;
    assert!(!ensure(&neon, EndpointKind::ReadOnly).await.unwrap());
    assert_eq!(asked(&script), 1);

    let (neon, script) = start(vec![writer()], &[Creation::RequestLost]).await;
    let error = ensure(&neon, EndpointKind::ReadOnly).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert_eq!(asked(&script), 1, "it is not repeated at once");
    assert!(ensure(&neon, EndpointKind::ReadOnly).await.unwrap());
}

#[tokio::test]
async fn leases_are_told_the_oldest_read_only_endpoint_that_takes_connections() {
    let none = uris(vec![writer()]).await;
    assert!(none.replica.is_none());
    assert_eq!(none.direct.expose(), "postgresql://owner:p@writer/neondb");

    let of_day = |id: &str, day: u32, disabled: bool| {
        let time = format!("2026-01-{day:02}T00:00:00Z");
        endpoint(id, "read_only", &time, disabled)
    };
    let all = vec![
        of_day("ep-young", 4, false),
        of_day("ep-asleep", 1, true),
        of_day("ep-twin", 3, false),
        of_day("ep-old", 3, false),
        writer(),
    ];
    let found = uris(all).await;
    let replica = found.replica.unwrap();
    for (uri, host) in [
        (&found.direct, "writer"),
        (&found.pooled, "writer-pooler"),
        (&replica.direct, "ep-old"),
        (&replica.pooled, "ep-old-pooler"),
    ] {
        let wanted = format!("postgresql://owner:p@{host}/neondb");
        assert_eq!(uri.expose(), wanted);
    }
    // One that takes none is none.
    let disabled = uris(vec![writer(), of_day("ep-asleep", 1, true)]).await;
    assert!(disabled.replica.is_none());
}
