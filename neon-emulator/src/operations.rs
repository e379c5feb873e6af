//! Operations as they are when they are scheduled.

use neon_api::types::{Operation, OperationAction, OperationStatus};
use neon_api::{BranchId, EndpointId, OperationId, ProjectId, SnapshotId};
use uuid::Uuid;

use crate::state::{Job, OperationRecord, ProjectRecord};
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

/// Deletes a branch with its endpoints: gone at once for callers, its data when
/// the operations have finished.
pub(crate) fn delete_branch(project: &mut ProjectRecord, id: &BranchId) -> Vec<Operation> {
    let at = now();
    if let Some(record) = project.branches.get_mut(id) {
        record.deleted = true;
        record.branch.updated_at = at;
    }
    for endpoint in project.endpoints.values_mut() {
        endpoint.deleted |= endpoint.endpoint.branch_id == *id;
    }
    let operation = record(
        &project.project.id,
        Some(id),
        None,
        OperationAction::DeleteTimeline,
        Job::DeleteBranch { branch: id.clone() },
        Uuid::new_v4(),
    );
    project.schedule(vec![operation])
}

/// Deletes a snapshot.
pub(crate) fn delete_snapshot(project: &mut ProjectRecord, id: &SnapshotId) -> Vec<Operation> {
    if let Some(record) = project.snapshots.get_mut(id) {
        record.deleted = true;
    }
    let operation = record(
        &project.project.id,
        None,
        None,
        OperationAction::DeleteTimeline,
        Job::DeleteSnapshot {
            snapshot: id.clone(),
        },
        Uuid::new_v4(),
    );
    project.schedule(vec![operation])
}
