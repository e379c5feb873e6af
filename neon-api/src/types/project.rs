//! Projects, as answers have them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    Branch, ConnectionDetails, Database, DefaultEndpointSettings, Endpoint, Operation, Pagination,
    ProjectSettingsData, Provisioner, Role,
};
use crate::{OrganizationId, ProjectId};

/// A project: what branches, endpoints, roles and databases belong to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Project {
    /// Bytes times hours stored in this billing period.
    pub data_storage_bytes_hour: i64,
    /// Bytes sent in this billing period.
    pub data_transfer_bytes: i64,
    /// Bytes written in this billing period.
    pub written_data_bytes: i64,
    /// CPU seconds in this billing period.
    pub compute_time_seconds: i64,
    /// Seconds that its endpoints were active in this billing period.
    pub active_time_seconds: i64,
    /// Deprecated: CPU seconds in this billing period.
    #[serde(default)]
    pub cpu_used_sec: i64,
    /// The project.
    pub id: ProjectId,
    /// The cloud it is in: `aws`.
    pub platform_id: String,
    /// The region it is in.
    pub region_id: String,
    /// Its name.
    pub name: String,
    /// What runs its endpoints.
    pub provisioner: Provisioner,
    /// Settings that its new endpoints get.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_endpoint_settings: Option<DefaultEndpointSettings>,
    /// Its settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<ProjectSettingsData>,
    /// Postgres's major version.
    pub pg_version: u16,
    /// The host of its proxy.
    pub proxy_host: String,
    /// How large a branch can be, in MiB.
    pub branch_logical_size_limit: i64,
    /// How large a branch can be, in bytes.
    pub branch_logical_size_limit_bytes: i64,
    /// Whether passwords can be revealed.
    pub store_passwords: bool,
    /// When maintenance begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maintenance_starts_at: Option<Timestamp>,
    /// What made it: `console`, `api`.
    pub creation_source: String,
    /// How far back its branches can go, in seconds.
    pub history_retention_seconds: i64,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// What it takes up in storage, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub synthetic_storage_size: Option<i64>,
    /// When the billing period began.
    pub consumption_period_start: Timestamp,
    /// When the billing period ends.
    pub consumption_period_end: Timestamp,
    /// Deprecated for `consumption_period_end`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota_reset_at: Option<Timestamp>,
    /// Whose it is.
    pub owner_id: String,
    /// Whose it is, in full.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<ProjectOwnerData>,
    /// When an endpoint of it was last active.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compute_last_active_at: Option<Timestamp>,
    /// The organization it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub org_id: Option<OrganizationId>,
    /// When an update begins, at which computes may restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maintenance_scheduled_for: Option<Timestamp>,
    /// Since when it is kept as HIPAA demands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hipaa_enabled_at: Option<Timestamp>,
    /// What the key's owner may do with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective_project_permission: Option<ProjectPermissionLevel>,
}

/// A project in a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProjectListItem {
    /// The project.
    pub id: ProjectId,
    /// The cloud it is in: `aws`.
    pub platform_id: String,
    /// The region it is in.
    pub region_id: String,
    /// Its name.
    pub name: String,
    /// What runs its endpoints.
    pub provisioner: Provisioner,
    /// Settings that its new endpoints get.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_endpoint_settings: Option<DefaultEndpointSettings>,
    /// Its settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<ProjectSettingsData>,
    /// Postgres's major version.
    pub pg_version: u16,
    /// The host of its proxy.
    pub proxy_host: String,
    /// How large a branch can be, in MiB.
    pub branch_logical_size_limit: i64,
    /// How large a branch can be, in bytes.
    pub branch_logical_size_limit_bytes: i64,
    /// Whether passwords can be revealed.
    pub store_passwords: bool,
    /// Seconds that its endpoints were active.
    pub active_time: i64,
    /// Deprecated: CPU seconds.
    #[serde(default)]
    pub cpu_used_sec: i64,
    /// When maintenance begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maintenance_starts_at: Option<Timestamp>,
    /// What made it: `console`, `api`.
    pub creation_source: String,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// What it takes up in storage, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub synthetic_storage_size: Option<i64>,
    /// Deprecated: the end of the billing period.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota_reset_at: Option<Timestamp>,
    /// Whose it is.
    pub owner_id: String,
    /// When an endpoint of it was last active.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compute_last_active_at: Option<Timestamp>,
    /// The organization it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub org_id: Option<OrganizationId>,
    /// That organization's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub org_name: Option<String>,
    /// How far back its branches can go, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history_retention_seconds: Option<i64>,
    /// Since when it is kept as HIPAA demands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hipaa_enabled_at: Option<Timestamp>,
    /// When it was deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted_at: Option<Timestamp>,
    /// Until when it can be recovered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recoverable_until: Option<Timestamp>,
    /// What the key's owner may do with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective_project_permission: Option<ProjectPermissionLevel>,
}

