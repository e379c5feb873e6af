//! The servers that run: one for each active endpoint.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Arc, MutexGuard, PoisonError};

use neon_api::types::{EndpointState, EndpointType};
use neon_api::{BranchId, EndpointId, ProjectId};
use tokio_postgres::Client;
use tracing::{error, warn};

use super::jobs::JobError;
use super::{Engine, chain};
use crate::new::host;
use crate::postgres::{Cluster, Listen, Server, ServerError, Settings, admin, remove_leftovers};
use crate::state::StoreError;
use crate::time::now;

/// A port that was free when the endpoint was created may be taken at its first
/// start; nobody has its address yet, so it gets another.
const PORT_ATTEMPTS_MAX: usize = 5;

impl Engine {
    /// Starts an endpoint's server unless it runs.
    pub(super) async fn start_endpoint(
        self: &Arc<Self>,
        project: &ProjectId,
        endpoint: &EndpointId,
    ) -> Result<(), JobError> {
        if self.server(endpoint).is_some() {
            return Ok(());
        }
        let mut attempts = 0;
        let (server, branch) = loop {
            attempts += 1;
            let (branch, port, settings, was_up) = self.endpoint_to_start(project, endpoint)?;
            let cluster = self.cluster(&branch);
            self.prepare(&cluster, Listen::Loopback(port), settings)
                .await?;
            let log = self.data.join("log").join(format!("{endpoint}.log"));
            match Server::start(&cluster, Listen::Loopback(port), &log).await {
                Ok(server) => break (Arc::new(server), branch),
                Err(ServerError::PortTaken { .. }) if !was_up && attempts < PORT_ATTEMPTS_MAX => {
                    self.change_port(project, endpoint)?;
                }
                Err(error) => return Err(error.into()),
            }
        };
        self.servers_lock()
            .insert(endpoint.clone(), Arc::clone(&server));
        self.bring_catalog_up(project, &branch, &server).await?;
        let size = {
            let client = admin::connect(&self.sockets, server.port(), "postgres").await?;
            admin::logical_size(&client).await?
        };
        self.change(|state| {
            let at = now();
            if let Some(project) = state.projects.get_mut(project) {
                if let Some(record) = project.endpoints.get_mut(endpoint) {
                    record.endpoint.current_state = EndpointState::Active;
                    record.endpoint.pending_state = None;
                    record.endpoint.started_at = Some(at);
                    record.endpoint.last_active = Some(at);
                    record.endpoint.updated_at = at;
                }
                if let Some(record) = project.branches.get_mut(&branch) {
                    record.branch.logical_size = Some(size);
                }
                project.project.compute_last_active_at = Some(at);
            }
            Ok::<_, StoreError>(())
        })?;
        self.watch_for_its_death(project.clone(), endpoint.clone(), server);
        Ok(())
    }

