//! Databases of a branch.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Operation;
use crate::BranchId;

/// A database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Database {
    /// Its number.
    pub id: i64,
    /// The branch it is on.
    pub branch_id: BranchId,
    /// Its name.
    pub name: String,
    /// The role that owns it.
    pub owner_name: String,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// One database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseResponse {
    /// The database.
    pub database: Database,
}

/// All databases of a branch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabasesResponse {
    /// The databases.
    #[serde(deserialize_with = "super::null_as_default")]
    pub databases: Vec<Database>,
}

/// A database and what its change set going.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseOperations {
    /// The database.
    pub database: Database,
    /// The change is done when the last of these has finished.
    #[serde(deserialize_with = "super::null_as_default")]
    pub operations: Vec<Operation>,
}

/// Makes a database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseCreateRequest {
    /// The database to make.
    pub database: DatabaseCreate,
}

/// The database to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseCreate {
    /// Its name.
    pub name: String,
    /// The role that is to own it.
    pub owner_name: String,
}

impl DatabaseCreateRequest {
    /// A database of this name, owned by this role.
    pub fn new(name: impl Into<String>, owner_name: impl Into<String>) -> DatabaseCreateRequest {
        DatabaseCreateRequest {
            database: DatabaseCreate {
                name: name.into(),
                owner_name: owner_name.into(),
            },
        }
    }
}

/// Changes a database.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DatabaseUpdateRequest {
    /// What changes.
    pub database: DatabaseUpdate,
}

/// What changes about a database; what is absent stays.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DatabaseUpdate {
    /// Its new name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its new owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner_name: Option<String>,
}
