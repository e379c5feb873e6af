//! The one account that an emulator has: a user, an organization, and keys.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use jiff::Timestamp;
use neon_api::types::{BillingSubscriptionType, ProjectOwnerData};
use neon_api::{OrganizationId, ProjectId};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::api::ApiError;
use crate::limits::Limits;
use crate::new;

/// The user. The same everywhere: scripts may name it.
pub(crate) const USER_ID: Uuid = Uuid::from_u128(0x6e65_6f6e_0000_4000_8000_0000_0000_0001);
/// The user's name.
pub(crate) const USER_NAME: &str = "local";
/// The user's address.
pub(crate) const USER_EMAIL: &str = "local@example.com";
/// What the account pays for: limits are those of this plan unless set.
pub(crate) const PLAN: &str = "scale";
const ORGANIZATION_ID: &str = "org-calm-sea-12345678";
/// The organization's name.
pub(crate) const ORGANIZATION_NAME: &str = "Local";

/// The organization that every project belongs to. The same everywhere.
pub(crate) fn organization() -> Result<OrganizationId, ApiError> {
    new::id(ORGANIZATION_ID.to_owned())
}

/// Whose every project is, in full.
pub(crate) fn owner(limits: &Limits) -> ProjectOwnerData {
    ProjectOwnerData {
        email: USER_EMAIL.to_owned(),
        name: ORGANIZATION_NAME.to_owned(),
        branches_limit: limits.branches.into(),
        subscription_type: BillingSubscriptionType::Scale,
    }
}

/// An API key, but not the key itself: what it is known by.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ApiKeyRecord {
    pub(crate) id: i64,
    pub(crate) name: String,
    /// Of the key. Not salted: nobody guesses 64 random characters.
    pub(crate) sha256: String,
    pub(crate) created_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last_used_at: Option<Timestamp>,
    pub(crate) owner: KeyOwner,
}

/// Whose a key is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum KeyOwner {
    /// The user's.
    User,
    /// The organization's.
    Organization {
        /// The one project that it opens. `None`: all.
        project: Option<ProjectId>,
    },
}

impl KeyOwner {
    /// The one project that the key opens.
    pub(crate) fn project(&self) -> Option<&ProjectId> {
        match self {
            Self::User => None,
            Self::Organization { project } => project.as_ref(),
        }
    }
}

/// What a key is known by.
pub(crate) fn fingerprint(key: &str) -> String {
    STANDARD_NO_PAD.encode(Sha256::digest(key.as_bytes()))
}
