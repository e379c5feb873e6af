//! Branches and their schemas.

use super::NeonClient;
use crate::types::{
    BranchCreateRequest, BranchListQuery, BranchOperations, BranchResponse, BranchRestoreRequest,
    BranchSchemaCompareResponse, BranchSchemaQuery, BranchSchemaResponse, BranchSortField,
    BranchUpdateRequest, BranchesResponse, CreatedBranch, SchemaCompareQuery, SortOrder,
};
use crate::{BranchId, Error, ProjectId, Route};

/// How many branches [`NeonClient::list_all_branches`] asks for at once.
const PAGE_BRANCHES: u32 = 1_000;

/// How many pages it reads: far more than the 5,000 branches that a project can
/// have.
const PAGES_MAX: usize = 100;

impl NeonClient {
    /// A page of a project's branches, with their annotations.
    ///
    /// # Errors
    /// 404 when the project is not there.
    pub async fn list_branches(
        &self,
        project: &ProjectId,
        query: &BranchListQuery,
    ) -> Result<BranchesResponse, Error> {
        self.get(&["projects", project.as_str(), "branches"])
            .query(query)
            .send()
            .await
    }

    /// All branches of a project, with their annotations, oldest first; with
    /// `search`, those whose name or id contains it. One request a page.
    ///
    /// # Errors
    /// As [`NeonClient::list_branches`], and [`Error::TooManyPages`] when the
    /// list does not end.
    pub async fn list_all_branches(
        &self,
        project: &ProjectId,
        search: Option<&str>,
    ) -> Result<BranchesResponse, Error> {
        let mut query = BranchListQuery {
            search: search.map(str::to_owned),
            // Nothing that happens between two pages moves a branch in this
            // order, so none is skipped.
            sort_by: Some(BranchSortField::CreatedAt),
            sort_order: Some(SortOrder::Ascending),
            limit: Some(PAGE_BRANCHES),
            ..BranchListQuery::default()
        };
        let mut all = BranchesResponse::default();
        for _ in 0..PAGES_MAX {
            let page = self.list_branches(project, &query).await?;
            all.branches.extend(page.branches);
            all.annotations.extend(page.annotations);
            let next = page.pagination.and_then(|pagination| pagination.next);
            match next.filter(|cursor| !cursor.is_empty()) {
                Some(cursor) => query.cursor = Some(cursor),
                None => return Ok(all),
            }
        }
        Err(Error::TooManyPages {
            route: Route::new("GET", format!("/projects/{project}/branches")),
            pages_max: PAGES_MAX,
        })
    }

    /// One branch with its annotation.
    ///
    /// # Errors
    /// 404 when it is not there, and for a moment after it was made.
    pub async fn get_branch(
        &self,
        project: &ProjectId,
        branch: &BranchId,
    ) -> Result<BranchResponse, Error> {
        self.get(&["projects", project.as_str(), "branches", branch.as_str()])
            .send()
            .await
    }

    /// Makes a branch. It is usable when the operations have finished.
    ///
    /// # Errors
    /// 409 when the name is taken, 422 when the project has as many branches as
    /// it may have, 423 while other operations are in the way.
    pub async fn create_branch(
        &self,
        project: &ProjectId,
        request: &BranchCreateRequest,
    ) -> Result<CreatedBranch, Error> {
        self.post(&["projects", project.as_str(), "branches"])
            .body(request)
            .send()
            .await
    }

    /// Changes a branch's name, protection or expiry.
    ///
    /// # Errors
    /// 404 when it is not there, 409 when the name is taken.
    pub async fn update_branch(
        &self,
        project: &ProjectId,
        branch: &BranchId,
        request: &BranchUpdateRequest,
    ) -> Result<BranchOperations, Error> {
        self.patch(&["projects", project.as_str(), "branches", branch.as_str()])
            .body(request)
            .send()
            .await
    }

    /// Deletes a branch with its endpoints. `None` when it was not there.
    ///
    /// # Errors
    /// 422 when it has children; it is refused for the default branch and for a
    /// protected one.
    pub async fn delete_branch(
        &self,
        project: &ProjectId,
        branch: &BranchId,
    ) -> Result<Option<BranchOperations>, Error> {
        self.delete(&["projects", project.as_str(), "branches", branch.as_str()])
            .send_delete()
            .await
    }

    /// Puts a branch back to an earlier state, its own or another's.
    ///
    /// # Errors
    /// 404 when either branch is not there, 423 while other operations are in
    /// the way.
    pub async fn restore_branch(
        &self,
        project: &ProjectId,
        branch: &BranchId,
        request: &BranchRestoreRequest,
    ) -> Result<BranchOperations, Error> {
        let (project, branch) = (project.as_str(), branch.as_str());
        self.post(&["projects", project, "branches", branch, "restore"])
            .body(request)
            .send()
            .await
    }

    /// Makes a branch the project's default one.
    ///
    /// # Errors
    /// 404 when it is not there.
    pub async fn set_default_branch(
        &self,
        project: &ProjectId,
        branch: &BranchId,
    ) -> Result<BranchOperations, Error> {
        let (project, branch) = (project.as_str(), branch.as_str());
        self.post(&["projects", project, "branches", branch, "set_as_default"])
            .send()
            .await
    }

    /// A database's schema.
    ///
    /// # Errors
    /// 404 when the branch or the database is not there.
    pub async fn get_branch_schema(
        &self,
        project: &ProjectId,
        branch: &BranchId,
        query: &BranchSchemaQuery,
    ) -> Result<BranchSchemaResponse, Error> {
        let (project, branch) = (project.as_str(), branch.as_str());
        self.get(&["projects", project, "branches", branch, "schema"])
            .query(query)
            .send()
            .await
    }

    /// How a database's schema differs from the one on another branch.
    ///
    /// # Errors
    /// 404 when a branch or the database is not there.
    pub async fn compare_branch_schema(
        &self,
        project: &ProjectId,
        branch: &BranchId,
        query: &SchemaCompareQuery,
    ) -> Result<BranchSchemaCompareResponse, Error> {
        let (project, branch) = (project.as_str(), branch.as_str());
        self.get(&["projects", project, "branches", branch, "compare_schema"])
            .query(query)
            .send()
            .await
    }
}
