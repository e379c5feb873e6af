//! What operations do: from a request, as it is stored, to the work. The same for
//! one that was just asked for as for one whose runner is gone.

use prost::Message;
use proto::broker::v1 as pb;

use super::operations::{BRANCH, EMPTY, any, refused};
use super::{Broker, Error, branch_requests as decode, request};
use crate::branches::{self, Restore};
use crate::names::BranchResource;
use crate::neon::Found;
use crate::operations::{Ended, Record, Work};
use crate::text::one_line;

impl Broker {
    /// Takes up operations whose runner is gone, for ever.
    pub async fn take_up_operations(&self) {
        let broker = self.clone();
        let perform = move |record, work| {
            let broker = broker.clone();
            async move { broker.perform(record, work).await }
        };
        self.operations.take_up(perform).await;
    }

    /// Does the work of an operation.
    pub(super) async fn perform(&self, record: Record, work: Work) -> Ended {
        let operation = record.name;
        match Box::pin(self.perform_or_fail(&record, &work)).await {
            Ok(response) => Ended::Response(response),
            Err(error) => {
                let (method, error_text) = (&record.method, one_line(&error));
                tracing::warn!(%operation, method, error = %error_text, "an operation failed");
                refused(&error.into())
            }
        }
    }

    async fn perform_or_fail(
        &self,
        record: &Record,
        work: &Work,
    ) -> Result<prost_types::Any, Error> {
        let encoded = &*record.request;
        // What was in the future when it was asked for may be past by now.
        let asked_at = record.create_time;
        let branches = &self.branches;
        let found = match record.method.as_str() {
            "CreateBranch" => {
                let new = decode::create(&decoded(encoded)?, asked_at)?;
                let found = branches.create(&new, work).await?;
                work.describe(BranchResource(found.branch.id.clone()).to_string());
                found
            }
            "UpdateBranch" => {
                let update = decode::update(decoded(encoded)?, asked_at)?;
                branches.update(&update, work).await?
            }
            "DeleteBranch" => {
                let which = decode::delete(decoded(encoded)?)?;
                branches.delete(&which, work).await?;
                return Ok(any(EMPTY, &()));
            }
            "ResetBranch" => {
                let restore = decode::reset(decoded(encoded)?)?;
                self.restored(&restore, work).await?
            }
            "RestoreBranch" => {
                let restore = decode::restore(decoded(encoded)?)?;
                self.restored(&restore, work).await?
            }
            "SetDefaultBranch" => {
                let request: pb::SetDefaultBranchRequest = decoded(encoded)?;
                let name: BranchResource = request::name("name", &request.name)?;
                branches.set_default(&name.0, work).await?
            }
            "SwitchBinding" => {
                let request: pb::SwitchBindingRequest = decoded(encoded)?;
                return self.perform_switch(caller(record), &request, work).await;
            }
            "RefreshBinding" => {
                let request: pb::RefreshBindingRequest = decoded(encoded)?;
                return self.perform_refresh(record, &request, work).await;
            }
            "RetireVersion" => {
                let request: pb::RetireVersionRequest = decoded(encoded)?;
                return self.perform_retire(caller(record), &request, work).await;
            }
            _ => return Err(Error::OperationUnknown),
        };
        Ok(any(BRANCH, &self.branch_wire(found)))
    }

    async fn restored(&self, restore: &Restore, work: &Work) -> Result<Found, branches::Error> {
        Box::pin(self.branches.restore(restore, work)).await
    }
}

/// Who asked, for people.
pub(super) fn caller(record: &Record) -> String {
    match record.caller.as_str() {
        "" => "somebody on this machine".to_owned(),
        name => name.to_owned(),
    }
}

/// A request, as this broker or another has stored it.
fn decoded<T: Message + Default>(encoded: &[u8]) -> Result<T, Error> {
    T::decode(encoded).map_err(|_| Error::OperationUnknown)
}
