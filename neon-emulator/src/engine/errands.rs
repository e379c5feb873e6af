//! The emulator's own work on a branch, as the superuser.

use std::collections::BTreeMap;
use std::sync::Arc;

use neon_api::types::EndpointType;
use neon_api::{BranchId, EndpointId, ProjectId};
use tokio::sync::OwnedMutexGuard;
use tokio_postgres::Client;

use super::Engine;
use super::job_error::JobError;
use super::ports::port_for_a_run;
use crate::postgres::{
    Cluster, Listen, Server, Settings, admin, begin_recovery_again, forget_label, remove_leftovers,
};

impl Engine {
    /// Holds a branch's folder: nobody else starts, stops, copies or removes it
    /// meanwhile.
    pub(super) async fn hold(&self, branch: &BranchId) -> OwnedMutexGuard<()> {
        self.locks.hold(branch).await
    }

    /// Runs an errand as the superuser on the branch, which the caller holds. A
    /// branch that is suspended, or has no endpoint, gets a server for the
    /// errand alone, which nobody else can reach.
    pub(super) async fn with_admin<T, E, F>(
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
        let listen = Listen::SocketOnly(port_for_a_run().map_err(JobError::from)?);
        self.prepare(&cluster, listen, BTreeMap::new()).await?;
        let log = self.data.join("log").join(format!("{branch}.log"));
        let server = Server::start(&cluster, listen, &log)
            .await
            .map_err(JobError::from)?;
        if let Err(error) = self.recovered(branch) {
            server.stop().await.map_err(JobError::from)?;
            return Err(error.into());
        }
        // What the errand does has to reach the replicas: the branch may have no
        // other server that writes.
        self.lead_replicas(project, branch, server.port()).await;
        let result = match self.admin(server.port()).await {
            Ok(client) => errand(client, server.port()).await,
            Err(error) => Err(error.into()),
        };
        self.replicas_catch_up(project, branch, server.port()).await;
        let stopped = server.stop().await;
        self.leave_replicas(project, branch).await;
        stopped.map_err(JobError::from)?;
        result
    }

    /// The server that writes the branch, if it runs.
    pub(super) fn writer_of(&self, project: &ProjectId, branch: &BranchId) -> Option<Arc<Server>> {
        // There may be two: one that is being deleted still runs.
        let endpoints: Vec<EndpointId> = self.store.read(|state| {
            let project = state.projects.get(project);
            let records = project.into_iter().flat_map(|p| p.endpoints.values());
            records
                .map(|record| &record.endpoint)
                .filter(|endpoint| endpoint.branch_id == *branch)
                .filter(|endpoint| endpoint.endpoint_type == EndpointType::ReadWrite)
                .map(|endpoint| endpoint.id.clone())
                .collect()
        });
        endpoints.iter().find_map(|endpoint| self.server(endpoint))
    }

    /// A server is ready on the branch: its recovery is complete.
    pub(super) fn recovered(&self, branch: &BranchId) -> Result<(), JobError> {
        let path = self.folder(branch);
        forget_label(&path).map_err(|source| JobError::Label { path, source })
    }

    pub(super) async fn admin(&self, port: u16) -> Result<Client, JobError> {
        Ok(admin::connect(&self.sockets, port, "postgres").await?)
    }

    pub(super) fn sockets(&self) -> &std::path::Path {
        &self.sockets
    }

    pub(super) fn cluster(&self, branch: &BranchId) -> Cluster {
        Cluster {
            data: self.folder(branch),
            installation: self.programs.installation.clone(),
            user: self.programs.user.clone(),
            sockets: self.sockets.clone(),
            durability: self.storage.durability(),
            archive: Some(self.archive(branch)),
            recovery: None,
        }
    }

    /// Ends what an earlier run left there and writes the configuration.
    pub(super) async fn prepare(
        &self,
        cluster: &Cluster,
        listen: Listen,
        extra: BTreeMap<String, String>,
    ) -> Result<(), JobError> {
        let cluster = cluster.clone();
        let certificates = self.certificates.clone();
        let replicas_max = self.limits.endpoints;
        let has_pooler = self.programs.pooler.is_some();
        let prepared = tokio::task::spawn_blocking(move || {
            // A server that was killed left backends, or all of itself.
            if cluster.data.join("postmaster.pid").exists() {
                remove_leftovers(&cluster.data)?;
            }
            begin_recovery_again(&cluster.data).map_err(|source| JobError::Label {
                path: cluster.data.clone(),
                source,
            })?;
            cluster.configure(&Settings {
                listen,
                replicas_max,
                certificate: &certificates.certificate,
                key: &certificates.key,
                extra: &extra,
                has_pooler,
            })?;
            Ok(())
        });
        prepared.await.map_err(|_| JobError::Cancelled)?
    }
}
