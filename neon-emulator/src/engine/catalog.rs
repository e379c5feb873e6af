//! Roles and databases: what the state says of them is made true in Postgres.

use std::path::Path;

use neon_api::{BranchId, ProjectId};
use tokio_postgres::Client;

use super::Engine;
use super::job_error::JobError;
use crate::postgres::admin::{self, AdminError};
use crate::state::{BranchRecord, CatalogChange, StoreError};

impl Engine {
    /// Makes roles and databases that the branch's Postgres lacks, and takes out
    /// what changes that failed have left there.
    pub(super) async fn bring_catalog_up(
        &self,
        project: &ProjectId,
        branch: &BranchId,
        port: u16,
    ) -> Result<(), JobError> {
        let record = self.store.read(|state| {
            let record = state.projects.get(project)?.branches.get(branch)?;
            let is_behind = record.catalog_is_behind || !record.undone.is_empty();
            is_behind.then(|| record.clone())
        });
        let Some(record) = record else { return Ok(()) };
        let client = self.admin(port).await?;
        let superuser = Superuser {
            client: &client,
            sockets: self.sockets(),
            port,
        };
        superuser.undo(&record).await?;
        if record.catalog_is_behind {
            superuser.make(&record).await?;
        }
        Ok(self.change(|state| {
            if let Some(record) = state
                .projects
                .get_mut(project)
                .and_then(|project| project.branches.get_mut(branch))
            {
                record.catalog_is_behind = false;
                record.undone.clear();
            }
            Ok::<_, StoreError>(())
        })?)
    }

    /// A change that failed is none: the state has what was there before, and
    /// Postgres as well, at the latest before its next change.
    pub(super) async fn undo_change(
        &self,
        project: &ProjectId,
        branch: &BranchId,
        change: &CatalogChange,
    ) -> Result<(), JobError> {
        self.change(|state| {
            if let Some(record) = state
                .projects
                .get_mut(project)
                .and_then(|project| project.branches.get_mut(branch))
            {
                change.clone().undo(record);
                if !record.undone.contains(change) {
                    record.undone.push(change.clone());
                }
            }
            Ok::<_, StoreError>(())
        })?;
        let _held = self.hold(branch).await;
        self.with_admin(project, branch, async |_, port| {
            self.bring_catalog_up(project, branch, port).await
        })
        .await
    }

    pub(super) async fn apply(
        &self,
        project: &ProjectId,
        branch: &BranchId,
        change: &CatalogChange,
    ) -> Result<(), JobError> {
        let record = self
            .store()
            .read(|state| Some(state.projects.get(project)?.branches.get(branch)?.clone()))
            .ok_or(JobError::Gone)?;
        let sockets = self.sockets();
        self.with_admin(project, branch, async |client, port| {
            // What failed before may be in its way.
            self.bring_catalog_up(project, branch, port).await?;
            match change {
                CatalogChange::Role { name, before } => {
                    let role = record.roles.get(name).ok_or(JobError::Gone)?;
                    let password = role.password.as_ref().map(neon_api::Secret::expose);
                    admin::ensure_role(&client, name, password).await?;
                    // As on Neon: a new password ends the sessions of the old.
                    if before.is_some() {
                        admin::end_sessions(&client, name).await?;
                    }
                }
                CatalogChange::DropRole { before } => {
                    admin::drop_role(&client, sockets, port, &before.name).await?;
                }
                CatalogChange::Database { name, before } => {
                    let database = record.databases.get(name).ok_or(JobError::Gone)?;
                    if let Some(before) = before
                        && before.name != *name
                    {
                        admin::rename_database(&client, &before.name, name).await?;
                    }
                    let owner = &database.owner_name;
                    admin::ensure_database(&client, sockets, port, name, owner).await?;
                }
                CatalogChange::DropDatabase { before } => {
                    admin::drop_database(&client, &before.name).await?;
                }
            }
            Ok(())
        })
        .await
    }
}

/// The superuser's session on a branch.
struct Superuser<'a> {
    client: &'a Client,
    sockets: &'a Path,
    port: u16,
}

impl Superuser<'_> {
    /// Makes all that the record has.
    async fn make(&self, record: &BranchRecord) -> Result<(), AdminError> {
        admin::ensure_neon_superuser(self.client).await?;
        for name in record.roles.keys() {
            self.make_role(record, name).await?;
        }
        for name in record.databases.keys() {
            self.make_database(record, name).await?;
        }
        Ok(())
    }

    /// Takes out what changes that failed have left, and makes what they have
    /// taken. Can be done again.
    async fn undo(&self, record: &BranchRecord) -> Result<(), AdminError> {
        for change in record.undone.iter().rev() {
            match change {
                CatalogChange::Role { name, .. } if !record.roles.contains_key(name) => {
                    admin::drop_unused_role(self.client, name).await?;
                }
                CatalogChange::Role { name, .. } => self.make_role(record, name).await?,
                CatalogChange::DropRole { before } => self.make_role(record, &before.name).await?,
                CatalogChange::Database {
                    name,
                    before: Some(before),
                } => {
                    // The other may be one that was there already.
                    if !admin::has_database(self.client, &before.name).await? {
                        admin::rename_database(self.client, name, &before.name).await?;
                    }
                    self.make_database(record, &before.name).await?;
                }
                CatalogChange::Database { name, .. } if record.databases.contains_key(name) => {
                    self.make_database(record, name).await?;
                }
                CatalogChange::Database { name, before: None } => {
                    admin::drop_empty_database(self.client, self.sockets, self.port, name).await?;
                }
                CatalogChange::DropDatabase { before } => {
                    self.make_database(record, &before.name).await?;
                }
            }
        }
        Ok(())
    }

    async fn make_role(&self, record: &BranchRecord, name: &str) -> Result<(), AdminError> {
        let Some(role) = record.roles.get(name) else {
            return Ok(());
        };
        let password = role.password.as_ref().map(neon_api::Secret::expose);
        admin::ensure_role(self.client, name, password).await
    }

    async fn make_database(&self, record: &BranchRecord, name: &str) -> Result<(), AdminError> {
        let Some(database) = record.databases.get(name) else {
            return Ok(());
        };
        let owner = &database.owner_name;
        admin::ensure_database(self.client, self.sockets, self.port, name, owner).await
    }
}
