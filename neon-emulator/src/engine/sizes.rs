//! How large branches are: measured behind their starts, and while they run.

use std::sync::Arc;
use std::time::Duration;

use neon_api::{BranchId, ProjectId};
use tokio::time::timeout;
use tracing::debug;

use super::job_error::JobError;
use super::{Engine, chain};
use crate::postgres::{Server, admin};
use crate::state::StoreError;

/// How often a branch that runs is measured.
const MEASURE_SECONDS: u64 = 60;

impl Engine {
    /// Measures a branch now and as long as this server of it runs. Nobody waits
    /// for it: an endpoint is active before its size is known.
    pub(super) fn follow_size(
        self: &Arc<Self>,
        project: ProjectId,
        branch: BranchId,
        server: &Server,
    ) {
        let engine = Arc::downgrade(self);
        let (port, mut exited) = (server.port(), server.exited());
        tokio::spawn(async move {
            loop {
                let Some(engine) = engine.upgrade() else {
                    return;
                };
                if let Err(error) = engine.measure(&project, &branch, port).await {
                    // The server is stopping, say; or somebody drops a database.
                    debug!(%branch, error = chain(&error), "could not be measured");
                }
                drop(engine);
                let ended = exited.wait_for(|exited| *exited);
                if timeout(Duration::from_secs(MEASURE_SECONDS), ended)
                    .await
                    .is_ok()
                {
                    return;
                }
            }
        });
    }

    /// Records the size of a branch whose server listens there, and says it.
    pub(super) async fn measure(
        &self,
        project: &ProjectId,
        branch: &BranchId,
        port: u16,
    ) -> Result<i64, JobError> {
        let size = admin::logical_size(&self.admin(port).await?).await?;
        let is_known = self.store.read(|state| {
            let record = state.projects.get(project)?.branches.get(branch)?;
            Some(record.branch.logical_size == Some(size))
        });
        if is_known == Some(false) {
            self.change(|state| {
                if let Some(project) = state.projects.get_mut(project)
                    && let Some(record) = project.branches.get_mut(branch)
                {
                    record.branch.logical_size = Some(size);
                }
                Ok::<_, StoreError>(())
            })?;
        }
        Ok(size)
    }
}
