//! What an earlier run left to be done: taken up at the start.

use std::sync::Arc;

use neon_api::types::{BranchState, EndpointState, EndpointType, OperationStatus};
use neon_api::{EndpointId, ProjectId};
use tracing::error;

use super::outcome::tell_of_pooler;
use super::ports::free_port;
use super::retries::schedule_failed_deletions;
use super::{Engine, chain, projects_with_endpoints};
use crate::defaults;
use crate::state::{EndpointRecord, ProjectRecord, StoreError};

impl Engine {
    /// Takes up what an earlier run left: ends its processes, takes the
    /// endpoints' addresses, starts those that were active, and goes on with its
    /// operations.
    pub(crate) async fn resume(self: &Arc<Self>) -> Result<(), StoreError> {
        self.end_leftovers().await;
        self.remove_strangers().await;
        self.tidy_restores().await;
        self.store.change(|state| {
            for project in state.projects.values_mut() {
                for record in &mut project.operations {
                    if record.operation.status == OperationStatus::Running {
                        record.operation.status = OperationStatus::Scheduling;
                    }
                }
                schedule_failed_deletions(project);
                defaults::complete(&mut project.project);
                for record in project.endpoints.values_mut() {
                    tell_of_pooler(record, self.has_pooler());
                }
                give_pooled_ports(project);
            }
            Ok::<_, StoreError>(())
        })?;
        self.hold_addresses();
        // A replica whose branch has a writer is cloned from it while it runs.
        self.start_all(self.were_active(EndpointType::ReadWrite))
            .await;
        self.start_all(self.were_active(EndpointType::ReadOnly))
            .await;
        let projects: Vec<ProjectId> = self
            .store
            .read(|state| state.projects.keys().cloned().collect());
        for project in projects {
            self.spawn_worker(project);
        }
        self.tasks.spawn(Arc::clone(self).reap());
        self.tasks.spawn(Arc::clone(self).retry_deletions());
        self.tasks.spawn(Arc::clone(self).suspend_idle());
        self.tasks.spawn(Arc::clone(self).keep_histories());
        Ok(())
    }

    /// The endpoints that an earlier run had, or wanted to have, active.
    fn were_active(&self, endpoint_type: EndpointType) -> Vec<(ProjectId, EndpointId)> {
        self.store.read(|state| {
            projects_with_endpoints(state)
                .filter(|(_, record)| record.endpoint.endpoint_type == endpoint_type)
                .filter(|(project, record)| {
                    let endpoint = &record.endpoint;
                    // Its data are being exchanged; it is started after that.
                    if project
                        .branch(&endpoint.branch_id)
                        .is_some_and(|branch| branch.branch.current_state == BranchState::Resetting)
                    {
                        return false;
                    }
                    // Idle and pending: it was to run, and could not.
                    endpoint.current_state == EndpointState::Active
                        || (endpoint.current_state == EndpointState::Idle
                            && endpoint.pending_state == Some(EndpointState::Active))
                })
                .map(|(project, record)| (project.project.id.clone(), record.endpoint.id.clone()))
                .collect()
        })
    }

    async fn start_all(self: &Arc<Self>, active: Vec<(ProjectId, EndpointId)>) {
        let mut starts = tokio::task::JoinSet::new();
        for (project, endpoint) in active {
            let engine = Arc::clone(self);
            starts.spawn(async move {
                let started = engine.start_again(&project, &endpoint).await;
                if let Err(error) = started {
                    // This endpoint alone is out of service.
                    error!(%endpoint, error = chain(&error), "an endpoint could not be started");
                    let pending = Some(EndpointState::Active);
                    if let Err(error) = engine.set_endpoint_idle(&project, &endpoint, pending) {
                        error!(%endpoint, error = chain(&error), "could not record it");
                    }
                }
            });
        }
        while starts.join_next().await.is_some() {}
    }
}

/// Endpoints of a state that was written without pooled addresses get theirs.
fn give_pooled_ports(project: &mut ProjectRecord) {
    let ports = |record: &EndpointRecord| [record.port, record.pooled_port];
    let mut taken: Vec<u16> = project.endpoints.values().flat_map(ports).collect();
    for record in project.endpoints.values_mut() {
        if record.pooled_port == 0 {
            match free_port(|port| taken.contains(&port)) {
                Ok(port) => {
                    record.pooled_port = port;
                    taken.push(port);
                }
                Err(error) => {
                    error!(endpoint = %record.endpoint.id, error = chain(&error), "it has no pooled address");
                }
            }
        }
    }
}
