//! A project's records, as others ask for them and change them.

use neon_api::types::{EndpointState, EndpointType, Operation, OperationStatus};
use neon_api::{BranchId, EndpointId, SnapshotId};
use uuid::Uuid;

use super::jobs::Job;
use super::records::{
    BranchRecord, EndpointRecord, OperationRecord, ProjectRecord, SnapshotRecord,
};

/// Finished operations that a project remembers.
const OPERATIONS_KEPT_MAX: usize = 1_000;

impl ProjectRecord {
    /// A branch that is not deleted.
    pub(crate) fn branch(&self, id: &BranchId) -> Option<&BranchRecord> {
        self.branches.get(id).filter(|branch| !branch.deleted)
    }

    /// A branch that is not deleted.
    pub(crate) fn branch_mut(&mut self, id: &BranchId) -> Option<&mut BranchRecord> {
        self.branches.get_mut(id).filter(|branch| !branch.deleted)
    }

    /// An endpoint that is not deleted.
    pub(crate) fn endpoint(&self, id: &EndpointId) -> Option<&EndpointRecord> {
        self.endpoints.get(id).filter(|endpoint| !endpoint.deleted)
    }

    /// Branches that are not deleted.
    pub(crate) fn live_branches(&self) -> impl Iterator<Item = &BranchRecord> {
        self.branches.values().filter(|branch| !branch.deleted)
    }

    /// Endpoints that are not deleted.
    pub(crate) fn live_endpoints(&self) -> impl Iterator<Item = &EndpointRecord> {
        self.endpoints.values().filter(|endpoint| !endpoint.deleted)
    }

    /// The branch that is used where a request names none.
    pub(crate) fn default_branch(&self) -> Option<&BranchRecord> {
        self.live_branches().find(|record| record.branch.default)
    }

    /// The one endpoint of the branch that writes.
    pub(crate) fn read_write_endpoint(&self, branch: &BranchId) -> Option<&EndpointRecord> {
        self.live_endpoints().find(|record| {
            record.endpoint.branch_id == *branch
                && record.endpoint.endpoint_type == EndpointType::ReadWrite
        })
    }

    /// True when so many endpoints of a branch, `asked_for` if it is there already,
    /// may run beside those that do, or are about to. As on Neon, those of the
    /// default branch always may.
    pub(crate) fn has_room_to_run(
        &self,
        branch: &BranchId,
        asked_for: Option<&EndpointId>,
        count: usize,
        max: u32,
    ) -> bool {
        let is_default = |id: &BranchId| {
            let record = self.branch(id);
            record.is_some_and(|record| record.branch.default)
        };
        let others = self.live_endpoints().map(|record| &record.endpoint);
        let others = others.filter(|endpoint| {
            Some(&endpoint.id) != asked_for
                && !is_default(&endpoint.branch_id)
                && (endpoint.current_state == EndpointState::Active
                    || endpoint.pending_state == Some(EndpointState::Active))
        });
        is_default(branch) || others.count() + count <= max as usize
    }

    /// The next operation to work on: the oldest that is not final. They are
    /// done one after another.
    pub(crate) fn next_operation(&self) -> Option<&OperationRecord> {
        self.operations
            .iter()
            .find(|record| !record.operation.status.is_final())
    }

    /// Gives the children of one branch to another.
    pub(crate) fn move_children(&mut self, from: &BranchId, to: &BranchId) {
        for record in self.branches.values_mut() {
            if record.branch.parent_id.as_ref() == Some(from) {
                record.branch.parent_id = Some(to.clone());
            }
        }
    }

    /// True when an endpoint has it.
    pub(crate) fn has_port(&self, port: u16) -> bool {
        self.endpoints.values().any(|record| record.has_port(port))
    }

    /// True while an operation on the branch is still to be done.
    pub(crate) fn is_busy(&self, branch: &BranchId) -> bool {
        self.operations.iter().any(|record| {
            !record.operation.status.is_final()
                && (record.operation.branch_id.as_ref() == Some(branch)
                    || record.job.also_concerns(branch))
        })
    }

    /// True while an operation on the snapshot is still to be done.
    pub(crate) fn is_snapshot_busy(&self, snapshot: &SnapshotId) -> bool {
        self.operations.iter().any(|record| {
            !record.operation.status.is_final() && record.job.snapshot() == Some(snapshot)
        })
    }

    /// Snapshots that are not deleted.
    pub(crate) fn live_snapshots(&self) -> impl Iterator<Item = &SnapshotRecord> {
        self.snapshots.values().filter(|record| !record.deleted)
    }

    /// Branches that are not deleted, of this parent.
    pub(crate) fn children(&self, parent: &BranchId) -> impl Iterator<Item = &BranchRecord> {
        self.live_branches()
            .filter(move |record| record.branch.parent_id.as_ref() == Some(parent))
    }

    /// Appends operations, forgets the oldest finished ones, and returns the
    /// new ones as an answer has them: where nothing is before it, the first
    /// one runs already.
    pub(crate) fn schedule(&mut self, mut records: Vec<OperationRecord>) -> Vec<Operation> {
        if let Some(first) = records.first_mut()
            && self.next_operation().is_none()
        {
            first.operation.status = OperationStatus::Running;
        }
        let operations = records
            .iter()
            .map(|record| record.operation.clone())
            .collect();
        self.operations.extend(records);
        let surplus = self.operations.len().saturating_sub(OPERATIONS_KEPT_MAX);
        let mut dropped = 0;
        self.operations.retain(|record| {
            let drop = dropped < surplus && record.operation.status.is_final();
            dropped += usize::from(drop);
            !drop
        });
        operations
    }

    /// What was scheduled and has not begun is never done.
    pub(crate) fn cancel_scheduled(&mut self) {
        for record in &mut self.operations {
            if record.operation.status == OperationStatus::Scheduling {
                record.operation.status = OperationStatus::Cancelled;
            }
        }
    }

    /// The operations of a chain after one that failed are never done.
    pub(crate) fn cancel_chain(&mut self, chain: Uuid) {
        for record in &mut self.operations {
            if record.chain != chain || record.operation.status.is_final() {
                continue;
            }
            record.operation.status = OperationStatus::Cancelled;
            if let Job::StartCompute { endpoint } = &record.job
                && let Some(record) = self.endpoints.get_mut(endpoint)
            {
                record.endpoint.pending_state = None;
                if record.endpoint.current_state == EndpointState::Init {
                    record.endpoint.current_state = EndpointState::Idle;
                }
            }
        }
    }
}
