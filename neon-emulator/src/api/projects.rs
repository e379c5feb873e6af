//! Projects: looked at, created, changed, deleted.

use axum::Json;
use axum::http::StatusCode;
use neon_api::ProjectId;
use neon_api::types::{
    CreatedProject, OperationAction, ProjectCreateRequest, ProjectOperations, ProjectResponse,
    ProjectUpdateRequest,
};
use uuid::Uuid;

use super::Shared;
use super::account::check_organization;
use super::connection::details;
use super::error::{ApiError, ApiResult};
use super::extract::{Body, InProject, Names};
use super::{branches, databases, endpoint_options, project_settings, regions, roles};
use crate::engine::Engine;
use crate::state::{Job, ProjectRecord, State};
use crate::time::now;
use crate::{account, defaults, new, operations};

const NAME_CHARACTERS_MAX: usize = 256;

pub(super) async fn get(
    engine: Shared,
    Names(names): Names<InProject>,
) -> ApiResult<Json<ProjectResponse>> {
    engine.store().read(|state| {
        let mut project = find(state, &names.project_id)?.project.clone();
        project.owner = Some(account::owner(engine.limits()));
        Ok(Json(ProjectResponse { project }))
    })
}

pub(super) async fn create(
    engine: Shared,
    Body(request): Body<ProjectCreateRequest>,
) -> ApiResult<(StatusCode, Json<CreatedProject>)> {
    let defaults = request.project.default_endpoint_settings.as_ref();
    project_settings::check_values(&engine, defaults).await?;
    let created = create_project(&engine, request)?;
    engine.spawn_worker(created.project.id.clone());
    Ok((StatusCode::CREATED, Json(created)))
}

pub(super) async fn update(
    engine: Shared,
    Names(names): Names<InProject>,
    Body(request): Body<ProjectUpdateRequest>,
) -> ApiResult<Json<ProjectOperations>> {
    let wanted = request.project;
    check_name("project.name", wanted.name.as_deref())?;
    project_settings::check(
        wanted.default_endpoint_settings.as_ref(),
        wanted.settings.as_ref(),
        wanted.history_retention_seconds,
        engine.limits(),
    )?;
    project_settings::check_values(&engine, wanted.default_endpoint_settings.as_ref()).await?;
    engine.change(|state| {
        let project = &mut find_mut(state, &names.project_id)?.project;
        if let Some(settings) = wanted.settings {
            let before = project.settings.get_or_insert_default();
            project_settings::merge(before, settings)?;
            project.settings = Some(defaults::of_project(project.settings.take()));
        }
        if let Some(name) = wanted.name {
            project.name = name;
        }
        if let Some(wanted) = wanted.default_endpoint_settings {
            let before = project.default_endpoint_settings.get_or_insert_default();
            defaults::merge(before, wanted);
        }
        if let Some(seconds) = wanted.history_retention_seconds {
            project.history_retention_seconds = seconds;
        }
        project.updated_at = now();
        Ok(Json(ProjectOperations {
            project: project.clone(),
            operations: Vec::new(),
        }))
    })
}

/// Gone at once for callers; its worker stops what runs and removes the
/// folders.
pub(super) async fn delete(
    engine: Shared,
    Names(names): Names<InProject>,
) -> ApiResult<Json<ProjectResponse>> {
    engine.change(|state| {
        let record = find_mut(state, &names.project_id)?;
        let mut branches = record.live_branches();
        if let Some(protected) = branches.find(|record| record.branch.protected) {
            return Err(ApiError::unprocessable(format!(
                "project {} cannot be deleted: branch {} is protected",
                names.project_id, protected.branch.name
            )));
        }
        drop(branches);
        record.deleted = true;
        for branch in record.branches.values_mut() {
            branch.deleted = true;
        }
        for endpoint in record.endpoints.values_mut() {
            endpoint.deleted = true;
        }
        record.cancel_scheduled();
        let _ = record.schedule(vec![operations::record(
            &names.project_id,
            None,
            None,
            OperationAction::DeleteTimeline,
            Job::DeleteProject,
            Uuid::new_v4(),
        )]);
        let project = record.project.clone();
        state
            .api_keys
            .retain(|_, key| key.owner.project() != Some(&names.project_id));
        if state.first_project.as_ref() == Some(&names.project_id) {
            state.first_project = None;
        }
        Ok(Json(ProjectResponse { project }))
    })
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
        .filter(|project| !project.deleted)
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
        .filter(|project| !project.deleted)
        .ok_or_else(|| ApiError::not_found("project"))
}

fn create_project(engine: &Engine, request: ProjectCreateRequest) -> ApiResult<CreatedProject> {
    let wanted = request.project;
    let branch = wanted.branch.clone().unwrap_or_default();
    for (field, name) in [
        ("project.name", wanted.name.as_deref()),
        ("project.branch.name", branch.name.as_deref()),
    ] {
        check_name(field, name)?;
    }
    if let Some(name) = &branch.database_name {
        databases::check_new_name("project.branch.database_name", name)?;
    }
    let database = branch.database_name.as_deref().unwrap_or(new::DATABASE);
    let role = branch.role_name.unwrap_or_else(|| new::role_name(database));
    roles::check_new_name("project.branch.role_name", &role)?;
    endpoint_options::check_provisioner("project", wanted.provisioner.as_ref())?;
    branches::check_annotation("project.branch.annotations", branch.annotations.as_ref())?;
    project_settings::check_compute_units(
        "project",
        wanted.autoscaling_limit_min_cu,
        wanted.autoscaling_limit_max_cu,
    )?;
    check_organization(wanted.org_id.as_ref())?;
    regions::check("project.region_id", wanted.region_id.as_deref())?;
    project_settings::check(
        wanted.default_endpoint_settings.as_ref(),
        wanted.settings.as_ref(),
        wanted.history_retention_seconds,
        engine.limits(),
    )?;
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
        let live = state.projects.values().filter(|record| !record.deleted);
        if live.count() >= engine.limits().projects as usize {
            return Err(ApiError::unprocessable(format!(
                "the account may have {} projects",
                engine.limits().projects
            ))
            .with_code("PROJECTS_LIMIT_EXCEEDED"));
        }
        let record = new::project(&wanted, engine.limits(), major, &mut state.next_database_id)?;
        let created = created(&record);
        state.projects.insert(record.project.id.clone(), record);
        Ok(created)
    })
}

fn check_name(field: &str, name: Option<&str>) -> ApiResult<()> {
    if name.is_none_or(|name| (1..=NAME_CHARACTERS_MAX).contains(&name.chars().count())) {
        return Ok(());
    }
    Err(ApiError::bad_request(format!(
        "{field} must have 1 to {NAME_CHARACTERS_MAX} characters"
    )))
}

fn created(record: &ProjectRecord) -> CreatedProject {
    let branches: Vec<_> = record.live_branches().collect();
    let endpoints: Vec<_> = record.live_endpoints().collect();
    CreatedProject {
        project: record.project.clone(),
        connection_uris: branches
            .iter()
            .zip(&endpoints)
            .filter_map(|(branch, endpoint)| details(record, branch, endpoint))
            .collect(),
        roles: roles::told(record, branches[0]),
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
