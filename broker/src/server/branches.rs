//! BranchService.

use std::time::SystemTime;

use jiff::Timestamp;
use neon_api::types::BranchState;
use proto::broker::v1 as pb;
use proto::broker::v1::branch_service_server::BranchService;
use proto::google::longrunning::Operation;
use rpc::filter::{self, Field, Filter, Kind, Order, Value};
use tonic::{Request, Response, Status};

use super::branch_requests as decode;
use super::request::{self, Page};
use super::{Broker, Error};
use crate::branches::etag;
use crate::names::BranchResource;
use crate::neon::Found;

const LIST: &str = "broker.v1.BranchService/ListBranches";
/// What a list can be narrowed by.
const FIELDS: [Field; 8] = [
    ("display_name", Kind::Text),
    ("parent", Kind::Text),
    ("state", Kind::Text),
    ("default", Kind::Flag),
    ("protected", Kind::Flag),
    ("managed", Kind::Flag),
    ("create_time", Kind::Time),
    ("expire_time", Kind::Time),
];
/// What it can be sorted by.
const SORTED: [&str; 3] = ["display_name", "create_time", "expire_time"];

/// Where a branch is in a list: by what was asked for, then by its id.
type Key = (filter::Key, String);

#[tonic::async_trait]
impl BranchService for Broker {
    async fn list_branches(
        &self,
        request: Request<pb::ListBranchesRequest>,
    ) -> Result<Response<pb::ListBranchesResponse>, Status> {
        self.rights(&request)?.may_read()?;
        let request = request.into_inner();
        let filter = Filter::parse(&request.filter, &FIELDS).map_err(Error::from)?;
        let order = Order::parse(&request.order_by, &SORTED, "display_name");
        let order = order.map_err(Error::from)?;
        let page = Page::<Key>::of(
            &self.page_tokens,
            LIST,
            format!("{}\n{}", request.order_by, request.filter),
            request.page_size,
            &request.page_token,
        )?;
        let all = self.branches.all().await.map_err(Error::from)?;
        let fitting = all
            .into_iter()
            .filter(|found| filter.fits(|field| value(found, field)));
        let mut fitting: Vec<(Key, Found)> = fitting
            .map(|found| {
                let id = found.branch.id.to_string();
                ((order.key(|field| value(&found, field)), id), found)
            })
            .collect();
        fitting.sort_by(|(one, _), (other, _)| one.cmp(other));
        let (found, next_page_token) = page.cut(&self.page_tokens, fitting, |(key, _)| key.clone());
        let branches = found
            .into_iter()
            .map(|(_, found)| self.branch_wire(found))
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
        let found = self.branches.get("name", &name.0).await;
        Ok(Response::new(pb::GetBranchResponse {
            branch: Some(self.branch_wire(found.map_err(Error::from)?)),
        }))
    }

    async fn create_branch(
        &self,
        request: Request<pb::CreateBranchRequest>,
    ) -> Result<Response<Operation>, Status> {
        let rights = self.rights(&request)?;
        rights.may_administer()?;
        let request = request.into_inner();
        let new = decode::create(&request, self.now())?;
        let asked = Broker::asked(&rights, &request, String::new())?;
        let check = async { self.branches.check_create(&new).await.map(|_| ()) };
        self.operate(asked, check).await
    }

    async fn update_branch(
        &self,
        request: Request<pb::UpdateBranchRequest>,
    ) -> Result<Response<pb::UpdateBranchResponse>, Status> {
        let rights = self.rights(&request)?;
        rights.may_administer()?;
        let request = request.into_inner();
        let update = decode::update(request.clone(), self.now())?;
        let name = BranchResource(update.which.id.clone()).to_string();
        let asked = Broker::asked(&rights, &request, name)?;
        let check = self.branches.check_update(&update);
        let branch = self.answer(asked, check).await?;
        Ok(Response::new(pb::UpdateBranchResponse { branch }))
    }

    async fn delete_branch(
        &self,
        request: Request<pb::DeleteBranchRequest>,
    ) -> Result<Response<Operation>, Status> {
        let rights = self.rights(&request)?;
        rights.may_administer()?;
        let request = request.into_inner();
        let which = decode::delete(request.clone())?;
        let asked = Broker::asked(&rights, &request, request.name.clone())?;
        self.operate(asked, self.branches.check_delete(&which))
            .await
    }

