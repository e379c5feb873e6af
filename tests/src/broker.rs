//! A broker under test, as a process.

use std::path::{Path, PathBuf};

use anyhow::Context;
use proto::broker::v1::audit_service_client::AuditServiceClient;
use proto::broker::v1::binding_service_client::BindingServiceClient;
use proto::broker::v1::branch_service_client::BranchServiceClient;
use proto::broker::v1::config_service_client::ConfigServiceClient;
use proto::broker::v1::lease_service_client::LeaseServiceClient;
use proto::broker::v1::migration_service_client::MigrationServiceClient;
use proto::google::longrunning::operations_client::OperationsClient;
use rpc::health::wait_until_serving;
use tonic::transport::Channel;

use crate::clock::Clock;
use crate::emulator::{API_KEY, EmulatorProcess};
use crate::folder::Folder;
use crate::process::Process;
use crate::state_database::StateDatabase;
use crate::system::{channel, listening_on};
use crate::wait::PATIENCE;

/// The broker's key, in a test's folder.
pub(crate) const KEY_FILE: &str = "broker.key";

/// A running broker.
#[derive(Debug)]
pub struct Broker {
    /// The process itself.
    pub process: Process,
    address: String,
    config: PathBuf,
    flags: Vec<String>,
    environment: Vec<(String, String)>,
    log: PathBuf,
}

impl Broker {
    /// Starts one on a broker.toml. It listens, and may not be ready.
    ///
    /// # Errors
    /// When it ends at its start; with its log.
    pub async fn start(
        folder: &Folder,
        emulator: &EmulatorProcess,
        config: &Path,
    ) -> anyhow::Result<Self> {
        Self::start_at(&crate::free_address()?, folder, emulator, config).await
    }

    /// As [`Broker::start`], at this address.
    ///
    /// # Errors
    /// When it ends at its start; with its log.
    pub async fn start_at(
        listen: &str,
        folder: &Folder,
        emulator: &EmulatorProcess,
        config: &Path,
    ) -> anyhow::Result<Self> {
        Self::start_with(listen, folder, emulator, config, &[]).await
    }

