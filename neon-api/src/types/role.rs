//! Postgres roles of a branch.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Operation;
use crate::{BranchId, Secret};

/// A Postgres role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Role {
    /// The branch it is on.
    pub branch_id: BranchId,
    /// Its name.
    pub name: String,
    /// Its password, in the answers that made one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
    /// Whether it belongs to the system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protected: Option<bool>,
    /// How it proves itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authentication_method: Option<AuthenticationMethod>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

string_enum! {
    /// How a role proves itself.
    pub enum AuthenticationMethod {
        /// By a password.
        Password = "password",
        /// By a token.
        OAuth = "oauth",
        /// Not at all: it cannot log in.
        NoLogin = "no_login",
    }
}

/// One role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleResponse {
    /// The role.
    pub role: Role,
}

/// All roles of a branch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolesResponse {
    /// The roles.
    #[serde(deserialize_with = "super::null_as_default")]
    pub roles: Vec<Role>,
}

/// A role and what its change set going.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleOperations {
    /// The role, with its password when one was made.
    pub role: Role,
    /// The role is ready when the last of these has finished.
    #[serde(deserialize_with = "super::null_as_default")]
    pub operations: Vec<Operation>,
}

/// A role's password.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolePasswordResponse {
    /// The password.
    pub password: Secret,
}

/// Makes a role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleCreateRequest {
    /// The role to make.
    pub role: RoleCreate,
}

/// The role to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleCreate {
    /// Its name.
    pub name: String,
    /// Whether it may not log in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_login: Option<bool>,
}

impl RoleCreateRequest {
    /// A role that can log in, with a password that Neon makes.
    pub fn named(name: impl Into<String>) -> RoleCreateRequest {
        let name = name.into();
        RoleCreateRequest {
            role: RoleCreate {
                name,
                no_login: None,
            },
        }
    }

    /// The role may not log in.
    #[must_use]
    pub fn no_login(mut self) -> RoleCreateRequest {
        self.role.no_login = Some(true);
        self
    }
}
