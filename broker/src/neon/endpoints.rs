//! Endpoints and operations.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::time::Duration;

use neon_api::types::{Endpoint, EndpointCreateRequest, EndpointState, EndpointType, Operation};
use neon_api::{BranchId, EndpointId};

use super::retry::Asked;
use super::{Error, Neon, Turn};

/// How long an operation is followed, in seconds. A compute starts in one or
/// two; Neon's own tools give up after 300.
const OPERATION_SECONDS_MAX: u64 = 300;
/// Pauses between looks at an operation, in milliseconds.
const OPERATION_POLL_MS_MIN: u64 = 25;
const OPERATION_POLL_MS_MAX: u64 = 1_000;

/// What an endpoint is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum EndpointKind {
    /// To read and to write; a branch has one at most.
    ReadWrite,
    /// To read, from a replica.
    ReadOnly,
}

impl EndpointKind {
    /// None for one that takes no connections, or of a kind that is not known here.
    fn of(endpoint: &Endpoint) -> Option<EndpointKind> {
        match endpoint.endpoint_type {
            EndpointType::ReadWrite => Some(EndpointKind::ReadWrite),
            // One that is disabled is as good as none.
            EndpointType::ReadOnly if !endpoint.disabled => Some(EndpointKind::ReadOnly),
            EndpointType::ReadOnly | EndpointType::Unknown(_) => None,
        }
    }
}

impl fmt::Display for EndpointKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            EndpointKind::ReadWrite => "read-write",
            EndpointKind::ReadOnly => "read-only",
        })
    }
}

impl Neon {
    /// The kinds of endpoints that a branch has.
    pub async fn endpoints(&self, branch: &BranchId) -> Result<BTreeSet<EndpointKind>, Error> {
        let all = self.endpoints_of(branch).await?;
        Ok(all.iter().filter_map(EndpointKind::of).collect())
    }

    /// The read-only endpoint of a branch that its leases are told: the oldest, so that
    /// it stays the same when another comes.
    pub(super) async fn replica(&self, branch: &BranchId) -> Result<Option<EndpointId>, Error> {
        let all = self.endpoints_of(branch).await?.into_iter();
        let reading = all.filter(|one| EndpointKind::of(one) == Some(EndpointKind::ReadOnly));
        let oldest = reading.min_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        Ok(oldest.map(|endpoint| endpoint.id))
    }

    async fn endpoints_of(&self, branch: &BranchId) -> Result<Vec<Endpoint>, Error> {
        let what = format!("list the endpoints of the branch {branch}");
        let asked = Asked {
            route: "GET /projects/{project_id}/branches/{branch_id}/endpoints",
            what: &what,
        };
        let (client, project) = self.place();
        let list = || client.list_branch_endpoints(project, branch);
        Ok(self.read_of_new(asked, list).await?.endpoints)
    }

    /// Branches with a read-write endpoint, and whether that is awake.
    pub async fn endpoints_awake(&self) -> Result<HashMap<BranchId, bool>, Error> {
        let asked = Asked {
            route: "GET /projects/{project_id}/endpoints",
            what: "list the endpoints of the project",
        };
        let (client, project) = self.place();
        let endpoints = self.read(asked, || client.list_endpoints(project)).await?;
        let writing = endpoints.endpoints.into_iter();
        let writing = writing.filter(|one| one.endpoint_type == EndpointType::ReadWrite);
        let awake = writing.map(|one| (one.branch_id, one.current_state != EndpointState::Idle));
        Ok(awake.collect())
    }

