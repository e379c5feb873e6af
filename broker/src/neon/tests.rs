#![allow(clippy::unwrap_used)]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use neon_api::Secret;
use serde_json::{Value, json};

use super::*;
use crate::names::BindingName;

/// What the scripted Neon does with the next creation.
#[derive(Debug, Clone, Copy)]
enum Creation {
    /// Carried out and answered.
    Answered,
    /// Carried out; a gateway answers in its place.
    AnswerLost,
    /// Not carried out; a gateway answers in its place.
    RequestLost,
    /// Not carried out: other work is going on.
    Locked,
    /// Not carried out: too many requests, try in so many seconds.
    Limited(u32),
    /// Somebody else made it a moment ago.
    TooLate,
    /// Not carried out, and never will be.
    Refused,
}

/// A Neon that knows branches and does as it is told.
#[derive(Default)]
struct Script {
    creations: VecDeque<Creation>,
    branches: Vec<Value>,
    /// Creations that came in.
    asked: usize,
    /// How often the operation is looked at before it is finished.
    operation_looks: usize,
    operation_ends: &'static str,
}

type Shared = Arc<Mutex<Script>>;

async fn start(creations: &[Creation]) -> (Neon, Shared) {
    let script = Arc::new(Mutex::new(Script {
        creations: creations.iter().copied().collect(),
        operation_looks: 2,
        operation_ends: "finished",
        ..Script::default()
    }));
    let project = "/api/v2/projects/late-frost-12345678";
    let router = Router::new()
        .route(&format!("{project}/branches"), get(list).post(create))
        .route(&format!("{project}/branches/{{id}}"), get(one))
        .route(&format!("{project}/operations/{{id}}"), get(operation))
        .route(project, get(|| async { answer(404, "project not found") }))
        .with_state(Arc::clone(&script));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/api/v2", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    let client = NeonClient::new(url.parse().unwrap(), Secret::from("key")).unwrap();
    let project = "late-frost-12345678".parse().unwrap();
    (Neon::new(client, project, Limits::NEON), script)
}

async fn list(
    State(script): State<Shared>,
    Query(query): Query<std::collections::HashMap<String, String>>,
) -> Response {
    let script = script.lock().unwrap();
    let search = query.get("search").map_or("", String::as_str);
    let holds = |branch: &&Value| branch["name"].as_str().unwrap().contains(search);
    let branches: Vec<&Value> = script.branches.iter().filter(holds).collect();
    let annotations: serde_json::Map<String, Value> = branches
        .iter()
        .filter(|branch| branch["ours"] == true)
        .map(|branch| {
            let id = branch["id"].as_str().unwrap().to_owned();
            let notes = json!({
                "object": {"type": "console/branch", "id": id},
                "value": {"managed-by": "branch-broker"},
            });
            (id, notes)
        })
        .collect();
    let page = json!({"branches": branches, "annotations": annotations, "pagination": {}});
    Json(page).into_response()
}

async fn create(State(script): State<Shared>, Json(request): Json<Value>) -> Response {
    let mut script = script.lock().unwrap();
    script.asked += 1;
    let name = request["branch"]["name"].as_str().unwrap().to_owned();
    let ours = request["annotation_value"]["managed-by"] == "branch-broker";
    let gateway = (
        StatusCode::from_u16(524).unwrap(),
        [(header::CONTENT_TYPE, "text/html")],
        "<html><title>A timeout occurred</title></html>",
    );
    match script.creations.pop_front().unwrap_or(Creation::Answered) {
        Creation::Answered => {
            let branch = branch(&name, ours);
            script.branches.push(branch.clone());
            let created = json!({
                "branch": branch, "endpoints": [], "roles": [], "databases": [],
                "operations": [the_operation("scheduling")],
            });
            (StatusCode::CREATED, Json(created)).into_response()
        }
        Creation::AnswerLost => {
            script.branches.push(branch(&name, ours));
            gateway.into_response()
        }
        Creation::RequestLost => gateway.into_response(),
        Creation::Locked => answer(423, "project already has running conflicting operations"),
        Creation::Limited(seconds) => {
            let mut refused = answer(429, "too many requests");
            let headers = refused.headers_mut();
            headers.insert(header::RETRY_AFTER, seconds.into());
            refused
        }
        Creation::TooLate => {
            script.branches.push(branch(&name, false));
            answer(409, "branch already exists")
        }
        Creation::Refused => answer(422, "branches limit exceeded"),
    }
}

async fn one(State(script): State<Shared>) -> Response {
    let mut script = script.lock().unwrap();
    let branch = script.branches.last_mut().unwrap();
    branch["current_state"] = json!("ready");
    Json(json!({"branch": branch.clone()})).into_response()
}

async fn operation(State(script): State<Shared>) -> Response {
    let mut script = script.lock().unwrap();
    let status = match script.operation_looks {
        0 => script.operation_ends,
        _ => "running",
    };
    script.operation_looks = script.operation_looks.saturating_sub(1);
    Json(json!({"operation": the_operation(status)})).into_response()
}

fn answer(status: u16, message: &str) -> Response {
    let body = json!({"code": "", "message": message});
    (StatusCode::from_u16(status).unwrap(), Json(body)).into_response()
}

