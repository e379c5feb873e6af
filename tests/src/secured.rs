//! A broker that others could reach: TLS, and callers known by name.

use std::path::PathBuf;

use anyhow::Context;
use proto::broker::v1::ListBindingsRequest;
use proto::broker::v1::binding_service_client::BindingServiceClient;
use proto::broker::v1::branch_service_client::BranchServiceClient;
use proto::broker::v1::config_service_client::ConfigServiceClient;
use proto::broker::v1::lease_service_client::LeaseServiceClient;
use rpc::client::{Channel, Credentials, Target};
use tonic::Code;

use crate::authority::Authority;
use crate::broker::Broker;
use crate::config::Config;
use crate::emulator::EmulatorProcess;
use crate::folder::Folder;
use crate::process::Process;
use crate::wait::PATIENCE;

/// An emulator, and a broker whose callers show certificates or tokens.
#[derive(Debug)]
pub struct Secured {
    folder: Folder,
    emulator: EmulatorProcess,
    /// The broker.
    pub broker: Process,
    port: String,
    /// Of the broker's certificate and its callers'.
    pub authority: Authority,
    /// Its broker.toml.
    pub config: Config,
}

impl Secured {
    /// Starts one that grants this.
    ///
    /// # Errors
    /// When a part does not become healthy; with its log.
    pub async fn start(grants: &str) -> anyhow::Result<Self> {
        let folder = Folder::new()?;
        let emulator = EmulatorProcess::start(&folder.join("data")).await?;
        let authority = Authority::new(&folder.join("pki"), "ca")?;
        let (certificate, key) = authority.issue("server", "localhost")?;
        let config = Config::copy(&folder)?;
        config.write(&format!("{}\n{grants}", config.text()?))?;
        // Made by the command itself, and revoked again: a file without tokens.
        let tokens = folder.join("tokens");
        token(&folder, "nobody").await?;
        rpc::tokens::revoke(&tokens, "nobody", None)?;
        let mut environment = Broker::environment(&folder, &emulator).await?;
        for (name, path) in [
            ("TLS_CERT_FILE", &certificate),
            ("TLS_KEY_FILE", &key),
            ("TLS_CLIENT_CA_FILE", &authority.ca()),
            ("TOKENS_FILE", &tokens),
            ("BROKER_CONFIG", &config.path()),
        ] {
            environment.push((name.to_owned(), path.display().to_string()));
        }
        let pairs: Vec<(&str, &str)> = environment
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        let log = folder.join("broker.log");
        let arguments = ["serve", "--listen", "127.0.0.1:0"];
        let mut broker = Process::start("broker", &arguments, &pairs, &log)?;
        let line = broker.line().await?;
        let port = line
            .strip_prefix("listening on 127.0.0.1:")
            .with_context(|| format!("a line `listening on …`, not {line:?}"))?
            .to_owned();
        let secured = Self {
            folder,
            emulator,
            broker,
            port,
            authority,
            config,
        };
        // Health is for anybody.
        let anybody = secured.target(&secured.authority.nobody());
        rpc::health::wait_until_serving(anybody, "", PATIENCE)
            .await
            .with_context(|| secured.broker.log())?;
        Ok(secured)
    }

    /// The broker's URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.port)
    }

    /// The folder of everything.
    #[must_use]
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// The broker, as this caller sees it.
    #[must_use]
    pub fn target(&self, credentials: &Credentials) -> Target {
        Target::new(self.url(), credentials.clone())
    }

    /// Who shows a token of that name, made by `broker tokens create`. The broker
    /// has read of it.
    ///
    /// # Errors
    /// When it cannot be made.
    pub async fn token(&self, name: &str) -> anyhow::Result<Credentials> {
        let credentials = Credentials {
            token_file: Some(token(&self.folder, name).await?),
            ..self.authority.nobody()
        };
        let bindings = self.clients(&credentials)?.bindings;
        crate::eventually("the token is known", async || {
            let request = ListBindingsRequest::default();
            let listed = bindings.clone().list_bindings(request).await;
            match listed.err().map(|status| status.code()) {
                Some(Code::Unauthenticated) => anyhow::bail!("not yet"),
                _ => Ok(()),
            }
        })
        .await?;
        Ok(credentials)
    }

    /// A channel of that caller.
    ///
    /// # Errors
    /// When its files cannot be used.
    pub fn channel(&self, credentials: &Credentials) -> anyhow::Result<Channel> {
        Ok(self.target(credentials).channel(|endpoint| endpoint)?)
    }

    /// That caller's clients.
    ///
    /// # Errors
    /// When its files cannot be used.
    pub fn clients(&self, credentials: &Credentials) -> anyhow::Result<Clients> {
        let channel = self.channel(credentials)?;
        Ok(Clients {
            bindings: BindingServiceClient::new(channel.clone()),
            branches: BranchServiceClient::new(channel.clone()),
            config: ConfigServiceClient::new(channel.clone()),
            leases: LeaseServiceClient::new(channel),
        })
    }

    /// Stops everything, cleanly, and looks for tokens in the log.
    ///
    /// # Errors
    /// When a part does not stop, or a log shows a secret.
    pub async fn finish(self) -> anyhow::Result<()> {
        self.broker.stop().await.context("stop the broker")?;
        self.emulator.stop().await.context("stop the emulator")
    }
}

/// One caller's clients of the broker.
#[derive(Debug, Clone)]
pub struct Clients {
    /// BindingService.
    pub bindings: BindingServiceClient<Channel>,
    /// BranchService.
    pub branches: BranchServiceClient<Channel>,
    /// ConfigService.
    pub config: ConfigServiceClient<Channel>,
    /// LeaseService.
    pub leases: LeaseServiceClient<Channel>,
}

/// Makes a token with `broker tokens create`, and a file of it.
async fn token(folder: &Folder, name: &str) -> anyhow::Result<PathBuf> {
    let tokens = folder.join("tokens");
    let tokens = tokens.to_str().context("UTF-8")?;
    let mut create = Process::start(
        "broker",
        &["tokens", "create", name, "--tokens-file", tokens],
        &[],
        &folder.join("tokens.log"),
    )?;
    let secret = create.line().await?;
    let status = create.wait().await?;
    anyhow::ensure!(status.success(), "{}", create.log());
    let file = folder.join(&format!("{name}.token"));
    std::fs::write(&file, secret)?;
    Ok(file)
}