    /// Stops an endpoint's server if it runs.
    pub(super) async fn stop_endpoint(
        &self,
        project: &ProjectId,
        endpoint: &EndpointId,
    ) -> Result<(), JobError> {
        // Out of the map first: its end is then no accident.
        let server = self.servers_lock().remove(endpoint);
        if let Some(server) = server {
            server.stop().await?;
        }
        Ok(self.set_endpoint_idle(project, endpoint)?)
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

    pub(super) fn set_endpoint_idle(
        &self,
        project: &ProjectId,
        endpoint: &EndpointId,
    ) -> Result<(), StoreError> {
        self.change(|state| {
            if let Some(record) = state
                .projects
                .get_mut(project)
                .and_then(|project| project.endpoints.get_mut(endpoint))
            {
                let at = now();
                record.endpoint.current_state = EndpointState::Idle;
                record.endpoint.pending_state = None;
                record.endpoint.suspended_at = Some(at);
                record.endpoint.updated_at = at;
            }
            Ok(())
        })
    }

    /// The server that writes the branch, if it runs.
    pub(super) fn writer_of(&self, project: &ProjectId, branch: &BranchId) -> Option<Arc<Server>> {
        let endpoint = self.store.read(|state| {
            let project = state.projects.get(project)?;
            let record = project.endpoints.values().find(|record| {
                record.endpoint.branch_id == *branch
                    && record.endpoint.endpoint_type == EndpointType::ReadWrite
            })?;
            Some(record.endpoint.id.clone())
        })?;
        self.server(&endpoint)
    }

    /// Runs an errand as the superuser on the branch. A branch that is
    /// suspended, or has no endpoint, gets a server for the errand alone, which
    /// nobody else can reach.
    pub(crate) async fn with_admin<T, E, F>(
        &self,
        project: &ProjectId,
        branch: &BranchId,
        errand: F,
    ) -> Result<T, E>
    where
        E: From<JobError>,
        F: AsyncFnOnce(Client, u16) -> Result<T, E>,
    {
        if let Some(server) = self.writer_of(project, branch) {
            let client = self.admin(server.port()).await?;
            return errand(client, server.port()).await;
        }
        let cluster = self.cluster(branch);
        let listen = Listen::SocketOnly(free_port().map_err(JobError::from)?);
        self.prepare(&cluster, listen, BTreeMap::new()).await?;
        let log = self.data.join("log").join(format!("{branch}.log"));
        let server = Server::start(&cluster, listen, &log)
            .await
            .map_err(JobError::from)?;
        let result = match self.admin(server.port()).await {
            Ok(client) => errand(client, server.port()).await,
            Err(error) => Err(error.into()),
        };
        server.stop().await.map_err(JobError::from)?;
        result
    }

    /// Makes roles and databases that the branch's Postgres lacks.
    async fn bring_catalog_up(
        &self,
        project: &ProjectId,
        branch: &BranchId,
        server: &Server,
    ) -> Result<(), JobError> {
        let record = self.store.read(|state| {
            let record = state.projects.get(project)?.branches.get(branch)?;
            record.catalog_is_behind.then(|| record.clone())
        });
        let Some(record) = record else { return Ok(()) };
        let client = self.admin(server.port()).await?;
        admin::ensure_neon_superuser(&client).await?;
        for role in record.roles.values() {
            let password = role.password.as_ref().map(neon_api::Secret::expose);
            admin::ensure_role(&client, &role.name, password).await?;
        }
        for database in record.databases.values() {
            admin::ensure_database(
                &client,
                &self.sockets,
                server.port(),
                &database.name,
                &database.owner_name,
            )
            .await?;
        }
        Ok(self.change(|state| {
            if let Some(record) = state
                .projects
                .get_mut(project)
                .and_then(|project| project.branches.get_mut(branch))
            {
                record.catalog_is_behind = false;
            }
            Ok::<_, StoreError>(())
        })?)
    }

    async fn admin(&self, port: u16) -> Result<Client, JobError> {
        Ok(admin::connect(&self.sockets, port, "postgres").await?)
    }

    pub(super) fn sockets(&self) -> &std::path::Path {
        &self.sockets
    }

    pub(super) fn cluster(&self, branch: &BranchId) -> Cluster {
        Cluster {
            data: self.folder(branch),
            installation: self.installation.clone(),
            user: self.user.clone(),
            sockets: self.sockets.clone(),
        }
    }

    async fn prepare(
        &self,
        cluster: &Cluster,
        listen: Listen,
        extra: BTreeMap<String, String>,
    ) -> Result<(), JobError> {
        let cluster = cluster.clone();
        let certificates = self.certificates.clone();
        let prepared = tokio::task::spawn_blocking(move || {
            // A server that was killed left backends, or all of itself.
            if cluster.data.join("postmaster.pid").exists() {
                remove_leftovers(&cluster.data)?;
            }
            cluster.configure(&Settings {
                listen,
                certificate: &certificates.certificate,
                key: &certificates.key,
                extra: &extra,
            })?;
            Ok(())
        });
        prepared.await.map_err(|_| JobError::Cancelled)?
    }

    #[allow(clippy::type_complexity)]
    fn endpoint_to_start(
        &self,
        project: &ProjectId,
        endpoint: &EndpointId,
    ) -> Result<(BranchId, u16, BTreeMap<String, String>, bool), JobError> {
        self.store.read(|state| {
            let record = state
                .projects
                .get(project)
                .and_then(|project| project.endpoint(endpoint))
                .ok_or(JobError::Gone)?;
            let settings = record.endpoint.settings.pg_settings.clone();
            Ok((
                record.endpoint.branch_id.clone(),
                record.port,
                settings.unwrap_or_default(),
                record.endpoint.started_at.is_some(),
            ))
        })
    }

    fn change_port(&self, project: &ProjectId, endpoint: &EndpointId) -> Result<(), JobError> {
        let port = free_port()?;
        Ok(self.change(|state| {
            if let Some(record) = state
                .projects
                .get_mut(project)
                .and_then(|project| project.endpoints.get_mut(endpoint))
            {
                record.port = port;
                record.endpoint.host = host(port);
            }
            Ok::<_, StoreError>(())
        })?)
    }

    fn server(&self, endpoint: &EndpointId) -> Option<Arc<Server>> {
        self.servers_lock()
            .get(endpoint)
            .filter(|server| server.is_running())
            .cloned()
    }

    fn servers_lock(&self) -> MutexGuard<'_, std::collections::HashMap<EndpointId, Arc<Server>>> {
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
            if is_current && !*engine.stopping.borrow() {
                warn!(%endpoint, "its Postgres ended unasked; starting it again");
                if let Err(error) = engine.schedule_start(&project, &endpoint) {
                    error!(%endpoint, error = chain(&error), "could not schedule its start");
                }
            }
        });
    }
}

/// A loopback port that nobody listens on.
pub(crate) fn free_port() -> Result<u16, FreePortError> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(FreePortError)
}

/// There was no port to be had.
#[derive(Debug, thiserror::Error)]
#[error("could not find a free port on 127.0.0.1")]
pub(crate) struct FreePortError(#[source] std::io::Error);
