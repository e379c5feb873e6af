//! The servers that run: one for each active endpoint.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use neon_api::types::{EndpointState, EndpointType};
use neon_api::{BranchId, EndpointId, ProjectId};
use tracing::{error, warn};

use super::job_error::JobError;
use super::outcome::Outcome;
use super::ports::{free_port, port_for_a_run};
use super::{Engine, chain};
use crate::gateway::{Address, AddressError};
use crate::new::host;
use crate::postgres::{Cluster, Listen, Server, ServerError};
use crate::state::StoreError;
use crate::time::now;

/// A port that was free when the endpoint was created may be taken before its
/// first start; nobody has used its address yet, so it gets another.
const ADDRESS_ATTEMPTS_MAX: usize = 5;
/// The port of a run may be taken before its server has it.
const PORT_ATTEMPTS_MAX: usize = 5;
/// A server that ends sooner than this after its start is not started again at
/// once.
pub(super) const SHORT_LIFE_MS: u64 = 5_000;
const RESTART_DELAY_MS: u64 = 1_000;

/// What a start needs to know of an endpoint.
pub(super) struct Wanted {
    pub(super) branch: BranchId,
    pub(super) settings: BTreeMap<String, String>,
    is_replica: bool,
    /// Somebody may have its address.
    was_up: bool,
}

impl Engine {
    /// Starts an endpoint's server unless it runs. The caller holds its branch.
    pub(super) async fn start_endpoint(
        self: &Arc<Self>,
        project: &ProjectId,
        endpoint: &EndpointId,
    ) -> Result<(), JobError> {
        if self.server(endpoint).is_some() {
            return Ok(());
        }
        let wanted = self.wanted(project, endpoint)?;
        let server = Arc::new(match wanted.is_replica {
            true => self.start_replica(project, endpoint, &wanted).await?,
            false => self.start_writer(project, endpoint, &wanted).await?,
        });
        self.servers_lock()
            .insert(endpoint.clone(), Arc::clone(&server));
        match wanted.is_replica {
            true => self.watch_for_its_standstill(endpoint.clone(), Arc::clone(&server)),
            false => {
                let port = server.port();
                self.lead_replicas(project, &wanted.branch, port).await;
                self.follow_size(project.clone(), wanted.branch, &server);
            }
        }
        // Who waits for it need not wait until the operation is recorded.
        self.changes.send_modify(|count| *count += 1);
        self.watch_for_its_death(project.clone(), endpoint.clone(), server);
        Ok(())
    }

    /// Starts an endpoint of an earlier run.
    pub(super) async fn start_again(
        self: &Arc<Self>,
        project: &ProjectId,
        endpoint: &EndpointId,
    ) -> Result<(), JobError> {
        let branch = self.wanted(project, endpoint)?.branch;
        let _held = self.hold(&branch).await;
        self.start_endpoint(project, endpoint).await?;
        let has_pooler = self.has_pooler();
        let recorded = self.change(|state| {
            if let Some(project) = state.projects.get_mut(project) {
                Outcome::Active(endpoint.clone()).put_into(project, has_pooler);
            }
            Ok::<_, StoreError>(())
        });
        if let Err(error) = recorded {
            // Half started is not started.
            self.halt_endpoint(project, endpoint).await?;
            return Err(error.into());
        }
        Ok(())
    }

    /// Stops an endpoint's server if it runs, and records that. The caller holds
    /// its branch.
    pub(super) async fn stop_endpoint(
        &self,
        project: &ProjectId,
        endpoint: &EndpointId,
    ) -> Result<(), JobError> {
        self.halt_endpoint(project, endpoint).await?;
        Ok(self.set_endpoint_idle(project, endpoint, None)?)
    }

    /// As [`Engine::stop_endpoint`], for who records it.
    pub(super) async fn halt_endpoint(
        &self,
        project: &ProjectId,
        endpoint: &EndpointId,
    ) -> Result<(), JobError> {
        // Out of the map first: its end is then no accident.
        let server = self.servers_lock().remove(endpoint);
        self.halt_server(project, endpoint, server).await
    }

    /// Stops a server that is out of the map, and what belongs to it.
    pub(super) async fn halt_server(
        &self,
        project: &ProjectId,
        endpoint: &EndpointId,
        server: Option<Arc<Server>>,
    ) -> Result<(), JobError> {
        self.end_pooler(endpoint).await;
        if let Some(server) = server {
            server.stop().await?;
        }
        match self.served_by(project, endpoint) {
            Some((branch, true)) => self.discard_replica(project, &branch, endpoint).await?,
            Some((branch, false)) => self.leave_replicas(project, &branch).await,
            None => {}
        }
        Ok(())
    }

    pub(super) async fn stop_all_servers(&self) {
        let servers: Vec<_> = self.servers_lock().drain().collect();
        let mut stops = tokio::task::JoinSet::new();
        for (endpoint, server) in servers {
            stops.spawn(async move {
                if let Err(error) = server.stop().await {
                    error!(%endpoint, error = chain(&error), "an endpoint did not stop");
                }
            });
        }
        while stops.join_next().await.is_some() {}
    }

    /// Records that an endpoint does not run, and what it is to become.
    pub(super) fn set_endpoint_idle(
        &self,
        project: &ProjectId,
        endpoint: &EndpointId,
        pending: Option<EndpointState>,
    ) -> Result<(), StoreError> {
        self.change(|state| {
            if let Some(record) = state
                .projects
                .get_mut(project)
                .and_then(|project| project.endpoints.get_mut(endpoint))
            {
                let at = now();
                record.endpoint.current_state = EndpointState::Idle;
                record.endpoint.pending_state = pending;
                record.endpoint.suspended_at = Some(at);
                record.endpoint.updated_at = at;
            }
            Ok(())
        })
    }

