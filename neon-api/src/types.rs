//! The wire types: what requests carry and what answers hold.
//!
//! Named as the API names them. A request's inner object, which the API leaves
//! nameless, is called after its outer one without `Request`:
//! [`BranchCreateRequest`] holds a [`BranchCreate`].

#[macro_use]
mod string_enum;

mod account;
mod annotation;
mod branch;
mod branch_request;
mod change;
mod connection;
mod database;
mod endpoint;
mod endpoint_request;
mod general_error;
mod operation;
mod pagination;
mod project;
mod project_request;
mod project_settings;
mod role;
mod schema;
mod snapshot;
mod spelling;

pub use account::{
    ActiveRegionsResponse, ApiKeyCreateRequest, ApiKeyCreateResponse, ApiKeyCreatorData,
    ApiKeyListItem, ApiKeyRevokeResponse, AuthDetailsResponse, AuthMethod,
    AvailablePreloadLibraries, AvailablePreloadLibrary, BillingAccount, CurrentUserAuthAccount,
    CurrentUserInfoResponse, Organization, OrganizationsResponse, PaymentSource, RegionResponse,
};
pub use annotation::{AnnotationData, AnnotationObjectData, AnnotationValueData};
pub use branch::{
    Branch, BranchCreator, BranchOperations, BranchRecoveryInfo, BranchResponse,
    BranchRestoreStatus, BranchRestrictedAction, BranchState, BranchesResponse, CreatedBranch,
    DeletionMethod, InitSource,
};
pub use branch_request::{
    BranchCreate, BranchCreateRequest, BranchCreateRequestEndpointOptions, BranchListQuery,
    BranchRestoreRequest, BranchSortField, BranchUpdate, BranchUpdateRequest, SortOrder,
};
pub use change::Change;
pub use connection::{
    ConnectionDetails, ConnectionParameters, ConnectionUriQuery, ConnectionUriResponse,
};
pub use database::{
    Database, DatabaseCreate, DatabaseCreateRequest, DatabaseOperations, DatabaseResponse,
    DatabaseUpdate, DatabaseUpdateRequest, DatabasesResponse,
};
pub use endpoint::{
    ComputeUnit, Endpoint, EndpointOperations, EndpointPoolerMode, EndpointResponse,
    EndpointSettingsData, EndpointState, EndpointType, EndpointsResponse, PreloadLibraries,
    Provisioner, SuspendTimeoutSeconds,
};
pub use endpoint_request::{
    EndpointCreate, EndpointCreateRequest, EndpointUpdate, EndpointUpdateRequest,
};
pub use general_error::GeneralError;
pub use operation::{
    Operation, OperationAction, OperationResponse, OperationStatus, OperationsResponse,
};
pub use pagination::{CursorPagination, OperationListQuery, Pagination};
pub use project::{
    ApplicationType, BillingSubscriptionType, CreatedProject, Project, ProjectListItem,
    ProjectOperations, ProjectOwnerData, ProjectPermissionLevel, ProjectResponse, ProjectsResponse,
};
pub use project_request::{
    ProjectCreate, ProjectCreateBranch, ProjectCreateRequest, ProjectListQuery, ProjectUpdate,
    ProjectUpdateRequest,
};
pub use project_settings::{
    AllowedIps, DefaultEndpointSettings, MaintenanceWindow, ProjectAuditLogLevel, ProjectQuota,
    ProjectSettingsData,
};
pub use role::{
    AuthenticationMethod, Role, RoleCreate, RoleCreateRequest, RoleOperations,
    RolePasswordResponse, RoleResponse, RolesResponse,
};
pub use schema::{
    BranchSchemaCompareResponse, BranchSchemaJson, BranchSchemaQuery, BranchSchemaResponse,
    SchemaColumn, SchemaCompareQuery, SchemaConstraint, SchemaFormat, SchemaReference, SchemaTable,
};
pub use snapshot::{
    FinalizeRestoreRequest, RestoredSnapshot, Snapshot, SnapshotCreateQuery, SnapshotOperations,
    SnapshotResponse, SnapshotRestoreRequest, SnapshotUpdate, SnapshotUpdateRequest,
    SnapshotsResponse,
};

/// Reads `null` as the type's default: the API's server writes an empty list or
/// map either as such or as `null`.
fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + serde::Deserialize<'de>,
{
    use serde::Deserialize;
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
