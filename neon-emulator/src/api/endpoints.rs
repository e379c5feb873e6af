//! Compute endpoints.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use neon_api::EndpointId;
use neon_api::types::{
    EndpointCreateRequest, EndpointOperations, EndpointResponse, EndpointState, EndpointsResponse,
};

use super::endpoint_options::{self, Wanted};
use super::endpoint_tasks::{Task, schedule};
use super::error::{ApiError, ApiResult};
use super::extract::{Body, InBranch, InEndpoint, InProject, Names};
use super::{Shared, branches, projects, regions, settings};
use crate::state::{EndpointRecord, ProjectRecord};

/// As Neon's description has it.
const NAME_CHARACTERS_MAX: usize = 64;

pub(super) async fn list(
    engine: Shared,
    Names(names): Names<InProject>,
) -> ApiResult<Json<EndpointsResponse>> {
    engine.store().read(|state| {
        let project = projects::find(state, &names.project_id)?;
        let endpoints = project
            .live_endpoints()
            .map(|record| record.endpoint.clone());
        Ok(Json(EndpointsResponse {
            endpoints: endpoints.collect(),
        }))
    })
}

pub(super) async fn list_of_branch(
    engine: Shared,
    Names(names): Names<InBranch>,
) -> ApiResult<Json<EndpointsResponse>> {
    engine.store().read(|state| {
        let project = projects::find(state, &names.project_id)?;
        branches::find(project, &names.branch_id)?;
        let endpoints = project
            .live_endpoints()
            .filter(|record| record.endpoint.branch_id == names.branch_id)
            .map(|record| record.endpoint.clone());
        Ok(Json(EndpointsResponse {
            endpoints: endpoints.collect(),
        }))
    })
}

pub(super) async fn get(
    engine: Shared,
    Names(names): Names<InEndpoint>,
) -> ApiResult<Json<EndpointResponse>> {
    engine.store().read(|state| {
        let project = projects::find(state, &names.project_id)?;
        let endpoint = find(project, &names.endpoint_id)?.endpoint.clone();
        Ok(Json(EndpointResponse { endpoint }))
    })
}

pub(super) async fn create(
    engine: Shared,
    Names(names): Names<InProject>,
    Body(request): Body<EndpointCreateRequest>,
) -> ApiResult<(StatusCode, Json<EndpointOperations>)> {
    let wanted = request.endpoint;
    let options = Wanted {
        field: "endpoint",
        endpoint_type: &wanted.endpoint_type,
        settings: wanted.settings.as_ref(),
        min: wanted.autoscaling_limit_min_cu,
        max: wanted.autoscaling_limit_max_cu,
        suspend_seconds: wanted.suspend_timeout_seconds,
        provisioner: wanted.provisioner.as_ref(),
    };
    options.check(engine.limits())?;
    endpoint_options::check_pooler_mode(wanted.pooler_mode.as_ref())?;
    check_name(wanted.name.as_deref())?;
    settings::check_values(&engine, "endpoint.settings", wanted.settings.as_ref()).await?;
    let answer = engine.change(|state| -> ApiResult<_> {
        let project = projects::find_mut(state, &names.project_id)?;
        branches::find(project, &wanted.branch_id)?;
        regions::check_same(
            "endpoint.region_id",
            wanted.region_id.as_deref(),
            &project.project,
        )?;
        endpoint_options::check_room(
            project,
            engine.limits(),
            &wanted.branch_id,
            [&wanted.endpoint_type],
        )?;
        if project.is_busy(&wanted.branch_id) {
            return Err(ApiError::locked());
        }
        let starts = usize::from(wanted.disabled != Some(true));
        endpoint_options::check_room_to_run(
            project,
            engine.limits(),
            &wanted.branch_id,
            None,
            starts,
        )?;
        let mut record = options.endpoint(project, &wanted.branch_id, &[])?;
        record.endpoint.name = wanted.name;
        record.endpoint.disabled = wanted.disabled.unwrap_or(false);
        record.endpoint.passwordless_access = wanted.passwordless_access.unwrap_or(false);
        record.say_of_pooler(wanted.pooler_enabled, wanted.pooler_mode);
        let (id, disabled) = (record.endpoint.id.clone(), record.endpoint.disabled);
        if disabled {
            record.endpoint.current_state = EndpointState::Idle;
            record.endpoint.pending_state = None;
        }
        let endpoint = record.endpoint.clone();
        project.endpoints.insert(id.clone(), record);
        let operations = if disabled {
            Vec::new()
        } else {
            schedule(project, &id, vec![Task::Start])?
        };
        Ok(EndpointOperations {
            endpoint,
            operations,
        })
    })?;
    Ok((StatusCode::CREATED, Json(answer)))
}

pub(super) async fn delete(engine: Shared, Names(names): Names<InEndpoint>) -> ApiResult<Response> {
    engine.change(|state| {
        let project = projects::find_mut(state, &names.project_id)?;
        let Some(record) = project.endpoint(&names.endpoint_id) else {
            return Ok(StatusCode::NO_CONTENT.into_response());
        };
        let branch = branches::find(project, &record.endpoint.branch_id)?;
        if branch.branch.protected {
            return Err(ApiError::unprocessable(
                "the endpoint of a protected branch cannot be deleted",
            ));
        }
        if project.is_busy(&branch.branch.id) {
            return Err(ApiError::locked());
        }
        let operations = schedule(project, &names.endpoint_id, vec![Task::Delete])?;
        let record = find_mut(project, &names.endpoint_id)?;
        record.deleted = true;
        Ok(Json(EndpointOperations {
            endpoint: record.endpoint.clone(),
            operations,
        })
        .into_response())
    })
}

/// Checks the name that an endpoint is to have.
pub(super) fn check_name(name: Option<&str>) -> ApiResult<()> {
    match name.map(|name| name.chars().count()) {
        None | Some(1..=NAME_CHARACTERS_MAX) => Ok(()),
        Some(_) => Err(ApiError::bad_request(format!(
            "endpoint.name must have 1 to {NAME_CHARACTERS_MAX} characters"
        ))),
    }
}

/// The endpoint that a request names.
pub(super) fn find<'a>(
    project: &'a ProjectRecord,
    id: &EndpointId,
) -> ApiResult<&'a EndpointRecord> {
    project
        .endpoint(id)
        .ok_or_else(|| ApiError::not_found("endpoint"))
}

/// As [`find`], to change it.
pub(super) fn find_mut<'a>(
    project: &'a mut ProjectRecord,
    id: &EndpointId,
) -> ApiResult<&'a mut EndpointRecord> {
    project
        .endpoints
        .get_mut(id)
        .filter(|record| !record.deleted)
        .ok_or_else(|| ApiError::not_found("endpoint"))
}
