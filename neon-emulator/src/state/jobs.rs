//! What operations do.

use neon_api::types::{Database, Role};
use neon_api::{BranchId, EndpointId, SnapshotId};
use serde::{Deserialize, Serialize};

use super::records::BranchRecord;
use crate::engine::Point;

/// The work of one operation. Each can be done again from its beginning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Job {
    /// initdb for a root branch.
    CreateRoot { branch: BranchId },
    /// Clone the parent's data, of now or of a point of its past.
    CreateBranch {
        branch: BranchId,
        #[serde(default)]
        point: Option<Point>,
    },
    /// Clone the source's data, and take all rows out of it.
    CreateSchemaBranch { branch: BranchId, source: BranchId },
    /// Put a clone of the source in the place of the branch's data. The state
    /// has the branch as it is to be; `before` is put back when that fails.
    RestoreBranch {
        branch: BranchId,
        source: BranchId,
        before: Box<BranchRecord>,
        /// Of the source's past; absent: its head.
        #[serde(default)]
        point: Option<Point>,
        /// The new branch that gets the old data.
        preserve: Option<BranchId>,
    },
    /// Start the endpoint's server.
    StartCompute { endpoint: EndpointId },
    /// Stop it.
    SuspendCompute { endpoint: EndpointId },
    /// Stop it, unless it is used after all.
    SuspendIfIdle { endpoint: EndpointId },
    /// Stop it, and have it serve another branch.
    MoveEndpoint {
        endpoint: EndpointId,
        from: BranchId,
        to: BranchId,
    },
    /// Stop it and forget it.
    DeleteEndpoint { endpoint: EndpointId },
    /// Make, change or drop roles and databases.
    ApplyConfig {
        branch: BranchId,
        change: CatalogChange,
    },
    /// Stop the branch's servers and remove its folder.
    DeleteBranch { branch: BranchId },
    /// Clone the branch's data into the snapshot.
    CreateSnapshot {
        snapshot: SnapshotId,
        branch: BranchId,
        /// Of the branch's past; absent: its head.
        #[serde(default)]
        point: Option<Point>,
    },
    /// Clone the snapshot's data into the branch.
    RestoreSnapshot {
        snapshot: SnapshotId,
        branch: BranchId,
    },
    /// Give the target's name and endpoints to the branch that takes its place.
    FinalizeRestore {
        branch: BranchId,
        target: BranchId,
        /// What the target is called from then on.
        old_name: String,
    },
    /// Remove its folder.
    DeleteSnapshot { snapshot: SnapshotId },
    /// Delete every branch of the project, then the project.
    DeleteProject,
}

impl Job {
    /// True for a branch that is needed, or made, beside the operation's own.
    pub(super) fn also_concerns(&self, id: &BranchId) -> bool {
        match self {
            Self::CreateSchemaBranch { source, .. } => source == id,
            Self::FinalizeRestore { target, .. } => target == id,
            Self::MoveEndpoint { from, to, .. } => [from, to].contains(&id),
            Self::RestoreBranch {
                source, preserve, ..
            } => source == id || preserve.as_ref() == Some(id),
            Self::CreateRoot { .. }
            | Self::CreateBranch { .. }
            | Self::StartCompute { .. }
            | Self::SuspendCompute { .. }
            | Self::SuspendIfIdle { .. }
            | Self::DeleteEndpoint { .. }
            | Self::ApplyConfig { .. }
            | Self::DeleteBranch { .. }
            | Self::CreateSnapshot { .. }
            | Self::RestoreSnapshot { .. }
            | Self::DeleteSnapshot { .. }
            | Self::DeleteProject => false,
        }
    }

    pub(super) fn snapshot(&self) -> Option<&SnapshotId> {
        match self {
            Self::CreateSnapshot { snapshot, .. }
            | Self::RestoreSnapshot { snapshot, .. }
            | Self::DeleteSnapshot { snapshot } => Some(snapshot),
            _ => None,
        }
    }
}

/// A change to the roles and databases of a branch. The state has it already;
/// what was there before is put back when it cannot be made true.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum CatalogChange {
    /// Make the role, or give it the password that the state has.
    Role {
        name: String,
        /// `None`: it is new.
        before: Option<Role>,
    },
    /// Drop it.
    DropRole { before: Role },
    /// Make the database, or give it the name and the owner that the state has.
    Database {
        name: String,
        /// `None`: it is new.
        before: Option<Database>,
    },
    /// Drop it.
    DropDatabase { before: Database },
}

impl CatalogChange {
    /// Puts back what the state had before.
    pub(crate) fn undo(self, branch: &mut BranchRecord) {
        match self {
            Self::Role { name, before } => {
                branch.roles.remove(&name);
                branch
                    .roles
                    .extend(before.map(|role| (role.name.clone(), role)));
            }
            Self::DropRole { before } => {
                branch.roles.insert(before.name.clone(), before);
            }
            Self::Database { name, before } => {
                branch.databases.remove(&name);
                let before = before.map(|database| (database.name.clone(), database));
                branch.databases.extend(before);
            }
            Self::DropDatabase { before } => {
                branch.databases.insert(before.name.clone(), before);
            }
        }
    }
}
