//! Requests about branches.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    AnnotationValueData, Change, ComputeUnit, EndpointSettingsData, EndpointType, InitSource,
    Provisioner, SuspendTimeoutSeconds,
};
use crate::BranchId;

/// Makes a branch. Empty, it makes a child of the default branch, with a name
/// that Neon chooses and no endpoint.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct BranchCreateRequest {
    /// The branch to make.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<BranchCreate>,
    /// The endpoints to make for it: at most one read-write.
    #[serde(
        default,
        deserialize_with = "super::null_as_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub endpoints: Vec<BranchCreateRequestEndpointOptions>,
    /// Notes to put on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotation_value: Option<AnnotationValueData>,
}

/// The branch to make.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BranchCreate {
    /// Its parent. Absent: the default branch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_id: Option<BranchId>,
    /// Its name, 1 to 256 characters. Absent: Neon chooses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The place in the parent's log to make it from. Absent: the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_lsn: Option<String>,
    /// The time on the parent to make it from. Absent: now.
    #[serde(
        default,
        deserialize_with = "super::spelling::time",
        skip_serializing_if = "Option::is_none"
    )]
    pub parent_timestamp: Option<Timestamp>,
    /// Whether it is to be protected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protected: Option<bool>,
    /// Whether it is to be made archived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archived: Option<bool>,
    /// What to fill it with. Absent: the parent's data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_source: Option<InitSource>,
    /// When it is to be deleted: at most 30 days ahead, kept to the second.
    #[serde(
        default,
        deserialize_with = "super::spelling::time",
        skip_serializing_if = "Option::is_none"
    )]
    pub expires_at: Option<Timestamp>,
}

impl BranchCreateRequest {
    /// A branch of this name.
    pub fn named(name: impl Into<String>) -> BranchCreateRequest {
        BranchCreateRequest::default().change(|branch| branch.name = Some(name.into()))
    }

    /// Made from this branch.
    #[must_use]
    pub fn parent(self, parent_id: BranchId) -> BranchCreateRequest {
        self.change(|branch| branch.parent_id = Some(parent_id))
    }

    /// Made from this place in the parent's log.
    #[must_use]
    pub fn at_lsn(self, lsn: impl Into<String>) -> BranchCreateRequest {
        self.change(|branch| branch.parent_lsn = Some(lsn.into()))
    }

    /// Made from the parent as it was at this time.
    #[must_use]
    pub fn at_timestamp(self, timestamp: Timestamp) -> BranchCreateRequest {
        self.change(|branch| branch.parent_timestamp = Some(timestamp))
    }

    /// Filled with this.
    #[must_use]
    pub fn init_source(self, init_source: InitSource) -> BranchCreateRequest {
        self.change(|branch| branch.init_source = Some(init_source))
    }

    /// Protected from deletion and reset.
    #[must_use]
    pub fn protected(self) -> BranchCreateRequest {
        self.change(|branch| branch.protected = Some(true))
    }

    /// To be deleted at this time.
    #[must_use]
    pub fn expires_at(self, time: Timestamp) -> BranchCreateRequest {
        self.change(|branch| branch.expires_at = Some(time))
    }

    /// With a read-write endpoint of default settings.
    #[must_use]
    pub fn read_write_endpoint(self) -> BranchCreateRequest {
        self.endpoint(BranchCreateRequestEndpointOptions::new(
            EndpointType::ReadWrite,
        ))
    }

    /// With this endpoint.
    #[must_use]
    pub fn endpoint(mut self, options: BranchCreateRequestEndpointOptions) -> BranchCreateRequest {
        self.endpoints.push(options);
        self
    }

    /// With these notes on it.
    #[must_use]
    pub fn annotation<K, V>(mut self, notes: impl IntoIterator<Item = (K, V)>) -> Self
    where
        K: Into<String>,
        V: Into<String>,
    {
        let notes = notes.into_iter().map(|(k, v)| (k.into(), v.into()));
        self.annotation_value.get_or_insert_default().extend(notes);
        self
    }

    fn change(mut self, change: impl FnOnce(&mut BranchCreate)) -> BranchCreateRequest {
        change(self.branch.get_or_insert_default());
        self
    }
}

/// An endpoint to make together with a branch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BranchCreateRequestEndpointOptions {
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
    /// What runs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provisioner: Option<Provisioner>,
    /// After how much idleness it suspends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspend_timeout_seconds: Option<SuspendTimeoutSeconds>,
}

