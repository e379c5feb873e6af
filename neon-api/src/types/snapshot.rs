//! Snapshots: what a branch was, kept.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Branch, Endpoint, Operation};
use crate::{BranchId, SnapshotId};

/// A snapshot of a branch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The snapshot.
    pub id: SnapshotId,
    /// Its name.
    pub name: String,
    /// The place in the branch's log that it was taken at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lsn: Option<String>,
    /// The time that it was taken at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<Timestamp>,
    /// The branch that it was taken of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_branch_id: Option<BranchId>,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When it will be deleted, not to the second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// Whether somebody asked for it, and not a schedule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manual: Option<bool>,
    /// The size of its data, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full_size: Option<i64>,
}

/// Which snapshot to take. At most one of `lsn` and `timestamp`; with neither,
/// of the branch as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SnapshotCreateQuery {
    /// As of this place in the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lsn: Option<String>,
    /// As of this time.
    #[serde(
        default,
        deserialize_with = "super::spelling::time",
        skip_serializing_if = "Option::is_none"
    )]
    pub timestamp: Option<Timestamp>,
    /// Its name. Absent: Neon chooses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// When it is to be deleted.
    #[serde(
        default,
        deserialize_with = "super::spelling::time",
        skip_serializing_if = "Option::is_none"
    )]
    pub expires_at: Option<Timestamp>,
}

/// A snapshot and what its making set going.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotOperations {
    /// The snapshot.
    pub snapshot: Snapshot,
    /// It can be restored when the last of these has finished.
    #[serde(deserialize_with = "super::null_as_default")]
    pub operations: Vec<Operation>,
}

/// One snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotResponse {
    /// The snapshot.
    pub snapshot: Snapshot,
}

/// The snapshots of a project.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SnapshotsResponse {
    /// The snapshots.
    #[serde(deserialize_with = "super::null_as_default")]
    pub snapshots: Vec<Snapshot>,
}

/// Changes a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SnapshotUpdateRequest {
    /// What changes.
    pub snapshot: SnapshotUpdate,
}

/// What changes about a snapshot; what is absent stays.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SnapshotUpdate {
    /// Its new name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// Makes a branch of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SnapshotRestoreRequest {
    /// The branch's name. Absent: Neon chooses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The branch whose place it is to take. Absent: the snapshot's source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_branch_id: Option<BranchId>,
    /// Whether it takes that place at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finalize_restore: Option<bool>,
}

/// Has a restored branch take the place of the branch it was restored for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FinalizeRestoreRequest {
    /// What the replaced branch is called from then on. Absent: Neon chooses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// A restored branch and what came with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RestoredSnapshot {
    /// The branch.
    pub branch: Branch,
    /// Its endpoints, if it has taken another's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<Vec<Endpoint>>,
    /// The branch is ready when the last of these has finished.
    #[serde(deserialize_with = "super::null_as_default")]
    pub operations: Vec<Operation>,
}
