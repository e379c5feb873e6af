//! Roles and databases: what the state says of them is made true in Postgres.

use neon_api::{BranchId, ProjectId};

use super::Engine;
use super::job_error::JobError;
use crate::postgres::admin;
use crate::state::{CatalogChange, StoreError};

impl Engine {
    /// Makes roles and databases that the branch's Postgres lacks.
    pub(super) async fn bring_catalog_up(
        &self,
        project: &ProjectId,
        branch: &BranchId,
        port: u16,
    ) -> Result<(), JobError> {
        let record = self.store.read(|state| {
            let record = state.projects.get(project)?.branches.get(branch)?;
            record.catalog_is_behind.then(|| record.clone())
        });
        let Some(record) = record else { return Ok(()) };
        let client = self.admin(port).await?;
        admin::ensure_neon_superuser(&client).await?;
        for role in record.roles.values() {
            let password = role.password.as_ref().map(neon_api::Secret::expose);
            admin::ensure_role(&client, &role.name, password).await?;
        }
        for database in record.databases.values() {
            admin::ensure_database(
                &client,
                self.sockets(),
                port,
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
