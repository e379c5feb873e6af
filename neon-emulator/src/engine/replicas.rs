//! read_only endpoints: hot standbys that stream from their branch's writer.
//!
//! As on Neon they keep no data of their own. Each start clones the branch
//! anew, and each stop removes the clone, so whatever befalls one, a new start
//! mends it. Its WAL is kept by a slot in the branch's own folder, made before
//! the clone and dropped after the stop.

use std::path::PathBuf;
use std::sync::PoisonError;
use std::time::Duration;

use neon_api::types::{Endpoint, EndpointType};
use neon_api::{BranchId, EndpointId, ProjectId};
use tracing::{error, warn};

use super::job_error::JobError;
use super::jobs::blocking;
use super::servers::{SHORT_LIFE_MS, Wanted};
use super::{Engine, chain};
use crate::postgres::replica::{self, Following};
use crate::postgres::{Cluster, Server, remove_leftovers, slots};
use crate::state::State;

/// Below the root of the storage: they are cloned as branches are.
pub(super) const REPLICAS: &str = "replicas";
/// A replica that ends at once this often, one time after another, is left
/// alone.
const SHORT_LIVES_MAX: u32 = 10;
impl Engine {
    /// Clones the branch and starts a replica on the clone. The caller holds the
    /// branch. When it fails nothing is left.
    pub(super) async fn start_replica(
        &self,
        project: &ProjectId,
        endpoint: &EndpointId,
        wanted: &Wanted,
    ) -> Result<Server, JobError> {
        let branch = &wanted.branch;
        let failure = match self.clone_and_start(project, endpoint, wanted).await {
            Ok(server) => return Ok(server),
            Err(error) => error,
        };
        if let Err(error) = self.discard_replica(project, branch, endpoint).await {
            warn!(%endpoint, error = chain(&error), "something of the replica is left");
        }
        Err(failure)
    }

    async fn clone_and_start(
        &self,
        project: &ProjectId,
        endpoint: &EndpointId,
        wanted: &Wanted,
    ) -> Result<Server, JobError> {
        let branch = &wanted.branch;
        let slot = slots::name(endpoint);
        let cluster = Cluster {
            data: self.replica_folder(endpoint),
            // Its WAL is its primary's, which archives it.
            archive: None,
            ..self.cluster(branch)
        };
        {
            // A replica that was killed left backends, which hold the slot.
            let data = cluster.data.clone();
            blocking(move || Ok(remove_leftovers(&data)?)).await?;
        }
        // What is not in the branch's Postgres yet would not be in the clone:
        // passwords that differ from the parent's, say.
        let least = self
            .with_admin(project, branch, async |client, port| {
                self.bring_catalog_up(project, branch, port).await?;
                slots::make(&client, &slot).await?;
                Ok::<_, JobError>(replica::least_settings(&client).await?)
            })
            .await?;
        self.copy(project, branch, cluster.data.clone()).await?;
        {
            let cluster = cluster.clone();
            blocking(move || {
                replica::make_standby(&cluster.data, &cluster.user).map_err(|source| {
                    JobError::Standby {
                        path: cluster.data.clone(),
                        source,
                    }
                })
            })
            .await?;
        }
        let port = self.writer_of(project, branch).map(|writer| writer.port());
        let following = Following::new(self.sockets(), port, &slot);
        let settings = replica::settings(&wanted.settings, &least, &slot, following);
        self.start_server(project, endpoint, &cluster, settings)
            .await
    }

    /// Removes what a replica that has stopped had. The caller holds the branch.
    pub(super) async fn discard_replica(
        &self,
        project: &ProjectId,
        branch: &BranchId,
        endpoint: &EndpointId,
    ) -> Result<(), JobError> {
        let (path, slot) = (self.replica_folder(endpoint), slots::name(endpoint));
        self.remove_folder(path).await?;
        let Some(writer) = self.writer_of(project, branch) else {
            // Postgres reads its slots when it starts.
            let path = slots::folder(&self.folder(branch), &slot);
            return self.remove_folder(path).await;
        };
        let dropped = async {
            let client = self.admin(writer.port()).await?;
            Ok::<_, JobError>(slots::remove(&client, &slot).await?)
        };
        if let Err(error) = dropped.await {
            // A writer that is just dying. Its next start drops the slot.
            warn!(%endpoint, error = chain(&error), "its replication slot is left for now");
        }
        Ok(())
    }

    /// An endpoint that is deleted has no life any more.
    pub(super) fn forget_lives(&self, endpoint: &EndpointId) {
        let mut lives = self
            .short_lives
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        lives.remove(endpoint);
    }

    /// Counts the lives of a replica that were short, one after another. True
    /// when there were too many.
    pub(super) fn is_given_up(
        &self,
        project: &ProjectId,
        endpoint: &EndpointId,
        life: Duration,
    ) -> bool {
        if !matches!(self.served_by(project, endpoint), Some((_, true))) {
            return false;
        }
        let mut lives = self
            .short_lives
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if life >= Duration::from_millis(SHORT_LIFE_MS) {
            lives.remove(endpoint);
            return false;
        }
        let count = lives.entry(endpoint.clone()).or_default();
        *count += 1;
        if *count < SHORT_LIVES_MAX {
            return false;
        }
        lives.remove(endpoint);
        true
    }

    fn replica_folders(&self, state: &State) -> impl Iterator<Item = PathBuf> {
        replicas_in(state).map(|endpoint| self.replica_folder(&endpoint.id))
    }

    /// Removes what replicas left. No server runs.
    pub(super) async fn remove_all_replicas(&self) {
        let left: Vec<PathBuf> = self.store().read(|state| {
            let kept = replicas_in(state).map(|endpoint| {
                let slot = slots::name(&endpoint.id);
                slots::folder(&self.folder(&endpoint.branch_id), &slot)
            });
            self.replica_folders(state).chain(kept).collect()
        });
        for path in left {
            if let Err(error) = self.remove_folder(path).await {
                // The start of each removes it again, or says why it cannot.
                error!(error = chain(&error), "something of a replica is left");
            }
        }
    }

    /// The branch that an endpoint serves, and whether it is a replica.
    pub(super) fn served_by(
        &self,
        project: &ProjectId,
        endpoint: &EndpointId,
    ) -> Option<(BranchId, bool)> {
        self.store().read(|state| {
            let record = state.projects.get(project)?.endpoints.get(endpoint)?;
            let endpoint = &record.endpoint;
            let is_replica = endpoint.endpoint_type == EndpointType::ReadOnly;
            Some((endpoint.branch_id.clone(), is_replica))
        })
    }

    fn replica_folder(&self, endpoint: &EndpointId) -> PathBuf {
        self.storage.root().join(REPLICAS).join(endpoint.as_str())
    }
}

fn replicas_in(state: &State) -> impl Iterator<Item = &Endpoint> {
    state
        .projects
        .values()
        .flat_map(|project| project.endpoints.values())
        .map(|record| &record.endpoint)
        .filter(|endpoint| endpoint.endpoint_type == EndpointType::ReadOnly)
}
