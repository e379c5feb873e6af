//! Branches: listed, created, changed, deleted.

use std::cmp::Ordering;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use neon_api::BranchId;
use neon_api::types::{
    BranchCreateRequest, BranchListQuery, BranchOperations, BranchResponse, BranchSortField,
    BranchUpdateRequest, BranchesResponse, Change, CreatedBranch, CursorPagination, InitSource,
    OperationAction, SortOrder,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Shared;
use super::connection::details;
use super::error::{ApiError, ApiResult};
use super::extract::{Body, InBranch, InProject, Names, OptionalBody, Parameters};
use super::{endpoints, projects};
use crate::state::{BranchRecord, Job, OperationRecord, ProjectRecord};
use crate::time::now;
use crate::{names, new, operations};

const PAGE_DEFAULT: u32 = 100;
const PAGE_MAX: u32 = 10_000;
const NAME_CHARACTERS_MAX: usize = 256;

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

pub(super) async fn get(
    engine: Shared,
    Names(names): Names<InBranch>,
) -> ApiResult<Json<BranchResponse>> {
    engine.store().read(|state| {
        let project = projects::find(state, &names.project_id)?;
        let record = find(project, &names.branch_id)?;
        Ok(Json(BranchResponse {
            branch: record.branch.clone(),
            annotation: Some(
                record
                    .annotation
                    .clone()
                    .unwrap_or_else(|| new::annotation(&names.branch_id, Default::default())),
            ),
        }))
    })
}

pub(super) async fn create(
    engine: Shared,
    Names(names): Names<InProject>,
    OptionalBody(request): OptionalBody<BranchCreateRequest>,
) -> ApiResult<(StatusCode, Json<CreatedBranch>)> {
    let created = engine.change(|state| -> ApiResult<_> {
        let project = projects::find_mut(state, &names.project_id)?;
        create_in(project, request)
    })?;
    Ok((StatusCode::CREATED, Json(created)))
}

pub(super) async fn update(
    engine: Shared,
    Names(names): Names<InBranch>,
    Body(request): Body<BranchUpdateRequest>,
) -> ApiResult<Json<BranchOperations>> {
    let wanted = request.branch;
    if let Some(name) = &wanted.name {
        check_name(name)?;
    }
    if !matches!(wanted.expires_at, Change::Keep) {
        return Err(no_expiry());
    }
    engine.change(|state| {
        let project = projects::find_mut(state, &names.project_id)?;
        if let Some(name) = &wanted.name {
            check_free(project, name, Some(&names.branch_id))?;
        }
        let record = find_mut(project, &names.branch_id)?;
        if let Some(name) = wanted.name {
            record.branch.name = name;
        }
        if let Some(protected) = wanted.protected {
            record.branch.protected = protected;
        }
        record.branch.updated_at = now();
        Ok(Json(BranchOperations {
            branch: record.branch.clone(),
            operations: Vec::new(),
        }))
    })
}

pub(super) async fn delete(engine: Shared, Names(names): Names<InBranch>) -> ApiResult<Response> {
    engine.change(|state| {
        let project = projects::find_mut(state, &names.project_id)?;
        let Some(record) = project.branch(&names.branch_id) else {
            return Ok(StatusCode::NO_CONTENT.into_response());
        };
        check_deletable(project, record)?;
        if project.is_busy(&names.branch_id) {
            return Err(ApiError::locked());
        }
        let chain = Uuid::new_v4();
        let record = find_mut(project, &names.branch_id)?;
        record.deleted = true;
        record.branch.updated_at = now();
        let branch = record.branch.clone();
        for endpoint in project.endpoints.values_mut() {
            endpoint.deleted |= endpoint.endpoint.branch_id == names.branch_id;
        }
        let operations = project.schedule(vec![operations::record(
            &names.project_id,
            Some(&names.branch_id),
            None,
            OperationAction::DeleteTimeline,
            Job::DeleteBranch {
                branch: names.branch_id.clone(),
            },
            chain,
        )]);
        Ok(Json(BranchOperations { branch, operations }).into_response())
    })
}

pub(super) async fn set_default(
    engine: Shared,
    Names(names): Names<InBranch>,
) -> ApiResult<Json<BranchOperations>> {
    engine.change(|state| {
        let project = projects::find_mut(state, &names.project_id)?;
        find(project, &names.branch_id)?;
        let at = now();
        for record in project.branches.values_mut() {
            let default = record.branch.id == names.branch_id;
            if record.branch.default != default {
                record.branch.updated_at = at;
            }
            record.branch.default = default;
            record.branch.primary = Some(default);
        }
        let branch = find(project, &names.branch_id)?.branch.clone();
        Ok(Json(BranchOperations {
            branch,
            operations: Vec::new(),
        }))
    })
}

/// The branch that a request names.
pub(super) fn find<'a>(project: &'a ProjectRecord, id: &BranchId) -> ApiResult<&'a BranchRecord> {
    project
        .branch(id)
        .ok_or_else(|| ApiError::not_found("branch"))
}

/// As [`find`], to change it.
pub(super) fn find_mut<'a>(
    project: &'a mut ProjectRecord,
    id: &BranchId,
) -> ApiResult<&'a mut BranchRecord> {
    project
        .branch_mut(id)
        .ok_or_else(|| ApiError::not_found("branch"))
}

