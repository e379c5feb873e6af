//! Branches, as answers have them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    AnnotationData, ConnectionDetails, CursorPagination, Database, Endpoint, Operation, Role,
};
use crate::{BranchId, ProjectId};

/// A branch: a whole Postgres, cloned copy-on-write from its parent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Branch {
    /// The branch.
    pub id: BranchId,
    /// The project it is in.
    pub project_id: ProjectId,
    /// Its parent; a root branch has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_id: Option<BranchId>,
    /// The place in the parent's log that it was made from. Of a restored branch
    /// final only when the restore's operations have finished.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_lsn: Option<String>,
    /// The time on the parent that it was made from; may stay empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_timestamp: Option<Timestamp>,
    /// Its name, unique in the project.
    pub name: String,
    /// The state it is in.
    pub current_state: BranchState,
    /// The state it is going to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending_state: Option<BranchState>,
    /// When the current state began.
    pub state_changed_at: Timestamp,
    /// The size of its data, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logical_size: Option<i64>,
    /// What made it: `console`, `api`.
    pub creation_source: String,
    /// Deprecated for `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary: Option<bool>,
    /// Whether it is the project's default branch.
    pub default: bool,
    /// Whether it can neither be deleted nor reset.
    pub protected: bool,
    /// Deprecated: CPU seconds in this billing period.
    #[serde(default)]
    pub cpu_used_sec: i64,
    /// CPU seconds in this billing period.
    pub compute_time_seconds: i64,
    /// Seconds that its endpoints were active in this billing period.
    pub active_time_seconds: i64,
    /// Bytes written in this billing period.
    pub written_data_bytes: i64,
    /// Bytes sent in this billing period.
    pub data_transfer_bytes: i64,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// From when `expires_at` was set to `expires_at`, in seconds; given anew at
    /// each reset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_interval_seconds: Option<i64>,
    /// When it will be deleted, not to the second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// When it was last reset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_reset_at: Option<Timestamp>,
    /// Who made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<BranchCreator>,
    /// What it was filled with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_source: Option<InitSource>,
    /// How far a restore from a snapshot is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore_status: Option<BranchRestoreStatus>,
    /// The snapshot it was restored from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored_from: Option<String>,
    /// The branch that it took the place of when it was restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored_as: Option<String>,
    /// What cannot be done to it now, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restricted_actions: Option<Vec<BranchRestrictedAction>>,
    /// Until when it can be recovered, if it is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<BranchRecoveryInfo>,
}

string_enum! {
    /// The state of a branch.
    pub enum BranchState {
        /// Is being made.
        Init = "init",
        /// Is being reset.
        Resetting = "resetting",
        /// Can be queried.
        Ready = "ready",
        /// In slow storage; the first access takes it out.
        Archived = "archived",
    }
}

string_enum! {
    /// What a branch is filled with when it is made.
    pub enum InitSource {
        /// The parent's schema and data.
        ParentData = "parent-data",
        /// Another branch's schema; the new branch is a root of its own.
        SchemaOnly = "schema-only",
        /// The parent's schema.
        ParentSchema = "parent-schema",
        /// An import.
        Import = "import",
    }
}

string_enum! {
    /// How far a restore from a snapshot is.
    pub enum BranchRestoreStatus {
        /// Restored, and not yet in the old branch's place.
        Restored = "restored",
        /// In the old branch's place.
        Finalized = "finalized",
        /// Being made independent.
        Detaching = "detaching",
    }
}

string_enum! {
    /// How a branch came to be deleted.
    pub enum DeletionMethod {
        /// By hand.
        User = "user",
        /// It expired.
        Ttl = "ttl",
    }
}

/// Who made a branch.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BranchCreator {
    /// The name of the user, organization, integration or key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// A picture's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
}

/// Something that cannot be done to a branch now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BranchRestrictedAction {
    /// The action: `restore`, `delete-rw-endpoint`.
    pub name: String,
    /// Why, in words.
    pub reason: String,
}

/// Until when a deleted branch can be recovered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BranchRecoveryInfo {
    /// When it was deleted.
    pub deleted_at: Timestamp,
    /// From when on it is gone.
    pub recoverable_until: Timestamp,
    /// How it came to be deleted.
    pub deletion_method: DeletionMethod,
}

/// One branch with its annotation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BranchResponse {
    /// The branch.
    pub branch: Branch,
    /// The notes on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotation: Option<AnnotationData>,
}

/// A page of branches with their annotations.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BranchesResponse {
    /// The branches.
    #[serde(deserialize_with = "super::null_as_default")]
    pub branches: Vec<Branch>,
    /// The notes, by branch; a branch without any may be missing.
    #[serde(default, deserialize_with = "super::null_as_default")]
    pub annotations: BTreeMap<BranchId, AnnotationData>,
    /// Where the next page begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pagination: Option<CursorPagination>,
}

/// A branch and what its change set going.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BranchOperations {
    /// The branch.
    pub branch: Branch,
    /// The change is done when the last of these has finished.
    #[serde(deserialize_with = "super::null_as_default")]
    pub operations: Vec<Operation>,
}

/// A new branch and what came with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CreatedBranch {
    /// The branch.
    pub branch: Branch,
    /// The endpoints that the request asked for.
    #[serde(deserialize_with = "super::null_as_default")]
    pub endpoints: Vec<Endpoint>,
    /// The branch is ready when the last of these has finished.
    #[serde(deserialize_with = "super::null_as_default")]
    pub operations: Vec<Operation>,
    /// The roles that it has from its parent.
    #[serde(deserialize_with = "super::null_as_default")]
    pub roles: Vec<Role>,
    /// The databases that it has from its parent.
    #[serde(deserialize_with = "super::null_as_default")]
    pub databases: Vec<Database>,
    /// How to connect. Absent when there is more than one role or database, or
    /// no endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection_uris: Option<Vec<ConnectionDetails>>,
}
