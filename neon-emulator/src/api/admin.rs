//! Faults over HTTP, for tests that have the emulator as a process, and what the
//! emulator says of itself. These routes are not Neon's, and are there only when
//! they were asked for.

mod fault_body;
mod storage;

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get};
use axum::{Json, Router};
use fault_body::FaultBody;
use serde::Serialize;

use super::error::{ApiError, ApiResult};
use super::extract::Body;
use super::{no_method, no_route};
use crate::engine::Engine;
use crate::faults::{FaultError, FaultId, Faults, QueuedFault, Requests};

pub(super) fn router(faults: Faults, engine: Arc<Engine>) -> Router {
    let storage = Router::new()
        .route("/storage", get(storage::report))
        .with_state(engine);
    Router::new()
        .route("/faults", get(list).post(create).delete(clear))
        .route("/faults/{fault_id}", delete(remove))
        .route("/requests", get(requests))
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .with_state(faults)
        .merge(storage)
}

/// A fault as it is listed.
#[derive(Debug, Serialize)]
struct Listed {
    id: FaultId,
    hits: u32,
    left: u32,
    #[serde(flatten)]
    fault: FaultBody,
}

#[derive(Debug, Serialize)]
struct List {
    faults: Vec<Listed>,
}

async fn create(
    State(faults): State<Faults>,
    Body(body): Body<FaultBody>,
) -> ApiResult<(StatusCode, Json<Listed>)> {
    let fault = body.read()?;
    let queued = faults.queue(fault).await?;
    Ok((StatusCode::CREATED, Json(queued.into())))
}

async fn list(State(faults): State<Faults>) -> Json<List> {
    let faults = faults.list().into_iter().map(Listed::from).collect();
    Json(List { faults })
}

async fn clear(State(faults): State<Faults>) -> StatusCode {
    faults.clear();
    StatusCode::NO_CONTENT
}

async fn remove(State(faults): State<Faults>, Path(id): Path<String>) -> Response {
    // What is no number is no fault's id.
    let id = serde_json::from_str::<FaultId>(&id);
    match id.is_ok_and(|id| faults.delete(id)) {
        true => StatusCode::NO_CONTENT.into_response(),
        false => ApiError::not_found("fault").into_response(),
    }
}

async fn requests(State(faults): State<Faults>) -> Json<Requests> {
    Json(faults.requests())
}

impl From<FaultError> for ApiError {
    fn from(error: FaultError) -> Self {
        match error {
            FaultError::Field { .. } => Self::bad_request(error.to_string()),
            FaultError::TooMany { .. } => Self::unprocessable(error.to_string()),
        }
    }
}

impl From<QueuedFault> for Listed {
    fn from(queued: QueuedFault) -> Self {
        Self {
            id: queued.id,
            hits: queued.hits,
            left: queued.left,
            fault: FaultBody::write(queued.fault),
        }
    }
}
