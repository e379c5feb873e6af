//! Neon's error form: a status and `{request_id, code, message}`.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use neon_api::types::GeneralError;
use tracing::{error, warn};

use crate::engine::{JobError, chain};
use crate::postgres::ServerError;
use crate::state::StoreError;

/// An answer that is an error. The request id is added on the way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
}

pub(crate) type ApiResult<T> = Result<T, ApiError>;

impl ApiError {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            code: "",
            message: message.into(),
        }
    }

    /// What is wrong.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    pub(crate) fn with_code(mut self, code: &'static str) -> Self {
        self.code = code;
        self
    }

    /// The request itself is wrong; the message names the field.
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// `branch not found`, as Neon says it.
    pub(crate) fn not_found(what: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("{what} not found"))
    }

    pub(crate) fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, message)
    }

    /// Understood, and not possible.
    pub(crate) fn unprocessable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, message)
    }

    /// Work that is still going on stands in the way. The request was not
    /// carried out: it may be repeated.
    pub(crate) fn locked() -> Self {
        Self::new(
            StatusCode::LOCKED,
            "project already has running conflicting operations, scheduling of new ones is prohibited",
        )
    }

    /// As [`ApiError::locked`], of an endpoint that is on its way to another state.
    pub(crate) fn in_transition(what: &str) -> Self {
        Self::new(
            StatusCode::LOCKED,
            format!("endpoint is in some transitive state, could not {what}"),
        )
    }

    /// As Neon says it where a password would have to be told again.
    pub(crate) fn no_stored_passwords() -> Self {
        Self::new(
            StatusCode::PRECONDITION_FAILED,
            "Storing passwords is disabled",
        )
    }

    /// The branch's Postgres is not there just now.
    pub(crate) fn unavailable(error: &dyn std::error::Error) -> Self {
        warn!(error = chain(error), "a request could not be served");
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "the branch's Postgres does not answer just now; nothing has changed, try again",
        )
    }

    /// Neither the branch nor its past has the database, though the API's list
    /// does: SQL has dropped it, or it is younger than the point.
    pub(crate) fn no_database() -> Self {
        Self::unprocessable(
            "the database is not in the branch, or was not at that point: it was dropped by SQL, or made later",
        )
    }

    /// An errand on the branch failed, which has changed nothing.
    pub(crate) fn of_errand(error: &JobError) -> Self {
        match error {
            JobError::History(reason) => Self::unprocessable(reason.clone()),
            JobError::Gone => Self::not_found("branch"),
            JobError::NoAnswer | JobError::Server(ServerError::PortTaken { .. }) => {
                Self::unavailable(error)
            }
            JobError::Admin(reason) if reason.is_no_database() => Self::no_database(),
            JobError::Admin(reason) if reason.is_passing() => Self::unavailable(error),
            _ => Self::internal(error),
        }
    }

    /// What went wrong inside is for the log alone.
    pub(crate) fn internal(error: &dyn std::error::Error) -> Self {
        error!(error = chain(error), "a request failed");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal error")
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        Self::internal(&error)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = GeneralError {
            request_id: None,
            code: self.code.to_owned(),
            message: self.message,
        };
        let mut response = (self.status, Json(&body)).into_response();
        // The outermost layer puts the request id into the body.
        response.extensions_mut().insert(body);
        response
    }
}
