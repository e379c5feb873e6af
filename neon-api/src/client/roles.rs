//! Postgres roles of a branch, and their passwords.

use super::NeonClient;
use crate::types::{
    RoleCreateRequest, RoleOperations, RolePasswordResponse, RoleResponse, RolesResponse,
};
use crate::{BranchId, Error, ProjectId};

impl NeonClient {
    /// All roles of a branch.
    ///
    /// # Errors
    /// 404 when the branch is not there.
    pub async fn list_roles(
        &self,
        project: &ProjectId,
        branch: &BranchId,
    ) -> Result<RolesResponse, Error> {
        self.get(&list_path(project, branch)).send().await
    }

    /// One role.
    ///
    /// # Errors
    /// 404 when it is not there.
    pub async fn get_role(
        &self,
        project: &ProjectId,
        branch: &BranchId,
        role: &str,
    ) -> Result<RoleResponse, Error> {
        self.get(&path(project, branch, role)).send().await
    }

    /// Makes a role, with a password unless it cannot log in. The endpoint's
    /// connections drop.
    ///
    /// # Errors
    /// 409 when the name is taken.
    pub async fn create_role(
        &self,
        project: &ProjectId,
        branch: &BranchId,
        request: &RoleCreateRequest,
    ) -> Result<RoleOperations, Error> {
        self.post(&list_path(project, branch))
            .body(request)
            .send()
            .await
    }

    /// Deletes a role. `None` when it was not there.
    ///
    /// # Errors
    /// 404 when the branch is not there.
    pub async fn delete_role(
        &self,
        project: &ProjectId,
        branch: &BranchId,
        role: &str,
    ) -> Result<Option<RoleOperations>, Error> {
        self.delete(&path(project, branch, role))
            .send_delete()
            .await
    }

    /// A role's password.
    ///
    /// # Errors
    /// 404 when the role is not there, 412 when the project stores no passwords.
    pub async fn reveal_role_password(
        &self,
        project: &ProjectId,
        branch: &BranchId,
        role: &str,
    ) -> Result<RolePasswordResponse, Error> {
        let [projects, project, branches, branch, roles, role] = path(project, branch, role);
        self.get(&[
            projects,
            project,
            branches,
            branch,
            roles,
            role,
            "reveal_password",
        ])
        .send()
        .await
    }

    /// Gives a role a new password. The old one works until the operations have
    /// finished; then the endpoint's connections drop.
    ///
    /// # Errors
    /// 404 when the role is not there, 423 while other operations are in the
    /// way.
    pub async fn reset_role_password(
        &self,
        project: &ProjectId,
        branch: &BranchId,
        role: &str,
    ) -> Result<RoleOperations, Error> {
        let [projects, project, branches, branch, roles, role] = path(project, branch, role);
        self.post(&[
            projects,
            project,
            branches,
            branch,
            roles,
            role,
            "reset_password",
        ])
        .send()
        .await
    }
}

fn list_path<'a>(project: &'a ProjectId, branch: &'a BranchId) -> [&'a str; 5] {
    [
        "projects",
        project.as_str(),
        "branches",
        branch.as_str(),
        "roles",
    ]
}

fn path<'a>(project: &'a ProjectId, branch: &'a BranchId, role: &'a str) -> [&'a str; 6] {
    let [projects, project, branches, branch, roles] = list_path(project, branch);
    [projects, project, branches, branch, roles, role]
}
