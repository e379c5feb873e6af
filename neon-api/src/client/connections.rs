//! Connection URIs.

use super::NeonClient;
use crate::types::{ConnectionUriQuery, ConnectionUriResponse};
use crate::{Error, ProjectId};

impl NeonClient {
    /// The URI to connect to a database as a role, password included.
    ///
    /// # Errors
    /// 404 when the branch, the endpoint, the database or the role is not there.
    pub async fn get_connection_uri(
        &self,
        project: &ProjectId,
        query: &ConnectionUriQuery,
    ) -> Result<ConnectionUriResponse, Error> {
        self.get(&["projects", project.as_str(), "connection_uri"])
            .query(query)
            .send()
            .await
    }
}
