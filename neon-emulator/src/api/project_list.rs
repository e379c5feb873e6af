//! Lists of projects: searched, in pages.

use axum::Json;
use neon_api::ProjectId;
use neon_api::types::{Pagination, Project, ProjectListItem, ProjectListQuery, ProjectsResponse};

use super::account::check_organization;
use super::error::{ApiError, ApiResult};
use super::extract::Parameters;
use super::{Shared, cursor};

const PAGE_DEFAULT: u32 = 10;
const PAGE_MAX: u32 = 400;
/// Neon's bounds for how long a list may take. Here it takes no time.
const TIMEOUT_MS: std::ops::RangeInclusive<u32> = 100..=30_000;
/// What cursors of the list of projects are marked with.
const LIST: &str = "projects";

pub(super) async fn list(
    engine: Shared,
    Parameters(query): Parameters<ProjectListQuery>,
) -> ApiResult<Json<ProjectsResponse>> {
    let limit = check_page(&query)?;
    let after: Option<ProjectId> = cursor::read(LIST, query.cursor.as_deref())?;
    check_organization(query.org_id.as_ref())?;
    if query.recoverable == Some(true) {
        // What is deleted here is gone.
        return Ok(Json(ProjectsResponse::default()));
    }
    let search = query.search.unwrap_or_default();
    let (projects, more) = engine.store().read(|state| {
        let mut found = state
            .projects
            .values()
            .filter(|record| !record.deleted)
            .map(|record| &record.project)
            .filter(|project| {
                project.name.contains(&search) || project.id.as_str().contains(&search)
            })
            // The cursor is the last project's id; the map is sorted by it.
            .filter(|project| after.as_ref().is_none_or(|last| project.id > *last))
            .map(list_item);
        let page: Vec<_> = found.by_ref().take(limit as usize).collect();
        (page, found.next().is_some())
    });
    let pagination = match projects.last().filter(|_| more) {
        Some(last) => Some(Pagination {
            cursor: cursor::write(LIST, &last.id)?,
        }),
        None => None,
    };
    Ok(Json(ProjectsResponse {
        projects,
        pagination,
        ..ProjectsResponse::default()
    }))
}

/// None: nobody else has projects here.
pub(super) async fn list_shared(
    Parameters(query): Parameters<ProjectListQuery>,
) -> ApiResult<Json<ProjectsResponse>> {
    check_page(&query)?;
    // It has no second page.
    match query.cursor.is_none_or(|cursor| cursor.is_empty()) {
        true => Ok(Json(ProjectsResponse::default())),
        false => Err(cursor::unknown()),
    }
}

/// Checks the page that is asked for, and says how long it may be.
fn check_page(query: &ProjectListQuery) -> ApiResult<u32> {
    if query
        .timeout
        .is_some_and(|timeout| !TIMEOUT_MS.contains(&timeout))
    {
        return Err(ApiError::bad_request(format!(
            "timeout must be {} to {} milliseconds",
            TIMEOUT_MS.start(),
            TIMEOUT_MS.end()
        )));
    }
    let limit = query.limit.unwrap_or(PAGE_DEFAULT);
    if (1..=PAGE_MAX).contains(&limit) {
        return Ok(limit);
    }
    Err(ApiError::bad_request(format!(
        "limit must be 1 to {PAGE_MAX}"
    )))
}

fn list_item(project: &Project) -> ProjectListItem {
    let project = project.clone();
    ProjectListItem {
        id: project.id,
        platform_id: project.platform_id,
        region_id: project.region_id,
        name: project.name,
        provisioner: project.provisioner,
        default_endpoint_settings: project.default_endpoint_settings,
        settings: project.settings,
        pg_version: project.pg_version,
        proxy_host: project.proxy_host,
        branch_logical_size_limit: project.branch_logical_size_limit,
        branch_logical_size_limit_bytes: project.branch_logical_size_limit_bytes,
        store_passwords: project.store_passwords,
        active_time: project.active_time_seconds,
        cpu_used_sec: project.cpu_used_sec,
        maintenance_starts_at: project.maintenance_starts_at,
        creation_source: project.creation_source,
        created_at: project.created_at,
        updated_at: project.updated_at,
        synthetic_storage_size: project.synthetic_storage_size,
        quota_reset_at: project.quota_reset_at,
        owner_id: project.owner_id,
        compute_last_active_at: project.compute_last_active_at,
        org_id: project.org_id,
        org_name: None,
        history_retention_seconds: Some(project.history_retention_seconds),
        hipaa_enabled_at: project.hipaa_enabled_at,
        deleted_at: None,
        recoverable_until: None,
        effective_project_permission: project.effective_project_permission,
    }
}
