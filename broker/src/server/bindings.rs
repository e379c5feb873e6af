//! BindingService.

use proto::broker::v1 as pb;
use proto::broker::v1::binding_service_server::BindingService;
use proto::google::longrunning::Operation;
use rpc::status::FieldViolations;
use tonic::{Request, Response, Status};

use super::request::{self, Page};
use super::{Broker, Error, refresh, switch};
use crate::bindings::{Binding, Status as BindingStatus};
use crate::leasing;
use crate::names::{BindingName, BranchResource};
use crate::text::one_line;

const LIST: &str = "broker.v1.BindingService/ListBindings";

#[tonic::async_trait]
impl BindingService for Broker {
    type SwitchBindingStream = switch::Progress;
    type RefreshBindingStream = refresh::Progress;

    async fn list_bindings(
        &self,
        request: Request<pb::ListBindingsRequest>,
    ) -> Result<Response<pb::ListBindingsResponse>, Status> {
        self.rights(&request)?.may_read()?;
        let request = request.into_inner();
        let page = Page::of(
            &self.page_tokens,
            LIST,
            String::new(),
            request.page_size,
            &request.page_token,
        )?;
        let all = self.bindings.list();
        let all = all.iter().map(|binding| self.binding_wire(binding));
        let (bindings, next_page_token) =
            page.cut(&self.page_tokens, all, |item| item.name.clone());
        Ok(Response::new(pb::ListBindingsResponse {
            bindings,
            next_page_token,
        }))
    }

    async fn get_binding(
        &self,
        request: Request<pb::GetBindingRequest>,
    ) -> Result<Response<pb::GetBindingResponse>, Status> {
        let rights = self.rights(&request)?;
        let name: BindingName =
            request::name("name", &request.into_inner().name).map_err(Error::from)?;
        rights.may_see(&name)?;
        let binding = self.bindings.get(&name).ok_or_else(|| not_found(name))?;
        Ok(Response::new(pb::GetBindingResponse {
            binding: Some(self.binding_wire(&binding)),
        }))
    }

    async fn rotate_credentials(
        &self,
        request: Request<pb::RotateCredentialsRequest>,
    ) -> Result<Response<pb::RotateCredentialsResponse>, Status> {
        let rights = self.rights(&request)?;
        rights.may_administer()?;
        let request = request.into_inner();
        let mut violations = FieldViolations::new();
        let name = violations.take(request::name::<BindingName>("name", &request.name));
        let id = violations.take(request::id(&request, rights.caller()));
        let (Some(name), Some(id)) = (name, id) else {
            return Err(Error::from(violations).into());
        };
        let target = self.leasing.ready("name", &name).map_err(Error::from)?;
        let by = rights.caller().to_string();
        let rotated = Box::pin(self.leasing.rotate(&name, &target, by, id)).await;
        rotated.map_err(Error::from)?;
        let binding = self.bindings.get(&name).ok_or_else(|| not_found(name))?;
        Ok(Response::new(pb::RotateCredentialsResponse {
            binding: Some(self.binding_wire(&binding)),
        }))
    }

    async fn switch_binding(
        &self,
        request: Request<pb::SwitchBindingRequest>,
    ) -> Result<Response<switch::Progress>, Status> {
        let rights = self.rights(&request)?;
        rights.may_administer()?;
        let progress = Box::pin(self.switch(&rights, request.into_inner())).await?;
        Ok(Response::new(progress))
    }

    async fn refresh_binding(
        &self,
        request: Request<pb::RefreshBindingRequest>,
    ) -> Result<Response<refresh::Progress>, Status> {
        let rights = self.rights(&request)?;
        rights.may_administer()?;
        let progress = Box::pin(self.refresh(&rights, request.into_inner())).await?;
        Ok(Response::new(progress))
    }

    async fn retire_version(
        &self,
        request: Request<pb::RetireVersionRequest>,
    ) -> Result<Response<Operation>, Status> {
        let rights = self.rights(&request)?;
        rights.may_administer()?;
        Box::pin(self.retire(&rights, request.into_inner())).await
    }
}

impl Broker {
    fn binding_wire(&self, binding: &Binding) -> pb::Binding {
        pb::Binding {
            last_switch: self.last_switch(&binding.spec.name),
            ..wire(binding)
        }
    }
}

fn not_found(name: BindingName) -> Error {
    Error::Leasing(leasing::Error::BindingNotFound {
        field: "name",
        name,
    })
}

fn wire(binding: &Binding) -> pb::Binding {
    let target = binding.target.as_deref();
    // Where it leads is said with the names that it had when that was made so.
    let spec = target.map_or(&binding.spec, |target| &target.spec);
    let behind = binding.behind().map(|behind| one_line(&behind));
    let (state, message) = match &binding.status {
        BindingStatus::Preparing(message) => (pb::BindingState::Preparing, message.as_str()),
        BindingStatus::Ready => match &behind {
            Some(behind) => (pb::BindingState::Failed, behind.as_str()),
            None => (
                pb::BindingState::Ready,
                binding.trouble.as_deref().unwrap_or_default(),
            ),
        },
        BindingStatus::Failed(message) => (pb::BindingState::Failed, message.as_str()),
        BindingStatus::Retired => (pb::BindingState::Retired, "it was retired"),
    };
    pb::Binding {
        name: spec.name.to_string(),
        branch: target
            .map(|target| BranchResource(target.branch.clone()).to_string())
            .unwrap_or_default(),
        branch_display_name: spec.branch.to_string(),
        database: spec.service.database.clone(),
        schema: spec.service.schema.clone(),
        revision: target
            .and_then(|target| target.revision.clone())
            .unwrap_or_default(),
        generation: target.map_or(0, |target| target.generation),
        state: state.into(),
        state_message: message.to_owned(),
        last_switch: None,
    }
}
