//! The roles and databases of a point of the past: those that its own catalogs
//! have, not those that its source has today.

use std::collections::BTreeMap;
use std::path::PathBuf;

use neon_api::types::{Database, Role};
use neon_api::{BranchId, ProjectId};

use super::{Past, Point};
use crate::engine::Engine;
use crate::engine::job_error::JobError;
use crate::new;
use crate::postgres::admin::{self, Catalog};
use crate::state::{BranchRecord, SnapshotRecord};

/// What a point had.
#[derive(Debug)]
pub(in crate::engine) struct PastCatalog(Catalog);

impl Engine {
    /// Makes a folder with the source's data as of a point, and says which roles
    /// and databases there were. The caller holds the source.
    pub(in crate::engine) async fn copy_past(
        &self,
        project: &ProjectId,
        source: &BranchId,
        point: Point,
        to: PathBuf,
    ) -> Result<Past<PastCatalog>, JobError> {
        self.recover(project, source, point, to, async |client, _| {
            Ok(PastCatalog(admin::catalog(&client).await?))
        })
        .await
    }
}

impl PastCatalog {
    /// Makes a branch's record that of its data. Its passwords are then still to
    /// be set in them.
    pub(in crate::engine) fn put_into(self, record: &mut BranchRecord, next_database_id: &mut i64) {
        let id = record.branch.id.clone();
        self.put(
            &id,
            &mut record.roles,
            &mut record.databases,
            next_database_id,
        );
        record.catalog_is_behind = true;
    }

    /// The same for a snapshot.
    pub(in crate::engine) fn put_into_snapshot(
        self,
        source: &BranchId,
        record: &mut SnapshotRecord,
        next_database_id: &mut i64,
    ) {
        self.put(
            source,
            &mut record.roles,
            &mut record.databases,
            next_database_id,
        );
        record.catalog_is_behind = true;
    }

    /// A role that is no more known gets a new password: the old one is only in
    /// the data, as a verifier.
    fn put(
        self,
        branch: &BranchId,
        roles: &mut BTreeMap<String, Role>,
        databases: &mut BTreeMap<String, Database>,
        next_database_id: &mut i64,
    ) {
        let Catalog {
            roles: found_roles,
            databases: found_databases,
        } = self.0;
        roles.retain(|name, _| found_roles.iter().any(|(found, _)| found == name));
        for (name, login) in found_roles {
            roles
                .entry(name)
                .or_insert_with_key(|name| new::role(branch, name, login));
        }
        databases.retain(|name, _| found_databases.iter().any(|(found, _)| found == name));
        for (name, owner) in found_databases {
            let record = databases
                .entry(name)
                .or_insert_with_key(|name| new::database(branch, name, &owner, next_database_id));
            record.owner_name = owner;
        }
    }
}
