//! A broker's API, as subcommands call it.

use proto::broker::v1 as pb;
use proto::broker::v1::audit_service_client::AuditServiceClient;
use proto::broker::v1::binding_service_client::BindingServiceClient;
use proto::broker::v1::branch_service_client::BranchServiceClient;
use proto::broker::v1::lease_service_client::LeaseServiceClient;
use proto::broker::v1::migration_service_client::MigrationServiceClient;
use proto::google::longrunning::operations_client::OperationsClient;
use rpc::client::Channel;

use super::client::{Arguments, Error, connect, refused};

/// A client of each service.
pub(super) struct Api {
    pub(super) audit: AuditServiceClient<Channel>,
    pub(super) bindings: BindingServiceClient<Channel>,
    pub(super) branches: BranchServiceClient<Channel>,
    pub(super) leases: LeaseServiceClient<Channel>,
    pub(super) migrations: MigrationServiceClient<Channel>,
    pub(super) operations: OperationsClient<Channel>,
}

impl Api {
    pub(super) async fn connect(broker: &Arguments) -> Result<Api, Error> {
        let channel = connect(broker).await?;
        Ok(Api {
            audit: AuditServiceClient::new(channel.clone()),
            bindings: BindingServiceClient::new(channel.clone()),
            branches: BranchServiceClient::new(channel.clone()),
            leases: LeaseServiceClient::new(channel.clone()),
            migrations: MigrationServiceClient::new(channel.clone()),
            operations: OperationsClient::new(channel),
        })
    }

    /// The branch of that name in Neon, or that resource name.
    pub(super) async fn branch(&mut self, branch: &str) -> Result<pb::Branch, Error> {
        if is_resource(branch) {
            let request = pb::GetBranchRequest {
                name: branch.to_owned(),
            };
            let answer = self.branches.get_branch(request).await;
            let found = answer.map_err(refused)?.into_inner().branch;
            return Ok(found.unwrap_or_default());
        }
        let quoted = branch.replace('\\', "\\\\").replace('"', "\\\"");
        let filter = format!("display_name : \"{quoted}\"");
        let found = self.branches_like(&filter, "").await?;
        let mut found = found.into_iter();
        found
            .find(|found| found.display_name == branch)
            .ok_or_else(|| Error::Refused {
                message: format!("the project has no branch {branch}"),
            })
    }

    /// The resource name of a branch that is named in either way.
    pub(super) async fn branch_name(&mut self, branch: &str) -> Result<String, Error> {
        match is_resource(branch) {
            // To look may not be granted, and need not be.
            true => Ok(branch.to_owned()),
            false => Ok(self.branch(branch).await?.name),
        }
    }

    /// All bindings that the caller may see, by name.
    pub(super) async fn all_bindings(&mut self) -> Result<Vec<pb::Binding>, Error> {
        let mut all = Vec::new();
        let mut page_token = String::new();
        // Each page brings more, so there is a last one.
        loop {
            let request = pb::ListBindingsRequest {
                page_token,
                ..Default::default()
            };
            let page = self.bindings.list_bindings(request).await;
            let page = page.map_err(refused)?.into_inner();
            all.extend(page.bindings);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(all);
            }
        }
    }

    /// All branches that fit.
    pub(super) async fn branches_like(
        &mut self,
        filter: &str,
        order_by: &str,
    ) -> Result<Vec<pb::Branch>, Error> {
        let mut all = Vec::new();
        let mut page_token = String::new();
        // Each page brings more, so there is a last one.
        loop {
            let request = pb::ListBranchesRequest {
                page_token,
                filter: filter.to_owned(),
                order_by: order_by.to_owned(),
                ..Default::default()
            };
            let page = self.branches.list_branches(request).await;
            let page = page.map_err(refused)?.into_inner();
            all.extend(page.branches);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(all);
            }
        }
    }
}

/// So that a call whose answer is lost on the way may be sent again.
pub(super) fn request_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

fn is_resource(branch: &str) -> bool {
    branch.starts_with("branches/")
}
