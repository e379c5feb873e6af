//! How to connect to a database.

use serde::{Deserialize, Serialize};

use crate::{BranchId, EndpointId, Secret};

/// A connection, as a URI and in its parts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionDetails {
    /// The connection as a URI, password included.
    pub connection_uri: Secret,
    /// The same in its parts.
    pub connection_parameters: ConnectionParameters,
}

/// The parts of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionParameters {
    /// The database.
    pub database: String,
    /// The role's password.
    pub password: Secret,
    /// The role.
    pub role: String,
    /// The endpoint's host, for a direct connection.
    pub host: String,
    /// The pooler's host.
    pub pooler_host: String,
}

/// A connection URI.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionUriResponse {
    /// The connection as a URI, password included.
    pub uri: Secret,
}

/// Which connection URI.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionUriQuery {
    /// The branch. Absent: the project's default branch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch_id: Option<BranchId>,
    /// The endpoint. Absent: the branch's read-write endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint_id: Option<EndpointId>,
    /// The database.
    pub database_name: String,
    /// The role.
    pub role_name: String,
    /// Whether through the pooler. Absent: not.
    #[serde(
        default,
        deserialize_with = "super::spelling::flag",
        skip_serializing_if = "Option::is_none"
    )]
    pub pooled: Option<bool>,
}

impl ConnectionUriQuery {
    /// A direct connection to the default branch.
    pub fn new(
        database_name: impl Into<String>,
        role_name: impl Into<String>,
    ) -> ConnectionUriQuery {
        ConnectionUriQuery {
            branch_id: None,
            endpoint_id: None,
            database_name: database_name.into(),
            role_name: role_name.into(),
            pooled: None,
        }
    }

    /// On this branch.
    #[must_use]
    pub fn branch(mut self, branch_id: BranchId) -> ConnectionUriQuery {
        self.branch_id = Some(branch_id);
        self
    }

    /// By this endpoint.
    #[must_use]
    pub fn endpoint(mut self, endpoint_id: EndpointId) -> ConnectionUriQuery {
        self.endpoint_id = Some(endpoint_id);
        self
    }

    /// Through the pooler, or not.
    #[must_use]
    pub fn pooled(mut self, pooled: bool) -> ConnectionUriQuery {
        self.pooled = Some(pooled);
        self
    }
}
