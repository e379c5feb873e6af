//! Branches through the broker's API: made, changed, given other data, deleted,
//! compared, listed; and what is refused.

mod command_line;
mod faults;
mod killed;
mod ledger;
mod lists;
mod made;
mod operations;
mod refused;
mod renewed;
mod shared;

use anyhow::{Context, ensure};
use prost::Message;
use proto::broker::v1 as pb;
use proto::broker::v1::branch_service_client::BranchServiceClient;
use proto::google::longrunning::operation::Result as Ended;
use proto::google::longrunning::operations_client::OperationsClient;
use proto::google::longrunning::{Operation, WaitOperationRequest};
use suite::{Broker, EmulatorProcess, Faults, Folder};
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

/// A broker that declares nothing, on an emulator that can be asked for faults.
struct Place {
    emulator: EmulatorProcess,
    broker: Broker,
    faults: Faults,
    branches: BranchServiceClient<Channel>,
    operations: OperationsClient<Channel>,
    folder: Folder,
}

impl Place {
    async fn start() -> anyhow::Result<Self> {
        let folder = Folder::new()?;
        let emulator = EmulatorProcess::start_with_admin(&folder.join("data")).await?;
        let config = folder.join("broker.toml");
        std::fs::write(&config, "[leases]\n")?;
        let broker = Broker::start(&folder, &emulator, &config).await?;
        broker.is_ready().await?;
        Ok(Self {
            faults: Faults::of(&emulator),
            branches: broker.branches().await?,
            operations: broker.operations().await?,
            emulator,
            broker,
            folder,
        })
    }

    /// Kills the broker and starts it again.
    async fn kill_and_start(self) -> anyhow::Result<Self> {
        let broker = self.broker.kill_and_start().await?;
        broker.is_ready().await?;
        Ok(Self {
            branches: broker.branches().await?,
            operations: broker.operations().await?,
            broker,
            ..self
        })
    }

    async fn stop(self) -> anyhow::Result<()> {
        self.broker.process.stop().await?;
        self.emulator.stop().await
    }

    /// Makes a branch and waits for it.
    async fn make(&self, name: &str) -> anyhow::Result<pb::Branch> {
        let begun = self.branches.clone().create_branch(create(name)).await;
        branch(self.end(begun).await?)
    }

    /// How an operation ended that was begun.
    async fn end(&self, begun: Result<Response<Operation>, Status>) -> anyhow::Result<Ended> {
        let mut operation = begun?.into_inner();
        while !operation.done {
            let request = WaitOperationRequest {
                name: operation.name,
                timeout: None,
            };
            operation = self
                .operations
                .clone()
                .wait_operation(request)
                .await?
                .into_inner();
        }
        operation.result.context("what is done has a result")
    }

    /// The names of all branches, sorted.
    async fn names(&self) -> anyhow::Result<Vec<String>> {
        let (client, project) = (self.emulator.client(), self.emulator.project());
        let all = client.list_all_branches(project, None).await?.branches;
        let mut names: Vec<String> = all.into_iter().map(|branch| branch.name).collect();
        names.sort();
        Ok(names)
    }

    async fn get(&self, name: &str) -> Result<pb::Branch, Status> {
        let request = pb::GetBranchRequest {
            name: name.to_owned(),
        };
        let answer = self.branches.clone().get_branch(request).await?;
        Ok(answer.into_inner().branch.unwrap_or_default())
    }
}

fn in_an_hour() -> std::time::SystemTime {
    rpc::clock::Clock::system().now() + std::time::Duration::from_secs(3_600)
}

fn create(name: &str) -> pb::CreateBranchRequest {
    pb::CreateBranchRequest {
        branch: Some(pb::Branch {
            display_name: name.to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn id(branch: &pb::Branch) -> anyhow::Result<neon_api::BranchId> {
    let id = branch.name.strip_prefix("branches/").context("a name")?;
    Ok(id.parse()?)
}

/// The branch that an operation answered with.
fn branch(ended: Ended) -> anyhow::Result<pb::Branch> {
    match ended {
        Ended::Response(any) => {
            ensure!(
                any.type_url == "type.googleapis.com/broker.v1.Branch",
                "{any:?}"
            );
            Ok(pb::Branch::decode(&*any.value)?)
        }
        Ended::Error(status) => anyhow::bail!("{status:?}"),
    }
}

/// The refusal that an operation ended with, as a call's.
fn refusal(ended: Ended) -> anyhow::Result<Status> {
    match ended {
        Ended::Error(status) => {
            let details = status.encode_to_vec().into();
            Ok(Status::with_details(
                Code::from(status.code),
                status.message,
                details,
            ))
        }
        Ended::Response(any) => anyhow::bail!("it worked: {any:?}"),
    }
}

/// The name of the branch that an operation which is done has made.
pub(crate) fn made_by(operation: Operation) -> anyhow::Result<String> {
    Ok(branch(operation.result.context("a result")?)?.name)
}
