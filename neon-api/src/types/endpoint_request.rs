//! Requests about compute endpoints.

use serde::{Deserialize, Serialize};

use super::{
    ComputeUnit, EndpointPoolerMode, EndpointSettingsData, EndpointType, Provisioner,
    SuspendTimeoutSeconds,
};
use crate::BranchId;

/// Makes an endpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EndpointCreateRequest {
    /// The endpoint to make.
    pub endpoint: EndpointCreate,
}

/// The endpoint to make.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EndpointCreate {
    /// The branch it is to serve.
    pub branch_id: BranchId,
    /// The region it is to be in. Absent: the project's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region_id: Option<String>,
    /// Read-write or read-only.
    #[serde(rename = "type")]
    pub endpoint_type: EndpointType,
    /// Postgres settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<EndpointSettingsData>,
    /// The least compute it gets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling_limit_min_cu: Option<ComputeUnit>,
    /// The most compute it gets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling_limit_max_cu: Option<ComputeUnit>,
    /// What is to run it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provisioner: Option<Provisioner>,
    /// Deprecated: the pooler is reached by its host name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pooler_enabled: Option<bool>,
    /// Deprecated, and announced to go away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pooler_mode: Option<EndpointPoolerMode>,
    /// Whether it is to take no connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled: Option<bool>,
    /// Whether it can be connected to without a password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passwordless_access: Option<bool>,
    /// After how much idleness it suspends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspend_timeout_seconds: Option<SuspendTimeoutSeconds>,
    /// Its name, 1 to 64 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl EndpointCreateRequest {
    /// A branch's read-write endpoint.
    #[must_use]
    pub fn read_write(branch_id: BranchId) -> EndpointCreateRequest {
        EndpointCreateRequest::new(branch_id, EndpointType::ReadWrite)
    }

    /// A read-only endpoint on a branch.
    #[must_use]
    pub fn read_only(branch_id: BranchId) -> EndpointCreateRequest {
        EndpointCreateRequest::new(branch_id, EndpointType::ReadOnly)
    }

    fn new(branch_id: BranchId, endpoint_type: EndpointType) -> EndpointCreateRequest {
        EndpointCreateRequest {
            endpoint: EndpointCreate {
                branch_id,
                region_id: None,
                endpoint_type,
                settings: None,
                autoscaling_limit_min_cu: None,
                autoscaling_limit_max_cu: None,
                provisioner: None,
                pooler_enabled: None,
                pooler_mode: None,
                disabled: None,
                passwordless_access: None,
                suspend_timeout_seconds: None,
                name: None,
            },
        }
    }
}

/// Changes an endpoint.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct EndpointUpdateRequest {
    /// What changes.
    pub endpoint: EndpointUpdate,
}

/// What changes about an endpoint; what is absent stays.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct EndpointUpdate {
    /// The branch it serves from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch_id: Option<BranchId>,
    /// The least compute it gets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling_limit_min_cu: Option<ComputeUnit>,
    /// The most compute it gets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling_limit_max_cu: Option<ComputeUnit>,
    /// What runs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provisioner: Option<Provisioner>,
    /// Postgres settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<EndpointSettingsData>,
    /// Deprecated: the pooler is reached by its host name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pooler_enabled: Option<bool>,
    /// Deprecated, and announced to go away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pooler_mode: Option<EndpointPoolerMode>,
    /// Whether it takes no connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled: Option<bool>,
    /// Whether it can be connected to without a password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passwordless_access: Option<bool>,
    /// After how much idleness it suspends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspend_timeout_seconds: Option<SuspendTimeoutSeconds>,
    /// Its name, 1 to 64 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}
