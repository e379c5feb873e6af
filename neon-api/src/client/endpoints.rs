//! Compute endpoints.

use super::NeonClient;
use crate::types::{
    EndpointCreateRequest, EndpointOperations, EndpointResponse, EndpointUpdateRequest,
    EndpointsResponse,
};
use crate::{BranchId, EndpointId, Error, ProjectId};

impl NeonClient {
    /// All endpoints of a branch.
    ///
    /// # Errors
    /// 404 when the branch is not there.
    pub async fn list_branch_endpoints(
        &self,
        project: &ProjectId,
        branch: &BranchId,
    ) -> Result<EndpointsResponse, Error> {
        let (project, branch) = (project.as_str(), branch.as_str());
        self.get(&["projects", project, "branches", branch, "endpoints"])
            .send()
            .await
    }

    /// All endpoints of a project.
    ///
    /// # Errors
    /// 404 when the project is not there.
    pub async fn list_endpoints(&self, project: &ProjectId) -> Result<EndpointsResponse, Error> {
        self.get(&["projects", project.as_str(), "endpoints"])
            .send()
            .await
    }

    /// One endpoint.
    ///
    /// # Errors
    /// 404 when it is not there.
    pub async fn get_endpoint(
        &self,
        project: &ProjectId,
        endpoint: &EndpointId,
    ) -> Result<EndpointResponse, Error> {
        self.get(&["projects", project.as_str(), "endpoints", endpoint.as_str()])
            .send()
            .await
    }

    /// Makes an endpoint on a branch.
    ///
    /// # Errors
    /// 409 when it is to be read-write and the branch has such a one.
    pub async fn create_endpoint(
        &self,
        project: &ProjectId,
        request: &EndpointCreateRequest,
    ) -> Result<EndpointOperations, Error> {
        self.post(&["projects", project.as_str(), "endpoints"])
            .body(request)
            .send()
            .await
    }

    /// Changes an endpoint. It is usable when the operations have finished.
    ///
    /// # Errors
    /// 404 when it is not there, 412 when the account's plan does not allow it.
    pub async fn update_endpoint(
        &self,
        project: &ProjectId,
        endpoint: &EndpointId,
        request: &EndpointUpdateRequest,
    ) -> Result<EndpointOperations, Error> {
        self.patch(&["projects", project.as_str(), "endpoints", endpoint.as_str()])
            .body(request)
            .send()
            .await
    }

    /// Deletes an endpoint; its connections drop. `None` when it was not there.
    ///
    /// # Errors
    /// It is refused while its branch is protected.
    pub async fn delete_endpoint(
        &self,
        project: &ProjectId,
        endpoint: &EndpointId,
    ) -> Result<Option<EndpointOperations>, Error> {
        self.delete(&["projects", project.as_str(), "endpoints", endpoint.as_str()])
            .send_delete()
            .await
    }

    /// Starts an endpoint. It is usable when the operations have finished.
    ///
    /// # Errors
    /// 404 when it is not there, 423 while it changes state.
    pub async fn start_endpoint(
        &self,
        project: &ProjectId,
        endpoint: &EndpointId,
    ) -> Result<EndpointOperations, Error> {
        self.endpoint_action(project, endpoint, "start").await
    }

    /// Suspends an endpoint; its connections drop, and the next one wakes it.
    ///
    /// # Errors
    /// 404 when it is not there, 423 while it changes state.
    pub async fn suspend_endpoint(
        &self,
        project: &ProjectId,
        endpoint: &EndpointId,
    ) -> Result<EndpointOperations, Error> {
        self.endpoint_action(project, endpoint, "suspend").await
    }

    /// Suspends an endpoint and starts it again.
    ///
    /// # Errors
    /// 404 when it is not there, 423 while it changes state.
    pub async fn restart_endpoint(
        &self,
        project: &ProjectId,
        endpoint: &EndpointId,
    ) -> Result<EndpointOperations, Error> {
        self.endpoint_action(project, endpoint, "restart").await
    }

    async fn endpoint_action(
        &self,
        project: &ProjectId,
        endpoint: &EndpointId,
        action: &str,
    ) -> Result<EndpointOperations, Error> {
        let (project, endpoint) = (project.as_str(), endpoint.as_str());
        self.post(&["projects", project, "endpoints", endpoint, action])
            .send()
            .await
    }
}
