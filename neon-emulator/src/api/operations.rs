//! Operations: looked at while they go on.

use axum::Json;
use neon_api::types::{OperationListQuery, OperationResponse, OperationsResponse, Pagination};

use super::Shared;
use super::error::{ApiError, ApiResult};
use super::extract::{InOperation, InProject, Names, Parameters};
use super::{cursor, projects};

const PAGE_DEFAULT: u32 = 100;
const PAGE_MAX: u32 = 1_000;

pub(super) async fn list(
    engine: Shared,
    Names(names): Names<InProject>,
    Parameters(query): Parameters<OperationListQuery>,
) -> ApiResult<Json<OperationsResponse>> {
    let limit = query.limit.unwrap_or(PAGE_DEFAULT);
    if !(1..=PAGE_MAX).contains(&limit) {
        return Err(ApiError::bad_request(format!(
            "limit must be 1 to {PAGE_MAX}"
        )));
    }
    // As on Neon: the time of the last operation of the page before.
    let before: Option<jiff::Timestamp> = query
        .cursor
        .filter(|cursor| !cursor.is_empty())
        .map(|cursor| cursor.parse().map_err(|_| cursor::unknown()))
        .transpose()?;
    engine.store().read(|state| {
        let project = projects::find(state, &names.project_id)?;
        let all = || project.operations.iter().map(|record| &record.operation);
        // Of one that was forgotten meanwhile, too: nothing older is left.
        if let Some(before) = before
            && !all().any(|operation| operation.created_at == before)
        {
            return Err(cursor::unknown());
        }
        let mut newest_first = all()
            .rev()
            .filter(|operation| before.is_none_or(|before| operation.created_at < before));
        let operations: Vec<_> = newest_first
            .by_ref()
            .take(limit as usize)
            .cloned()
            .collect();
        let pagination = match newest_first.next() {
            Some(_) => operations.last().map(|last| Pagination {
                cursor: last.created_at.to_string(),
            }),
            None => None,
        };
        Ok(Json(OperationsResponse {
            operations,
            pagination,
        }))
    })
}

pub(super) async fn get(
    engine: Shared,
    Names(names): Names<InOperation>,
) -> ApiResult<Json<OperationResponse>> {
    engine.store().read(|state| {
        let project = projects::find(state, &names.project_id)?;
        project
            .operations
            .iter()
            .find(|record| record.operation.id == names.operation_id)
            .map(|record| {
                Json(OperationResponse {
                    operation: record.operation.clone(),
                })
            })
            .ok_or_else(|| ApiError::not_found("operation"))
    })
}
