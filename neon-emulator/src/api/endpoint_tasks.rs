//! What is done with an endpoint: started, suspended, deleted.

use axum::Json;
use neon_api::types::{Endpoint, EndpointOperations, EndpointState, Operation, OperationAction};
use neon_api::{BranchId, EndpointId, ProjectId};
use uuid::Uuid;

use super::endpoints::{find, find_mut};
use super::error::{ApiError, ApiResult};
use super::extract::{InEndpoint, Names};
use super::{Shared, endpoint_options, projects};
use crate::operations;
use crate::state::{Job, OperationRecord, ProjectRecord};

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

/// What an operation does with an endpoint.
#[derive(Debug, Clone, Copy)]
pub(super) enum Task {
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
        endpoint_options::check_room_to_run(
            project,
            engine.limits(),
            &endpoint.branch_id,
            Some(&endpoint.id),
            tasks
                .iter()
                .filter(|task| matches!(task, Task::Start))
                .count(),
        )?;
        let operations = schedule(project, &names.endpoint_id, tasks)?;
        answer(project, &names.endpoint_id, operations)
    })
}

/// An endpoint and what is done with it.
pub(super) fn answer(
    project: &ProjectRecord,
    id: &EndpointId,
    operations: Vec<Operation>,
) -> ApiResult<Json<EndpointOperations>> {
    Ok(Json(EndpointOperations {
        endpoint: find(project, id)?.endpoint.clone(),
        operations,
    }))
}

/// Schedules tasks on an endpoint.
pub(super) fn schedule(
    project: &mut ProjectRecord,
    id: &EndpointId,
    tasks: Vec<Task>,
) -> ApiResult<Vec<Operation>> {
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
