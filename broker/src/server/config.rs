//! ConfigService.

use std::sync::Arc;

use proto::broker::v1 as pb;
use proto::broker::v1::config_service_server::ConfigService;
use tonic::{Request, Response, Status};

use super::{Broker, Error};
use crate::config::Config;
use crate::reconcile::{Action, Step};

#[tonic::async_trait]
impl ConfigService for Broker {
    async fn plan(
        &self,
        request: Request<pb::PlanRequest>,
    ) -> Result<Response<pb::PlanResponse>, Status> {
        self.rights(&request)?.may_administer()?;
        let pb::PlanRequest { prune } = request.into_inner();
        let plan = self.keeper.plan().await.map_err(Error::from)?;
        let pruning = self.branches.plan_prune(&plan.config, prune).await;
        let (deletions, kept) = pruning.map_err(Error::from)?;
        let remarks = plan.remarks.iter().chain(&kept);
        Ok(Response::new(pb::PlanResponse {
            steps: plan.steps.iter().chain(&deletions).map(wire).collect(),
            remarks: remarks
                .map(|remark| format!("{}: {}", remark.binding, remark.text))
                .collect(),
        }))
    }

    async fn apply(
        &self,
        request: Request<pb::ApplyRequest>,
    ) -> Result<Response<pb::ApplyResponse>, Status> {
        self.rights(&request)?.may_administer()?;
        let pb::ApplyRequest { prune } = request.into_inner();
        let branches = self.branches.clone();
        let last = async move |config: Arc<Config>| match prune {
            true => branches.prune(&config).await.map_err(Error::from),
            false => Ok(Vec::new()),
        };
        let steps = self.keeper.apply(last).await?;
        Ok(Response::new(pb::ApplyResponse {
            steps: steps.iter().map(wire).collect(),
        }))
    }
}

fn wire(step: &Step) -> pb::Step {
    let action = match step.action {
        Action::CreateBranch { .. } => pb::StepAction::CreateBranch,
        Action::CreateEndpoint { .. } => pb::StepAction::CreateEndpoint,
        Action::Migrate { .. } => pb::StepAction::Migrate,
        Action::Seed { .. } => pb::StepAction::Seed,
        Action::Grant => pb::StepAction::Grant,
        Action::DeleteBranch => pb::StepAction::DeleteBranch,
    };
    pb::Step {
        binding: step.binding.to_string(),
        action: action.into(),
        description: step.to_string(),
    }
}
