//! The account: its keys, its user, its organizations, its regions.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::BillingSubscriptionType;
use crate::{OrganizationId, ProjectId, Secret};

/// Makes an API key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKeyCreateRequest {
    /// Its name: at most 64 characters.
    pub key_name: String,
    /// The one project that an organization's key is for. Absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project_id: Option<ProjectId>,
}

/// A new API key: the one answer that shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKeyCreateResponse {
    /// The key's number.
    pub id: i64,
    /// The key.
    pub key: Secret,
    /// Its name.
    pub name: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// Who made it.
    pub created_by: Uuid,
    /// The one project that it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project_id: Option<ProjectId>,
}

/// An API key in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKeyListItem {
    /// The key's number.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// Who made it.
    pub created_by: ApiKeyCreatorData,
    /// When it was last shown. Absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used_at: Option<Timestamp>,
    /// From where it was last shown; empty: never.
    pub last_used_from_addr: String,
    /// The one project that it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project_id: Option<ProjectId>,
}

/// Who made an API key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKeyCreatorData {
    /// The user.
    pub id: Uuid,
    /// The user's name.
    pub name: String,
    /// A picture's address.
    pub image: String,
}

/// An API key that opens nothing any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKeyRevokeResponse {
    /// The key's number.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// Who made it.
    pub created_by: Uuid,
    /// When it was last shown. Absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used_at: Option<Timestamp>,
    /// From where it was last shown; empty: never.
    pub last_used_from_addr: String,
    /// Whether it is revoked.
    pub revoked: bool,
    /// The one project that it was for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project_id: Option<ProjectId>,
}

/// An organization: what projects belong to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Organization {
    /// The organization.
    pub id: OrganizationId,
    /// Its name.
    pub name: String,
    /// Its name in addresses.
    pub handle: String,
    /// What it pays for.
    pub plan: String,
    /// When it was created.
    pub created_at: Timestamp,
    /// What manages it: `console`.
    pub managed_by: String,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// The organizations of a user.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct OrganizationsResponse {
    /// The organizations.
    #[serde(deserialize_with = "super::null_as_default")]
    pub organizations: Vec<Organization>,
}

/// The user whose key was shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CurrentUserInfoResponse {
    /// How many seconds endpoints may be active.
    pub active_seconds_limit: i64,
    /// Who pays. Newer descriptions of the API leave it optional; older clients
    /// need it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub billing_account: Option<BillingAccount>,
    /// Accounts elsewhere that the user logs in with.
    #[serde(deserialize_with = "super::null_as_default")]
    pub auth_accounts: Vec<CurrentUserAuthAccount>,
    /// The user's address.
    pub email: String,
    /// The user.
    pub id: Uuid,
    /// A picture's address.
    pub image: String,
    /// Deprecated for `email`.
    pub login: String,
    /// The user's name.
    pub name: String,
    /// The user's last name.
    pub last_name: String,
    /// How many projects the user may have.
    pub projects_limit: i64,
    /// How many branches a project may have.
    pub branches_limit: i64,
    /// The largest compute; 0: no limit.
    pub max_autoscaling_limit: f64,
    /// What the user pays for.
    pub plan: String,
}

/// Who pays, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BillingAccount {
    /// Whether it is `active`.
    pub state: String,
    /// Where the money is from.
    pub payment_source: PaymentSource,
    /// What is paid for.
    pub subscription_type: BillingSubscriptionType,
    /// How it is paid: `none`, `stripe`.
    pub payment_method: String,
    /// When quotas were last reset.
    pub quota_reset_at_last: Timestamp,
    /// The name on invoices.
    pub name: String,
    /// The address that invoices go to.
    pub email: String,
    /// The city on invoices.
    pub address_city: String,
    /// The country on invoices, by ISO 3166-1.
    pub address_country: String,
    /// The street on invoices.
    pub address_line1: String,
    /// More of it.
    pub address_line2: String,
    /// The postal code on invoices.
    pub address_postal_code: String,
    /// The state or region on invoices.
    pub address_state: String,
}

/// Where the money is from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaymentSource {
    /// `card`; empty: none.
    #[serde(rename = "type")]
    pub source_type: String,
}

/// An account elsewhere that a user logs in with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CurrentUserAuthAccount {
    /// The address there.
    pub email: String,
    /// A picture's address.
    pub image: String,
    /// Deprecated for `email`.
    pub login: String,
    /// The name there.
    pub name: String,
    /// Where: `github`, `google`, `keycloak`.
    pub provider: String,
}

/// What kind of key was shown, and whose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthDetailsResponse {
    /// The user or the organization.
    pub account_id: String,
    /// The kind of key.
    pub auth_method: AuthMethod,
    /// More about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth_data: Option<String>,
}

string_enum! {
    /// How a caller proved itself.
    pub enum AuthMethod {
        /// In the console.
        Keycloak = "keycloak",
        /// In the console, by a cookie.
        SessionCookie = "session_cookie",
        /// By a user's API key.
        ApiKeyUser = "api_key_user",
        /// By an organization's API key.
        ApiKeyOrganization = "api_key_org",
        /// By an OAuth token.
        OAuth = "oauth",
    }
}

/// Where projects can be.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ActiveRegionsResponse {
    /// The regions.
    #[serde(deserialize_with = "super::null_as_default")]
    pub regions: Vec<RegionResponse>,
}

/// A region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionResponse {
    /// The region, as projects name it.
    pub region_id: String,
    /// Its name.
    pub name: String,
    /// Whether new projects are made there.
    pub default: bool,
    /// Its latitude; empty: unknown.
    pub geo_lat: String,
    /// Its longitude; empty: unknown.
    pub geo_long: String,
}

/// Libraries that Postgres can load at its start.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AvailablePreloadLibraries {
    /// The libraries.
    #[serde(default, deserialize_with = "super::null_as_default")]
    pub libraries: Vec<AvailablePreloadLibrary>,
}

/// A library that Postgres can load at its start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AvailablePreloadLibrary {
    /// Its name.
    pub library_name: String,
    /// What it does.
    pub description: String,
    /// Whether it is loaded unless others are asked for.
    pub is_default: bool,
    /// Whether it may still change.
    pub is_experimental: bool,
    /// Its version.
    pub version: String,
}
