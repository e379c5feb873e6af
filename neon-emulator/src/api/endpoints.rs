//! Compute endpoints.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use neon_api::types::{
    BranchCreateRequestEndpointOptions, Endpoint, EndpointCreateRequest, EndpointOperations,
    EndpointResponse, EndpointState, EndpointType, EndpointUpdateRequest, EndpointsResponse,
    OperationAction,
};
use neon_api::{BranchId, EndpointId, ProjectId};
use uuid::Uuid;

use super::Shared;
use super::error::{ApiError, ApiResult};
use super::extract::{Body, InBranch, InEndpoint, InProject, Names};
use super::{branches, projects, settings};
use crate::limits::Limits;
use crate::state::{EndpointRecord, Job, OperationRecord, ProjectRecord};
use crate::time::now;
use crate::{new, operations};

/// Neon's bound: a week.
const SUSPEND_SECONDS_MAX: i64 = 604_800;

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
    check_type(&wanted.endpoint_type)?;
    check_suspend_timeout(
        "endpoint.suspend_timeout_seconds",
        wanted.suspend_timeout_seconds,
        engine.limits(),
    )?;
    settings::check("endpoint.settings", wanted.settings.as_ref())?;
    let answer = engine.change(|state| -> ApiResult<_> {
        let project = projects::find_mut(state, &names.project_id)?;
        branches::find(project, &wanted.branch_id)?;
        if project.read_write_endpoint(&wanted.branch_id).is_some() {
            return Err(ApiError::conflict("read_write endpoint already exists"));
        }
        if project.is_busy(&wanted.branch_id) {
            return Err(ApiError::locked());
        }
        let mut record = new::endpoint(
            &names.project_id,
            &wanted.branch_id,
            wanted.endpoint_type,
            |port| project.has_port(port),
        )?;
        record.endpoint.name = wanted.name;
        record.endpoint.disabled = wanted.disabled.unwrap_or(false);
        record.endpoint.settings = wanted.settings.unwrap_or_default();
        record.endpoint.suspend_timeout_seconds = wanted.suspend_timeout_seconds.unwrap_or(0);
        set_limits(
            &mut record.endpoint,
            wanted.autoscaling_limit_min_cu,
            wanted.autoscaling_limit_max_cu,
        )?;
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

pub(super) async fn update(
    engine: Shared,
    Names(names): Names<InEndpoint>,
    Body(request): Body<EndpointUpdateRequest>,
) -> ApiResult<Json<EndpointOperations>> {
    let wanted = request.endpoint;
    check_suspend_timeout(
        "endpoint.suspend_timeout_seconds",
        wanted.suspend_timeout_seconds,
        engine.limits(),
    )?;
    settings::check("endpoint.settings", wanted.settings.as_ref())?;
    if wanted.branch_id.is_some() {
        return Err(ApiError::unprocessable(
            "endpoint.branch_id: this emulator moves no endpoint to another branch yet",
        ));
    }
    engine.change(|state| {
        let project = projects::find_mut(state, &names.project_id)?;
        let branch = find(project, &names.endpoint_id)?
            .endpoint
            .branch_id
            .clone();
        if project.is_busy(&branch) {
            return Err(ApiError::locked());
        }
        let endpoint = &mut find_mut(project, &names.endpoint_id)?.endpoint;
        set_limits(
            endpoint,
            wanted.autoscaling_limit_min_cu,
            wanted.autoscaling_limit_max_cu,
        )?;
        if let Some(name) = wanted.name {
            endpoint.name = Some(name);
        }
        if let Some(seconds) = wanted.suspend_timeout_seconds {
            endpoint.suspend_timeout_seconds = seconds;
        }
        let active = endpoint.current_state == EndpointState::Active;
        let mut tasks = Vec::new();
        if let Some(settings) = wanted.settings {
            endpoint.settings = settings;
            if active {
                tasks = vec![Task::Suspend, Task::Start];
            }
        }
        if let Some(disabled) = wanted.disabled {
            endpoint.disabled = disabled;
            if disabled && active {
                tasks = vec![Task::Suspend];
            }
        }
        endpoint.updated_at = now();
        let operations = schedule(project, &names.endpoint_id, tasks)?;
        answer(project, &names.endpoint_id, operations)
    })
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

pub(super) async fn start(
    engine: Shared,
    Names(names): Names<InEndpoint>,
) -> ApiResult<Json<EndpointOperations>> {
    run(&engine, &names, |endpoint| match endpoint.current_state {
        EndpointState::Active => vec![],
        _ => vec![Task::Start],
    })
}

pub(super) async fn suspend(
    engine: Shared,
    Names(names): Names<InEndpoint>,
) -> ApiResult<Json<EndpointOperations>> {
    run(&engine, &names, |endpoint| match endpoint.current_state {
        EndpointState::Active => vec![Task::Suspend],
        _ => vec![],
    })
}

pub(super) async fn restart(
    engine: Shared,
    Names(names): Names<InEndpoint>,
) -> ApiResult<Json<EndpointOperations>> {
    run(&engine, &names, |_| vec![Task::Suspend, Task::Start])
}

/// The endpoints that a new branch is created with. They are not in the project
/// yet.
pub(super) fn create_with_branch(
    project: &ProjectRecord,
    branch: &BranchId,
    wanted: &[BranchCreateRequestEndpointOptions],
    limits: &Limits,
) -> ApiResult<Vec<EndpointRecord>> {
    if wanted.len() > 1 {
        return Err(ApiError::bad_request(
            "endpoints: a branch has one read_write endpoint, and this emulator has no read_only ones yet",
        ));
    }
    wanted
        .iter()
        .map(|options| {
            check_type(&options.endpoint_type)?;
            check_suspend_timeout(
                "endpoints.suspend_timeout_seconds",
                options.suspend_timeout_seconds,
                limits,
            )?;
            settings::check("endpoints.settings", options.settings.as_ref())?;
            let mut record = new::endpoint(
                &project.project.id,
                branch,
                options.endpoint_type.clone(),
                |port| project.has_port(port),
            )?;
            record.endpoint.settings = options.settings.clone().unwrap_or_default();
            record.endpoint.suspend_timeout_seconds = options.suspend_timeout_seconds.unwrap_or(0);
            set_limits(
                &mut record.endpoint,
                options.autoscaling_limit_min_cu,
                options.autoscaling_limit_max_cu,
            )?;
            Ok(record)
        })
        .collect()
}

/// What an operation does with an endpoint.
#[derive(Debug, Clone, Copy)]
enum Task {
    Start,
    Suspend,
    Delete,
}

fn run(
    engine: &crate::engine::Engine,
    names: &InEndpoint,
    tasks: impl FnOnce(&Endpoint) -> Vec<Task>,
) -> ApiResult<Json<EndpointOperations>> {
    engine.change(|state| {
        let project = projects::find_mut(state, &names.project_id)?;
        let endpoint = &find(project, &names.endpoint_id)?.endpoint;
        let tasks = tasks(endpoint);
        if endpoint.disabled && tasks.iter().any(|task| matches!(task, Task::Start)) {
            return Err(ApiError::unprocessable("endpoint is disabled"));
        }
        if project.is_busy(&endpoint.branch_id) {
            return Err(ApiError::locked());
        }
        let operations = schedule(project, &names.endpoint_id, tasks)?;
        answer(project, &names.endpoint_id, operations)
    })
}

fn answer(
    project: &ProjectRecord,
    id: &EndpointId,
    operations: Vec<neon_api::types::Operation>,
) -> ApiResult<Json<EndpointOperations>> {
    Ok(Json(EndpointOperations {
        endpoint: find(project, id)?.endpoint.clone(),
        operations,
    }))
}

fn schedule(
    project: &mut ProjectRecord,
    id: &EndpointId,
    tasks: Vec<Task>,
) -> ApiResult<Vec<neon_api::types::Operation>> {
    let project_id = project.project.id.clone();
    let endpoint = &mut find_mut(project, id)?.endpoint;
    endpoint.pending_state = match tasks.last() {
        Some(Task::Start) => Some(EndpointState::Active),
        Some(Task::Suspend | Task::Delete) => Some(EndpointState::Idle),
        None => None,
    };
    let branch = endpoint.branch_id.clone();
    let chain = Uuid::new_v4();
    let records = tasks
        .into_iter()
        .map(|task| task.operation(&project_id, &branch, id, chain))
        .collect();
    Ok(project.schedule(records))
}

impl Task {
    fn operation(
        self,
        project: &ProjectId,
        branch: &BranchId,
        id: &EndpointId,
        chain: Uuid,
    ) -> OperationRecord {
        let endpoint = id.clone();
        let (action, job) = match self {
            Self::Start => (
                OperationAction::StartCompute,
                Job::StartCompute { endpoint },
            ),
            Self::Suspend => (
                OperationAction::SuspendCompute,
                Job::SuspendCompute { endpoint },
            ),
            Self::Delete => (
                OperationAction::SuspendCompute,
                Job::DeleteEndpoint { endpoint },
            ),
        };
        operations::record(project, Some(branch), Some(id), action, job, chain)
    }
}

fn find<'a>(project: &'a ProjectRecord, id: &EndpointId) -> ApiResult<&'a EndpointRecord> {
    project
        .endpoint(id)
        .ok_or_else(|| ApiError::not_found("endpoint"))
}

fn find_mut<'a>(
    project: &'a mut ProjectRecord,
    id: &EndpointId,
) -> ApiResult<&'a mut EndpointRecord> {
    project
        .endpoints
        .get_mut(id)
        .filter(|record| !record.deleted)
        .ok_or_else(|| ApiError::not_found("endpoint"))
}

