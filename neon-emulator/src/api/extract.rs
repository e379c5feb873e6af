//! Reading requests, with errors in Neon's form.

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use neon_api::{BranchId, EndpointId, OperationId, OrganizationId, ProjectId, SnapshotId};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::error::ApiError;
use super::object::parse;

/// A JSON body.
#[derive(Debug)]
pub(crate) struct Body<T>(pub(crate) T);

/// A JSON body that may be left out.
#[derive(Debug)]
pub(crate) struct OptionalBody<T>(pub(crate) T);

/// Query parameters.
#[derive(Debug)]
pub(crate) struct Parameters<T>(pub(crate) T);

/// What the path names.
#[derive(Debug)]
pub(crate) struct Names<T>(pub(crate) T);

#[derive(Debug, Deserialize)]
pub(crate) struct InProject {
    pub(crate) project_id: ProjectId,
}

#[derive(Debug, Deserialize)]
pub(crate) struct InBranch {
    pub(crate) project_id: ProjectId,
    pub(crate) branch_id: BranchId,
}

#[derive(Debug, Deserialize)]
pub(crate) struct InEndpoint {
    pub(crate) project_id: ProjectId,
    pub(crate) endpoint_id: EndpointId,
}

#[derive(Debug, Deserialize)]
pub(crate) struct InRole {
    pub(crate) project_id: ProjectId,
    pub(crate) branch_id: BranchId,
    pub(crate) role_name: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct InDatabase {
    pub(crate) project_id: ProjectId,
    pub(crate) branch_id: BranchId,
    pub(crate) database_name: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct InOperation {
    pub(crate) project_id: ProjectId,
    pub(crate) operation_id: OperationId,
}

#[derive(Debug, Deserialize)]
pub(crate) struct InSnapshot {
    pub(crate) project_id: ProjectId,
    pub(crate) snapshot_id: SnapshotId,
}

#[derive(Debug, Deserialize)]
pub(crate) struct InOrganization {
    pub(crate) org_id: OrganizationId,
}

#[derive(Debug, Deserialize)]
pub(crate) struct OfApiKey {
    pub(crate) key_id: i64,
}

#[derive(Debug, Deserialize)]
pub(crate) struct OfOrganizationApiKey {
    pub(crate) org_id: OrganizationId,
    pub(crate) key_id: i64,
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let bytes = read(request, state).await?;
        parse(&bytes).map(Self)
    }
}

impl<S: Send + Sync, T: DeserializeOwned + Default> FromRequest<S> for OptionalBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let bytes = read(request, state).await?;
        if bytes.is_empty() {
            return Ok(Self(T::default()));
        }
        parse(&bytes).map(Self)
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Parameters<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Query(parameters) =
            Query::from_request_parts(parts, state)
                .await
                .map_err(|rejection| {
                    let text = rejection.body_text();
                    ApiError::bad_request(text.replace("Failed to deserialize query string: ", ""))
                })?;
        Ok(Self(parameters))
    }
}

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Names<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Path(names) = Path::from_request_parts(parts, state)
            .await
            .map_err(|rejection| ApiError::bad_request(rejection.body_text()))?;
        Ok(Self(names))
    }
}

async fn read<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, ApiError> {
    Bytes::from_request(request, state)
        .await
        .map_err(|rejection| ApiError::new(rejection.status(), rejection.body_text()))
}