impl BranchCreateRequestEndpointOptions {
    /// An endpoint of this type with default settings.
    #[must_use]
    pub fn new(endpoint_type: EndpointType) -> BranchCreateRequestEndpointOptions {
        BranchCreateRequestEndpointOptions {
            endpoint_type,
            settings: None,
            autoscaling_limit_min_cu: None,
            autoscaling_limit_max_cu: None,
            provisioner: None,
            suspend_timeout_seconds: None,
        }
    }
}

/// Changes a branch.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BranchUpdateRequest {
    /// What changes.
    pub branch: BranchUpdate,
}

/// What changes about a branch; what is absent stays.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BranchUpdate {
    /// Its new name, 1 to 256 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whether it is protected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protected: Option<bool>,
    /// When it is deleted; cleared, it is not.
    #[serde(
        default,
        deserialize_with = "super::spelling::changed_time",
        skip_serializing_if = "Change::is_keep"
    )]
    pub expires_at: Change<Timestamp>,
}

impl BranchUpdateRequest {
    /// Gives it another name.
    #[must_use]
    pub fn rename(mut self, name: impl Into<String>) -> BranchUpdateRequest {
        self.branch.name = Some(name.into());
        self
    }

    /// Protects it, or ends its protection.
    #[must_use]
    pub fn protected(mut self, protected: bool) -> BranchUpdateRequest {
        self.branch.protected = Some(protected);
        self
    }

    /// Has it deleted at this time.
    #[must_use]
    pub fn expires_at(mut self, time: Timestamp) -> BranchUpdateRequest {
        self.branch.expires_at = Change::Set(time);
        self
    }

    /// Has it deleted at no time.
    #[must_use]
    pub fn never_expires(mut self) -> BranchUpdateRequest {
        self.branch.expires_at = Change::Clear;
        self
    }
}

/// Puts a branch back to an earlier state, its own or another's. Its endpoints
/// stay; their connections drop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BranchRestoreRequest {
    /// The branch whose state is taken.
    pub source_branch_id: BranchId,
    /// As of this place in its log. Absent: the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_lsn: Option<String>,
    /// As of this time.
    #[serde(
        default,
        deserialize_with = "super::spelling::time",
        skip_serializing_if = "Option::is_none"
    )]
    pub source_timestamp: Option<Timestamp>,
    /// Keeps the old state as a branch of this name, children included. Needed
    /// when the branch has children or is its own source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preserve_under_name: Option<String>,
}

impl BranchRestoreRequest {
    /// To this branch's present state.
    #[must_use]
    pub fn from_branch(source_branch_id: BranchId) -> BranchRestoreRequest {
        BranchRestoreRequest {
            source_branch_id,
            source_lsn: None,
            source_timestamp: None,
            preserve_under_name: None,
        }
    }

    /// As of this place in the source's log.
    #[must_use]
    pub fn at_lsn(mut self, lsn: impl Into<String>) -> BranchRestoreRequest {
        self.source_lsn = Some(lsn.into());
        self
    }

    /// As of this time.
    #[must_use]
    pub fn at_timestamp(mut self, timestamp: Timestamp) -> BranchRestoreRequest {
        self.source_timestamp = Some(timestamp);
        self
    }

    /// Keeps the old state as a branch of this name.
    #[must_use]
    pub fn preserve_under_name(mut self, name: impl Into<String>) -> BranchRestoreRequest {
        self.preserve_under_name = Some(name.into());
        self
    }
}

/// Which page of a project's branches.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BranchListQuery {
    /// Only branches whose name or id contains this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub search: Option<String>,
    /// Sorted by this. Absent: by `updated_at`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sort_by: Option<BranchSortField>,
    /// Upwards or downwards. Absent: downwards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sort_order: Option<SortOrder>,
    /// Where the page begins: the last answer's `pagination.next`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// The most branches in the page: 1 to 10,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Whether deleted branches that can be recovered are listed too.
    #[serde(
        default,
        deserialize_with = "super::spelling::flag",
        skip_serializing_if = "Option::is_none"
    )]
    pub include_deleted: Option<bool>,
}

string_enum! {
    /// What branches can be sorted by.
    pub enum BranchSortField {
        /// The name.
        Name = "name",
        /// When it was created.
        CreatedAt = "created_at",
        /// When it last changed.
        UpdatedAt = "updated_at",
    }
}

string_enum! {
    /// Which way a list is sorted.
    pub enum SortOrder {
        /// Upwards.
        Ascending = "asc",
        /// Downwards.
        Descending = "desc",
    }
}
