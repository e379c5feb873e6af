//! The schema of a database, as pg_dump writes it.

use axum::Json;
use axum::http::StatusCode;
use neon_api::types::{BranchSchemaQuery, BranchSchemaResponse, SchemaFormat};

use super::Shared;
use super::error::{ApiError, ApiResult};
use super::extract::{InBranch, Names, Parameters};
use super::{branches, projects};
use crate::engine::SchemaError;

pub(super) async fn get(
    engine: Shared,
    Names(names): Names<InBranch>,
    Parameters(query): Parameters<BranchSchemaQuery>,
) -> ApiResult<Json<BranchSchemaResponse>> {
    if query.lsn.is_some() || query.timestamp.is_some() {
        return Err(ApiError::unprocessable(
            "lsn and timestamp: this emulator keeps no history yet; leave them out for the head",
        ));
    }
    if !matches!(query.format, None | Some(SchemaFormat::Sql)) {
        return Err(ApiError::unprocessable(
            "format: this emulator writes sql alone so far",
        ));
    }
    engine.store().read(|state| {
        let project = projects::find(state, &names.project_id)?;
        let branch = branches::find(project, &names.branch_id)?;
        if !branch.databases.contains_key(&query.db_name) {
            return Err(ApiError::not_found("database"));
        }
        if project.is_busy(&names.branch_id) {
            return Err(ApiError::locked());
        }
        Ok(())
    })?;
    let sql = engine
        .schema(&names.project_id, &names.branch_id, &query.db_name)
        .await
        .map_err(|error| match error {
            SchemaError::NoPgDump { .. } => {
                ApiError::new(StatusCode::NOT_IMPLEMENTED, error.to_string())
            }
            SchemaError::Branch(_) | SchemaError::Run(_) | SchemaError::Failed { .. } => {
                ApiError::internal(&error)
            }
        })?;
    Ok(Json(BranchSchemaResponse {
        sql: Some(sql),
        json: None,
    }))
}
