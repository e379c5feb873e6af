//! Suspends endpoints that nobody uses.
//!
//! An endpoint is in use while a client's backend does anything but wait for its
//! next transaction, and while a replica is connected. Postgres is asked when an
//! endpoint could be due, not before.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use neon_api::types::{EndpointState, OperationAction};
use neon_api::{EndpointId, ProjectId};
use tokio::time::timeout;
use tracing::{info, warn};
use uuid::Uuid;

use super::job_error::JobError;
use super::outcome::Outcome;
use super::{Engine, chain, projects_with_endpoints};
use crate::operations;
use crate::postgres::admin::{self, Activity};
use crate::postgres::{SUPERUSER, Server};
use crate::state::{EndpointRecord, Job, ProjectRecord, StoreError};
use crate::time::{at_system_time, now, sleep_until};

/// How long Postgres may take to say what it does.
const LOOK_SECONDS_MAX: u64 = 10;
/// "Never", as Neon has it.
const NEVER: i64 = -1;

/// An active endpoint that may be suspended.
struct Candidate {
    project: ProjectId,
    endpoint: EndpointId,
    /// It is suspended when it has been idle for so long.
    idle_max: SignedDuration,
    /// The last sign of use that is known without asking.
    used_at: Timestamp,
}

impl Engine {
    /// Until the emulator stops: suspends what is idle for too long, then waits
    /// for the next that may be.
    pub(super) async fn suspend_idle(self: Arc<Self>) {
        let mut changes = self.changes.subscribe();
        let mut stopping = self.stopping.subscribe();
        // What Postgres has said of each.
        let mut seen: HashMap<EndpointId, Timestamp> = HashMap::new();
        loop {
            changes.mark_unchanged();
            let mut next: Option<Timestamp> = None;
            let candidates = self.candidates();
            seen.retain(|id, _| candidates.iter().any(|found| found.endpoint == *id));
            for mut candidate in candidates {
                let id = candidate.endpoint.clone();
                let known = seen.get(&id).copied().unwrap_or(Timestamp::MIN);
                candidate.used_at = candidate.used_at.max(known);
                if candidate.is_due() {
                    let Some(server) = self.server(&id) else {
                        continue;
                    };
                    candidate.used_at = candidate.used_at.max(self.used_at(&server).await);
                    seen.insert(id, candidate.used_at);
                    if candidate.is_due() {
                        if let Err(error) = self.schedule_idle_suspension(&candidate) {
                            warn!(endpoint = %candidate.endpoint, error = chain(&error), "could not suspend it");
                        }
                        continue;
                    }
                }
                let due = candidate.due();
                next = Some(next.map_or(due, |next| next.min(due)));
            }
            let due = async {
                match next {
                    Some(time) => sleep_until(time).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = due => {}
                _ = stopping.wait_for(|stopping| *stopping) => return,
            }
        }
    }

    /// Suspends an endpoint, unless a client has come since that was decided. The
    /// caller holds its branch.
    pub(super) async fn suspend_if_idle(
        &self,
        project: &ProjectId,
        endpoint: &EndpointId,
    ) -> Result<Outcome, JobError> {
        // Out of the map first: who comes from now on waits, and is no longer
        // forwarded to a server that is about to stop.
        let Some(server) = self.servers_lock().remove(endpoint) else {
            return Ok(Outcome::Recorded);
        };
        let candidate = self
            .store
            .read(|state| {
                let project = state.projects.get(project)?;
                let record = project.endpoint(endpoint)?;
                self.candidate(project, record)
            })
            .filter(|_| server.is_running());
        let is_due = match candidate {
            Some(mut candidate) => {
                candidate.used_at = candidate.used_at.max(self.used_at(&server).await);
                candidate.is_due()
            }
            None => false,
        };
        if is_due {
            info!(%endpoint, "is idle: suspending it");
            self.halt_server(project, endpoint, Some(server)).await?;
            return Ok(Outcome::Idle(endpoint.clone()));
        }
        let is_running = server.is_running();
        self.servers_lock().insert(endpoint.clone(), server);
        Ok(Outcome::Stays {
            endpoint: endpoint.clone(),
            is_running,
        })
    }

    fn candidates(&self) -> Vec<Candidate> {
        self.store.read(|state| {
            projects_with_endpoints(state)
                .filter(|(project, record)| {
                    record.endpoint.current_state == EndpointState::Active
                        // The change that ends that looks again.
                        && !project.is_busy(&record.endpoint.branch_id)
                })
                .filter_map(|(project, record)| self.candidate(project, record))
                .collect()
        })
    }

    fn candidate(&self, project: &ProjectRecord, record: &EndpointRecord) -> Option<Candidate> {
        let endpoint = &record.endpoint;
        let seconds = match endpoint.suspend_timeout_seconds {
            NEVER => None,
            0 => self.default_seconds(project),
            seconds => Some(seconds),
        }?;
        let traffic = self.gateway.last_traffic(&endpoint.id);
        Some(Candidate {
            project: project.project.id.clone(),
            endpoint: endpoint.id.clone(),
            idle_max: SignedDuration::from_secs(seconds),
            used_at: endpoint
                .started_at
                .max(traffic)
                .unwrap_or(endpoint.created_at),
        })
    }

    /// What 0 stands for: the project's default, else the emulator's.
    fn default_seconds(&self, project: &ProjectRecord) -> Option<i64> {
        let defaults = project.project.default_endpoint_settings.as_ref();
        let seconds = defaults
            .and_then(|defaults| defaults.suspend_timeout_seconds)
            .filter(|seconds| *seconds != 0)
            .unwrap_or(self.limits.suspend_seconds_default);
        (seconds > 0).then_some(seconds)
    }

    /// When the server was last used, by its own account. One that cannot be
    /// asked counts as used.
    async fn used_at(&self, server: &Server) -> Timestamp {
        let look = async {
            let client = self.admin(server.port()).await?;
            Ok::<_, JobError>(admin::activity(&client, SUPERUSER).await?)
        };
        match timeout(Duration::from_secs(LOOK_SECONDS_MAX), look).await {
            Ok(Ok(Activity::Idle { since })) => since.map_or(Timestamp::MIN, at_system_time),
            Ok(Ok(Activity::Busy)) => now(),
            Ok(Err(error)) => {
                warn!(
                    error = chain(&error),
                    "could not see whether an endpoint is idle"
                );
                now()
            }
            Err(_) => {
                warn!("Postgres did not say in {LOOK_SECONDS_MAX} s whether it is idle");
                now()
            }
        }
    }

    fn schedule_idle_suspension(&self, candidate: &Candidate) -> Result<(), StoreError> {
        self.change(|state| {
            let Some(project) = state.projects.get_mut(&candidate.project) else {
                return Ok(());
            };
            let Some(record) = project.endpoint(&candidate.endpoint) else {
                return Ok(());
            };
            let branch = record.endpoint.branch_id.clone();
            // Somebody else has been faster.
            if project.is_busy(&branch) {
                return Ok(());
            }
            let operation = operations::record(
                &candidate.project,
                Some(&branch),
                Some(&candidate.endpoint),
                OperationAction::SuspendCompute,
                Job::SuspendIfIdle {
                    endpoint: candidate.endpoint.clone(),
                },
                Uuid::new_v4(),
            );
            if let Some(record) = project.endpoints.get_mut(&candidate.endpoint) {
                record.endpoint.pending_state = Some(EndpointState::Idle);
                record.endpoint.last_active = Some(candidate.used_at);
            }
            project.schedule(vec![operation]);
            Ok(())
        })
    }
}

impl Candidate {
    fn due(&self) -> Timestamp {
        let due = self.used_at.checked_add(self.idle_max);
        due.unwrap_or(Timestamp::MAX)
    }

    fn is_due(&self) -> bool {
        self.due() <= now()
    }
}
