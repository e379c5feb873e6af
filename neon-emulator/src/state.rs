//! What is stored here, and who may change it.
//!
//! Everything the emulator knows: projects, their branches with roles,
//! databases and annotations, endpoints with their ports, and the operations
//! that are still to be done. It is one JSON file in the data folder, written
//! anew, whole, before a request is answered; the API's handlers and the
//! engine's workers change it, through [`Store::change`] alone. The file holds
//! the roles' passwords, as Neon stores them too, and is its owner's alone.
//!
//! An operation carries its job, so an emulator that was killed goes on where
//! it was: jobs can be done twice.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use neon_api::types::{
    AnnotationData, Branch, Database, Endpoint, EndpointType, Operation, OperationStatus, Project,
    Role, Snapshot,
};
use neon_api::{BranchId, EndpointId, ProjectId, SnapshotId};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::Uuid;

use crate::account::ApiKeyRecord;
use crate::engine::Point;
use crate::storage::{CloneMethod, Durability};

/// Of the format of the file. 2 has API keys, a project's deletion, restores,
/// snapshots.
const VERSION: u32 = 2;
/// The oldest format that can be read: what it lacks has defaults.
const VERSION_MIN: u32 = 1;
/// Finished operations that a project remembers.
const OPERATIONS_KEPT_MAX: usize = 1_000;

/// The whole state.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct State {
    version: u32,
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

/// An endpoint. Its port never changes once it has been up.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct EndpointRecord {
    pub(crate) endpoint: Endpoint,
    pub(crate) port: u16,
    pub(crate) deleted: bool,
}

/// An operation and what it does.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct OperationRecord {
    pub(crate) operation: Operation,
    pub(crate) job: Job,
    /// Operations of one request: when one fails, those after it are cancelled.
    pub(crate) chain: Uuid,
}

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
    fn also_concerns(&self, id: &BranchId) -> bool {
        match self {
            Self::CreateSchemaBranch { source, .. } => source == id,
            Self::FinalizeRestore { target, .. } => target == id,
            Self::RestoreBranch {
                source, preserve, ..
            } => source == id || preserve.as_ref() == Some(id),
            Self::CreateRoot { .. }
            | Self::CreateBranch { .. }
            | Self::StartCompute { .. }
            | Self::SuspendCompute { .. }
            | Self::DeleteEndpoint { .. }
            | Self::ApplyConfig { .. }
            | Self::DeleteBranch { .. }
            | Self::CreateSnapshot { .. }
            | Self::RestoreSnapshot { .. }
            | Self::DeleteSnapshot { .. }
            | Self::DeleteProject => false,
        }
    }

    fn snapshot(&self) -> Option<&SnapshotId> {
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

/// The state and its file.
#[derive(Debug)]
pub(crate) struct Store {
    path: PathBuf,
    durability: Durability,
    state: Mutex<State>,
}

/// Why the state could not be read or written.
#[derive(Debug, Error)]
pub(crate) enum StoreError {
    #[error("could not read the state {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the state {} is damaged", path.display())]
    Damaged {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("the state {} is of format {found}, this emulator knows {VERSION}", path.display())]
    OtherFormat { path: PathBuf, found: u32 },
    #[error("could not write the state {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl Store {
    /// Reads the file; one that is missing is an empty state.
    pub(crate) fn open(path: PathBuf, durability: Durability) -> Result<Self, StoreError> {
        let mut state: State = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|source| StoreError::Damaged {
                path: path.clone(),
                source,
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => State {
                version: VERSION,
                projects: BTreeMap::new(),
                next_database_id: 1,
                first_project: None,
                api_keys: BTreeMap::new(),
                next_api_key_id: first_number(),
                created_at: crate::time::now(),
            },
            Err(source) => return Err(StoreError::Read { path, source }),
        };
        if !(VERSION_MIN..=VERSION).contains(&state.version) {
            return Err(StoreError::OtherFormat {
                path,
                found: state.version,
            });
        }
        // An older emulator would lose what it does not know.
        state.version = VERSION;
        Ok(Self {
            path,
            durability,
            state: Mutex::new(state),
        })
    }

    /// Writes the state as it is: a new folder has its file from the start.
    pub(crate) fn save(&self) -> Result<(), StoreError> {
        self.write(&self.lock())
    }

    /// Looks at the state.
    pub(crate) fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.lock())
    }

    /// Changes the state and writes it. When `change` fails, or the file cannot
    /// be written, nothing has changed.
    pub(crate) fn change<T, E>(
        &self,
        change: impl FnOnce(&mut State) -> Result<T, E>,
    ) -> Result<T, E>
    where
        E: From<StoreError>,
    {
        let mut state = self.lock();
        let mut changed = state.clone();
        let result = change(&mut changed)?;
        self.write(&changed)?;
        *state = changed;
        Ok(result)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while it was held left either the old state or the new one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, state: &State) -> Result<(), StoreError> {
        let failed = |source| StoreError::Write {
            path: self.path.clone(),
            source,
        };
        let folder = self.path.parent().unwrap_or(Path::new("."));
        let bytes = serde_json::to_vec(state).map_err(|error| failed(error.into()))?;
        // Renamed over the old one, whole. One name: what a kill leaves is
        // overwritten by the next change.
        let new = folder.join("state.json.new");
        fs::OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)
            .and_then(|mut file| {
                file.write_all(&bytes)?;
                match self.durability {
                    Durability::Process => Ok(()),
                    Durability::Machine => file.sync_all(),
                }
            })
            .and_then(|()| fs::rename(&new, &self.path))
            .and_then(|()| match self.durability {
                Durability::Process => Ok(()),
                Durability::Machine => fs::File::open(folder)?.sync_all(),
            })
            .map_err(failed)
    }
}

