//! The engine: does what the state's operations say, with real Postgres.
//!
//! Each project has one worker that takes its operations in order. The API's
//! handlers only change the state and wake the worker, so an emulator that was
//! killed goes on with what the state says is still to be done.

mod addresses;
mod catalog;
mod deletions;
mod errands;
mod faults;
mod following;
mod history;
mod idle;
mod job_error;
mod jobs;
mod leftovers;
mod poolers;
mod ports;
mod reaper;
mod replicas;
mod restore;
mod schema;
mod servers;
mod snapshots;
mod template;

use std::collections::HashMap;
use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use neon_api::types::{BranchState, EndpointState, EndpointType, OperationAction, OperationStatus};
use neon_api::{BranchId, EndpointId, OperationId, ProjectId, SnapshotId};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};
use uuid::Uuid;

use crate::certificates::Certificates;
use crate::faults::FaultQueue;
use crate::gateway::Gateway;
use crate::limits::Limits;
use crate::operations;
use crate::pooler::{Pooler, Program};
use crate::postgres::{Installation, Server, ServerUser, values};
use crate::state::{EndpointRecord, Job, OperationRecord, ProjectRecord, State, Store, StoreError};
use crate::storage::Storage;
use crate::time::now;

pub(crate) use history::Point;
pub(crate) use ports::free_port;
pub(crate) use schema::SchemaError;

/// How long a stop waits for work that is going on.
const STOP_SECONDS_MAX: u64 = 60;
/// The folder of the branches' folders.
pub(crate) const BRANCHES: &str = "branches";
/// The folder of the snapshots' folders.
const SNAPSHOTS: &str = "snapshots";
/// How long a worker waits when the state cannot be written.
const RECORD_RETRY_MS: u64 = 1_000;

/// What is run, and as whom.
#[derive(Debug)]
pub(crate) struct Programs {
    pub(crate) installation: Installation,
    pub(crate) user: ServerUser,
    /// `None`: pooled addresses lead to Postgres itself.
    pub(crate) pooler: Option<Program>,
}

/// Everything that runs.
#[derive(Debug)]
pub(crate) struct Engine {
    store: Store,
    data: PathBuf,
    sockets: PathBuf,
    programs: Programs,
    storage: Storage,
    /// Who makes the template holds it.
    template: tokio::sync::Mutex<()>,
    /// One for each branch: who makes, removes or reads its images holds it.
    histories: Mutex<HashMap<BranchId, Arc<tokio::sync::Mutex<()>>>>,
    certificates: Certificates,
    limits: Limits,
    servers: Mutex<HashMap<EndpointId, Arc<Server>>>,
    /// How often in a row a replica has ended at once.
    short_lives: Mutex<HashMap<EndpointId, u32>>,
    /// Held while the gateway is told of the addresses.
    holding: Mutex<()>,
    /// Held while one is started or ended.
    poolers: tokio::sync::Mutex<HashMap<EndpointId, Arc<Pooler>>>,
    /// One for each branch: who works on its folder holds it.
    locks: Mutex<HashMap<BranchId, Arc<tokio::sync::Mutex<()>>>>,
    /// Workers and errands: a stop waits for them.
    tasks: TaskTracker,
    /// Counts the changes that may concern a worker.
    changes: watch::Sender<u64>,
    stopping: watch::Sender<bool>,
    faults: Arc<FaultQueue>,
    gateway: Arc<Gateway>,
    /// For the gateway, which asks for servers.
    me: Weak<Self>,
}

/// What an engine works with.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) store: Store,
    /// The data folder.
    pub(crate) data: PathBuf,
    /// Where Unix sockets are made.
    pub(crate) sockets: PathBuf,
    pub(crate) programs: Programs,
    pub(crate) storage: Storage,
    pub(crate) certificates: Certificates,
    pub(crate) limits: Limits,
}

