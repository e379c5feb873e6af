//! Lists of branches: searched, sorted, in pages.

use std::cmp::Ordering;

use axum::Json;
use neon_api::types::{
    BranchListQuery, BranchSortField, BranchesResponse, CursorPagination, SortOrder,
};
use serde::{Deserialize, Serialize};

use super::error::{ApiError, ApiResult};
use super::extract::{InProject, Names, Parameters};
use super::{Shared, cursor, projects};
use crate::state::{BranchRecord, ProjectRecord};

const PAGE_DEFAULT: u32 = 100;
const PAGE_MAX: u32 = 10_000;

pub(super) async fn list(
    engine: Shared,
    Names(names): Names<InProject>,
    Parameters(query): Parameters<BranchListQuery>,
) -> ApiResult<Json<BranchesResponse>> {
    let list = format!("branches of {}", names.project_id);
    let after: Option<Place> = cursor::read(&list, query.cursor.as_deref())?;
    let order = Order::of(&query, after.as_ref())?;
    let limit = query.limit.unwrap_or(PAGE_DEFAULT);
    if !(1..=PAGE_MAX).contains(&limit) {
        return Err(ApiError::bad_request(format!(
            "limit must be 1 to {PAGE_MAX}"
        )));
    }
    engine.store().read(|state| {
        let project = projects::find(state, &names.project_id)?;
        let mut found = matching(project, query.search.as_deref());
        found.sort_by(|a, b| order.compare(&order.key(a), &order.key(b)));
        if let Some(Place { key, .. }) = &after {
            found.retain(|record| order.compare(&order.key(record), key) == Ordering::Greater);
        }
        let more = found.len() > limit as usize;
        found.truncate(limit as usize);
        let next = found
            .last()
            .filter(|_| more)
            .map(|last| cursor::write(&list, &order.place(last)))
            .transpose()?;
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

/// What a list is sorted by: the field's text and, where that is not unique, the
/// id.
type Key = (String, String);

/// Where a page ended. It has the order too: the next page may be asked for by
/// the cursor alone.
#[derive(Debug, Serialize, Deserialize)]
struct Place {
    sort_by: BranchSortField,
    ascending: bool,
    key: Key,
}

impl Order {
    fn of(query: &BranchListQuery, after: Option<&Place>) -> ApiResult<Self> {
        let field = query.sort_by.clone();
        if let Some(BranchSortField::Unknown(text)) = &field {
            return Err(ApiError::bad_request(format!(
                "sort_by must be name, created_at or updated_at, not {text:?}"
            )));
        }
        let ascending = match &query.sort_order {
            Some(SortOrder::Ascending) => Some(true),
            Some(SortOrder::Descending) => Some(false),
            None => None,
            Some(SortOrder::Unknown(text)) => {
                return Err(ApiError::bad_request(format!(
                    "sort_order must be asc or desc, not {text:?}"
                )));
            }
        };
        let Some(after) = after else {
            return Ok(Self {
                field: field.unwrap_or(BranchSortField::UpdatedAt),
                ascending: ascending.unwrap_or(false),
            });
        };
        let is_same = field.is_none_or(|field| field == after.sort_by)
            && ascending.is_none_or(|ascending| ascending == after.ascending);
        if !is_same {
            return Err(ApiError::bad_request(
                "cursor: it is of a list that is sorted otherwise",
            ));
        }
        Ok(Self {
            field: after.sort_by.clone(),
            ascending: after.ascending,
        })
    }

    fn place(&self, record: &BranchRecord) -> Place {
        Place {
            sort_by: self.field.clone(),
            ascending: self.ascending,
            key: self.key(record),
        }
    }

    fn key(&self, record: &BranchRecord) -> Key {
        let branch = &record.branch;
        // Padded, so that text sorts as the time does.
        let time = |at: jiff::Timestamp| format!("{:020}", at.as_nanosecond());
        let key = match self.field {
            BranchSortField::Name => branch.name.clone(),
            BranchSortField::CreatedAt => time(branch.created_at),
            BranchSortField::UpdatedAt | BranchSortField::Unknown(_) => time(branch.updated_at),
        };
        (key, branch.id.to_string())
    }

    fn compare(&self, a: &Key, b: &Key) -> Ordering {
        if self.ascending { a.cmp(b) } else { b.cmp(a) }
    }
}
