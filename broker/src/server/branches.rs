//! BranchService.

use std::time::SystemTime;

use jiff::Timestamp;
use neon_api::types::BranchState;
use proto::broker::v1 as pb;
use proto::broker::v1::branch_service_server::BranchService;
use tonic::{Request, Response, Status};

use super::request::{self, Page};
use super::{Broker, Error};
use crate::names::BranchResource;
use crate::neon::Found;

const LIST: &str = "broker.v1.BranchService/ListBranches";

#[tonic::async_trait]
impl BranchService for Broker {
    async fn list_branches(
        &self,
        request: Request<pb::ListBranchesRequest>,
    ) -> Result<Response<pb::ListBranchesResponse>, Status> {
        self.rights(&request)?.may_read()?;
        let request = request.into_inner();
        let page = Page::of(
            &self.page_tokens,
            LIST,
            request.page_size,
            &request.page_token,
        )?;
        let all = self.keeper.neon().branches().await.map_err(Error::from)?;
        let (found, next_page_token) = page.cut(&self.page_tokens, all, |found| &found.branch.name);
        let branches = found
            .into_iter()
            .map(|found| self.branch_wire(found))
            .collect();
        Ok(Response::new(pb::ListBranchesResponse {
            branches,
            next_page_token,
        }))
    }

    async fn get_branch(
        &self,
        request: Request<pb::GetBranchRequest>,
    ) -> Result<Response<pb::GetBranchResponse>, Status> {
        self.rights(&request)?.may_read()?;
        let name: BranchResource =
            request::name("name", &request.into_inner().name).map_err(Error::from)?;
        let found = self
            .keeper
            .neon()
            .branch(&name.0)
            .await
            .map_err(Error::from)?;
        let found = found.ok_or(Error::BranchNotFound(name))?;
        Ok(Response::new(pb::GetBranchResponse {
            branch: Some(self.branch_wire(found)),
        }))
    }
}

impl Broker {
    fn branch_wire(&self, found: Found) -> pb::Branch {
        let Found { branch, managed } = found;
        let bindings = self.bindings.list();
        let leads_here = bindings.iter().filter(|binding| {
            binding
                .target
                .as_deref()
                .is_some_and(|target| target.branch == branch.id)
        });
        pb::Branch {
            bindings: leads_here
                .map(|binding| binding.spec.name.to_string())
                .collect(),
            name: BranchResource(branch.id).to_string(),
            display_name: branch.name,
            parent: branch
                .parent_id
                .map(|parent| BranchResource(parent).to_string())
                .unwrap_or_default(),
            parent_lsn: branch.parent_lsn.unwrap_or_default(),
            state: state(&branch.current_state).into(),
            default: branch.default,
            protected: branch.protected,
            managed,
            create_time: Some(time(branch.created_at)),
            expire_time: branch.expires_at.map(time),
            logical_size_bytes: branch.logical_size,
        }
    }
}

/// A time on the wire.
pub(super) fn time(time: Timestamp) -> prost_types::Timestamp {
    SystemTime::from(time).into()
}

fn state(state: &BranchState) -> pb::BranchState {
    match state {
        BranchState::Init => pb::BranchState::Init,
        BranchState::Resetting => pb::BranchState::Resetting,
        BranchState::Ready => pb::BranchState::Ready,
        BranchState::Archived => pb::BranchState::Archived,
        BranchState::Unknown(_) => pb::BranchState::Unspecified,
    }
}
