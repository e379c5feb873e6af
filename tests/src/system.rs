//! The whole system: emulator, broker and user-service.

use std::path::Path;

use anyhow::{Context, bail};
use proto::users::{v1, v2};
use rpc::health::wait_until_serving;
use tonic::transport::Channel;

use crate::broker::{Broker, KEY_FILE};
use crate::clock::Clock;
use crate::config::example_config;
use crate::emulator::{API_KEY, EmulatorProcess};
use crate::folder::Folder;
use crate::process::Process;
use crate::state_database::StateDatabase;
use crate::wait::PATIENCE;

/// All three, running and healthy.
#[derive(Debug)]
pub struct System {
    /// The Neon API.
    pub emulator: EmulatorProcess,
    /// The broker.
    pub broker: Broker,
    /// users.v1 and users.v2.
    pub users: UserService,
    /// Last, since it goes last: a test that fails prints the ends of the logs in it.
    folder: Folder,
}

/// A running user-service.
#[derive(Debug)]
pub struct UserService {
    /// The process itself.
    pub process: Process,
    address: String,
}

impl System {
    /// Starts the system of the users service: [`example_config`].
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
        Self::start_with(folder, config, emulator).await
    }

    /// As [`System::start_on`], with an emulator by a clock that the test moves.
    ///
    /// # Errors
    /// When a part does not become healthy; with its log.
    pub async fn start_clocked(
        folder: Folder,
        config: &Path,
        clock: &Clock,
    ) -> anyhow::Result<Self> {
        let (data, listen) = (folder.join("data"), crate::free_address()?);
        let emulator = EmulatorProcess::start_with(&data, &listen, &clock.flags()?).await?;
        Self::start_with(folder, config, emulator).await
    }

    async fn start_with(
        folder: Folder,
        config: &Path,
        emulator: EmulatorProcess,
    ) -> anyhow::Result<Self> {
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

impl UserService {
    /// Starts one on a broker.
    ///
    /// # Errors
    /// When it ends at its start; with its log.
    pub async fn start(folder: &Folder, broker: &Broker) -> anyhow::Result<Self> {
        Self::start_with(broker, &[], &folder.join("user-service.log")).await
    }

    /// As [`UserService::start`], with these flags as well, and a log of its own.
    ///
    /// # Errors
    /// When it ends at its start; with its log.
    pub async fn start_with(broker: &Broker, flags: &[&str], log: &Path) -> anyhow::Result<Self> {
        let url = format!("http://{}", broker.address());
        let mut arguments = vec!["serve", "--listen", "127.0.0.1:0", "--broker", &url];
        arguments.extend(flags);
        let mut process = Process::start("user-service", &arguments, &[], log)?;
        let address = listening_on(&mut process).await?;
        Ok(Self { process, address })
    }

    /// Waits until both versions answer.
    ///
    /// # Errors
    /// When they do not; with its log.
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

pub(crate) async fn listening_on(process: &mut Process) -> anyhow::Result<String> {
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