impl ProjectRecord {
    /// A branch that is not deleted.
    pub(crate) fn branch(&self, id: &BranchId) -> Option<&BranchRecord> {
        self.branches.get(id).filter(|branch| !branch.deleted)
    }

    /// A branch that is not deleted.
    pub(crate) fn branch_mut(&mut self, id: &BranchId) -> Option<&mut BranchRecord> {
        self.branches.get_mut(id).filter(|branch| !branch.deleted)
    }

    /// An endpoint that is not deleted.
    pub(crate) fn endpoint(&self, id: &EndpointId) -> Option<&EndpointRecord> {
        self.endpoints.get(id).filter(|endpoint| !endpoint.deleted)
    }

    /// Branches that are not deleted.
    pub(crate) fn live_branches(&self) -> impl Iterator<Item = &BranchRecord> {
        self.branches.values().filter(|branch| !branch.deleted)
    }

    /// Endpoints that are not deleted.
    pub(crate) fn live_endpoints(&self) -> impl Iterator<Item = &EndpointRecord> {
        self.endpoints.values().filter(|endpoint| !endpoint.deleted)
    }

    /// The branch that is used where a request names none.
    pub(crate) fn default_branch(&self) -> Option<&BranchRecord> {
        self.live_branches().find(|record| record.branch.default)
    }

    /// The one endpoint of the branch that writes.
    pub(crate) fn read_write_endpoint(&self, branch: &BranchId) -> Option<&EndpointRecord> {
        self.live_endpoints().find(|record| {
            record.endpoint.branch_id == *branch
                && record.endpoint.endpoint_type == EndpointType::ReadWrite
        })
    }

    /// The next operation to work on: the oldest that is not final. They are
    /// done one after another.
    pub(crate) fn next_operation(&self) -> Option<&OperationRecord> {
        self.operations
            .iter()
            .find(|record| !record.operation.status.is_final())
    }

    /// Gives the children of one branch to another.
    pub(crate) fn move_children(&mut self, from: &BranchId, to: &BranchId) {
        for record in self.branches.values_mut() {
            if record.branch.parent_id.as_ref() == Some(from) {
                record.branch.parent_id = Some(to.clone());
            }
        }
    }

    /// Every port that an endpoint has.
    pub(crate) fn ports(&self) -> impl Iterator<Item = u16> {
        self.endpoints.values().map(|record| record.port)
    }

    /// True while an operation on the branch is still to be done.
    pub(crate) fn is_busy(&self, branch: &BranchId) -> bool {
        self.operations.iter().any(|record| {
            !record.operation.status.is_final()
                && (record.operation.branch_id.as_ref() == Some(branch)
                    || record.job.also_concerns(branch))
        })
    }

    /// True while an operation on the snapshot is still to be done.
    pub(crate) fn is_snapshot_busy(&self, snapshot: &SnapshotId) -> bool {
        self.operations.iter().any(|record| {
            !record.operation.status.is_final() && record.job.snapshot() == Some(snapshot)
        })
    }

    /// Snapshots that are not deleted.
    pub(crate) fn live_snapshots(&self) -> impl Iterator<Item = &SnapshotRecord> {
        self.snapshots.values().filter(|record| !record.deleted)
    }

    /// Branches that are not deleted, of this parent.
    pub(crate) fn children(&self, parent: &BranchId) -> impl Iterator<Item = &BranchRecord> {
        self.live_branches()
            .filter(move |record| record.branch.parent_id.as_ref() == Some(parent))
    }

    /// Appends operations, forgets the oldest finished ones, and returns the
    /// new ones as an answer has them: where nothing is before it, the first
    /// one runs already.
    pub(crate) fn schedule(&mut self, mut records: Vec<OperationRecord>) -> Vec<Operation> {
        if let Some(first) = records.first_mut()
            && self.next_operation().is_none()
        {
            first.operation.status = OperationStatus::Running;
        }
        let operations = records
            .iter()
            .map(|record| record.operation.clone())
            .collect();
        self.operations.extend(records);
        let surplus = self.operations.len().saturating_sub(OPERATIONS_KEPT_MAX);
        let mut dropped = 0;
        self.operations.retain(|record| {
            let drop = dropped < surplus && record.operation.status.is_final();
            dropped += usize::from(drop);
            !drop
        });
        operations
    }

    /// What was scheduled and has not begun is never done.
    pub(crate) fn cancel_scheduled(&mut self) {
        for record in &mut self.operations {
            if record.operation.status == OperationStatus::Scheduling {
                record.operation.status = OperationStatus::Cancelled;
            }
        }
    }

    /// The operations of a chain after one that failed are never done.
    pub(crate) fn cancel_chain(&mut self, chain: Uuid) {
        for record in &mut self.operations {
            if record.chain == chain && !record.operation.status.is_final() {
                record.operation.status = OperationStatus::Cancelled;
            }
        }
    }
}

fn first_number() -> i64 {
    1
}
