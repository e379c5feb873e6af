//! Leases on branches and on branches of their own, and what takes them back.

mod bad;
mod crowd;
mod ephemeral;
mod faults;
mod killed;
mod model;
mod overtaken;
mod revoked;
mod rights;

use std::path::Path;

use anyhow::{Context, ensure};
use neon_api::BranchId;
use neon_api::types::Branch;
use proto::broker::v1::acquire_lease_request::Target;
use proto::broker::v1::{
    Access, AcquireLeaseRequest, AcquireLeaseResponse, EphemeralBranch, GetLeaseRequest, Lease,
    ListLeasesRequest, ReleaseLeaseRequest, RevokeLeasesRequest, revoke_leases_request::Which,
};
use suite::{Broker, Clock, Config, EmulatorProcess, Folder, eventually};
use tokio_postgres::error::SqlState;

pub(crate) const V1: &str = "services/users/versions/v1";
pub(crate) const V2: &str = "services/users/versions/v2";

/// An emulator and a broker with one clock, which the test moves.
pub(crate) struct Bench {
    pub(crate) clock: Clock,
    pub(crate) config: Config,
    pub(crate) emulator: EmulatorProcess,
    pub(crate) broker: Broker,
    /// Last, since it goes last: a test that fails prints the ends of the logs in it.
    pub(crate) folder: Folder,
}

impl Bench {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        Self::start_with(|_| Ok(())).await
    }

    /// `change` makes broker.toml what the test needs.
    pub(crate) async fn start_with(
        change: impl FnOnce(&Config) -> anyhow::Result<()>,
    ) -> anyhow::Result<Self> {
        Self::start_on(&suite::example_config(), change).await
    }

    /// As [`Bench::start_with`], on another broker.toml.
    pub(crate) async fn start_on(
        config: &Path,
        change: impl FnOnce(&Config) -> anyhow::Result<()>,
    ) -> anyhow::Result<Self> {
        let folder = Folder::new()?;
        let clock = Clock::in_folder(&folder);
        clock.set(0)?;
        let [flag, file] = clock.flags()?;
        let data = folder.join("data");
        let flags = ["--admin", flag, file];
        let emulator = EmulatorProcess::start_with(&data, "127.0.0.1:0", &flags).await?;
        let config = Config::copy_of(config, &folder)?;
        change(&config)?;
        let broker = broker(&folder, &emulator, &config, &clock).await?;
        broker.is_ready().await?;
        Ok(Self {
            folder,
            clock,
            config,
            emulator,
            broker,
        })
    }

    pub(crate) async fn acquire(&self, request: AcquireLeaseRequest) -> anyhow::Result<Given> {
        let mut leases = self.broker.leases().await?;
        given(leases.acquire_lease(request).await?.into_inner())
    }

    pub(crate) async fn release(&self, lease: &Lease) -> anyhow::Result<()> {
        let request = ReleaseLeaseRequest {
            name: lease.name.clone(),
            ..Default::default()
        };
        self.broker.leases().await?.release_lease(request).await?;
        Ok(())
    }

    pub(crate) async fn revoke(&self, which: Which) -> anyhow::Result<Vec<Lease>> {
        let request = RevokeLeasesRequest {
            which: Some(which),
            reason: "a test".to_owned(),
            ..Default::default()
        };
        let mut leases = self.broker.leases().await?;
        Ok(leases.revoke_leases(request).await?.into_inner().leases)
    }

    pub(crate) async fn get(&self, name: &str) -> Result<Lease, tonic::Status> {
        let request = GetLeaseRequest {
            name: name.to_owned(),
        };
        let mut leases = self
            .broker
            .leases()
            .await
            .map_err(|error| tonic::Status::unknown(format!("{error:#}")))?;
        let answer = leases.get_lease(request).await?.into_inner();
        answer
            .lease
            .ok_or_else(|| tonic::Status::unknown("no lease"))
    }

    pub(crate) async fn list(&self, filter: &str) -> anyhow::Result<Vec<Lease>> {
        let request = ListLeasesRequest {
            filter: filter.to_owned(),
            ..Default::default()
        };
        let mut leases = self.broker.leases().await?;
        Ok(leases.list_leases(request).await?.into_inner().leases)
    }

    pub(crate) async fn session(&self, uri: &str) -> anyhow::Result<tokio_postgres::Client> {
        suite::connect(uri, self.emulator.data()).await
    }

    pub(crate) async fn branches(&self) -> anyhow::Result<Vec<Branch>> {
        let (client, project) = (self.emulator.client(), self.emulator.project());
        Ok(client.list_all_branches(project, None).await?.branches)
    }

    pub(crate) async fn branch_named(&self, name: &str) -> anyhow::Result<BranchId> {
        let mut all = self.branches().await?.into_iter();
        let found = all.find(|branch| branch.name == name);
        Ok(found.with_context(|| format!("the branch {name}"))?.id)
    }

    /// Waits until a branch is gone.
    pub(crate) async fn is_gone(&self, branch: &str) -> anyhow::Result<()> {
        eventually("the branch is gone", async || {
            let there = self.branches().await?;
            let is_it = |one: &Branch| branch == format!("branches/{}", one.id);
            ensure!(!there.iter().any(is_it), "it is there");
            Ok(())
        })
        .await
    }

    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        self.broker.process.stop().await?;
        self.emulator.stop().await?;
        drop(self.folder);
        Ok(())
    }
}

/// A lease as it was given.
pub(crate) struct Given {
    pub(crate) lease: Lease,
    pub(crate) uri: String,
    pub(crate) role: String,
}

fn given(answer: AcquireLeaseResponse) -> anyhow::Result<Given> {
    let connection = answer.connection.context("a connection")?;
    Ok(Given {
        lease: answer.lease.context("a lease")?,
        uri: connection.uri,
        role: connection.role,
    })
}

async fn broker(
    folder: &Folder,
    emulator: &EmulatorProcess,
    config: &Config,
    clock: &Clock,
) -> anyhow::Result<Broker> {
    Broker::start_clocked(folder, emulator, &config.path(), clock).await
}

pub(crate) fn on_binding(binding: &str, access: Access) -> AcquireLeaseRequest {
    AcquireLeaseRequest {
        target: Some(Target::Binding(binding.to_owned())),
        access: access.into(),
        holder: "suite".to_owned(),
        ..Default::default()
    }
}

pub(crate) fn on_branch(branch: &BranchId, access: Access) -> AcquireLeaseRequest {
    AcquireLeaseRequest {
        target: Some(Target::Branch(format!("branches/{branch}"))),
        ..on_binding("", access)
    }
}

pub(crate) fn ephemeral(parent: &str, access: Access) -> AcquireLeaseRequest {
    AcquireLeaseRequest {
        target: Some(Target::Ephemeral(EphemeralBranch {
            parent: parent.to_owned(),
            point: None,
            ..Default::default()
        })),
        ttl: Some(seconds(60)),
        ..on_binding("", access)
    }
}

pub(crate) fn seconds(seconds: i64) -> prost_types::Duration {
    prost_types::Duration { seconds, nanos: 0 }
}

/// What Postgres says to a statement.
pub(crate) async fn code(session: &tokio_postgres::Client, statement: &str) -> Option<SqlState> {
    let error = session.batch_execute(statement).await.err();
    error.and_then(|error| error.code().cloned())
}
