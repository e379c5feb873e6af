//! Endpoints as the gateway sees them: which addresses there are, and the
//! server behind each, started when a client comes.

use std::collections::HashMap;
use std::sync::PoisonError;
use std::time::Duration;

use neon_api::types::{EndpointState, OperationStatus};
use neon_api::{EndpointId, OperationId, ProjectId};
use tokio::time::timeout;
use tracing::info;

use super::jobs::start_operation;
use super::{Engine, chain, projects_with_endpoints};
use crate::gateway::{Address, Refusal};
use crate::state::{Job, OperationRecord, ProjectRecord, StoreError};

/// How long a client is held while its endpoint is started: other operations of
/// the project may be before it.
const WAKE_SECONDS_MAX: u64 = 120;
/// How often an endpoint is started for one client: it may be suspended, or die,
/// before the client has reached it.
const STARTS_MAX: usize = 3;

/// What there is behind an address.
enum Found {
    /// Its server listens on this port.
    Running(u16),
    /// It is to be started by this operation.
    Starting(OperationId),
    /// It waits for somebody to come.
    Suspended,
}

impl Engine {
    /// The port of the endpoint's server, or of its pooler. One that does not run is started, as by
    /// the API; many who come at once start it once.
    pub(crate) async fn upstream(&self, address: &Address) -> Result<u16, Refusal> {
        let mut stopping = self.stopping.subscribe();
        let waited = Duration::from_secs(WAKE_SECONDS_MAX);
        tokio::select! {
            port = timeout(waited, self.started(address)) => port.unwrap_or_else(|_| {
                Err(Refusal::NotStarted(format!("it has not started in {WAKE_SECONDS_MAX} s")))
            }),
            _ = stopping.wait_for(|stopping| *stopping) => Err(Refusal::Stopping),
        }
    }

    /// The same, if it runs.
    pub(crate) async fn running(&self, address: &Address) -> Option<u16> {
        let server = self.server(&address.endpoint)?;
        match address.pooled {
            true => self.running_pooler(&address.endpoint, &server).await,
            false => Some(server.port()),
        }
    }

    /// Holds the addresses of the endpoints that there are.
    pub(super) fn hold_addresses(&self) {
        // What was read last is held last.
        let _alone = self.holding.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted: HashMap<Address, u16> = self.store.read(|state| {
            projects_with_endpoints(state)
                .filter(|(project, _)| !project.deleted)
                .flat_map(|(project, record)| {
                    let ports = [(false, record.port), (true, record.pooled_port)];
                    ports.map(|(pooled, port)| {
                        let address = Address {
                            project: project.project.id.clone(),
                            endpoint: record.endpoint.id.clone(),
                            pooled,
                        };
                        (address, port)
                    })
                })
                // There was none to be had: the log has said so.
                .filter(|(_, port)| *port != 0)
                .collect()
        });
        self.gateway.hold(&wanted, &self.me);
    }

    async fn started(&self, address: &Address) -> Result<u16, Refusal> {
        let mut changes = self.changes.subscribe();
        let mut awaited = None;
        let mut starts = 0;
        loop {
            changes.mark_unchanged();
            match self.find(address, awaited)? {
                Found::Running(port) if !address.pooled => return Ok(port),
                Found::Running(port) => {
                    if let Some(port) = self.pooled_port(&address.endpoint, port).await? {
                        return Ok(port);
                    }
                }
                Found::Starting(operation) => awaited = Some(operation),
                Found::Suspended if starts == STARTS_MAX => {
                    let reason = format!("it was started {starts} times and does not stay");
                    return Err(Refusal::NotStarted(reason));
                }
                Found::Suspended => {
                    starts += 1;
                    awaited = self.wake(&address.project, &address.endpoint)?;
                }
            }
            // The sender lives as long as `self`.
            let _ = changes.changed().await;
        }
    }

    fn find(&self, address: &Address, awaited: Option<OperationId>) -> Result<Found, Refusal> {
        let server = self.server(&address.endpoint);
        self.store.read(|state| {
            let project = state
                .projects
                .get(&address.project)
                .filter(|project| !project.deleted)
                .ok_or(Refusal::NotFound)?;
            let record = project
                .endpoint(&address.endpoint)
                .ok_or(Refusal::NotFound)?;
            if record.endpoint.disabled {
                return Err(Refusal::Disabled);
            }
            if let Some(server) = server {
                return Ok(Found::Running(server.port()));
            }
            if let Some(operation) = pending_start(project, &address.endpoint) {
                return Ok(Found::Starting(operation.operation.id));
            }
            // It was waited for, and is over.
            let failed = project.operations.iter().find(|record| {
                Some(record.operation.id) == awaited
                    && record.operation.status != OperationStatus::Finished
            });
            match failed {
                Some(record) => {
                    let reason = record.operation.error.clone();
                    let reason = reason.unwrap_or_else(|| "its start was cancelled".to_owned());
                    Err(Refusal::NotStarted(reason))
                }
                None => Ok(Found::Suspended),
            }
        })
    }

    /// Schedules the start of an endpoint, unless it is scheduled.
    fn wake(
        &self,
        project: &ProjectId,
        endpoint: &EndpointId,
    ) -> Result<Option<OperationId>, Refusal> {
        self.change(|state| {
            let Some(project) = state.projects.get_mut(project) else {
                return Ok(None);
            };
            if let Some(pending) = pending_start(project, endpoint) {
                return Ok(Some(pending.operation.id));
            }
            let Some(operation) = start_operation(project, endpoint) else {
                return Ok(None);
            };
            let max = self.limits.active_computes;
            let branch = operation.operation.branch_id.as_ref();
            if branch.is_some_and(|id| !project.has_room_to_run(id, Some(endpoint), 1, max)) {
                return Err(Refusal::TooManyActive);
            }
            info!(%endpoint, "a client has come: starting it");
            if let Some(record) = project.endpoints.get_mut(endpoint) {
                record.endpoint.pending_state = Some(EndpointState::Active);
            }
            let id = operation.operation.id;
            project.schedule(vec![operation]);
            Ok(Some(id))
        })
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::NotStarted(chain(&error))
    }
}

fn pending_start<'a>(
    project: &'a ProjectRecord,
    endpoint: &EndpointId,
) -> Option<&'a OperationRecord> {
    project.operations.iter().find(|record| {
        !record.operation.status.is_final()
            && matches!(&record.job, Job::StartCompute { endpoint: id } if id == endpoint)
    })
}