    /// As [`Broker::start_at`], with these variables as well.
    ///
    /// # Errors
    /// When it ends at its start; with its log.
    pub async fn start_with(
        listen: &str,
        folder: &Folder,
        emulator: &EmulatorProcess,
        config: &Path,
        variables: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let mut environment = Self::environment(folder, emulator).await?;
        let more = variables.iter();
        environment.extend(more.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let log = folder.join("broker.log");
        Self::launch(listen, config, Vec::new(), environment, &log).await
    }

    /// As [`Broker::start`], by a clock that the test moves.
    ///
    /// # Errors
    /// When it ends at its start; with its log.
    pub async fn start_clocked(
        folder: &Folder,
        emulator: &EmulatorProcess,
        config: &Path,
        clock: &Clock,
    ) -> anyhow::Result<Self> {
        let log = folder.join("broker.log");
        Self::start_clocked_logging(folder, emulator, config, clock, &log).await
    }

    /// As [`Broker::start_clocked`], with a log of its own: for a second one.
    ///
    /// # Errors
    /// When it ends at its start; with its log.
    pub async fn start_clocked_logging(
        folder: &Folder,
        emulator: &EmulatorProcess,
        config: &Path,
        clock: &Clock,
        log: &Path,
    ) -> anyhow::Result<Self> {
        let environment = Self::environment(folder, emulator).await?;
        let flags = clock.flags()?.map(str::to_owned).to_vec();
        Self::launch(&crate::free_address()?, config, flags, environment, log).await
    }

    /// As [`Broker::start`], with a log of its own: for a second one.
    ///
    /// # Errors
    /// When it ends at its start; with its log.
    pub async fn start_logging(
        folder: &Folder,
        emulator: &EmulatorProcess,
        config: &Path,
        log: &Path,
    ) -> anyhow::Result<Self> {
        let environment = Self::environment(folder, emulator).await?;
        Self::launch(
            &crate::free_address()?,
            config,
            Vec::new(),
            environment,
            log,
        )
        .await
    }

    /// As [`Broker::start`], with its state elsewhere than on that emulator.
    ///
    /// # Errors
    /// When it ends at its start; with its log.
    pub async fn start_beside(
        database: &StateDatabase,
        folder: &Folder,
        emulator: &EmulatorProcess,
        config: &Path,
    ) -> anyhow::Result<Self> {
        let environment = Self::environment_with(database, folder, emulator)?;
        let log = folder.join("broker.log");
        Self::launch(
            &crate::free_address()?,
            config,
            Vec::new(),
            environment,
            &log,
        )
        .await
    }

    /// What a broker needs to know of the emulator and of its own state.
    ///
    /// # Errors
    /// When its state database or its key cannot be made.
    pub async fn environment(
        folder: &Folder,
        emulator: &EmulatorProcess,
    ) -> anyhow::Result<Vec<(String, String)>> {
        let database = StateDatabase::of(emulator).await?;
        Self::environment_with(&database, folder, emulator)
    }

    fn environment_with(
        database: &StateDatabase,
        folder: &Folder,
        emulator: &EmulatorProcess,
    ) -> anyhow::Result<Vec<(String, String)>> {
        let key = folder.join(KEY_FILE);
        if !key.exists() {
            std::fs::write(&key, uuid::Uuid::new_v4().simple().to_string())?;
        }
        Ok(vec![
            ("NEON_API_KEY".to_owned(), API_KEY.to_owned()),
            ("NEON_PROJECT_ID".to_owned(), emulator.project().to_string()),
            ("NEON_API_URL".to_owned(), emulator.url()),
            (
                "BROKER_DATABASE_URL".to_owned(),
                database.uri.expose().to_owned(),
            ),
            ("BROKER_KEY_FILE".to_owned(), key.display().to_string()),
        ])
    }

    async fn launch(
        listen: &str,
        config: &Path,
        flags: Vec<String>,
        environment: Vec<(String, String)>,
        log: &Path,
    ) -> anyhow::Result<Self> {
        let pairs: Vec<(&str, &str)> = environment
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        let config_text = config.to_str().context("UTF-8")?;
        let mut arguments = vec!["serve", "--config", config_text, "--listen", listen];
        arguments.extend(flags.iter().map(String::as_str));
        let mut process = Process::start("broker", &arguments, &pairs, log)?;
        let address = listening_on(&mut process).await?;
        Ok(Self {
            process,
            address,
            config: config.to_owned(),
            flags,
            environment,
            log: log.to_owned(),
        })
    }

    /// Waits until the world matches its broker.toml.
    ///
    /// # Errors
    /// When it does not come to that; with its log.
    pub async fn is_ready(&self) -> anyhow::Result<()> {
        wait_until_serving(&self.address, "", PATIENCE)
            .await
            .with_context(|| self.process.log())
    }

    /// Its address: host and port.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Kills it with SIGKILL and starts it again at the same address, on the
    /// same state.
    ///
    /// # Errors
    /// When it does not start again.
    pub async fn kill_and_start(self) -> anyhow::Result<Self> {
        self.process.kill().await?;
        Self::launch(
            &self.address,
            &self.config,
            self.flags,
            self.environment,
            &self.log,
        )
        .await
    }

    /// A client of BindingService.
    ///
    /// # Errors
    /// When the broker cannot be reached.
    pub async fn bindings(&self) -> anyhow::Result<BindingServiceClient<Channel>> {
        Ok(BindingServiceClient::new(channel(&self.address).await?))
    }

    /// A client of BranchService.
    ///
    /// # Errors
    /// When the broker cannot be reached.
    pub async fn branches(&self) -> anyhow::Result<BranchServiceClient<Channel>> {
        Ok(BranchServiceClient::new(channel(&self.address).await?))
    }

    /// A client of LeaseService.
    ///
    /// # Errors
    /// When the broker cannot be reached.
    pub async fn leases(&self) -> anyhow::Result<LeaseServiceClient<Channel>> {
        Ok(LeaseServiceClient::new(channel(&self.address).await?))
    }

    /// A client of google.longrunning.Operations.
    ///
    /// # Errors
    /// When the broker cannot be reached.
    pub async fn operations(&self) -> anyhow::Result<OperationsClient<Channel>> {
        Ok(OperationsClient::new(channel(&self.address).await?))
    }

    /// A client of AuditService.
    ///
    /// # Errors
    /// When the broker cannot be reached.
    pub async fn audit(&self) -> anyhow::Result<AuditServiceClient<Channel>> {
        Ok(AuditServiceClient::new(channel(&self.address).await?))
    }

    /// A client of ConfigService.
    ///
    /// # Errors
    /// When the broker cannot be reached.
    pub async fn config(&self) -> anyhow::Result<ConfigServiceClient<Channel>> {
        Ok(ConfigServiceClient::new(channel(&self.address).await?))
    }

    /// Its MigrationService.
    ///
    /// # Errors
    /// When the broker cannot be reached.
    pub async fn migrations(&self) -> anyhow::Result<MigrationServiceClient<Channel>> {
        Ok(MigrationServiceClient::new(channel(&self.address).await?))
    }
}