impl Engine {
    pub(crate) fn new(parts: Parts) -> io::Result<Arc<Self>> {
        let gateway = Gateway::start(Arc::clone(&parts.certificates.tls))?;
        Ok(Arc::new_cyclic(|me| Self {
            store: parts.store,
            data: parts.data,
            sockets: parts.sockets,
            programs: parts.programs,
            storage: parts.storage,
            template: tokio::sync::Mutex::default(),
            histories: Mutex::default(),
            certificates: parts.certificates,
            limits: parts.limits,
            servers: Mutex::default(),
            short_lives: Mutex::default(),
            holding: Mutex::default(),
            poolers: tokio::sync::Mutex::default(),
            locks: Mutex::default(),
            tasks: TaskTracker::new(),
            changes: watch::Sender::new(0),
            stopping: watch::Sender::new(false),
            faults: Arc::default(),
            gateway: Arc::new(gateway),
            me: Weak::clone(me),
        }))
    }

    /// Takes up what an earlier run left: ends its processes, takes the
    /// endpoints' addresses, starts those that were active, and goes on with its
    /// operations.
    pub(crate) async fn resume(self: &Arc<Self>) -> Result<(), StoreError> {
        self.end_leftovers().await;
        self.remove_strangers().await;
        self.store.change(|state| {
            for project in state.projects.values_mut() {
                for record in &mut project.operations {
                    if record.operation.status == OperationStatus::Running {
                        record.operation.status = OperationStatus::Scheduling;
                    }
                }
                finish_deletions(project);
                for record in project.endpoints.values_mut() {
                    record.endpoint.pooler_enabled = self.programs.pooler.is_some();
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

    /// Waits for what is being done, then stops every server, cleanly. The state
    /// keeps them as active: the next run starts them again.
    pub(crate) async fn stop(&self) {
        self.stopping.send_replace(true);
        self.tasks.close();
        if timeout(Duration::from_secs(STOP_SECONDS_MAX), self.tasks.wait())
            .await
            .is_err()
        {
            warn!("work is still going on after {STOP_SECONDS_MAX} s; the next run does it again");
        }
        self.end_all_poolers().await;
        self.stop_all_servers().await;
        self.remove_all_replicas().await;
        self.gateway.stop().await;
    }

    /// The state.
    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// The programs that run the branches.
    pub(crate) fn installation(&self) -> &Installation {
        &self.programs.installation
    }

    /// Why Postgres does not take a setting's value. `None`: it does.
    pub(crate) async fn refused_value(
        &self,
        name: &str,
        value: &str,
    ) -> io::Result<Option<String>> {
        values::refusal(
            &self.programs.installation,
            &self.programs.user,
            name,
            value,
        )
        .await
    }

    /// How much of everything there may be.
    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Changes the state; what was scheduled by it is begun, and the addresses of
    /// new endpoints are taken.
    pub(crate) fn change<T, E: From<StoreError>>(
        &self,
        change: impl FnOnce(&mut State) -> Result<T, E>,
    ) -> Result<T, E> {
        let result = self.store.change(change)?;
        self.hold_addresses();
        self.changes.send_modify(|count| *count += 1);
        Ok(result)
    }

    /// Starts the worker of a project.
    pub(crate) fn spawn_worker(self: &Arc<Self>, project: ProjectId) {
        self.tasks.spawn(Arc::clone(self).work(project));
    }

    /// Waits until no operation of the project is left to be done.
    pub(crate) async fn settled(&self, project: &ProjectId) {
        let mut changes = self.changes.subscribe();
        let done = |_: &u64| {
            self.store.read(|state| {
                state
                    .projects
                    .get(project)
                    .is_none_or(|project| project.next_operation().is_none())
            })
        };
        // The sender lives as long as `self`.
        let _ = changes.wait_for(done).await;
    }

    /// The folders of the branches and how they are cloned.
    pub(crate) fn storage(&self) -> &Storage {
        &self.storage
    }

    /// The data directory of a branch.
    pub(crate) fn folder(&self, branch: &BranchId) -> PathBuf {
        self.storage.root().join(BRANCHES).join(branch.as_str())
    }

    async fn work(self: Arc<Self>, project: ProjectId) {
        let mut changes = self.changes.subscribe();
        let mut stopping = self.stopping.subscribe();
        loop {
            changes.mark_unchanged();
            let next = self.store.read(|state| {
                let project = state.projects.get(&project)?;
                Some(project.next_operation().cloned())
            });
            match next {
                // The project was deleted.
                None => return,
                Some(Some(record)) => {
                    if let Err(error) = self.perform(&project, record).await {
                        // The disk is full, say. The job is done again.
                        error!(%project, error = chain(&error), "an operation could not be recorded");
                        tokio::time::sleep(Duration::from_millis(RECORD_RETRY_MS)).await;
                    }
                }
                Some(None) => {
                    tokio::select! {
                        changed = changes.changed() => if changed.is_err() { return },
                        _ = stopping.wait_for(|stopping| *stopping) => return,
                    }
                }
            }
            if *stopping.borrow() {
                return;
            }
        }
    }

    async fn perform(
        self: &Arc<Self>,
        project: &ProjectId,
        record: OperationRecord,
    ) -> Result<(), StoreError> {
        let id = record.operation.id;
        self.set_status(project, id, OperationStatus::Running, None)?;
        let started = std::time::Instant::now();
        let result = self.run_with_fault(project, &record).await;
        if *self.stopping.borrow() && result.is_err() {
            // The next run does it again.
            return self.set_status(project, id, OperationStatus::Scheduling, None);
        }
        let milliseconds = started.elapsed().as_millis();
        match result {
            Ok(()) => {
                info!(operation = %id, action = %record.operation.action, milliseconds, "finished");
                self.set_status(project, id, OperationStatus::Finished, None)
            }
            Err(error) => {
                let message = chain(&error);
                warn!(operation = %id, action = %record.operation.action, error = message, "failed");
                self.discard_half_made(project, &record.job).await;
                self.set_status(project, id, OperationStatus::Failed, Some(message))?;
                self.change(|state| {
                    if let Some(project) = state.projects.get_mut(project) {
                        project.cancel_chain(record.chain);
                    }
                    Ok(())
                })
            }
        }
    }

    fn set_status(
        &self,
        project: &ProjectId,
        id: OperationId,
        status: OperationStatus,
        error: Option<String>,
    ) -> Result<(), StoreError> {
        self.change(|state| {
            let operation = state
                .projects
                .get_mut(project)
                .and_then(|project| {
                    project
                        .operations
                        .iter_mut()
                        .find(|record| record.operation.id == id)
                })
                .map(|record| &mut record.operation);
            if let Some(operation) = operation {
                let at = now();
                operation.failures_count += i64::from(status == OperationStatus::Failed);
                operation.total_duration_ms = (at - operation.created_at)
                    .total(jiff::Unit::Millisecond)
                    .unwrap_or_default() as i64;
                operation.updated_at = at;
                operation.status = status;
                operation.error = error;
            }
            Ok(())
        })
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

fn projects_with_endpoints(
    state: &State,
) -> impl Iterator<Item = (&ProjectRecord, &EndpointRecord)> {
    state.projects.values().flat_map(|project| {
        project
            .live_endpoints()
            .map(move |record| (project, record))
    })
}

/// An error and all its causes, in one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Deletions that failed are tried again: their records are still there.
fn finish_deletions(project: &mut ProjectRecord) {
    if project.deleted {
        let is_scheduled = project
            .operations
            .iter()
            .any(|record| record.job == Job::DeleteProject && !record.operation.status.is_final());
        if !is_scheduled {
            project.schedule(vec![operations::record(
                &project.project.id.clone(),
                None,
                None,
                OperationAction::DeleteTimeline,
                Job::DeleteProject,
                Uuid::new_v4(),
            )]);
        }
        return;
    }
    let snapshots: Vec<SnapshotId> = project
        .snapshots
        .iter()
        .filter(|(id, record)| record.deleted && !project.is_snapshot_busy(id))
        .map(|(id, _)| id.clone())
        .collect();
    for snapshot in snapshots {
        operations::delete_snapshot(project, &snapshot);
    }
    let left: Vec<BranchId> = project
        .branches
        .values()
        .filter(|record| record.deleted && !project.is_busy(&record.branch.id))
        .map(|record| record.branch.id.clone())
        .collect();
    for branch in left {
        let operation = operations::record(
            &project.project.id,
            Some(&branch),
            None,
            OperationAction::DeleteTimeline,
            Job::DeleteBranch {
                branch: branch.clone(),
            },
            Uuid::new_v4(),
        );
        project.schedule(vec![operation]);
    }
}
