//! The emulator under test.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use neon_api::types::{
    BranchCreateRequest, ConnectionUriQuery, CreatedBranch, Endpoint, EndpointType, EndpointUpdate,
    EndpointUpdateRequest, Operation, OperationStatus,
};
use neon_api::{BranchId, EndpointId, NeonClient, ProjectId, Secret};

use crate::process::Process;
use crate::wait::eventually;

/// The key that the tests' emulators want to see.
pub const API_KEY: &str = "napi_test_key_that_no_log_may_show";

const ACTIVE_MAX: &str = "--active-computes-max";

/// A running emulator and a client for it.
#[derive(Debug)]
pub struct EmulatorProcess {
    process: Process,
    data: PathBuf,
    listen: String,
    client: NeonClient,
    project: ProjectId,
}

impl EmulatorProcess {
    /// Starts one on a folder, at a free port.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start(data: &Path) -> anyhow::Result<Self> {
        Self::start_at(data, &crate::free_address()?).await
    }

    /// Starts one on a folder at this address.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start_at(data: &Path, listen: &str) -> anyhow::Result<Self> {
        Self::launch(data, listen, API_KEY, &[]).await
    }

    /// Starts one with these flags as well.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start_with(data: &Path, listen: &str, flags: &[&str]) -> anyhow::Result<Self> {
        Self::launch(data, listen, API_KEY, flags).await
    }

    /// As [`EmulatorProcess::start_at`], for a key that others do not have.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start_with_key(data: &Path, listen: &str, key: &str) -> anyhow::Result<Self> {
        Self::launch(data, listen, key, &[]).await
    }

    async fn launch(data: &Path, listen: &str, key: &str, flags: &[&str]) -> anyhow::Result<Self> {
        let data_text = data.to_str().context("the folder's name is UTF-8")?;
        let mut arguments = vec!["serve", "--listen", listen, "--data", data_text];
        arguments.extend(flags);
        // What tests have active at once is limited where that is the test.
        if !flags.contains(&ACTIVE_MAX) {
            arguments.extend([ACTIVE_MAX, "1000"]);
        }
        let other_postgres = crate::other_postgres::asked_for().await?;
        let other_postgres = other_postgres.as_deref().and_then(Path::to_str);
        let mut environment = vec![("NEON_API_KEY", key)];
        environment.extend(other_postgres.map(|bin| ("NEON_EMULATOR_POSTGRES_BIN", bin)));
        let mut process = Process::start(
            "neon-emulator",
            &arguments,
            &environment,
            &data.with_extension("log"),
        )?;
        let url = field(&process.line().await?, "Neon API")?;
        let project: ProjectId = field(&process.line().await?, "project")?.parse()?;
        let listen = url
            .strip_prefix("http://")
            .and_then(|rest| rest.strip_suffix("/api/v2"))
            .context("the URL's form")?
            .to_owned();
        let client = NeonClient::new(url.parse()?, Secret::from(key))?;
        Ok(Self {
            process,
            data: data.to_owned(),
            listen,
            client,
            project,
        })
    }

    /// Starts one on a folder, at a free port, with the routes that
    /// [`Faults`](crate::Faults) needs.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start_with_admin(data: &Path) -> anyhow::Result<Self> {
        Self::start_with(data, &crate::free_address()?, &["--admin"]).await
    }

    /// A client that shows the right key.
    #[must_use]
    pub fn client(&self) -> &NeonClient {
        &self.client
    }

    /// The first project.
    #[must_use]
    pub fn project(&self) -> &ProjectId {
        &self.project
    }

    /// The base URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/api/v2", self.listen)
    }

    /// The data folder.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The process itself.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Creates a branch with an endpoint and waits until it is ready.
    ///
    /// # Errors
    /// When it cannot be created.
    pub async fn branch(
        &self,
        name: &str,
        parent: Option<&BranchId>,
    ) -> anyhow::Result<CreatedBranch> {
        let mut request = BranchCreateRequest::named(name).read_write_endpoint();
        if let Some(parent) = parent {
            request = request.parent(parent.clone());
        }
        let created = self.client.create_branch(&self.project, &request).await?;
        self.finished(&created.operations).await?;
        Ok(created)
    }

    /// Waits until the operations have finished.
    ///
    /// # Errors
    /// When one fails.
    pub async fn finished(&self, operations: &[Operation]) -> anyhow::Result<()> {
        self.finished_in(&self.project, operations).await
    }

    /// As [`EmulatorProcess::finished`], for another project's operations.
    ///
    /// # Errors
    /// When one fails.
    pub async fn finished_in(
        &self,
        project: &ProjectId,
        operations: &[Operation],
    ) -> anyhow::Result<()> {
        for operation in operations {
            let last = eventually("an operation is final", async || {
                let found = self
                    .client
                    .get_operation(project, operation.id)
                    .await?
                    .operation;
                if found.status.is_final() {
                    return Ok(found);
                }
                bail!("{:?}", found.status)
            })
            .await?;
            if last.status != OperationStatus::Finished {
                bail!("{} {}: {:?}", last.action, last.status, last.error);
            }
        }
        Ok(())
    }

    /// A session of the owner on a branch.
    ///
    /// # Errors
    /// When the branch cannot be reached.
    pub async fn connect(&self, branch: &BranchId) -> anyhow::Result<tokio_postgres::Client> {
        crate::connect(self.uri(branch).await?.expose(), &self.data).await
    }

    /// The owner's connection URI for a branch.
    ///
    /// # Errors
    /// When the branch has no endpoint.
    pub async fn uri(&self, branch: &BranchId) -> anyhow::Result<Secret> {
        let query = ConnectionUriQuery::new("neondb", "neondb_owner").branch(branch.clone());
        let answer = self
            .client
            .get_connection_uri(&self.project, &query)
            .await?;
        Ok(answer.uri)
    }

    /// The default branch.
    ///
    /// # Errors
    /// When the emulator does not answer.
    pub async fn main_branch(&self) -> anyhow::Result<BranchId> {
        let branches = self.client.list_all_branches(&self.project, None).await?;
        branches
            .branches
            .into_iter()
            .find(|branch| branch.default)
            .map(|branch| branch.id)
            .context("there is a default branch")
    }

    /// A branch's endpoint that writes.
    ///
    /// # Errors
    /// When it has none.
    pub async fn endpoint(&self, branch: &BranchId) -> anyhow::Result<Endpoint> {
        let answer = self
            .client
            .list_branch_endpoints(&self.project, branch)
            .await?;
        answer
            .endpoints
            .into_iter()
            .find(|endpoint| endpoint.endpoint_type == EndpointType::ReadWrite)
            .context("the branch has an endpoint")
    }

    /// Suspends a branch's endpoint.
    ///
    /// # Errors
    /// When it cannot be suspended.
    pub async fn suspend(&self, branch: &BranchId) -> anyhow::Result<()> {
        let endpoint = self.endpoint(branch).await?.id;
        self.suspend_endpoint(&endpoint).await
    }

    /// Suspends an endpoint, whatever it is for.
    ///
    /// # Errors
    /// When it cannot be suspended.
    pub async fn suspend_endpoint(&self, endpoint: &EndpointId) -> anyhow::Result<()> {
        // A client may be served before the start that it caused is recorded: 423.
        let suspended = eventually("the endpoint can be suspended", async || {
            let suspended = self.client.suspend_endpoint(&self.project, endpoint);
            Ok(suspended.await?)
        })
        .await?;
        self.finished(&suspended.operations).await
    }

    /// Disables a branch's endpoint, which nothing wakes then, or enables it.
    ///
    /// # Errors
    /// When it cannot be changed.
    pub async fn disable(&self, branch: &BranchId, disabled: bool) -> anyhow::Result<()> {
        let endpoint = self.endpoint(branch).await?.id;
        let request = EndpointUpdateRequest {
            endpoint: EndpointUpdate {
                disabled: Some(disabled),
                ..EndpointUpdate::default()
            },
        };
        let updated = self
            .client
            .update_endpoint(&self.project, &endpoint, &request)
            .await?;
        self.finished(&updated.operations).await
    }

    /// Stops it with SIGTERM.
    ///
    /// # Errors
    /// When it does not end cleanly.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.process.stop().await
    }

    /// Kills it with SIGKILL. Says where it listened.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub async fn kill(self) -> anyhow::Result<String> {
        self.process.kill().await?;
        Ok(self.listen)
    }

    /// Kills it with SIGKILL and starts it again on the same folder and port.
    ///
    /// # Errors
    /// When it does not start again.
    pub async fn kill_and_start(self) -> anyhow::Result<Self> {
        let (data, listen) = (self.data.clone(), self.listen.clone());
        self.process.kill().await?;
        Self::start_at(&data, &listen).await
    }
}

/// `label   value`
fn field(line: &str, label: &str) -> anyhow::Result<String> {
    let value = line
        .strip_prefix(label)
        .with_context(|| format!("a line {label:?}, not {line:?}"))?;
    Ok(value.trim().to_owned())
}
