//! The body of every answer that is an error.

use serde::{Deserialize, Serialize};

/// What the API says of a request that it did not carry out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GeneralError {
    /// Identifies the request to Neon's support.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// A name for the kind of error, `BRANCH_ALREADY_EXISTS`; often empty.
    #[serde(default, deserialize_with = "super::null_as_default")]
    pub code: String,
    /// The error in words.
    pub message: String,
}
