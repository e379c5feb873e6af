//! Operations as they are when they are scheduled.

use neon_api::types::{Operation, OperationAction, OperationStatus};
use neon_api::{BranchId, EndpointId, OperationId, ProjectId};
use uuid::Uuid;

use crate::state::{Job, OperationRecord};
use crate::time::now;

/// An operation that is still to be done.
pub(crate) fn record(
    project: &ProjectId,
    branch: Option<&BranchId>,
    endpoint: Option<&EndpointId>,
    action: OperationAction,
    job: Job,
    chain: Uuid,
) -> OperationRecord {
    let at = now();
    OperationRecord {
        operation: Operation {
            id: OperationId::from(Uuid::new_v4()),
            project_id: project.clone(),
            branch_id: branch.cloned(),
            endpoint_id: endpoint.cloned(),
            action,
            status: OperationStatus::Scheduling,
            error: None,
            failures_count: 0,
            retry_at: None,
            created_at: at,
            updated_at: at,
            total_duration_ms: 0,
        },
        job,
        chain,
    }
}
