//! tonic's client, as services have it, for what takes much longer than it does.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use prost::Message as _;
use proto::broker::v1 as pb;
use proto::broker::v1::acquire_lease_request::Target;
use proto::broker::v1::binding_service_client::BindingServiceClient;
use proto::broker::v1::branch_service_client::BranchServiceClient;
use proto::broker::v1::lease_service_client::LeaseServiceClient;
use proto::google::longrunning::operation::Result as Ended;
use proto::google::longrunning::operations_client::OperationsClient;
use proto::google::longrunning::{Operation, WaitOperationRequest};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

/// The binding that is looked at, and leased by one holder after another.
pub(super) const BINDING: &str = "services/users/versions/v1";
/// Far beyond what making a branch takes.
const BRANCH_SECONDS_MAX: u64 = 60;

#[derive(Debug, Clone)]
pub(super) struct Client {
    leases: LeaseServiceClient<Channel>,
    bindings: BindingServiceClient<Channel>,
    branches: BranchServiceClient<Channel>,
    operations: OperationsClient<Channel>,
}

impl Client {
    /// So many, each with a connection of its own.
    pub(super) async fn connect(address: &str, count: usize) -> anyhow::Result<Vec<Self>> {
        let mut clients = Vec::new();
        for _ in 0..count {
            let channel = suite::channel(address).await?;
            clients.push(Self {
                leases: LeaseServiceClient::new(channel.clone()),
                bindings: BindingServiceClient::new(channel.clone()),
                branches: BranchServiceClient::new(channel.clone()),
                operations: OperationsClient::new(channel),
            });
        }
        Ok(clients)
    }

    /// The new lease's name.
    pub(super) async fn acquire(&mut self, binding: &str, holder: &str) -> anyhow::Result<String> {
        let request = pb::AcquireLeaseRequest {
            target: Some(Target::Binding(binding.to_owned())),
            holder: holder.to_owned(),
            ..pb::AcquireLeaseRequest::default()
        };
        let answer = self.leases.acquire_lease(request).await?.into_inner();
        Ok(answer.lease.context("a lease")?.name)
    }

    /// The name of a new lease with a branch of its own.
    pub(super) async fn acquire_ephemeral(&mut self, parent: &str) -> anyhow::Result<String> {
        let request = pb::AcquireLeaseRequest {
            target: Some(Target::Ephemeral(pb::EphemeralBranch {
                parent: parent.to_owned(),
                ..pb::EphemeralBranch::default()
            })),
            holder: "bench".to_owned(),
            ..pb::AcquireLeaseRequest::default()
        };
        let answer = self.leases.acquire_lease(request).await?.into_inner();
        Ok(answer.lease.context("a lease")?.name)
    }

    pub(super) async fn release(&mut self, lease: String) -> anyhow::Result<()> {
        let request = pb::ReleaseLeaseRequest {
            name: lease,
            ..pb::ReleaseLeaseRequest::default()
        };
        self.leases.release_lease(request).await?;
        Ok(())
    }

    pub(super) async fn renew(&mut self, lease: String) -> anyhow::Result<()> {
        let request = pb::RenewLeaseRequest {
            name: lease,
            ..pb::RenewLeaseRequest::default()
        };
        self.leases.renew_lease(request).await?;
        Ok(())
    }

    /// Opens a watch: what it is told.
    pub(super) async fn watch(
        &mut self,
        requests: ReceiverStream<pb::WatchBindingRequest>,
    ) -> anyhow::Result<Streaming<pb::WatchBindingResponse>> {
        Ok(self.leases.watch_binding(requests).await?.into_inner())
    }

    pub(super) async fn binding(&mut self, name: &str) -> anyhow::Result<pb::Binding> {
        let request = pb::GetBindingRequest {
            name: name.to_owned(),
        };
        let answer = self.bindings.get_binding(request).await?.into_inner();
        answer.binding.context("a binding")
    }

    pub(super) async fn rotate(&mut self, binding: &str) -> anyhow::Result<()> {
        let request = pb::RotateCredentialsRequest {
            name: binding.to_owned(),
            ..pb::RotateCredentialsRequest::default()
        };
        self.bindings.rotate_credentials(request).await?;
        Ok(())
    }

    /// Returns when all who watch have drained what was before.
    pub(super) async fn switch(&mut self, binding: &str, branch: &str) -> anyhow::Result<()> {
        let request = pb::SwitchBindingRequest {
            name: binding.to_owned(),
            branch: branch.to_owned(),
            ..pb::SwitchBindingRequest::default()
        };
        let mut answers = self.bindings.switch_binding(request).await?.into_inner();
        let mut phase = pb::SwitchPhase::Unspecified;
        while let Some(answer) = answers.message().await? {
            phase = answer.switch.context("a switch")?.phase();
        }
        ensure!(phase == pb::SwitchPhase::Done, "the switch is {phase:?}");
        Ok(())
    }

    /// Makes a branch of a branch: its resource name.
    pub(super) async fn fork(&mut self, name: &str, parent: &str) -> anyhow::Result<String> {
        let request = pb::CreateBranchRequest {
            branch: Some(pb::Branch {
                display_name: name.to_owned(),
                parent: parent.to_owned(),
                ..pb::Branch::default()
            }),
            ..pb::CreateBranchRequest::default()
        };
        let operation = self.branches.create_branch(request).await?.into_inner();
        self.branch_of(operation).await
    }

    /// Makes a branch of that name, or finds it: what the call answers.
    pub(super) async fn create(&mut self, name: &str) -> anyhow::Result<Operation> {
        let request = pb::CreateBranchRequest {
            branch: Some(pb::Branch {
                display_name: name.to_owned(),
                ..pb::Branch::default()
            }),
            ..pb::CreateBranchRequest::default()
        };
        Ok(self.branches.create_branch(request).await?.into_inner())
    }

    /// The resource name of the branch that an operation made or found.
    pub(super) async fn branch_of(&mut self, operation: Operation) -> anyhow::Result<String> {
        let done = match operation.done {
            true => operation,
            false => {
                let timeout = Duration::from_secs(BRANCH_SECONDS_MAX).try_into()?;
                let request = WaitOperationRequest {
                    name: operation.name,
                    timeout: Some(timeout),
                };
                self.operations.wait_operation(request).await?.into_inner()
            }
        };
        match done.result {
            Some(Ended::Response(any)) => Ok(pb::Branch::decode(&*any.value)?.name),
            Some(Ended::Error(status)) => bail!("{}", status.message),
            None => bail!("{} goes on after {BRANCH_SECONDS_MAX} s", done.name),
        }
    }
}
