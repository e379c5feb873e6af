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
mod outcome;
mod poolers;
mod ports;
mod reaper;
mod replicas;
mod restore;
mod resume;
mod retries;
mod schema;
mod servers;
mod shared;
mod sizes;
mod snapshots;
mod template;
mod undo;
mod worker;

use std::collections::HashMap;
use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use neon_api::{BranchId, EndpointId, ProjectId};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::certificates::Certificates;
use crate::faults::FaultQueue;
use crate::gateway::Gateway;
use crate::limits::Limits;
use crate::pooler::Program;
use crate::postgres::{Installation, Server, ServerUser, values};
use crate::state::{EndpointRecord, ProjectRecord, State, Store, StoreError};
use crate::storage::Storage;
use poolers::PoolerSlot;
use shared::{Locks, Shared};

pub(crate) use history::Point;
pub(crate) use job_error::JobError;
pub(crate) use ports::free_port;
pub(crate) use schema::SchemaError;

/// How long a stop waits for work that is going on.
const STOP_SECONDS_MAX: u64 = 60;
/// The folder of the branches' folders.
pub(crate) const BRANCHES: &str = "branches";
/// The folder of the snapshots' folders.
const SNAPSHOTS: &str = "snapshots";

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
    histories: Locks<BranchId>,
    certificates: Certificates,
    limits: Limits,
    servers: Mutex<HashMap<EndpointId, Arc<Server>>>,
    /// How often in a row a replica has ended at once.
    short_lives: Mutex<HashMap<EndpointId, u32>>,
    /// Held while the gateway is told of the addresses.
    holding: Mutex<()>,
    poolers: Shared<EndpointId, PoolerSlot>,
    /// One for each branch: who works on its folder holds it.
    locks: Locks<BranchId>,
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
            histories: Locks::default(),
            certificates: parts.certificates,
            limits: parts.limits,
            servers: Mutex::default(),
            short_lives: Mutex::default(),
            holding: Mutex::default(),
            poolers: Shared::default(),
            locks: Locks::default(),
            tasks: TaskTracker::new(),
            changes: watch::Sender::new(0),
            stopping: watch::Sender::new(false),
            faults: Arc::default(),
            gateway: Arc::new(gateway),
            me: Weak::clone(me),
        }))
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

    /// Waits, no longer than that, until no operation on these branches of the
    /// project is left to be done.
    pub(crate) async fn await_idle(
        &self,
        project: &ProjectId,
        branches: &[&BranchId],
        longest: Duration,
    ) {
        let mut changes = self.changes.subscribe();
        let is_idle = |_: &u64| {
            self.store.read(|state| {
                let project = state.projects.get(project);
                project.is_none_or(|project| !branches.iter().any(|id| project.is_busy(id)))
            })
        };
        // Who called looks again.
        let _ = timeout(longest, changes.wait_for(is_idle)).await;
    }

    /// The folders of the branches and how they are cloned.
    pub(crate) fn storage(&self) -> &Storage {
        &self.storage
    }

    /// The data directory of a branch.
    pub(crate) fn folder(&self, branch: &BranchId) -> PathBuf {
        self.storage.root().join(BRANCHES).join(branch.as_str())
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
