//! Requests about projects.

use serde::{Deserialize, Serialize};

use super::{
    AnnotationValueData, ComputeUnit, DefaultEndpointSettings, ProjectSettingsData, Provisioner,
};
use crate::OrganizationId;

/// Makes a project.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ProjectCreateRequest {
    /// The project to make.
    pub project: ProjectCreate,
}

/// The project to make.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ProjectCreate {
    /// Settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<ProjectSettingsData>,
    /// Its name, 1 to 256 characters. Absent: Neon chooses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its first branch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<ProjectCreateBranch>,
    /// The least compute of its first endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling_limit_min_cu: Option<ComputeUnit>,
    /// The most compute of its first endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling_limit_max_cu: Option<ComputeUnit>,
    /// What is to run its endpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provisioner: Option<Provisioner>,
    /// The region it is to be in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region_id: Option<String>,
    /// Settings that its new endpoints get.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_endpoint_settings: Option<DefaultEndpointSettings>,
    /// Postgres's major version: 14 to 18.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pg_version: Option<u16>,
    /// Whether passwords can be revealed later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store_passwords: Option<bool>,
    /// How far back its branches can go, in seconds: at most 2,592,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history_retention_seconds: Option<i64>,
    /// The organization it is to belong to; needed with a personal key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub org_id: Option<OrganizationId>,
}

/// The first branch of a project to make.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ProjectCreateBranch {
    /// Its name. Absent: `main`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its role. Absent: the database's name with `_owner`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role_name: Option<String>,
    /// Its database. Absent: `neondb`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database_name: Option<String>,
    /// Notes to put on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<AnnotationValueData>,
}

impl ProjectCreateRequest {
    /// A project of this name.
    pub fn named(name: impl Into<String>) -> ProjectCreateRequest {
        let mut request = ProjectCreateRequest::default();
        request.project.name = Some(name.into());
        request
    }
}

/// Changes a project.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ProjectUpdateRequest {
    /// What changes.
    pub project: ProjectUpdate,
}

/// What changes about a project; what is absent stays.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ProjectUpdate {
    /// Settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<ProjectSettingsData>,
    /// Its new name, 1 to 256 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Settings that its new endpoints get.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_endpoint_settings: Option<DefaultEndpointSettings>,
    /// How far back its branches can go, in seconds: at most 2,592,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history_retention_seconds: Option<i64>,
}

/// Which page of the account's projects.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ProjectListQuery {
    /// Where the page begins: the last answer's cursor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// The most projects in the page: 1 to 400. Absent: 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Only projects whose name or id contains this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub search: Option<String>,
    /// The organization; needed with a personal key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub org_id: Option<OrganizationId>,
    /// After how many milliseconds Neon answers with what it has: 100 to 30,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u32>,
    /// Whether only deleted projects that can be recovered are listed.
    #[serde(
        default,
        deserialize_with = "super::spelling::flag",
        skip_serializing_if = "Option::is_none"
    )]
    pub recoverable: Option<bool>,
}