    pub(super) fn server(&self, endpoint: &EndpointId) -> Option<Arc<Server>> {
        self.servers_lock()
            .get(endpoint)
            .filter(|server| server.is_running())
            .cloned()
    }

    async fn start_writer(
        &self,
        project: &ProjectId,
        endpoint: &EndpointId,
        wanted: &Wanted,
    ) -> Result<Server, JobError> {
        let branch = &wanted.branch;
        let settings = wanted.settings.clone();
        let server = self
            .start_server(project, endpoint, &self.cluster(branch), settings)
            .await?;
        if let Err(error) = self.complete(project, branch, &server).await {
            // Half started is not started.
            server.stop().await?;
            return Err(error);
        }
        Ok(server)
    }

    /// Starts a server behind the endpoint's address.
    pub(super) async fn start_server(
        &self,
        project: &ProjectId,
        endpoint: &EndpointId,
        cluster: &Cluster,
        settings: BTreeMap<String, String>,
    ) -> Result<Server, JobError> {
        let was_up = self.wanted(project, endpoint)?.was_up;
        self.take_address(project, endpoint, was_up)?;
        let log = self.data.join("log").join(format!("{endpoint}.log"));
        let mut attempts = 0;
        loop {
            attempts += 1;
            let listen = Listen::Loopback(port_for_a_run()?);
            self.prepare(cluster, listen, settings.clone()).await?;
            match Server::start(cluster, listen, &log).await {
                Ok(server) => return Ok(server),
                Err(ServerError::PortTaken { .. }) if attempts < PORT_ATTEMPTS_MAX => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sees to it that the gateway listens for the endpoint: nobody would reach
    /// its server otherwise.
    fn take_address(
        &self,
        project: &ProjectId,
        endpoint: &EndpointId,
        was_up: bool,
    ) -> Result<(), JobError> {
        let address = |pooled| Address {
            project: project.clone(),
            endpoint: endpoint.clone(),
            pooled,
        };
        let mut attempts = 0;
        loop {
            attempts += 1;
            self.hold_addresses();
            let held = self.gateway.check_held(&address(false));
            match held.and_then(|()| self.gateway.check_held(&address(true))) {
                Err(AddressError::Taken { .. }) if !was_up && attempts < ADDRESS_ATTEMPTS_MAX => {
                    self.change_ports(project, endpoint)?;
                }
                held => return Ok(held?),
            }
        }
    }

    /// What follows the start of a server until its endpoint is active.
    async fn complete(
        &self,
        project: &ProjectId,
        branch: &BranchId,
        server: &Server,
    ) -> Result<(), JobError> {
        self.recovered(branch)?;
        self.bring_catalog_up(project, branch, server.port()).await
    }

    fn wanted(&self, project: &ProjectId, endpoint: &EndpointId) -> Result<Wanted, JobError> {
        self.store.read(|state| {
            let record = state
                .projects
                .get(project)
                .and_then(|project| project.endpoint(endpoint))
                .ok_or(JobError::Gone)?;
            Ok(Wanted {
                branch: record.endpoint.branch_id.clone(),
                settings: record
                    .endpoint
                    .settings
                    .pg_settings
                    .clone()
                    .unwrap_or_default(),
                is_replica: record.endpoint.endpoint_type == EndpointType::ReadOnly,
                was_up: record.endpoint.started_at.is_some(),
            })
        })
    }

    fn change_ports(&self, project: &ProjectId, endpoint: &EndpointId) -> Result<(), JobError> {
        self.change(|state| {
            let Some(project) = state.projects.get_mut(project) else {
                return Ok(());
            };
            let port = free_port(|port| project.has_port(port))?;
            let pooled_port = free_port(|other| other == port || project.has_port(other))?;
            if let Some(record) = project.endpoints.get_mut(endpoint) {
                record.port = port;
                record.pooled_port = pooled_port;
                record.endpoint.host = host(port);
            }
            Ok(())
        })
    }

    pub(super) fn servers_lock(&self) -> MutexGuard<'_, HashMap<EndpointId, Arc<Server>>> {
        // A map of handles: no panic leaves it half changed.
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A server that ends while it should run is started again.
    fn watch_for_its_death(
        self: &Arc<Self>,
        project: ProjectId,
        endpoint: EndpointId,
        server: Arc<Server>,
    ) {
        let engine = Arc::downgrade(self);
        let mut exited = server.exited();
        let started = Instant::now();
        tokio::spawn(async move {
            if exited.wait_for(|exited| *exited).await.is_err() {
                return;
            }
            let Some(engine) = engine.upgrade() else {
                return;
            };
            let is_current = {
                let mut servers = engine.servers_lock();
                let is_current = servers
                    .get(&endpoint)
                    .is_some_and(|current| Arc::ptr_eq(current, &server));
                if is_current {
                    servers.remove(&endpoint);
                }
                is_current
            };
            if !is_current {
                return;
            }
            if engine.is_given_up(&project, &endpoint, started.elapsed()) {
                error!(%endpoint, "the replica ends whenever it is started; suspending it");
                if let Err(error) = engine.schedule_suspension(&project, &endpoint) {
                    error!(%endpoint, error = chain(&error), "could not schedule that");
                }
                return;
            }
            warn!(%endpoint, "its Postgres ended unasked; starting it again");
            engine.end_pooler(&endpoint).await;
            if started.elapsed() < Duration::from_millis(SHORT_LIFE_MS) {
                tokio::time::sleep(Duration::from_millis(RESTART_DELAY_MS)).await;
            }
            if !*engine.stopping.borrow()
                && let Err(error) = engine.schedule_start(&project, &endpoint)
            {
                error!(%endpoint, error = chain(&error), "could not schedule its start");
            }
        });
    }
}
