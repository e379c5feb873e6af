//! The Neon API over HTTP. A handler checks the request, changes the state, and
//! answers; the engine does the rest.

mod account;
mod admin;
mod api_keys;
mod body;
mod branch_limits;
mod branch_list;
mod branches;
mod connection;
mod cors;
mod cursor;
mod databases;
mod endpoint_options;
mod endpoint_tasks;
mod endpoint_update;
mod endpoints;
mod error;
mod expiry;
mod extract;
mod faults;
mod guard;
mod object;
mod operations;
mod points;
mod project_list;
mod project_settings;
mod projects;
mod regions;
mod restore;
mod roles;
mod schema;
mod seconds;
mod settings;
mod snapshot_restore;
mod snapshots;

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, patch, post};
use axum::{Json, Router};
use neon_api::Secret;
use neon_api::types::GeneralError;
use uuid::Uuid;

use crate::engine::Engine;
use crate::faults::Faults;
pub(crate) use error::ApiError;
pub(crate) use faults::Probe;
use guard::Guard;

pub(crate) use projects::create_first as create_first_project;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const NEON_REQUEST_ID: HeaderName = HeaderName::from_static("x-neon-ret-request-id");

/// What every handler gets.
pub(crate) type Shared = State<Arc<Engine>>;

/// Where Neon's routes begin.
pub(crate) const API_PREFIX: &str = "/api/v2";

/// All routes, behind the API key: Neon's, and those for tests if they are asked
/// for.
pub(crate) fn router(engine: Arc<Engine>, key: Secret, with_admin: bool) -> (Router, Faults) {
    let guard = Arc::new(Guard {
        engine: Arc::clone(&engine),
        key,
    });
    let queue = Arc::clone(engine.faults());
    let api = Router::new()
        .nest(API_PREFIX, api(&engine, &guard))
        .with_state(Arc::clone(&engine));
    let faults = Faults::new(queue, api.clone());
    let mut router = api;
    if with_admin {
        let admin = admin::router(faults.clone(), engine)
            .layer(from_fn_with_state(guard, guard::check_key));
        router = router.nest("/admin/v1", admin);
    }
    let router = router
        .fallback(no_route)
        .layer(from_fn(body::limit))
        .layer(from_fn(add_request_id))
        .layer(from_fn(cors::share));
    (router, faults)
}

/// Neon's routes.
fn api(engine: &Arc<Engine>, guard: &Arc<Guard>) -> Router<Arc<Engine>> {
    let branch = Router::new()
        .route(
            "/",
            get(branches::get)
                .patch(branches::update)
                .delete(branches::delete),
        )
        .route("/restore", post(restore::restore))
        .route("/snapshot", post(snapshots::create))
        .route("/finalize_restore", post(snapshot_restore::finalize))
        .route("/set_as_default", post(branches::set_default))
        .route("/endpoints", get(endpoints::list_of_branch))
        .route("/schema", get(schema::get))
        .route("/compare_schema", get(schema::compare))
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
                .patch(endpoint_update::update)
                .delete(endpoints::delete),
        )
        .route("/start", post(endpoint_tasks::start))
        .route("/suspend", post(endpoint_tasks::suspend))
        .route("/restart", post(endpoint_tasks::restart));
    let project = Router::new()
        .route(
            "/",
            get(projects::get)
                .patch(projects::update)
                .delete(projects::delete),
        )
        .route(
            "/available_preload_libraries",
            get(account::preload_libraries),
        )
        .route("/operations", get(operations::list))
        .route("/operations/{operation_id}", get(operations::get))
        .route("/connection_uri", get(connection::uri))
        .route("/branches", get(branch_list::list).post(branches::create))
        .route("/branches/count", get(branch_list::count))
        .nest("/branches/{branch_id}", branch)
        .route("/snapshots", get(snapshots::list))
        .route(
            "/snapshots/{snapshot_id}",
            patch(snapshots::update).delete(snapshots::delete),
        )
        .route(
            "/snapshots/{snapshot_id}/restore",
            post(snapshot_restore::restore),
        )
        .route("/endpoints", get(endpoints::list).post(endpoints::create))
        .nest("/endpoints/{endpoint_id}", endpoint);
    Router::new()
        .route("/projects", get(project_list::list).post(projects::create))
        .route("/projects/shared", get(project_list::list_shared))
        .route("/api_keys", get(api_keys::list).post(api_keys::create))
        .route("/api_keys/{key_id}", delete(api_keys::revoke))
        .route("/auth", get(account::auth))
        .route("/regions", get(regions::list))
        .route("/users/me", get(account::user))
        .route("/users/me/organizations", get(account::organizations))
        .route("/organizations/{org_id}", get(account::organization))
        .route(
            "/organizations/{org_id}/api_keys",
            get(api_keys::list_of_organization).post(api_keys::create_of_organization),
        )
        .route(
            "/organizations/{org_id}/api_keys/{key_id}",
            delete(api_keys::revoke_of_organization),
        )
        .nest("/projects/{project_id}", project)
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(from_fn(seconds::shorten))
        .layer(from_fn_with_state(Arc::clone(engine), faults::inject))
        .layer(from_fn_with_state(Arc::clone(guard), guard::check_key))
        .layer(from_fn_with_state(Arc::clone(engine), faults::record))
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

/// Gives every answer its request id: the caller's, or a new one.
async fn add_request_id(request: Request, next: Next) -> Response {
    let id = request
        .headers()
        .get(REQUEST_ID)
        .filter(|id| !id.is_empty())
        .cloned()
        .or_else(|| HeaderValue::from_str(&Uuid::new_v4().to_string()).ok())
        .unwrap_or(HeaderValue::from_static("unknown"));
    let mut response = next.run(request).await;
    if let Some(error) = response.extensions_mut().remove::<GeneralError>() {
        let body = GeneralError {
            request_id: id.to_str().ok().map(str::to_owned),
            ..error
        };
        let mut whole = (response.status(), Json(body)).into_response();
        // Retry-After and the like stay; the body is a new one.
        let mut headers = std::mem::take(response.headers_mut());
        headers.remove(header::CONTENT_LENGTH);
        headers.remove(header::CONTENT_TYPE);
        whole.headers_mut().extend(headers);
        response = whole;
    }
    response.headers_mut().insert(NEON_REQUEST_ID, id);
    response
}
