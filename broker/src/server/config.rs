//! ConfigService.

use proto::broker::v1 as pb;
use proto::broker::v1::config_service_server::ConfigService;
use tonic::{Request, Response, Status};

use super::{Broker, Error};
use crate::reconcile::{Action, Step};

#[tonic::async_trait]
impl ConfigService for Broker {
    async fn plan(
        &self,
        request: Request<pb::PlanRequest>,
    ) -> Result<Response<pb::PlanResponse>, Status> {
        self.rights(&request)?.may_administer()?;
        let (steps, remarks) = self.keeper.plan().await.map_err(Error::from)?;
        let remarks = remarks.iter();
        Ok(Response::new(pb::PlanResponse {
            steps: steps.iter().map(wire).collect(),
            remarks: remarks
                .map(|remark| format!("{}: {remark}", remark.binding))
                .collect(),
        }))
    }

    async fn apply(
        &self,
        request: Request<pb::ApplyRequest>,
    ) -> Result<Response<pb::ApplyResponse>, Status> {
        self.rights(&request)?.may_administer()?;
        let steps = self.keeper.apply().await.map_err(Error::from)?;
        Ok(Response::new(pb::ApplyResponse {
            steps: steps.iter().map(wire).collect(),
        }))
    }
}

fn wire(step: &Step) -> pb::Step {
    let action = match step.action {
        Action::CreateBranch { .. } => pb::StepAction::CreateBranch,
        Action::CreateEndpoint => pb::StepAction::CreateEndpoint,
        Action::Migrate { .. } => pb::StepAction::Migrate,
        Action::Seed { .. } => pb::StepAction::Seed,
        Action::Grant => pb::StepAction::Grant,
    };
    pb::Step {
        binding: step.binding.to_string(),
        action: action.into(),
        description: step.to_string(),
    }
}
