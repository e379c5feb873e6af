//! Compute endpoints, as answers have them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Operation;
use crate::{BranchId, EndpointId, ProjectId};

/// An amount of compute: one is a CPU with 4 GB; at least 0.25.
pub type ComputeUnit = f64;

/// After how many idle seconds an endpoint suspends: 0 for Neon's default of
/// 300, -1 for never, else 60 to 604,800.
pub type SuspendTimeoutSeconds = i64;

/// A compute endpoint: a Postgres process in front of a branch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The host to connect to.
    pub host: String,
    /// The endpoint.
    pub id: EndpointId,
    /// Its name, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The project it is in.
    pub project_id: ProjectId,
    /// The branch it serves.
    pub branch_id: BranchId,
    /// The least compute it gets.
    pub autoscaling_limit_min_cu: ComputeUnit,
    /// The most compute it gets.
    pub autoscaling_limit_max_cu: ComputeUnit,
    /// The region it is in.
    pub region_id: String,
    /// Read-write or read-only.
    #[serde(rename = "type")]
    pub endpoint_type: EndpointType,
    /// The state it is in.
    pub current_state: EndpointState,
    /// The state it is going to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending_state: Option<EndpointState>,
    /// Postgres settings.
    pub settings: EndpointSettingsData,
    /// Deprecated: the pooler is reached by its host name.
    #[serde(default)]
    pub pooler_enabled: bool,
    /// Deprecated, and announced to go away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pooler_mode: Option<EndpointPoolerMode>,
    /// Whether it takes no connections.
    pub disabled: bool,
    /// Whether it can be connected to without a password.
    pub passwordless_access: bool,
    /// When it was last active.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_active: Option<Timestamp>,
    /// What made it: `console`, `api`.
    pub creation_source: String,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// When it was last started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When it was last suspended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspended_at: Option<Timestamp>,
    /// Deprecated for `host`.
    #[serde(default)]
    pub proxy_host: String,
    /// After how much idleness it suspends.
    pub suspend_timeout_seconds: SuspendTimeoutSeconds,
    /// What runs it.
    pub provisioner: Provisioner,
    /// The version of the compute it runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compute_release_version: Option<String>,
}

string_enum! {
    /// The state of an endpoint.
    pub enum EndpointState {
        /// Is being made.
        Init = "init",
        /// Runs.
        Active = "active",
        /// Is suspended; a connection wakes it.
        Idle = "idle",
    }
}

string_enum! {
    /// What an endpoint lets its clients do.
    pub enum EndpointType {
        /// Read.
        ReadOnly = "read_only",
        /// Read and write; a branch has at most one.
        ReadWrite = "read_write",
    }
}

string_enum! {
    /// Deprecated: how the pooler shares connections.
    pub enum EndpointPoolerMode {
        /// By transaction.
        Transaction = "transaction",
    }
}

string_enum! {
    /// What runs a compute.
    pub enum Provisioner {
        /// A pod of fixed size.
        K8sPod = "k8s-pod",
        /// A virtual machine that can grow.
        K8sNeonvm = "k8s-neonvm",
        /// The serverless platform.
        ServerlessPlatform = "serverless-platform",
    }
}

/// Settings of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct EndpointSettingsData {
    /// Postgres settings, by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pg_settings: Option<BTreeMap<String, String>>,
    /// Deprecated, and announced to go away: PgBouncer settings, by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pgbouncer_settings: Option<BTreeMap<String, String>>,
    /// Libraries that Postgres loads at its start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preload_libraries: Option<PreloadLibraries>,
}

/// Libraries that Postgres loads at its start.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PreloadLibraries {
    /// Whether Neon's usual ones are loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub use_defaults: Option<bool>,
    /// Others, by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled_libraries: Option<Vec<String>>,
}

/// One endpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EndpointResponse {
    /// The endpoint.
    pub endpoint: Endpoint,
}

/// All endpoints of a project or a branch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EndpointsResponse {
    /// The endpoints.
    #[serde(deserialize_with = "super::null_as_default")]
    pub endpoints: Vec<Endpoint>,
}

/// An endpoint and what its change set going.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EndpointOperations {
    /// The endpoint.
    pub endpoint: Endpoint,
    /// The change is done when the last of these has finished.
    #[serde(deserialize_with = "super::null_as_default")]
    pub operations: Vec<Operation>,
}
