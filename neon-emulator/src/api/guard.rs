//! Who may call: the key that the emulator was started with, and those made
//! through the API.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use neon_api::{ProjectId, Secret};
use percent_encoding::percent_decode_str;
use tracing::warn;

use super::error::{ApiError, ApiResult};
use crate::account::{KeyOwner, fingerprint};
use crate::engine::{Engine, chain};
use crate::time::now;

/// How exact `last_used_at` is: each change of it writes the state.
const LAST_USED_SECONDS: i64 = 60;

/// What the guard needs to know.
pub(super) struct Guard {
    pub(super) engine: Arc<Engine>,
    pub(super) key: Secret,
}

/// Who calls. Handlers find it in the request's extensions.
#[derive(Debug, Clone)]
pub(super) struct Caller(pub(super) KeyOwner);

pub(super) async fn check_key(
    State(guard): State<Arc<Guard>>,
    mut request: Request,
    next: Next,
) -> Response {
    let owner = match owner(&guard, &request) {
        Ok(owner) => owner,
        Err(error) => return error.into_response(),
    };
    if let Some(project) = owner.project()
        && let Err(error) = check_scope(project, &request)
    {
        return error.into_response();
    }
    request.extensions_mut().insert(Caller(owner));
    next.run(request).await
}

fn owner(guard: &Guard, request: &Request) -> ApiResult<KeyOwner> {
    let given = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        // The scheme's case does not matter, by RFC 9110.
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, key)| key)
        .ok_or_else(|| {
            ApiError::new(
                StatusCode::UNAUTHORIZED,
                "an API key is required: Authorization: Bearer $NEON_API_KEY",
            )
        })?
        .trim();
    if same(given.as_bytes(), guard.key.expose().trim().as_bytes()) {
        return Ok(KeyOwner::User);
    }
    let fingerprint = fingerprint(given);
    let found = guard.engine.store().read(|state| {
        let mut keys = state.api_keys.values();
        keys.find(|record| record.sha256 == fingerprint).cloned()
    });
    let Some(record) = found else {
        return Err(ApiError::new(
            StatusCode::UNAUTHORIZED,
            "the API key is not valid",
        ));
    };
    let at = now();
    if record
        .last_used_at
        .is_none_or(|used| at.as_second() - used.as_second() >= LAST_USED_SECONDS)
    {
        let noted = guard.engine.store().change(|state| {
            if let Some(record) = state.api_keys.get_mut(&record.id) {
                record.last_used_at = Some(at);
            }
            Ok::<_, crate::state::StoreError>(())
        });
        if let Err(error) = noted {
            warn!(
                error = chain(&error),
                "could not note when an API key was used"
            );
        }
    }
    Ok(record.owner)
}

/// A project's key opens the project, and what says who it is. It cannot
/// delete the project.
fn check_scope(project: &ProjectId, request: &Request) -> ApiResult<()> {
    let path = request.uri().path();
    // Whether the path still has the prefix depends on where the layer is.
    let path = path.strip_prefix("/api/v2").unwrap_or(path);
    let refused = || ApiError::new(StatusCode::FORBIDDEN, "this API key is for one project");
    let path_of_project = path
        .strip_prefix("/projects/")
        .filter(|rest| *rest != "shared");
    match path_of_project {
        Some(rest) => {
            let (id, below) = rest.split_once('/').unwrap_or((rest, ""));
            // A client may write a character of the id as %2D, say.
            if percent_decode_str(id).ne(project.as_str().bytes()) {
                return Err(ApiError::not_found("project"));
            }
            if below.is_empty() && request.method() == Method::DELETE {
                return Err(refused());
            }
            Ok(())
        }
        None if matches!(path, "/auth" | "/regions" | "/users/me/organizations")
            && request.method() == Method::GET =>
        {
            Ok(())
        }
        None => Err(refused()),
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
