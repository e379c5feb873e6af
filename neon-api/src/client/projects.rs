//! Projects.

use super::NeonClient;
use crate::types::{
    CreatedProject, ProjectCreateRequest, ProjectListQuery, ProjectOperations, ProjectResponse,
    ProjectUpdateRequest, ProjectsResponse,
};
use crate::{Error, ProjectId};

impl NeonClient {
    /// A page of the account's projects.
    ///
    /// # Errors
    /// 400 when the key is a person's and `org_id` is missing.
    pub async fn list_projects(&self, query: &ProjectListQuery) -> Result<ProjectsResponse, Error> {
        self.get(&["projects"]).query(query).send().await
    }

    /// One project.
    ///
    /// # Errors
    /// 404 when it is not there.
    pub async fn get_project(&self, project: &ProjectId) -> Result<ProjectResponse, Error> {
        self.get(&["projects", project.as_str()]).send().await
    }

    /// Makes a project with a branch, a role, a database and an endpoint.
    ///
    /// # Errors
    /// 422 when the account has as many as it may have.
    pub async fn create_project(
        &self,
        request: &ProjectCreateRequest,
    ) -> Result<CreatedProject, Error> {
        self.post(&["projects"]).body(request).send().await
    }

    /// Changes a project.
    ///
    /// # Errors
    /// 404 when it is not there.
    pub async fn update_project(
        &self,
        project: &ProjectId,
        request: &ProjectUpdateRequest,
    ) -> Result<ProjectOperations, Error> {
        self.patch(&["projects", project.as_str()])
            .body(request)
            .send()
            .await
    }

    /// Deletes a project with all that is in it.
    ///
    /// # Errors
    /// 404 when it is not there; it is refused while a branch is protected.
    pub async fn delete_project(&self, project: &ProjectId) -> Result<ProjectResponse, Error> {
        self.delete(&["projects", project.as_str()]).send().await
    }
}
