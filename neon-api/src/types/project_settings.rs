//! Settings of a project.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{ComputeUnit, PreloadLibraries, SuspendTimeoutSeconds};

/// Settings of a project.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ProjectSettingsData {
    /// How much it may use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<ProjectQuota>,
    /// From where it can be connected to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_ips: Option<AllowedIps>,
    /// Whether `wal_level` is `logical`; cannot be undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enable_logical_replication: Option<bool>,
    /// When Neon may maintain it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maintenance_window: Option<MaintenanceWindow>,
    /// Whether connections from the internet are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_public_connections: Option<bool>,
    /// Whether connections from private networks are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_vpc_connections: Option<bool>,
    /// How much is written to the audit log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit_log_level: Option<ProjectAuditLogLevel>,
    /// Whether it is kept as HIPAA demands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hipaa: Option<bool>,
    /// Libraries that Postgres loads at its start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preload_libraries: Option<PreloadLibraries>,
}

string_enum! {
    /// How much is written to the audit log.
    pub enum ProjectAuditLogLevel {
        /// The least.
        Base = "base",
        /// More.
        Extended = "extended",
        /// Everything.
        Full = "full",
    }
}

/// How much a project may use in a billing period; zero and absence are no limit.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ProjectQuota {
    /// Seconds that its endpoints are active.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_time_seconds: Option<i64>,
    /// CPU seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compute_time_seconds: Option<i64>,
    /// Bytes written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written_data_bytes: Option<i64>,
    /// Bytes sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_transfer_bytes: Option<i64>,
    /// Bytes in each branch, whatever the period.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logical_size_bytes: Option<i64>,
}

/// From where a project can be connected to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AllowedIps {
    /// Addresses and ranges. Empty or absent: from everywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ips: Option<Vec<String>>,
    /// Whether the list is for protected branches alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protected_branches_only: Option<bool>,
}

/// When Neon may maintain a project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaintenanceWindow {
    /// Days of the week, 1 for Monday to 7 for Sunday.
    #[serde(deserialize_with = "super::null_as_default")]
    pub weekdays: Vec<u8>,
    /// Where it begins, `HH:MM` in UTC.
    pub start_time: String,
    /// Where it ends, `HH:MM` in UTC.
    pub end_time: String,
}

/// Settings that a project's new endpoints get.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct DefaultEndpointSettings {
    /// Postgres settings, by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pg_settings: Option<BTreeMap<String, String>>,
    /// Deprecated, and announced to go away: PgBouncer settings, by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pgbouncer_settings: Option<BTreeMap<String, String>>,
    /// The least compute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling_limit_min_cu: Option<ComputeUnit>,
    /// The most compute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling_limit_max_cu: Option<ComputeUnit>,
    /// After how much idleness they suspend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspend_timeout_seconds: Option<SuspendTimeoutSeconds>,
}