fn branch(name: &str, ours: bool) -> Value {
    json!({
        "id": format!("br-{}", name.replace('_', "-")),
        "project_id": "late-frost-12345678",
        "name": name,
        "ours": ours,
        "current_state": "init",
        "state_changed_at": "2026-01-01T00:00:00Z",
        "creation_source": "api",
        "default": false,
        "protected": false,
        "compute_time_seconds": 0,
        "active_time_seconds": 0,
        "written_data_bytes": 0,
        "data_transfer_bytes": 0,
        "created_at": "2026-01-01T00:00:00Z",
        "updated_at": "2026-01-01T00:00:00Z",
    })
}

fn the_operation(status: &str) -> Value {
    json!({
        "id": "00000000-0000-4000-8000-000000000001",
        "project_id": "late-frost-12345678",
        "action": "start_compute",
        "status": status,
        "error": "no compute left",
        "failures_count": 0,
        "created_at": "2026-01-01T00:00:00Z",
        "updated_at": "2026-01-01T00:00:00Z",
        "total_duration_ms": 0,
    })
}

async fn ensure(neon: &Neon, name: &str) -> Result<Ensured, Error> {
    let binding: BindingName = "services/users/versions/v1".parse().unwrap();
    let new = NewBranch::for_binding(name.parse().unwrap(), None, binding);
    neon.branch_ensure(&new).await
}

fn seen(script: &Shared) -> (usize, usize) {
    let script = script.lock().unwrap();
    (script.asked, script.branches.len())
}

#[tokio::test]
async fn a_missing_branch_is_made_once_with_our_annotation_and_ready() {
    let (neon, script) = start(&[Creation::Answered]).await;
    let made = ensure(&neon, "api_v1_branch").await.unwrap();
    assert!(made.created);
    assert_eq!(made.found.branch.current_state.as_str(), "ready");
    let found = ensure(&neon, "api_v1_branch").await.unwrap();
    assert!(!found.created);
    assert_eq!(found.found.branch.id, made.found.branch.id);
    assert_eq!(seen(&script), (1, 1));
    assert!(neon.branches().await.unwrap()[0].managed);
}

#[tokio::test]
async fn a_part_of_a_name_is_not_the_name() {
    let (neon, script) = start(&[]).await;
    ensure(&neon, "api_v1_branch_old").await.unwrap();
    assert!(ensure(&neon, "api_v1_branch").await.unwrap().created);
    assert_eq!(seen(&script), (2, 2));
}

#[tokio::test]
async fn many_who_want_one_missing_branch_cause_one_creation() {
    let (neon, script) = start(&[]).await;
    let wanted = (0..100).map(|_| ensure(&neon, "api_v1_branch"));
    let got = futures_util::future::try_join_all(wanted).await.unwrap();
    assert_eq!(got.iter().filter(|ensured| ensured.created).count(), 1);
    assert_eq!(seen(&script), (1, 1));
}

#[tokio::test]
async fn a_lost_answer_is_looked_for_and_not_repeated() {
    let (neon, script) = start(&[Creation::AnswerLost]).await;
    let found = ensure(&neon, "api_v1_branch").await.unwrap();
    assert_eq!(found.found.branch.name, "api_v1_branch");
    assert_eq!(seen(&script), (1, 1));
}

#[tokio::test]
async fn a_lost_request_is_repeated_after_looking() {
    let (neon, script) = start(&[Creation::RequestLost]).await;
    assert!(ensure(&neon, "api_v1_branch").await.unwrap().created);
    assert_eq!(seen(&script), (2, 1));
}

#[tokio::test]
async fn refusals_that_pass_are_repeated() {
    let (neon, script) = start(&[Creation::Locked, Creation::Limited(0), Creation::Locked]).await;
    assert!(ensure(&neon, "api_v1_branch").await.unwrap().created);
    assert_eq!(seen(&script), (4, 1));
}

#[tokio::test]
async fn a_long_retry_after_goes_to_the_caller() {
    let (neon, script) = start(&[Creation::Limited(3_600)]).await;
    let error = ensure(&neon, "api_v1_branch").await.unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::from_secs(3_600)));
    assert!(error.is_transient());
    assert_eq!(seen(&script), (1, 0));
}

#[tokio::test]
async fn a_branch_that_somebody_else_made_meanwhile_is_taken() {
    let (neon, script) = start(&[Creation::TooLate]).await;
    let found = ensure(&neon, "api_v1_branch").await.unwrap();
    assert!(!found.created);
    assert_eq!(seen(&script), (1, 1));
}

#[tokio::test]
async fn a_refusal_that_stays_is_not_repeated() {
    let (neon, script) = start(&[Creation::Refused]).await;
    let error = ensure(&neon, "api_v1_branch").await.unwrap_err();
    assert!(!error.is_transient());
    let line = crate::text::one_line(&error);
    assert!(line.contains("api_v1_branch"), "{line}");
    assert!(line.contains("branches limit exceeded"), "{line}");
    assert_eq!(seen(&script), (1, 0));
}

#[tokio::test]
async fn an_operation_that_fails_is_named() {
    let (neon, script) = start(&[]).await;
    script.lock().unwrap().operation_ends = "failed";
    let error = ensure(&neon, "api_v1_branch")
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("start_compute"), "{error}");
    assert!(error.contains("no compute left"), "{error}");
}

#[tokio::test]
async fn a_project_that_is_not_there_is_named() {
    let (neon, _script) = start(&[]).await;
    let error = neon.check().await.unwrap_err();
    assert!(error.is_fatal());
    assert!(error.to_string().contains("late-frost-12345678"), "{error}");
    assert!(error.to_string().contains("NEON_PROJECT_ID"), "{error}");
}
