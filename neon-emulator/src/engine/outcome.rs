//! What the end of an operation means for the records that others look at. Both
//! are in the state by one change: who sees that an endpoint is active, or that a
//! branch is ready, finds its operation finished.

use jiff::Timestamp;
use neon_api::types::{BranchState, EndpointState};
use neon_api::{BranchId, EndpointId};

use crate::state::{EndpointRecord, Job, ProjectRecord};
use crate::storage::CloneMethod;
use crate::time::now;

/// Where a branch was cloned from: how far its source was, and when.
pub(super) type Fork = (String, Timestamp);

/// What an operation's work has come to.
#[derive(Debug, Clone)]
pub(super) enum Outcome {
    /// What the work itself has recorded.
    Recorded,
    /// The endpoint runs.
    Active(EndpointId),
    /// It does not.
    Idle(EndpointId),
    /// It was to be suspended, and somebody came.
    Stays {
        endpoint: EndpointId,
        is_running: bool,
    },
    /// It does not run, and serves another branch from now on.
    Moved {
        endpoint: EndpointId,
        branch: BranchId,
    },
    /// The branch has its data.
    Ready {
        branch: BranchId,
        fork: Option<Fork>,
        cloned_by: CloneMethod,
    },
    /// The branch has the data of a restore, and `preserve` what it had.
    Restored {
        branch: BranchId,
        preserve: Option<BranchId>,
        fork: Fork,
    },
}

impl Outcome {
    pub(super) fn put_into(&self, project: &mut ProjectRecord, has_pooler: bool) {
        match self {
            Self::Recorded => {}
            Self::Active(endpoint) => set_active(project, endpoint, has_pooler),
            Self::Idle(endpoint) => set_idle(project, endpoint),
            Self::Stays {
                endpoint,
                is_running,
            } => {
                if let Some(record) = project.endpoints.get_mut(endpoint) {
                    record.endpoint.pending_state = None;
                    if !is_running {
                        record.endpoint.current_state = EndpointState::Idle;
                    }
                }
            }
            Self::Moved { endpoint, branch } => {
                set_idle(project, endpoint);
                if let Some(record) = project.endpoints.get_mut(endpoint) {
                    record.endpoint.branch_id = branch.clone();
                }
            }
            Self::Ready {
                branch,
                fork,
                cloned_by,
            } => {
                set_ready(project, branch);
                if let Some(record) = project.branches.get_mut(branch) {
                    record.cloned_by = Some(*cloned_by);
                    if let Some((lsn, time)) = fork {
                        record.branch.parent_lsn = Some(lsn.clone());
                        record.branch.parent_timestamp = Some(*time);
                    }
                }
            }
            Self::Restored {
                branch,
                preserve,
                fork: (lsn, time),
            } => {
                for id in std::iter::once(branch).chain(preserve) {
                    set_ready(project, id);
                }
                if let Some(record) = project.branches.get_mut(branch) {
                    record.restored_from = None;
                    record.branch.parent_lsn = Some(lsn.clone());
                    record.branch.parent_timestamp = Some(*time);
                    // The clone has the source's passwords.
                    record.catalog_is_behind = true;
                }
            }
        }
    }
}

fn set_active(project: &mut ProjectRecord, endpoint: &EndpointId, has_pooler: bool) {
    let Some(record) = project.endpoints.get_mut(endpoint) else {
        return;
    };
    let at = now();
    // One that ran already was not started again.
    if record.endpoint.current_state != EndpointState::Active {
        record.endpoint.started_at = Some(at);
    }
    record.endpoint.current_state = EndpointState::Active;
    record.endpoint.pending_state = None;
    record.endpoint.last_active = Some(at);
    record.endpoint.updated_at = at;
    tell_of_pooler(record, has_pooler);
    project.project.compute_last_active_at = Some(at);
}

/// An endpoint says whether there is a real pooler, unless somebody has said what
/// it is to say.
pub(super) fn tell_of_pooler(record: &mut EndpointRecord, has_pooler: bool) {
    record.endpoint.pooler_enabled = record.pooler_asked.unwrap_or(has_pooler);
}

fn set_idle(project: &mut ProjectRecord, endpoint: &EndpointId) {
    let is_started_next = project.operations.iter().any(|record| {
        !record.operation.status.is_final()
            && matches!(&record.job, Job::StartCompute { endpoint: id } if id == endpoint)
    });
    if let Some(record) = project.endpoints.get_mut(endpoint) {
        let at = now();
        record.endpoint.current_state = EndpointState::Idle;
        record.endpoint.pending_state = is_started_next.then_some(EndpointState::Active);
        record.endpoint.suspended_at = Some(at);
        record.endpoint.updated_at = at;
    }
}

fn set_ready(project: &mut ProjectRecord, branch: &BranchId) {
    if let Some(record) = project.branches.get_mut(branch) {
        let at = now();
        record.branch.current_state = BranchState::Ready;
        record.branch.pending_state = None;
        record.branch.state_changed_at = at;
        record.branch.updated_at = at;
    }
}