    async fn reset_branch(
        &self,
        request: Request<pb::ResetBranchRequest>,
    ) -> Result<Response<Operation>, Status> {
        let rights = self.rights(&request)?;
        rights.may_administer()?;
        let request = request.into_inner();
        let restore = decode::reset(request.clone())?;
        let asked = Broker::asked(&rights, &request, request.name.clone())?;
        self.operate(asked, self.branches.check_restore(&restore))
            .await
    }

    async fn restore_branch(
        &self,
        request: Request<pb::RestoreBranchRequest>,
    ) -> Result<Response<Operation>, Status> {
        let rights = self.rights(&request)?;
        rights.may_administer()?;
        let request = request.into_inner();
        let restore = decode::restore(request.clone())?;
        let asked = Broker::asked(&rights, &request, request.name.clone())?;
        self.operate(asked, self.branches.check_restore(&restore))
            .await
    }

    async fn set_default_branch(
        &self,
        request: Request<pb::SetDefaultBranchRequest>,
    ) -> Result<Response<pb::SetDefaultBranchResponse>, Status> {
        let rights = self.rights(&request)?;
        rights.may_administer()?;
        let request = request.into_inner();
        let name: BranchResource = request::name("name", &request.name).map_err(Error::from)?;
        let asked = Broker::asked(&rights, &request, request.name.clone())?;
        let check = self.branches.check_set_default(&name.0);
        let branch = self.answer(asked, check).await?;
        Ok(Response::new(pb::SetDefaultBranchResponse { branch }))
    }

    async fn get_schema(
        &self,
        request: Request<pb::GetSchemaRequest>,
    ) -> Result<Response<pb::GetSchemaResponse>, Status> {
        self.rights(&request)?.may_read()?;
        let (id, point, database) = decode::schema(request.into_inner())?;
        let schema = self.branches.schema(&id, point.as_ref(), &database).await;
        let schema = schema.map_err(Error::from)?;
        Ok(Response::new(pb::GetSchemaResponse { schema }))
    }

    async fn compare_schemas(
        &self,
        request: Request<pb::CompareSchemasRequest>,
    ) -> Result<Response<pb::CompareSchemasResponse>, Status> {
        self.rights(&request)?.may_read()?;
        let decode::Compare {
            id,
            point,
            base,
            database,
        } = decode::compare(request.into_inner())?;
        let comparing = self.branches.compare(&id, point.as_ref(), &base, &database);
        let diff = comparing.await.map_err(Error::from)?;
        Ok(Response::new(pb::CompareSchemasResponse { diff }))
    }
}

impl Broker {
    pub(super) fn branch_wire(&self, found: Found) -> pb::Branch {
        let etag = etag(&found.branch);
        let Found {
            branch, managed, ..
        } = found;
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
            etag,
            reset_time: branch.last_reset_at.map(time),
        }
    }

    fn now(&self) -> Timestamp {
        crate::state::now(&self.clock)
    }
}

/// A time on the wire.
pub(super) fn time(time: Timestamp) -> prost_types::Timestamp {
    SystemTime::from(time).into()
}

/// What a branch has in one of [`FIELDS`].
fn value(found: &Found, field: &str) -> Option<Value> {
    let branch = &found.branch;
    match field {
        "display_name" => Some(Value::Text(branch.name.clone())),
        "parent" => {
            let parent = branch.parent_id.clone();
            let parent = parent.map(|parent| BranchResource(parent).to_string());
            Some(Value::Text(parent.unwrap_or_default()))
        }
        "state" => {
            let name = state(&branch.current_state).as_str_name();
            let name = name.trim_start_matches("BRANCH_STATE_");
            Some(Value::Text(name.to_owned()))
        }
        "default" => Some(Value::Flag(branch.default)),
        "protected" => Some(Value::Flag(branch.protected)),
        "managed" => Some(Value::Flag(found.managed)),
        "create_time" => Some(Value::Time(branch.created_at)),
        _ => branch.expires_at.map(Value::Time),
    }
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
