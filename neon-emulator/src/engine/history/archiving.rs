//! Whether the WAL of a branch is kept follows its project's
//! `history_retention_seconds`, also while its server runs.

use std::sync::Arc;
use std::time::Duration;

use neon_api::types::EndpointType;
use neon_api::{BranchId, ProjectId};
use tokio::time::timeout;
use tracing::info;

use super::remove_history;
use crate::engine::Engine;
use crate::engine::job_error::JobError;
use crate::engine::jobs::blocking;
use crate::postgres::{Server, admin};

/// The archiver may put one more segment, or two, where it was told before.
const SEGMENTS_MAX: usize = 5;
/// How long it may take for one.
const SEGMENT_SECONDS_MAX: u64 = 2;
const POLL_MS: u64 = 20;

impl Engine {
    /// Sees to it that a server's WAL is kept from here on. Since it was not
    /// before, what there is of a history goes: it would have a hole. The caller
    /// holds the history.
    pub(super) async fn begin_to_keep(
        &self,
        branch: &BranchId,
        server: &Server,
    ) -> Result<(), JobError> {
        let (storage, folder) = (self.storage.clone(), self.history_folder(branch));
        blocking(move || remove_history(&storage, &folder)).await?;
        self.tell_archiver(branch, server).await?;
        let client = self.admin(server.port()).await?;
        for _ in 0..SEGMENTS_MAX {
            let segment = admin::end_segment(&client).await?;
            let path = self.archive(branch).folder.join(segment);
            let archived = async {
                while !path.exists() {
                    tokio::time::sleep(Duration::from_millis(POLL_MS)).await;
                }
            };
            let seconds = Duration::from_secs(SEGMENT_SECONDS_MAX);
            if timeout(seconds, archived).await.is_ok() {
                server.set_keeps_wal(true);
                info!(%branch, "its history begins");
                return Ok(());
            }
        }
        Err(JobError::History(
            "the archiver does not keep the branch's WAL".to_owned(),
        ))
    }

    /// Forgets a branch's history, which its project does not want any more.
    pub(super) async fn stop_to_keep(
        &self,
        project: &ProjectId,
        branch: &BranchId,
    ) -> Result<(), JobError> {
        let _held = self.hold_history(branch).await;
        if let Some(server) = self.writer_of(project, branch) {
            self.tell_archiver(branch, &server).await?;
            server.set_keeps_wal(false);
        }
        let (storage, folder) = (self.storage.clone(), self.history_folder(branch));
        blocking(move || {
            if folder.exists() {
                info!(folder = %folder.display(), "the project keeps no history: removing it");
            }
            remove_history(&storage, &folder)
        })
        .await
    }

    /// The branches of projects that keep no history, each with its server.
    pub(super) fn branches_without_history(
        &self,
    ) -> Vec<(ProjectId, BranchId, Option<Arc<Server>>)> {
        self.store.read(|state| {
            let projects = state.projects.values();
            let projects =
                projects.filter(|project| project.project.history_retention_seconds == 0);
            let branches = projects.flat_map(|project| {
                project.live_branches().map(move |record| {
                    let branch = record.branch.id.clone();
                    let server = project
                        .live_endpoints()
                        .map(|record| &record.endpoint)
                        .filter(|endpoint| endpoint.branch_id == branch)
                        .filter(|endpoint| endpoint.endpoint_type == EndpointType::ReadWrite)
                        .find_map(|endpoint| self.server(&endpoint.id));
                    (project.project.id.clone(), branch, server)
                })
            });
            branches.collect()
        })
    }

    async fn tell_archiver(&self, branch: &BranchId, server: &Server) -> Result<(), JobError> {
        let cluster = self.cluster(branch);
        blocking(move || Ok(cluster.configure_archiving()?)).await?;
        let client = self.admin(server.port()).await?;
        Ok(admin::reload(&client).await?)
    }
}
