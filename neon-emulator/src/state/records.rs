//! The records of the state.

use std::collections::BTreeMap;

use jiff::Timestamp;
use neon_api::types::{
    AnnotationData, Branch, Database, Endpoint, EndpointPoolerMode, Operation, Project, Role,
    Snapshot,
};
use neon_api::{BranchId, EndpointId, ProjectId, SnapshotId};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::jobs::{CatalogChange, Job};
use crate::account::ApiKeyRecord;
use crate::storage::CloneMethod;

/// The whole state.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct State {
    pub(super) version: u32,
    pub(crate) projects: BTreeMap<ProjectId, ProjectRecord>,
    /// The id of the next database: Neon numbers them.
    pub(crate) next_database_id: i64,
    /// The project that the emulator itself made at its first start.
    pub(crate) first_project: Option<ProjectId>,
    /// By their number. The keys themselves are not here.
    #[serde(default)]
    pub(crate) api_keys: BTreeMap<i64, ApiKeyRecord>,
    /// The number of the next API key.
    #[serde(default = "first_number")]
    pub(crate) next_api_key_id: i64,
    /// When the folder was made: the account's beginning.
    #[serde(default = "crate::time::now")]
    pub(crate) created_at: Timestamp,
}

/// A project and all that is in it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ProjectRecord {
    pub(crate) project: Project,
    pub(crate) branches: BTreeMap<BranchId, BranchRecord>,
    pub(crate) endpoints: BTreeMap<EndpointId, EndpointRecord>,
    #[serde(default)]
    pub(crate) snapshots: BTreeMap<SnapshotId, SnapshotRecord>,
    /// Oldest first.
    pub(crate) operations: Vec<OperationRecord>,
    /// It was deleted, and its folders are being removed.
    #[serde(default)]
    pub(crate) deleted: bool,
}

/// A branch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BranchRecord {
    pub(crate) branch: Branch,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) annotation: Option<AnnotationData>,
    /// With their passwords, which most answers leave out.
    pub(crate) roles: BTreeMap<String, Role>,
    pub(crate) databases: BTreeMap<String, Database>,
    /// Roles and databases above are not yet in its Postgres: a new root
    /// branch, or one whose passwords are to differ from its parent's.
    pub(crate) catalog_is_behind: bool,
    /// Changes that failed, and of which something may be in its Postgres: that
    /// is put right before anything else is changed there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) undone: Vec<CatalogChange>,
    /// While it is restored: where its source stood, and when, once the new data
    /// lies beside the old.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) restored_from: Option<(String, Timestamp)>,
    /// How its data were cloned; `None` while they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cloned_by: Option<CloneMethod>,
    /// It was deleted, and its folder is being removed.
    pub(crate) deleted: bool,
}

/// A snapshot.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SnapshotRecord {
    pub(crate) snapshot: Snapshot,
    /// What its data have, with passwords.
    pub(crate) roles: BTreeMap<String, Role>,
    pub(crate) databases: BTreeMap<String, Database>,
    /// As the branch's, when it was taken.
    pub(crate) catalog_is_behind: bool,
    /// It was deleted, and its folder is being removed.
    pub(crate) deleted: bool,
}

/// An endpoint. Its ports never change once it has been up.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct EndpointRecord {
    pub(crate) endpoint: Endpoint,
    pub(crate) port: u16,
    /// Where its pooler is reached. Format 2 has none: 0 until the next start.
    #[serde(default)]
    pub(crate) pooled_port: u16,
    /// What a caller has said of `pooler_enabled`. `None`: it says whether there
    /// is a pooler.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pooler_asked: Option<bool>,
    pub(crate) deleted: bool,
}

impl EndpointRecord {
    /// True when it is one of its ports.
    pub(crate) fn has_port(&self, port: u16) -> bool {
        [self.port, self.pooled_port].contains(&port)
    }

    /// What a caller wants it to say of its pooler; it changes nothing.
    pub(crate) fn say_of_pooler(
        &mut self,
        enabled: Option<bool>,
        mode: Option<EndpointPoolerMode>,
    ) {
        if let Some(enabled) = enabled {
            self.pooler_asked = Some(enabled);
            self.endpoint.pooler_enabled = enabled;
        }
        if mode.is_some() {
            self.endpoint.pooler_mode = mode;
        }
    }
}

/// An operation and what it does.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct OperationRecord {
    pub(crate) operation: Operation,
    pub(crate) job: Job,
    /// Operations of one request: when one fails, those after it are cancelled.
    pub(crate) chain: Uuid,
}

pub(super) fn first_number() -> i64 {
    1
}
