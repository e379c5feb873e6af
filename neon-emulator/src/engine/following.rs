//! What binds replicas to the server that writes their branch.
//!
//! Whether there is one, and at which port, the engine tells them. While there
//! is none they serve what they have. One that can go no further is ended, and
//! then made anew.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use neon_api::{BranchId, EndpointId, ProjectId};
use tokio::time::timeout;
use tracing::{error, warn};

use super::job_error::JobError;
use super::{Engine, chain};
use crate::postgres::replica::{self, Following};
use crate::postgres::{Server, slots};

/// How long a replica may take to answer, and to replay what was just written.
/// One that is frozen must not hold up its branch.
const ANSWER_SECONDS_MAX: u64 = 10;

impl Engine {
    /// A server of the branch that writes has started at this port: slots that
    /// nobody uses are dropped there, and the replicas follow it. The caller
    /// holds the branch.
    pub(super) async fn lead_replicas(&self, project: &ProjectId, branch: &BranchId, port: u16) {
        let replicas = self.replicas_of(project, branch);
        let used: Vec<String> = replicas.keys().map(slots::name).collect();
        let tidied = async {
            let client = self.admin(port).await?;
            Ok::<_, JobError>(slots::remove_unused(&client, &used).await?)
        };
        if let Err(error) = tidied.await {
            warn!(%branch, error = chain(&error), "replication slots that nobody uses may be left");
        }
        self.point_replicas(replicas, Some(port)).await;
    }

    /// The branch's server that writes has stopped: its replicas need not look
    /// for it. The caller holds the branch.
    pub(super) async fn leave_replicas(&self, project: &ProjectId, branch: &BranchId) {
        self.point_replicas(self.replicas_of(project, branch), None)
            .await;
    }

    /// Waits until the branch's replicas have all that was written at this port.
    pub(super) async fn replicas_catch_up(
        &self,
        project: &ProjectId,
        branch: &BranchId,
        port: u16,
    ) {
        for (endpoint, server) in self.replicas_of(project, branch) {
            let caught_up = async {
                let primary = self.admin(port).await?;
                let standby = self.admin(server.port()).await?;
                Ok::<_, JobError>(replica::catch_up(&primary, &standby).await?)
            };
            // One that is behind gets the rest when the branch's writer starts.
            if let Err(error) = answered(caught_up).await {
                warn!(%endpoint, error = chain(&error), "a replica is behind");
            }
        }
    }

    /// Starts a replica anew that can go no further.
    pub(super) fn watch_for_its_standstill(&self, endpoint: EndpointId, server: Arc<Server>) {
        let (mut standstill, mut exited) = (server.standstill(), server.exited());
        tokio::spawn(async move {
            let stands_still = tokio::select! {
                result = standstill.wait_for(|still| *still) => result.is_ok(),
                _ = exited.wait_for(|exited| *exited) => false,
            };
            if !stands_still {
                return;
            }
            warn!(%endpoint, "the replica cannot follow its branch any more; making it anew");
            end(endpoint, server).await;
        });
    }

    /// The replicas of a branch that run.
    fn replicas_of(
        &self,
        project: &ProjectId,
        branch: &BranchId,
    ) -> BTreeMap<EndpointId, Arc<Server>> {
        let endpoints = self.endpoints_of(project, branch).into_iter();
        endpoints
            .filter(|endpoint| matches!(self.served_by(project, endpoint), Some((_, true))))
            .filter_map(|endpoint| {
                let server = self.server(&endpoint)?;
                Some((endpoint, server))
            })
            .collect()
    }

    async fn point_replicas(&self, replicas: BTreeMap<EndpointId, Arc<Server>>, port: Option<u16>) {
        for (endpoint, server) in replicas {
            let slot = slots::name(&endpoint);
            let following = Following::new(self.sockets(), port, &slot);
            let told = async {
                let client = self.admin(server.port()).await?;
                Ok::<_, JobError>(replica::follow(&client, &following).await?)
            };
            let Err(error) = answered(told).await else {
                continue;
            };
            // It would be stale, and nobody would know.
            warn!(%endpoint, error = chain(&error), "a replica does not listen; making it anew");
            self.tasks.spawn(end(endpoint, server));
        }
    }
}

/// What a replica says, unless it says nothing.
async fn answered(asked: impl Future<Output = Result<(), JobError>>) -> Result<(), JobError> {
    let seconds = Duration::from_secs(ANSWER_SECONDS_MAX);
    timeout(seconds, asked)
        .await
        .unwrap_or(Err(JobError::NoAnswer))
}

/// Ends a replica that is of no use. What follows is as after any end that
/// nobody asked for.
async fn end(endpoint: EndpointId, server: Arc<Server>) {
    if let Err(error) = server.stop().await {
        error!(%endpoint, error = chain(&error), "the replica does not end");
    }
}
