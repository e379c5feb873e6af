//! Root branches: clones of a template, which initdb makes once for each version
//! of Postgres in a data folder.
//!
//! The clones share the template's system identifier, as a branch shares its
//! parent's. Nothing here takes a server for another by it: WAL is looked for in
//! the branch's own folders alone.

use std::path::PathBuf;

use neon_api::BranchId;

use super::Engine;
use super::job_error::JobError;
use super::jobs::blocking;
use super::outcome::Outcome;
use crate::postgres::{Cluster, clone_idle};

/// Changes with what `Cluster::create` asks initdb for.
const TEMPLATE_FORMAT: u32 = 1;

impl Engine {
    pub(super) async fn create_root(&self, branch: &BranchId) -> Result<Outcome, JobError> {
        let template = self.template().await?;
        let (folder, storage) = (self.folder(branch), self.storage.clone());
        let cloned_by = blocking(move || Ok(clone_idle(&template, &folder, &storage)?)).await?;
        Ok(Outcome::Ready {
            branch: branch.clone(),
            fork: None,
            cloned_by,
        })
    }

    /// The folder of the template, which is made if it is missing.
    async fn template(&self) -> Result<PathBuf, JobError> {
        let _held = self.template.lock().await;
        let name = format!("{}-{TEMPLATE_FORMAT}", self.installation().major());
        let folder = self.storage.root().join("templates").join(name);
        if folder.exists() {
            return Ok(folder);
        }
        let unfinished = folder.with_extension("new");
        let cluster = Cluster {
            data: unfinished.clone(),
            installation: self.installation().clone(),
            user: self.programs.user.clone(),
            sockets: self.sockets.clone(),
            durability: self.storage.durability(),
            archive: None,
            recovery: None,
        };
        let storage = self.storage.clone();
        blocking(move || {
            let made = storage
                .make_folder(&unfinished)
                .map_err(JobError::from)
                .and_then(|()| Ok(cluster.create()?))
                .and_then(|()| Ok(storage.settle()?))
                .and_then(|()| Ok(storage.rename(&unfinished, &folder)?));
            if made.is_err() {
                // The reason that it was not made is the one to be told.
                let _ = storage.remove(&unfinished);
            }
            made.map(|()| folder)
        })
        .await
    }
}
