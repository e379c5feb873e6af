//! Databases of a branch.

use super::NeonClient;
use crate::types::{
    DatabaseCreateRequest, DatabaseOperations, DatabaseResponse, DatabaseUpdateRequest,
    DatabasesResponse,
};
use crate::{BranchId, Error, ProjectId};

impl NeonClient {
    /// All databases of a branch.
    ///
    /// # Errors
    /// 404 when the branch is not there.
    pub async fn list_databases(
        &self,
        project: &ProjectId,
        branch: &BranchId,
    ) -> Result<DatabasesResponse, Error> {
        self.get(&list_path(project, branch)).send().await
    }

    /// One database.
    ///
    /// # Errors
    /// 404 when it is not there.
    pub async fn get_database(
        &self,
        project: &ProjectId,
        branch: &BranchId,
        database: &str,
    ) -> Result<DatabaseResponse, Error> {
        self.get(&path(project, branch, database)).send().await
    }

    /// Makes a database. It is there when the operations have finished.
    ///
    /// # Errors
    /// 409 when the name is taken.
    pub async fn create_database(
        &self,
        project: &ProjectId,
        branch: &BranchId,
        request: &DatabaseCreateRequest,
    ) -> Result<DatabaseOperations, Error> {
        self.post(&list_path(project, branch))
            .body(request)
            .send()
            .await
    }

    /// Changes a database's name or owner.
    ///
    /// # Errors
    /// 404 when it is not there, 409 when the name is taken.
    pub async fn update_database(
        &self,
        project: &ProjectId,
        branch: &BranchId,
        database: &str,
        request: &DatabaseUpdateRequest,
    ) -> Result<DatabaseOperations, Error> {
        self.patch(&path(project, branch, database))
            .body(request)
            .send()
            .await
    }

    /// Deletes a database. `None` when it was not there.
    ///
    /// # Errors
    /// 404 when the branch is not there.
    pub async fn delete_database(
        &self,
        project: &ProjectId,
        branch: &BranchId,
        database: &str,
    ) -> Result<Option<DatabaseOperations>, Error> {
        self.delete(&path(project, branch, database))
            .send_delete()
            .await
    }
}

fn list_path<'a>(project: &'a ProjectId, branch: &'a BranchId) -> [&'a str; 5] {
    [
        "projects",
        project.as_str(),
        "branches",
        branch.as_str(),
        "databases",
    ]
}

fn path<'a>(project: &'a ProjectId, branch: &'a BranchId, database: &'a str) -> [&'a str; 6] {
    let [projects, project, branches, branch, databases] = list_path(project, branch);
    [projects, project, branches, branch, databases, database]
}
