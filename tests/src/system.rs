//! The whole system: emulator, broker and user-service.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use proto::broker::v1::audit_service_client::AuditServiceClient;
use proto::broker::v1::binding_service_client::BindingServiceClient;
use proto::broker::v1::branch_service_client::BranchServiceClient;
use proto::broker::v1::config_service_client::ConfigServiceClient;
use proto::broker::v1::lease_service_client::LeaseServiceClient;
use proto::google::longrunning::operations_client::OperationsClient;
use proto::users::{v1, v2};
use rpc::health::wait_until_serving;
use tonic::transport::Channel;

use crate::clock::Clock;
use crate::emulator::{API_KEY, EmulatorProcess};
use crate::folder::Folder;
use crate::process::Process;
use crate::state_database::StateDatabase;

const READY_SECONDS_MAX: u64 = 120;
/// The broker's key, in a test's folder.
const KEY_FILE: &str = "broker.key";

/// All three, running and healthy.
#[derive(Debug)]
pub struct System {
    folder: Folder,
    /// The Neon API.
    pub emulator: EmulatorProcess,
    /// The broker.
    pub broker: Broker,
    /// users.v1 and users.v2.
    pub users: UserService,
}

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

/// A running user-service.
#[derive(Debug)]
pub struct UserService {
    /// The process itself.
    pub process: Process,
    address: String,
}

impl System {
    /// Starts the example system of this repository's broker.toml.
    ///
    /// # Errors
    /// When a part does not become healthy; with its log.
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_on(Folder::new()?, &example_config()).await
    }

    /// Starts the system of this broker.toml, in this folder.
    ///
    /// # Errors
    /// When a part does not become healthy; with its log.
    pub async fn start_on(folder: Folder, config: &Path) -> anyhow::Result<Self> {
        let emulator = EmulatorProcess::start(&folder.join("data")).await?;
        let broker = Broker::start(&folder, &emulator, config).await?;
        broker.is_ready().await?;
        let users = UserService::start(&folder, &broker).await?;
        users.is_ready().await?;
        Ok(Self {
            folder,
            emulator,
            broker,
            users,
        })
    }

    /// The folder of everything.
    #[must_use]
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// A client of users.v1.
    ///
    /// # Errors
    /// When user-service cannot be reached.
    pub async fn users_v1(
        &self,
    ) -> anyhow::Result<v1::user_service_client::UserServiceClient<Channel>> {
        let channel = channel(&self.users.address).await?;
        Ok(v1::user_service_client::UserServiceClient::new(channel))
    }

    /// A client of users.v2.
    ///
    /// # Errors
    /// When user-service cannot be reached.
    pub async fn users_v2(
        &self,
    ) -> anyhow::Result<v2::user_service_client::UserServiceClient<Channel>> {
        let channel = channel(&self.users.address).await?;
        Ok(v2::user_service_client::UserServiceClient::new(channel))
    }

    /// Stops everything, cleanly, and looks for secrets in everything that was
    /// logged.
    ///
    /// # Errors
    /// When a part does not stop, or a log shows a secret.
    pub async fn finish(self) -> anyhow::Result<()> {
        let mut secrets = self.secrets().await?;
        self.users
            .process
            .stop()
            .await
            .context("stop user-service")?;
        self.broker
            .process
            .stop()
            .await
            .context("stop the broker")?;
        self.emulator.stop().await.context("stop the emulator")?;
        secrets.sort();
        secrets.dedup();
        check_logs(self.folder.path(), &secrets)
    }

    /// What no log may show: the API key, the owner's passwords, the broker's
    /// key, and the passwords of leases.
    async fn secrets(&self) -> anyhow::Result<Vec<String>> {
        let mut secrets = vec![API_KEY.to_owned()];
        let (client, project) = (self.emulator.client(), self.emulator.project());
        for branch in client.list_all_branches(project, None).await?.branches {
            if let Ok(uri) = self.emulator.uri(&branch.id).await {
                secrets.push(password(uri.expose())?);
            }
        }
        let key =
            std::fs::read_to_string(self.folder.join(KEY_FILE)).context("the broker's key")?;
        secrets.push(key.trim().to_owned());
        let database = StateDatabase::of(&self.emulator).await?;
        secrets.push(password(database.uri.expose())?);
        let mut leases = self.broker.leases().await?;
        for version in ["v1", "v2"] {
            let lease = leases
                .acquire_lease(proto::broker::v1::AcquireLeaseRequest {
                    target: Some(proto::broker::v1::acquire_lease_request::Target::Binding(
                        format!("services/users/versions/{version}"),
                    )),
                    holder: "suite".to_owned(),
                    ..Default::default()
                })
                .await?
                .into_inner();
            secrets.push(password(&lease.connection.context("a connection")?.uri)?);
        }
        Ok(secrets)
    }
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
        wait_until_serving(&self.address, "", Duration::from_secs(READY_SECONDS_MAX))
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
}

impl UserService {
    /// Starts one on a broker.
    ///
    /// # Errors
    /// When it ends at its start; with its log.
    pub async fn start(folder: &Folder, broker: &Broker) -> anyhow::Result<Self> {
        let url = format!("http://{}", broker.address);
        let mut process = Process::start(
            "user-service",
            &["serve", "--listen", "127.0.0.1:0", "--broker", &url],
            &[],
            &folder.join("user-service.log"),
        )?;
        let address = listening_on(&mut process).await?;
        Ok(Self { process, address })
    }

    /// Waits until both versions answer.
    ///
    /// # Errors
    /// When they do not; with its log.
    pub async fn is_ready(&self) -> anyhow::Result<()> {
        wait_until_serving(&self.address, "", Duration::from_secs(READY_SECONDS_MAX))
            .await
            .with_context(|| self.process.log())
    }

    /// Its address: host and port.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }
}

/// This repository's broker.toml.
#[must_use]
pub fn example_config() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../broker.toml")
}

/// A connection to a server of this system.
///
/// # Errors
/// When it cannot be reached.
pub async fn channel(address: &str) -> anyhow::Result<Channel> {
    Channel::from_shared(format!("http://{address}"))?
        .connect()
        .await
        .with_context(|| format!("connect to {address}"))
}

async fn listening_on(process: &mut Process) -> anyhow::Result<String> {
    let line = process.line().await?;
    let address = line
        .strip_prefix("listening on ")
        .with_context(|| format!("a line `listening on …`, not {line:?}"))?;
    Ok(address.to_owned())
}

fn password(uri: &str) -> anyhow::Result<String> {
    let (_, rest) = uri.split_once("://").context("a URI")?;
    let (user, _) = rest.split_once('@').context("a URI with a user")?;
    let (_, password) = user.split_once(':').context("a URI with a password")?;
    Ok(password.to_owned())
}

fn check_logs(folder: &Path, secrets: &[String]) -> anyhow::Result<()> {
    let mut logs = Vec::new();
    for place in [folder.to_owned(), folder.join("data/log")] {
        for entry in std::fs::read_dir(&place)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "log") {
                logs.push(path);
            }
        }
    }
    // The emulator, the broker, the user-service and three endpoints.
    if logs.len() < 6 {
        bail!("logs are missing: {logs:?}");
    }
    for path in logs {
        let text = std::fs::read_to_string(&path)?;
        for secret in secrets {
            if text.contains(secret.as_str()) {
                bail!("{} shows a secret", path.display());
            }
        }
    }
    Ok(())
}
