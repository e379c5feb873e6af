//! RetireVersion.

use std::time::Duration;

use prost_types::Any;
use proto::broker::v1 as pb;
use proto::google::longrunning::Operation;
use rpc::status::FieldViolations;
use tonic::{Response, Status};

use super::operations::any;
use super::request;
use super::rights::Rights;
use super::switch::timeout;
use super::{Broker, Error};
use crate::branches::End;
use crate::names::{BindingName, BranchResource};
use crate::operations::Work;
use crate::retire::Retire;

/// The type of what it ends with.
const RETIRED: &str = "broker.v1.RetireVersionResponse";

impl Broker {
    /// Begins to end a version, or finds that.
    pub(super) async fn retire(
        &self,
        rights: &Rights,
        request: pb::RetireVersionRequest,
    ) -> Result<Response<Operation>, Status> {
        let retire = decode(&request, rights.caller().to_string())?;
        let asked = Broker::asked(rights, &request, String::new())?;
        let check = self.retirement.check(&retire);
        self.operate(asked, check).await
    }

    /// The work of RetireVersion.
    pub(super) async fn perform_retire(
        &self,
        by: String,
        request: &pb::RetireVersionRequest,
        work: &Work,
    ) -> Result<Any, Error> {
        let retire = decode(request, by)?;
        let retired = Box::pin(self.retirement.run(&retire, work)).await?;
        let branch = BranchResource(retired.branch).to_string();
        let answer = match retired.end {
            End::Deleted => pb::RetireVersionResponse {
                branch,
                deleted: true,
                ..pb::RetireVersionResponse::default()
            },
            End::Waits { name, children } => pb::RetireVersionResponse {
                branch,
                deleted: false,
                branch_display_name: name,
                children: children
                    .into_iter()
                    .map(|child| BranchResource(child).to_string())
                    .collect(),
            },
        };
        Ok(any(RETIRED, &answer))
    }
}

fn decode(request: &pb::RetireVersionRequest, by: String) -> Result<Retire, Error> {
    let mut violations = FieldViolations::new();
    let binding = violations.take(request::name::<BindingName>("name", &request.name));
    let drain = request.drain_timeout;
    let drain = drain.map(|given| timeout("drain_timeout", Some(given), 0));
    let drain = violations.take::<Option<Duration>>(drain.transpose());
    let new_default = &request.new_default_branch;
    let new_default = (!new_default.is_empty())
        .then(|| request::name::<BranchResource>("new_default_branch", new_default));
    let new_default = violations.take::<Option<BranchResource>>(new_default.transpose());
    let (Some(binding), Some(drain_timeout), Some(new_default)) = (binding, drain, new_default)
    else {
        return Err(violations.into());
    };
    Ok(Retire {
        binding,
        drain_timeout,
        new_default: new_default.map(|branch| branch.0),
        by,
    })
}
