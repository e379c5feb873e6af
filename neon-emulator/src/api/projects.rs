//! Projects: listed, looked at, created.

use axum::Json;
use axum::http::StatusCode;
use neon_api::ProjectId;
use neon_api::types::{
    CreatedProject, Pagination, Project, ProjectCreateRequest, ProjectListItem, ProjectListQuery,
    ProjectResponse, ProjectsResponse,
};

use super::Shared;
use super::connection::details;
use super::error::{ApiError, ApiResult};
use super::extract::{Body, InProject, Names, Parameters};
use super::{databases, roles};
use crate::engine::Engine;
use crate::new;
use crate::state::{ProjectRecord, State};

const PAGE_DEFAULT: u32 = 10;
const PAGE_MAX: u32 = 400;
const NAME_CHARACTERS_MAX: usize = 256;

pub(super) async fn list(
    engine: Shared,
    Parameters(query): Parameters<ProjectListQuery>,
) -> ApiResult<Json<ProjectsResponse>> {
    let limit = query.limit.unwrap_or(PAGE_DEFAULT);
    if !(1..=PAGE_MAX).contains(&limit) {
        return Err(ApiError::bad_request(format!(
            "limit must be 1 to {PAGE_MAX}"
        )));
    }
    let search = query.search.unwrap_or_default();
    let (projects, more) = engine.store().read(|state| {
        let mut found = state
            .projects
            .values()
            .map(|record| &record.project)
            .filter(|project| {
                project.name.contains(&search) || project.id.as_str().contains(&search)
            })
            // The cursor is the last project's id; the map is sorted by it.
            .filter(|project| {
                query
                    .cursor
                    .as_deref()
                    .is_none_or(|last| project.id.as_str() > last)
            })
            .map(list_item);
        let page: Vec<_> = found.by_ref().take(limit as usize).collect();
        (page, found.next().is_some())
    });
    let pagination = projects.last().filter(|_| more).map(|last| Pagination {
        cursor: last.id.to_string(),
    });
    Ok(Json(ProjectsResponse {
        projects,
        pagination,
        ..ProjectsResponse::default()
    }))
}

pub(super) async fn get(
    engine: Shared,
    Names(names): Names<InProject>,
) -> ApiResult<Json<ProjectResponse>> {
    engine.store().read(|state| {
        let project = find(state, &names.project_id)?.project.clone();
        Ok(Json(ProjectResponse { project }))
    })
}

pub(super) async fn create(
    engine: Shared,
    Body(request): Body<ProjectCreateRequest>,
) -> ApiResult<(StatusCode, Json<CreatedProject>)> {
    let created = create_project(&engine, request)?;
    engine.spawn_worker(created.project.id.clone());
    Ok((StatusCode::CREATED, Json(created)))
}

/// The project that a new emulator begins with.
pub(crate) fn create_first(engine: &Engine) -> ApiResult<ProjectId> {
    let mut request = ProjectCreateRequest::named("local");
    request.project.pg_version = u16::try_from(engine.installation().major()).ok();
    let project = create_project(engine, request)?.project.id;
    engine.change(|state| {
        state.first_project = Some(project.clone());
        Ok(project)
    })
}

/// The project that a request names.
pub(super) fn find<'a>(state: &'a State, id: &ProjectId) -> ApiResult<&'a ProjectRecord> {
    state
        .projects
        .get(id)
        .ok_or_else(|| ApiError::not_found("project"))
}

/// As [`find`], to change it.
pub(super) fn find_mut<'a>(
    state: &'a mut State,
    id: &ProjectId,
) -> ApiResult<&'a mut ProjectRecord> {
    state
        .projects
        .get_mut(id)
        .ok_or_else(|| ApiError::not_found("project"))
}

fn create_project(engine: &Engine, request: ProjectCreateRequest) -> ApiResult<CreatedProject> {
    let wanted = request.project;
    let branch = wanted.branch.clone().unwrap_or_default();
    for (field, name) in [
        ("project.name", wanted.name.as_deref()),
        ("project.branch.name", branch.name.as_deref()),
    ] {
        if name.is_some_and(|name| !(1..=NAME_CHARACTERS_MAX).contains(&name.chars().count())) {
            return Err(ApiError::bad_request(format!(
                "{field} must have 1 to {NAME_CHARACTERS_MAX} characters"
            )));
        }
    }
    if let Some(name) = &branch.role_name {
        roles::check_new_name("project.branch.role_name", name)?;
    }
    if let Some(name) = &branch.database_name {
        databases::check_new_name("project.branch.database_name", name)?;
    }
    let major = engine.installation().major();
    if wanted
        .pg_version
        .is_some_and(|version| u32::from(version) != major)
    {
        return Err(ApiError::unprocessable(format!(
            "project.pg_version: this emulator runs Postgres {major}"
        )));
    }
    engine.change(|state| {
        let record = new::project(&wanted, major, &mut state.next_database_id)?;
        let created = created(&record);
        state.projects.insert(record.project.id.clone(), record);
        Ok(created)
    })
}

fn created(record: &ProjectRecord) -> CreatedProject {
    let branches: Vec<_> = record.live_branches().collect();
    let endpoints: Vec<_> = record.live_endpoints().collect();
    CreatedProject {
        project: record.project.clone(),
        connection_uris: branches
            .iter()
            .zip(&endpoints)
            .filter_map(|(branch, endpoint)| details(branch, endpoint))
            .collect(),
        roles: branches[0].roles.values().cloned().collect(),
        databases: branches[0].databases.values().cloned().collect(),
        operations: record
            .operations
            .iter()
            .map(|record| record.operation.clone())
            .collect(),
        branch: branches[0].branch.clone(),
        endpoints: endpoints
            .iter()
            .map(|record| record.endpoint.clone())
            .collect(),
    }
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
