//! The Neon API over HTTP. A handler checks the request, changes the state, and
//! answers; the engine does the rest.

mod branches;
mod connection;
mod databases;
mod endpoints;
mod error;
mod extract;
mod operations;
mod projects;
mod roles;
mod schema;
mod settings;

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use neon_api::Secret;
use neon_api::types::GeneralError;
use uuid::Uuid;

use crate::engine::Engine;
pub(crate) use error::ApiError;

pub(crate) use projects::create_first as create_first_project;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const NEON_REQUEST_ID: HeaderName = HeaderName::from_static("x-neon-ret-request-id");

/// What every handler gets.
pub(crate) type Shared = State<Arc<Engine>>;

/// All routes, below `/api/v2`, behind the API key.
pub(crate) fn router(engine: Arc<Engine>, key: Secret) -> Router {
    let branch = Router::new()
        .route(
            "/",
            get(branches::get)
                .patch(branches::update)
                .delete(branches::delete),
        )
        .route("/set_as_default", post(branches::set_default))
        .route("/endpoints", get(endpoints::list_of_branch))
        .route("/schema", get(schema::get))
        .route("/databases", get(databases::list).post(databases::create))
        .route(
            "/databases/{database_name}",
            get(databases::get)
                .patch(databases::update)
                .delete(databases::delete),
        )
        .route("/roles", get(roles::list).post(roles::create))
        .route("/roles/{role_name}", get(roles::get).delete(roles::delete))
        .route("/roles/{role_name}/reveal_password", get(roles::reveal))
        .route("/roles/{role_name}/reset_password", post(roles::reset));
    let endpoint = Router::new()
        .route(
            "/",
            get(endpoints::get)
                .patch(endpoints::update)
                .delete(endpoints::delete),
        )
        .route("/start", post(endpoints::start))
        .route("/suspend", post(endpoints::suspend))
        .route("/restart", post(endpoints::restart));
    let project = Router::new()
        .route("/", get(projects::get))
        .route("/operations", get(operations::list))
        .route("/operations/{operation_id}", get(operations::get))
        .route("/connection_uri", get(connection::uri))
        .route("/branches", get(branches::list).post(branches::create))
        .route("/branches/count", get(branches::count))
        .nest("/branches/{branch_id}", branch)
        .route("/endpoints", get(endpoints::list).post(endpoints::create))
        .nest("/endpoints/{endpoint_id}", endpoint);
    let api = Router::new()
        .route("/projects", get(projects::list).post(projects::create))
        .nest("/projects/{project_id}", project)
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(from_fn_with_state(Arc::new(key), check_key));
    Router::new()
        .nest("/api/v2", api)
        .fallback(no_route)
        .with_state(engine)
        .layer(from_fn(add_request_id))
}

async fn no_route() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "this route does not exist")
}

async fn no_method() -> ApiError {
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "this route does not have this method",
    )
}

async fn check_key(State(key): State<Arc<Secret>>, request: Request, next: Next) -> Response {
    let given = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "));
    match given {
        Some(given) if same(given.trim().as_bytes(), key.expose().trim().as_bytes()) => {
            next.run(request).await
        }
        Some(_) => {
            ApiError::new(StatusCode::UNAUTHORIZED, "the API key is not valid").into_response()
        }
        None => ApiError::new(
            StatusCode::UNAUTHORIZED,
            "an API key is required: Authorization: Bearer $NEON_API_KEY",
        )
        .into_response(),
    }
}

/// Takes as long for a near miss as for a wild guess.
fn same(left: &[u8], right: &[u8]) -> bool {
    left.len() == right.len()
        && left
            .iter()
            .zip(right)
            .fold(0, |difference, (a, b)| difference | (a ^ b))
            == 0
}

/// Gives every answer its request id: the caller's, or a new one.
async fn add_request_id(request: Request, next: Next) -> Response {
    let id = request
        .headers()
        .get(REQUEST_ID)
        .cloned()
        .or_else(|| HeaderValue::from_str(&Uuid::new_v4().to_string()).ok())
        .unwrap_or(HeaderValue::from_static("unknown"));
    let mut response = next.run(request).await;
    if let Some(error) = response.extensions_mut().remove::<GeneralError>() {
        let body = GeneralError {
            request_id: id.to_str().ok().map(str::to_owned),
            ..error
        };
        response = (response.status(), Json(body)).into_response();
    }
    response.headers_mut().insert(NEON_REQUEST_ID, id);
    response
}
