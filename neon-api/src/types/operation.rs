//! Operations: work that goes on after the request was answered.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Pagination;
use crate::{BranchId, EndpointId, OperationId, ProjectId};

/// A piece of work on a project. A project's operations run one after another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// The operation.
    pub id: OperationId,
    /// The project worked on.
    pub project_id: ProjectId,
    /// The branch worked on, where it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch_id: Option<BranchId>,
    /// The endpoint worked on, where it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint_id: Option<EndpointId>,
    /// What is done.
    pub action: OperationAction,
    /// How far it is.
    pub status: OperationStatus,
    /// What went wrong, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How often it failed so far.
    pub failures_count: i64,
    /// When it was last tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<Timestamp>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When its status last changed.
    pub updated_at: Timestamp,
    /// How long it has taken, in milliseconds.
    pub total_duration_ms: i64,
}

/// One operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationResponse {
    /// The operation.
    pub operation: Operation,
}

/// A page of operations, newest first; also what a request set going.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationsResponse {
    /// The operations.
    #[serde(deserialize_with = "super::null_as_default")]
    pub operations: Vec<Operation>,
    /// Where the next page begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pagination: Option<Pagination>,
}

string_enum! {
    /// How far an operation is.
    pub enum OperationStatus {
        /// Waits for its turn.
        Scheduling = "scheduling",
        /// Goes on.
        Running = "running",
        /// Done.
        Finished = "finished",
        /// Did not succeed.
        Failed = "failed",
        /// Broke.
        Error = "error",
        /// Is being called off.
        Cancelling = "cancelling",
        /// Was called off.
        Cancelled = "cancelled",
        /// Turned out not to be needed.
        Skipped = "skipped",
    }
}

impl OperationStatus {
    /// Whether it ended as wished: done, or not needed.
    #[must_use]
    pub fn is_success(&self) -> bool {
        matches!(self, OperationStatus::Finished | OperationStatus::Skipped)
    }

    /// Whether it ended otherwise.
    #[must_use]
    pub fn is_failure(&self) -> bool {
        matches!(
            self,
            OperationStatus::Failed | OperationStatus::Error | OperationStatus::Cancelled
        )
    }

    /// Whether it ended. An unknown status is not taken for an end.
    #[must_use]
    pub fn is_final(&self) -> bool {
        self.is_success() || self.is_failure()
    }
}

string_enum! {
    /// What an operation does.
    pub enum OperationAction {
        /// Makes a compute.
        CreateCompute = "create_compute",
        /// Makes a timeline.
        CreateTimeline = "create_timeline",
        /// Starts a compute.
        StartCompute = "start_compute",
        /// Suspends a compute.
        SuspendCompute = "suspend_compute",
        /// Brings settings, roles and databases to a compute.
        ApplyConfig = "apply_config",
        /// Sees whether a compute answers.
        CheckAvailability = "check_availability",
        /// Deletes a timeline.
        DeleteTimeline = "delete_timeline",
        /// Makes a branch.
        CreateBranch = "create_branch",
        /// Imports data.
        ImportData = "import_data",
        /// Storage: ignores a tenant.
        TenantIgnore = "tenant_ignore",
        /// Storage: attaches a tenant.
        TenantAttach = "tenant_attach",
        /// Storage: detaches a tenant.
        TenantDetach = "tenant_detach",
        /// Storage: attaches a tenant again.
        TenantReattach = "tenant_reattach",
        /// Storage: attaches a tenant's safekeepers.
        TenantAttachSafekeepers = "tenant_attach_safekeepers",
        /// Storage: detaches a tenant's safekeepers.
        TenantDetachSafekeepers = "tenant_detach_safekeepers",
        /// Storage: replaces a safekeeper.
        ReplaceSafekeeper = "replace_safekeeper",
        /// Ends maintenance.
        DisableMaintenance = "disable_maintenance",
        /// Storage: applies settings.
        ApplyStorageConfig = "apply_storage_config",
        /// Storage: prepares a second pageserver.
        PrepareSecondaryPageserver = "prepare_secondary_pageserver",
        /// Storage: moves to another pageserver.
        SwitchPageserver = "switch_pageserver",
        /// Makes a branch independent of its parent.
        DetachParentBranch = "detach_parent_branch",
        /// Archives a timeline.
        TimelineArchive = "timeline_archive",
        /// Takes a timeline out of the archive.
        TimelineUnarchive = "timeline_unarchive",
        /// Starts a compute from the reserve.
        StartReservedCompute = "start_reserved_compute",
        /// Learns databases and roles from a compute.
        SyncDbsAndRolesFromCompute = "sync_dbs_and_roles_from_compute",
        /// Copies a schema from a branch.
        ApplySchemaFromBranch = "apply_schema_from_branch",
        /// Storage: hides a timeline.
        TimelineMarkInvisible = "timeline_mark_invisible",
        /// Storage: applies a protected branch's settings.
        TimelineUpdateProtectedConfig = "timeline_update_protected_config",
        /// Warms a replica.
        PrewarmReplica = "prewarm_replica",
        /// Promotes a replica.
        PromoteReplica = "promote_replica",
        /// Storage: marks it clean.
        SetStorageNonDirty = "set_storage_non_dirty",
        /// Swaps binding ids.
        SwapBindingId = "swap_binding_id",
        /// Ends a move.
        FinalizeMigration = "finalize_migration",
        /// Marks a move as prepared.
        MarkMigrationPrepared = "mark_migration_prepared",
        /// Updates the catalog.
        UpdateCatalog = "update_catalog",
        /// Synchronises endpoints.
        EpcSync = "epc_sync",
    }
}