fn check_type(endpoint_type: &EndpointType) -> ApiResult<()> {
    match endpoint_type {
        EndpointType::ReadWrite => Ok(()),
        EndpointType::ReadOnly => Err(ApiError::unprocessable(
            "endpoint.type: this emulator has no read_only endpoints yet",
        )),
        EndpointType::Unknown(text) => Err(ApiError::bad_request(format!(
            "endpoint.type must be read_write or read_only, not {text:?}"
        ))),
    }
}

/// Checks after how much idleness an endpoint is to suspend: -1 is never, 0 the
/// default.
pub(super) fn check_suspend_timeout(
    field: &str,
    seconds: Option<i64>,
    limits: &Limits,
) -> ApiResult<()> {
    let min = limits.unsafe_suspend_seconds_min;
    match seconds {
        None | Some(-1 | 0) => Ok(()),
        Some(seconds) if (min..=SUSPEND_SECONDS_MAX).contains(&seconds) => Ok(()),
        Some(seconds) => Err(ApiError::bad_request(format!(
            "{field} must be -1, 0 or {min} to {SUSPEND_SECONDS_MAX}, not {seconds}"
        ))),
    }
}

/// Compute units mean nothing on one machine; they are kept as they are given.
fn set_limits(endpoint: &mut Endpoint, min: Option<f64>, max: Option<f64>) -> ApiResult<()> {
    let min = min.unwrap_or(endpoint.autoscaling_limit_min_cu);
    let max = max.unwrap_or(endpoint.autoscaling_limit_max_cu.max(min));
    if min < 0.25 || max < min {
        return Err(ApiError::bad_request(
            "endpoint.autoscaling_limit_min_cu must be at least 0.25, and endpoint.autoscaling_limit_max_cu no less",
        ));
    }
    endpoint.autoscaling_limit_min_cu = min;
    endpoint.autoscaling_limit_max_cu = max;
    Ok(())
}
