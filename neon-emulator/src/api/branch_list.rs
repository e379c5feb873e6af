//! Lists of branches: searched, sorted, in pages.

use std::cmp::Ordering;

use axum::Json;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use neon_api::types::{
    BranchListQuery, BranchSortField, BranchesResponse, CursorPagination, SortOrder,
};
use serde::{Deserialize, Serialize};

use super::error::{ApiError, ApiResult};
use super::extract::{InProject, Names, Parameters};
use super::{Shared, projects};
use crate::state::{BranchRecord, ProjectRecord};

const PAGE_DEFAULT: u32 = 100;
const PAGE_MAX: u32 = 10_000;

pub(super) async fn list(
    engine: Shared,
    Names(names): Names<InProject>,
    Parameters(query): Parameters<BranchListQuery>,
) -> ApiResult<Json<BranchesResponse>> {
    let order = Order::of(&query)?;
    let limit = query.limit.unwrap_or(PAGE_DEFAULT);
    if !(1..=PAGE_MAX).contains(&limit) {
        return Err(ApiError::bad_request(format!(
            "limit must be 1 to {PAGE_MAX}"
        )));
    }
    let after = query.cursor.as_deref().map(Cursor::parse).transpose()?;
    engine.store().read(|state| {
        let project = projects::find(state, &names.project_id)?;
        let mut found = matching(project, query.search.as_deref());
        found.sort_by(|a, b| order.compare(&order.key(a), &order.key(b)));
        if let Some(after) = &after {
            found.retain(|record| order.compare(&order.key(record), after) == Ordering::Greater);
        }
        let more = found.len() > limit as usize;
        found.truncate(limit as usize);
        let next = found
            .last()
            .filter(|_| more)
            .map(|last| order.key(last).text());
        Ok(Json(BranchesResponse {
            branches: found.iter().map(|record| record.branch.clone()).collect(),
            annotations: found
                .iter()
                .filter_map(|record| Some((record.branch.id.clone(), record.annotation.clone()?)))
                .collect(),
            pagination: Some(CursorPagination {
                next,
                sort_by: Some(order.field.to_string()),
                sort_order: Some(if order.ascending { "asc" } else { "desc" }.to_owned()),
            }),
        }))
    })
}

#[derive(Debug, Deserialize)]
pub(super) struct CountQuery {
    search: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct CountResponse {
    count: usize,
}

pub(super) async fn count(
    engine: Shared,
    Names(names): Names<InProject>,
    Parameters(query): Parameters<CountQuery>,
) -> ApiResult<Json<CountResponse>> {
    engine.store().read(|state| {
        let project = projects::find(state, &names.project_id)?;
        let count = matching(project, query.search.as_deref()).len();
        Ok(Json(CountResponse { count }))
    })
}

fn matching<'a>(project: &'a ProjectRecord, search: Option<&str>) -> Vec<&'a BranchRecord> {
    let search = search.unwrap_or_default();
    project
        .live_branches()
        .filter(|record| {
            record.branch.name.contains(search) || record.branch.id.as_str().contains(search)
        })
        .collect()
}

/// How a list is sorted.
struct Order {
    field: BranchSortField,
    ascending: bool,
}

/// A place in a sorted list: the sort key and, where that is not unique, the id.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Cursor(String, String);

impl Order {
    fn of(query: &BranchListQuery) -> ApiResult<Self> {
        let field = query.sort_by.clone().unwrap_or(BranchSortField::UpdatedAt);
        if let BranchSortField::Unknown(text) = &field {
            return Err(ApiError::bad_request(format!(
                "sort_by must be name, created_at or updated_at, not {text:?}"
            )));
        }
        let ascending = match &query.sort_order {
            Some(SortOrder::Ascending) => true,
            Some(SortOrder::Descending) | None => false,
            Some(SortOrder::Unknown(text)) => {
                return Err(ApiError::bad_request(format!(
                    "sort_order must be asc or desc, not {text:?}"
                )));
            }
        };
        Ok(Self { field, ascending })
    }

    fn key(&self, record: &BranchRecord) -> Cursor {
        let branch = &record.branch;
        // Padded, so that text sorts as the time does.
        let time = |at: jiff::Timestamp| format!("{:020}", at.as_nanosecond());
        let key = match self.field {
            BranchSortField::Name => branch.name.clone(),
            BranchSortField::CreatedAt => time(branch.created_at),
            BranchSortField::UpdatedAt | BranchSortField::Unknown(_) => time(branch.updated_at),
        };
        Cursor(key, branch.id.to_string())
    }

    fn compare(&self, a: &Cursor, b: &Cursor) -> Ordering {
        if self.ascending { a.cmp(b) } else { b.cmp(a) }
    }
}

impl Cursor {
    fn parse(text: &str) -> ApiResult<Self> {
        URL_SAFE_NO_PAD
            .decode(text)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .ok_or_else(|| ApiError::bad_request("cursor: this list did not hand it out"))
    }

    fn text(&self) -> String {
        // Two strings always serialise.
        let bytes = serde_json::to_vec(self).unwrap_or_default();
        URL_SAFE_NO_PAD.encode(bytes)
    }
}
