//! What is done with an endpoint: started, suspended, deleted.

use axum::Json;
use neon_api::types::{Endpoint, EndpointOperations, EndpointState, Operation, OperationAction};
use neon_api::{BranchId, EndpointId};
use uuid::Uuid;

use super::endpoints::{find, find_mut};
use super::error::{ApiError, ApiResult};
use super::extract::{InEndpoint, Names};
use super::{Shared, endpoint_options, projects};
use crate::operations;
use crate::state::{Job, ProjectRecord};

pub(super) async fn start(
    engine: Shared,
    Names(names): Names<InEndpoint>,
) -> ApiResult<Json<EndpointOperations>> {
    let tasks = |endpoint: &Endpoint| match endpoint.current_state {
        EndpointState::Active => vec![],
        _ => vec![Task::Start],
    };
    run(&engine, &names, tasks, |_| ApiError::locked())
}

pub(super) async fn suspend(
    engine: Shared,
    Names(names): Names<InEndpoint>,
) -> ApiResult<Json<EndpointOperations>> {
    let tasks = |endpoint: &Endpoint| match endpoint.current_state {
        EndpointState::Active => vec![Task::Suspend],
        _ => vec![],
    };
    run(&engine, &names, tasks, |endpoint| {
        match endpoint.pending_state {
            Some(_) => ApiError::in_transition("suspend"),
            None => ApiError::locked(),
        }
    })
}

pub(super) async fn restart(
    engine: Shared,
    Names(names): Names<InEndpoint>,
) -> ApiResult<Json<EndpointOperations>> {
    let tasks = |_: &Endpoint| vec![Task::Suspend, Task::Start];
    run(&engine, &names, tasks, |_| ApiError::locked())
}

/// What an operation does with an endpoint.
#[derive(Debug, Clone)]
pub(super) enum Task {
    Start,
    Suspend,
    /// To another branch, for which it does not run.
    Move(BranchId),
    Delete,
}

fn run(
    engine: &crate::engine::Engine,
    names: &InEndpoint,
    tasks: impl FnOnce(&Endpoint) -> Vec<Task>,
    busy: impl FnOnce(&Endpoint) -> ApiError,
) -> ApiResult<Json<EndpointOperations>> {
    engine.change(|state| {
        let project = projects::find_mut(state, &names.project_id)?;
        let endpoint = &find(project, &names.endpoint_id)?.endpoint;
        let tasks = tasks(endpoint);
        if endpoint.disabled && tasks.iter().any(|task| matches!(task, Task::Start)) {
            return Err(ApiError::unprocessable("endpoint is disabled"));
        }
        if project.is_busy(&endpoint.branch_id) {
            return Err(busy(endpoint));
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
        Some(Task::Suspend | Task::Move(_) | Task::Delete) => Some(EndpointState::Idle),
        None => None,
    };
    let mut branch = endpoint.branch_id.clone();
    let chain = Uuid::new_v4();
    let mut records = Vec::with_capacity(tasks.len());
    for task in tasks {
        let job = task.job(id, &branch);
        if let Task::Move(to) = &task {
            branch.clone_from(to);
        }
        let (project, branch) = (&project_id, Some(&branch));
        let action = task.action();
        records.push(operations::record(
            project,
            branch,
            Some(id),
            action,
            job,
            chain,
        ));
    }
    Ok(project.schedule(records))
}

impl Task {
    fn action(&self) -> OperationAction {
        match self {
            Self::Start => OperationAction::StartCompute,
            Self::Suspend | Self::Move(_) | Self::Delete => OperationAction::SuspendCompute,
        }
    }

    /// Its work on an endpoint of this branch.
    fn job(&self, endpoint: &EndpointId, branch: &BranchId) -> Job {
        let endpoint = endpoint.clone();
        match self {
            Self::Start => Job::StartCompute { endpoint },
            Self::Suspend => Job::SuspendCompute { endpoint },
            Self::Move(to) => Job::MoveEndpoint {
                endpoint,
                from: branch.clone(),
                to: to.clone(),
            },
            Self::Delete => Job::DeleteEndpoint { endpoint },
        }
    }
}