    /// Gives a branch an endpoint of that kind unless it has one; true when it was
    /// made now.
    pub async fn endpoint_ensure(
        &self,
        branch: &BranchId,
        kind: EndpointKind,
    ) -> Result<bool, Error> {
        let has = || async { Ok::<_, Error>(self.endpoints(branch).await?.contains(&kind)) };
        if has().await? {
            return Ok(false);
        }
        let what = format!("create a {kind} endpoint for the branch {branch}");
        let asked = Asked {
            route: "POST /projects/{project_id}/endpoints",
            what: &what,
        };
        let request = match kind {
            EndpointKind::ReadWrite => EndpointCreateRequest::read_write(branch.clone()),
            EndpointKind::ReadOnly => EndpointCreateRequest::read_only(branch.clone()),
        };
        let (client, project) = self.place();
        let _turn = self.turn().await?;
        // Neon takes any number of read-only ones: who had the turn before may have made
        // it.
        if has().await? {
            return Ok(false);
        }
        let creating = self.mutate(asked, || client.create_endpoint(project, &request));
        match creating.await {
            Ok(created) => {
                self.operations_follow(branch, &created.operations).await?;
                tracing::debug!(%branch, endpoint = %created.endpoint.id, "created an endpoint");
                Ok(true)
            }
            // If it is there now, this made it or somebody else did, and either will do.
            Err(error) if error.is_conflict() || error.outcome_is_unknown() => {
                let look = || async { Ok(has().await?.then_some(false)) };
                self.look_for_lost(look).await?.ok_or(error)
            }
            Err(error) => Err(error),
        }
    }

    /// Deletes the endpoints of a branch, whatever they are. One that is gone meanwhile is
    /// none any more.
    pub async fn endpoints_delete(&self, branch: &BranchId, _turn: &Turn) -> Result<(), Error> {
        let (client, project) = self.place();
        for endpoint in self.endpoints_of(branch).await? {
            let id = &endpoint.id;
            let what = format!("delete the endpoint {id} of the branch {branch}");
            let asked = Asked {
                route: "DELETE /projects/{project_id}/endpoints/{endpoint_id}",
                what: &what,
            };
            let deleting = self.mutate(asked, || client.delete_endpoint(project, id));
            let deleted = match deleting.await {
                // Deleted twice it is as gone as once.
                Err(error) if error.outcome_is_unknown() => {
                    self.mutate(asked, || client.delete_endpoint(project, id))
                        .await
                }
                answered => answered,
            };
            if let Some(begun) = deleted? {
                self.operations_follow(branch, &begun.operations).await?;
            }
        }
        Ok(())
    }

    /// Waits until each operation has ended well.
    pub(super) async fn operations_follow(
        &self,
        branch: &BranchId,
        operations: &[Operation],
    ) -> Result<(), Error> {
        let waited = Duration::from_secs(OPERATION_SECONDS_MAX);
        let deadline = tokio::time::Instant::now() + waited;
        for operation in operations {
            let mut operation = operation.clone();
            let mut pause = Duration::from_millis(OPERATION_POLL_MS_MIN);
            while !operation.status.is_success() {
                if operation.status.is_failure() {
                    return Err(failed(branch, operation));
                }
                if tokio::time::Instant::now() >= deadline {
                    return Err(slow(branch, operation, waited));
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_millis(OPERATION_POLL_MS_MAX));
                operation = self.operation(branch, &operation).await?;
            }
        }
        Ok(())
    }

    async fn operation(&self, branch: &BranchId, known: &Operation) -> Result<Operation, Error> {
        let what = format!("follow an operation on the branch {branch}");
        let asked = Asked {
            route: "GET /projects/{project_id}/operations/{operation_id}",
            what: &what,
        };
        let (client, project) = self.place();
        let get = || client.get_operation(project, known.id);
        Ok(self.read_of_new(asked, get).await?.operation)
    }
}

fn failed(branch: &BranchId, operation: Operation) -> Error {
    Error::OperationFailed {
        operation: operation.id,
        action: operation.action.to_string(),
        branch: branch.clone(),
        status: operation.status.to_string(),
        message: operation.error.unwrap_or_default(),
    }
}

fn slow(branch: &BranchId, operation: Operation, waited: Duration) -> Error {
    Error::OperationSlow {
        operation: operation.id,
        action: operation.action.to_string(),
        branch: branch.clone(),
        status: operation.status.to_string(),
        waited,
    }
}

#[cfg(test)]
mod tests;