/// Whose a project is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProjectOwnerData {
    /// The owner's address.
    pub email: String,
    /// The owner's name.
    pub name: String,
    /// How many branches the owner may have.
    pub branches_limit: i64,
    /// What the owner pays for.
    pub subscription_type: BillingSubscriptionType,
}

string_enum! {
    /// What an account pays for.
    pub enum BillingSubscriptionType {
        /// Agreed upon with Neon.
        DirectSales = "direct_sales",
        /// Agreed upon with Neon, third edition.
        DirectSalesV3 = "direct_sales_v3",
        /// Bought in AWS's marketplace.
        AwsMarketplace = "aws_marketplace",
        /// Nothing, second edition.
        FreeV2 = "free_v2",
        /// Nothing, third edition.
        FreeV3 = "free_v3",
        /// Launch.
        Launch = "launch",
        /// Launch, third edition.
        LaunchV3 = "launch_v3",
        /// Scale.
        Scale = "scale",
        /// Scale, third edition.
        ScaleV3 = "scale_v3",
        /// Business.
        Business = "business",
        /// Vercel's former Postgres.
        VercelPgLegacy = "vercel_pg_legacy",
    }
}

string_enum! {
    /// What the key's owner may do with a project.
    pub enum ProjectPermissionLevel {
        /// Look.
        CanView = "CAN_VIEW",
        /// Change.
        CanEdit = "CAN_EDIT",
        /// Everything.
        CanManage = "CAN_MANAGE",
    }
}

string_enum! {
    /// An application that is tied to a project.
    pub enum ApplicationType {
        /// Vercel.
        Vercel = "vercel",
        /// GitHub.
        Github = "github",
        /// Datadog.
        Datadog = "datadog",
        /// OpenTelemetry.
        OpenTelemetry = "opentelemetry",
    }
}

/// One project.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProjectResponse {
    /// The project.
    pub project: Project,
}

/// A project and what its change set going.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProjectOperations {
    /// The project.
    pub project: Project,
    /// The change is done when the last of these has finished.
    #[serde(deserialize_with = "super::null_as_default")]
    pub operations: Vec<Operation>,
}

/// A page of projects.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ProjectsResponse {
    /// The projects.
    #[serde(deserialize_with = "super::null_as_default")]
    pub projects: Vec<ProjectListItem>,
    /// Projects that exist and could not be read in time.
    #[serde(
        default,
        deserialize_with = "super::null_as_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub unavailable_project_ids: Vec<ProjectId>,
    /// Where the next page begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pagination: Option<Pagination>,
    /// Applications, by project.
    #[serde(default, deserialize_with = "super::null_as_default")]
    pub applications: BTreeMap<ProjectId, Vec<ApplicationType>>,
    /// Integrations, by project.
    #[serde(default, deserialize_with = "super::null_as_default")]
    pub integrations: BTreeMap<ProjectId, Vec<ApplicationType>>,
}

/// A new project and what came with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CreatedProject {
    /// The project.
    pub project: Project,
    /// How to connect to its first branch.
    #[serde(deserialize_with = "super::null_as_default")]
    pub connection_uris: Vec<ConnectionDetails>,
    /// The first branch's roles, with their passwords.
    #[serde(deserialize_with = "super::null_as_default")]
    pub roles: Vec<Role>,
    /// The first branch's databases.
    #[serde(deserialize_with = "super::null_as_default")]
    pub databases: Vec<Database>,
    /// The project is ready when the last of these has finished.
    #[serde(deserialize_with = "super::null_as_default")]
    pub operations: Vec<Operation>,
    /// The first branch.
    pub branch: Branch,
    /// The first branch's endpoints.
    #[serde(deserialize_with = "super::null_as_default")]
    pub endpoints: Vec<Endpoint>,
}
