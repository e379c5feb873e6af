//! Faults that a test asked for, put into the engine's work.

use std::sync::Arc;
use std::time::Duration;

use neon_api::types::EndpointType;
use neon_api::{BranchId, EndpointId, ProjectId};
use tokio::task::JoinHandle;
use tracing::{info, warn};

use super::Engine;
use super::job_error::JobError;
use super::outcome::Outcome;
use crate::faults::{FaultQueue, OperationEffect};
use crate::state::OperationRecord;

impl Engine {
    /// The faults that are waiting.
    pub(crate) fn faults(&self) -> &Arc<FaultQueue> {
        &self.faults
    }

    /// Waits, though no longer than the emulator runs.
    pub(crate) async fn pause(&self, duration: Duration) {
        let mut stopping = self.stopping.subscribe();
        tokio::select! {
            () = tokio::time::sleep(duration) => {}
            _ = stopping.wait_for(|stopping| *stopping) => {}
        }
    }

    /// Begins work that a stop waits for.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.tasks.spawn(work)
    }

    /// Kills an endpoint's Postgres with SIGKILL. It is started again, as after
    /// any end that nobody asked for.
    pub(crate) async fn kill_endpoint(&self, endpoint: &EndpointId) {
        match self.server(endpoint) {
            Some(server) => server.kill().await,
            None => warn!(%endpoint, "not killed: it does not run"),
        }
    }

    /// The branch's endpoint that writes.
    pub(crate) fn writing_endpoint(&self, branch: &BranchId) -> Option<EndpointId> {
        self.store.read(|state| {
            let mut endpoints = state
                .projects
                .values()
                .flat_map(|project| project.live_endpoints());
            let record = endpoints.find(|record| {
                record.endpoint.branch_id == *branch
                    && record.endpoint.endpoint_type == EndpointType::ReadWrite
            })?;
            Some(record.endpoint.id.clone())
        })
    }

    /// Does an operation's job, or what a test wants to happen to it.
    pub(super) async fn run_with_fault(
        self: &Arc<Self>,
        project: &ProjectId,
        record: &OperationRecord,
    ) -> Result<Outcome, JobError> {
        let operation = &record.operation;
        let name = self.store.read(|state| {
            let project = state.projects.get(project)?;
            let branch = project.branches.get(operation.branch_id.as_ref()?)?;
            Some(branch.branch.name.clone())
        });
        let Some(effect) = self.faults.take_for_operation(operation, name.as_deref()) else {
            return self.run(project, &record.job).await;
        };
        info!(operation = %operation.id, action = %operation.action, ?effect, "a fault, as asked for");
        match effect {
            OperationEffect::Fails { error } => Err(JobError::AskedFor(error)),
            OperationEffect::Delay {
                milliseconds,
                after,
            } => {
                let duration = Duration::from_millis(milliseconds);
                if !after {
                    self.pause(duration).await;
                }
                let outcome = self.run(project, &record.job).await?;
                if after {
                    self.pause(duration).await;
                }
                Ok(outcome)
            }
            OperationEffect::EndpointDies => {
                let outcome = self.run(project, &record.job).await?;
                let of_branch = || self.writing_endpoint(operation.branch_id.as_ref()?);
                match operation.endpoint_id.clone().or_else(of_branch) {
                    Some(endpoint) => self.kill_endpoint(&endpoint).await,
                    None => warn!("no endpoint to kill"),
                }
                Ok(outcome)
            }
        }
    }
}
