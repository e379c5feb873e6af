//! Operations.

use super::NeonClient;
use crate::types::{OperationListQuery, OperationResponse, OperationsResponse};
use crate::{Error, OperationId, ProjectId};

impl NeonClient {
    /// A page of a project's operations, newest first.
    ///
    /// # Errors
    /// 404 when the project is not there.
    pub async fn list_operations(
        &self,
        project: &ProjectId,
        query: &OperationListQuery,
    ) -> Result<OperationsResponse, Error> {
        self.get(&["projects", project.as_str(), "operations"])
            .query(query)
            .send()
            .await
    }

    /// One operation.
    ///
    /// # Errors
    /// 404 when it is not there.
    pub async fn get_operation(
        &self,
        project: &ProjectId,
        operation: OperationId,
    ) -> Result<OperationResponse, Error> {
        let operation = operation.to_string();
        self.get(&["projects", project.as_str(), "operations", &operation])
            .send()
            .await
    }
}