fn create_in(
    project: &mut ProjectRecord,
    request: BranchCreateRequest,
) -> ApiResult<CreatedBranch> {
    let wanted = request.branch.unwrap_or_default();
    if wanted.parent_lsn.is_some() || wanted.parent_timestamp.is_some() {
        return Err(ApiError::unprocessable(
            "branch.parent_lsn and branch.parent_timestamp: this emulator keeps no history yet; branch from the parent's head",
        ));
    }
    if !matches!(wanted.init_source, None | Some(InitSource::ParentData)) {
        return Err(ApiError::unprocessable(
            "branch.init_source: this emulator knows parent-data alone so far",
        ));
    }
    if wanted.expires_at.is_some() {
        return Err(no_expiry());
    }
    let name = wanted.name.unwrap_or_else(names::branch_name);
    check_name(&name)?;
    check_free(project, &name, None)?;
    let parent = match &wanted.parent_id {
        Some(id) => project
            .branch(id)
            .ok_or_else(|| ApiError::not_found("parent branch"))?,
        None => project
            .default_branch()
            .ok_or_else(|| ApiError::not_found("default branch"))?,
    };
    // Its data is still being made or changed.
    if project.is_busy(&parent.branch.id) {
        return Err(ApiError::locked());
    }

    let id: BranchId = new::id(names::branch_id())?;
    let mut record = new::branch(&project.project.id, &id, Some(parent), name);
    record.branch.protected = wanted.protected.unwrap_or(false);
    record.annotation = request
        .annotation_value
        .map(|value| new::annotation(&id, value));
    if parent.branch.protected {
        fresh_passwords(&mut record);
    }
    let chain = Uuid::new_v4();
    let mut scheduled = vec![operations::record(
        &project.project.id,
        Some(&id),
        None,
        OperationAction::CreateBranch,
        Job::CreateBranch { branch: id.clone() },
        chain,
    )];
    let endpoints = endpoints::create_with_branch(project, &id, &request.endpoints)?;
    for endpoint in &endpoints {
        scheduled.push(start(project, &id, &endpoint.endpoint.id, chain));
    }
    let answer = CreatedBranch {
        branch: record.branch.clone(),
        endpoints: endpoints
            .iter()
            .map(|record| record.endpoint.clone())
            .collect(),
        roles: record.roles.values().cloned().collect(),
        databases: record.databases.values().cloned().collect(),
        connection_uris: endpoints
            .first()
            .and_then(|endpoint| details(&record, endpoint))
            .map(|details| vec![details]),
        operations: Vec::new(),
    };
    project.branches.insert(id, record);
    for endpoint in endpoints {
        project
            .endpoints
            .insert(endpoint.endpoint.id.clone(), endpoint);
    }
    Ok(CreatedBranch {
        operations: project.schedule(scheduled),
        ..answer
    })
}

fn start(
    project: &ProjectRecord,
    branch: &BranchId,
    endpoint: &neon_api::EndpointId,
    chain: Uuid,
) -> OperationRecord {
    operations::record(
        &project.project.id,
        Some(branch),
        Some(endpoint),
        OperationAction::StartCompute,
        Job::StartCompute {
            endpoint: endpoint.clone(),
        },
        chain,
    )
}

/// Under a protected parent a child has its own passwords.
fn fresh_passwords(record: &mut BranchRecord) {
    for role in record.roles.values_mut() {
        if role.password.is_some() {
            role.password = Some(names::password().into());
        }
    }
    record.catalog_is_behind = true;
}

fn check_deletable(project: &ProjectRecord, record: &BranchRecord) -> ApiResult<()> {
    let branch = &record.branch;
    if branch.default {
        return Err(ApiError::unprocessable(
            "the default branch cannot be deleted",
        ));
    }
    if branch.protected {
        return Err(ApiError::unprocessable(
            "a protected branch cannot be deleted",
        ));
    }
    if branch.parent_id.is_none() {
        return Err(ApiError::unprocessable("a root branch cannot be deleted"));
    }
    let children: Vec<&str> = project
        .live_branches()
        .filter(|child| child.branch.parent_id.as_ref() == Some(&branch.id))
        .map(|child| child.branch.name.as_str())
        .collect();
    if children.is_empty() {
        return Ok(());
    }
    Err(ApiError::unprocessable(format!(
        "cannot delete branch {}: it has children: {}",
        branch.id,
        children.join(", ")
    )))
}

fn check_name(name: &str) -> ApiResult<()> {
    if (1..=NAME_CHARACTERS_MAX).contains(&name.chars().count()) {
        return Ok(());
    }
    Err(ApiError::bad_request(format!(
        "branch.name must have 1 to {NAME_CHARACTERS_MAX} characters"
    )))
}

fn check_free(project: &ProjectRecord, name: &str, except: Option<&BranchId>) -> ApiResult<()> {
    let taken = project
        .live_branches()
        .any(|record| record.branch.name == name && Some(&record.branch.id) != except);
    if !taken {
        return Ok(());
    }
    Err(
        ApiError::conflict(format!("branch already exists; branch_name:{name:?}"))
            .with_code("BRANCH_ALREADY_EXISTS"),
    )
}

fn no_expiry() -> ApiError {
    ApiError::unprocessable("branch.expires_at: this emulator deletes no branch by itself yet")
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
