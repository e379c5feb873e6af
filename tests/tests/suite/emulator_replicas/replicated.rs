//! A branch with a table `note`, its writer and its replicas.

use std::path::Path;

use anyhow::{Context, ensure};
use neon_api::types::{ConnectionUriQuery, EndpointCreateRequest, EndpointOperations};
use neon_api::{BranchId, EndpointId, Secret};
use suite::{EmulatorProcess, Folder, eventually};
use tokio_postgres::Client;

/// An emulator whose default branch is written and read.
#[derive(Debug)]
pub(super) struct Replicated {
    pub(super) emulator: EmulatorProcess,
    pub(super) id: BranchId,
    pub(super) writer: EndpointId,
}

impl Replicated {
    pub(super) async fn start(folder: &Folder) -> anyhow::Result<Self> {
        let emulator = EmulatorProcess::start(&folder.join("data")).await?;
        Self::on(emulator).await
    }

    pub(super) async fn on(emulator: EmulatorProcess) -> anyhow::Result<Self> {
        let id = emulator.main_branch().await?;
        let endpoints = emulator
            .client()
            .list_branch_endpoints(emulator.project(), &id)
            .await?;
        emulator
            .connect(&id)
            .await?
            .batch_execute("CREATE TABLE note (number serial, text text)")
            .await?;
        Ok(Self {
            emulator,
            id,
            writer: endpoints.endpoints[0].id.clone(),
        })
    }

    /// Adds a replica.
    pub(super) async fn add(&self) -> anyhow::Result<EndpointId> {
        let request = EndpointCreateRequest::read_only(self.id.clone());
        let client = self.emulator.client();
        let created = client
            .create_endpoint(self.emulator.project(), &request)
            .await?;
        self.done(&created).await?;
        Ok(created.endpoint.id)
    }

    pub(super) async fn suspend(&self, endpoint: &EndpointId) -> anyhow::Result<()> {
        let client = self.emulator.client();
        let answer = client.suspend_endpoint(self.emulator.project(), endpoint);
        self.done(&answer.await?).await
    }

    pub(super) async fn wake(&self, endpoint: &EndpointId) -> anyhow::Result<()> {
        let client = self.emulator.client();
        let answer = client.start_endpoint(self.emulator.project(), endpoint);
        self.done(&answer.await?).await
    }

    pub(super) async fn write(&self, text: &str) -> anyhow::Result<()> {
        let session = self.emulator.connect(&self.id).await?;
        session
            .execute("INSERT INTO note (text) VALUES ($1)", &[&text])
            .await?;
        Ok(())
    }

    /// The owner's session on an endpoint.
    pub(super) async fn connect(&self, endpoint: &EndpointId) -> anyhow::Result<Client> {
        self.open(&self.uri(endpoint, "neondb_owner").await?).await
    }

    pub(super) async fn uri(&self, endpoint: &EndpointId, role: &str) -> anyhow::Result<Secret> {
        let query = ConnectionUriQuery::new("neondb", role).endpoint(endpoint.clone());
        let client = self.emulator.client();
        let uri = client.get_connection_uri(self.emulator.project(), &query);
        Ok(uri.await?.uri)
    }

    pub(super) async fn open(&self, uri: &Secret) -> anyhow::Result<Client> {
        suite::connect(uri.expose(), self.emulator.data()).await
    }

    /// Waits until an endpoint shows these notes; a session on it.
    pub(super) async fn shows<T: AsRef<str>>(
        &self,
        endpoint: &EndpointId,
        wanted: &[T],
    ) -> anyhow::Result<Client> {
        let wanted: Vec<&str> = wanted.iter().map(AsRef::as_ref).collect();
        eventually("the replica shows the notes", async || {
            let session = self.connect(endpoint).await?;
            let found = notes(&session).await?;
            ensure!(found == wanted, "{found:?}");
            Ok(session)
        })
        .await
    }

    /// Slots that the writer has, by name.
    pub(super) async fn slots(&self) -> anyhow::Result<Vec<String>> {
        let session = self.emulator.connect(&self.id).await?;
        let rows = session
            .query(
                // Not those of clones that are being made.
                "SELECT slot_name::text FROM pg_replication_slots WHERE NOT temporary ORDER BY 1",
                &[],
            )
            .await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// The same of a writer that does not run.
    pub(super) fn slot_folders(&self, branch: &BranchId) -> anyhow::Result<Vec<String>> {
        let branch = self.emulator.data().join("branches").join(branch.as_str());
        names(&branch.join("pg_replslot"))
    }

    /// Folders that replicas have, by name.
    pub(super) fn folders(&self) -> anyhow::Result<Vec<String>> {
        names(&self.emulator.data().join("replicas"))
    }

    pub(super) fn postmaster(&self, replica: &EndpointId) -> anyhow::Result<i32> {
        postmaster(&self.emulator.data().join("replicas").join(replica.as_str()))
    }

    pub(super) fn writers_postmaster(&self) -> anyhow::Result<i32> {
        postmaster(&self.emulator.data().join("branches").join(self.id.as_str()))
    }

    /// What an endpoint's Postgres has logged.
    pub(super) fn log(&self, endpoint: &EndpointId) -> anyhow::Result<String> {
        let log = self.emulator.data().join("log");
        Ok(std::fs::read_to_string(
            log.join(format!("{endpoint}.log")),
        )?)
    }

    pub(super) async fn kill_and_start(self) -> anyhow::Result<Self> {
        let emulator = self.emulator.kill_and_start().await?;
        Ok(Self { emulator, ..self })
    }

    /// Stops the emulator, which has to leave nothing of a replica, and starts
    /// it again.
    pub(super) async fn restart(self) -> anyhow::Result<Self> {
        let data = self.emulator.data().to_owned();
        self.emulator.stop().await?;
        let left = names(&data.join("replicas"))?;
        ensure!(left.is_empty(), "folders: {left:?}");
        let branch = data.join("branches").join(self.id.as_str());
        let left = names(&branch.join("pg_replslot"))?;
        ensure!(left.is_empty(), "slots: {left:?}");
        let emulator = EmulatorProcess::start(&data).await?;
        Ok(Self { emulator, ..self })
    }

    pub(super) async fn finish(self) -> anyhow::Result<()> {
        self.emulator.stop().await
    }

    pub(super) async fn done(&self, answer: &EndpointOperations) -> anyhow::Result<()> {
        self.emulator.finished(&answer.operations).await
    }
}

pub(super) async fn notes(session: &Client) -> anyhow::Result<Vec<String>> {
    let rows = session
        .query("SELECT text FROM note ORDER BY number", &[])
        .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// The slot of a replica.
pub(super) fn slot(endpoint: &EndpointId) -> String {
    endpoint.as_str().replace('-', "_")
}

fn names(folder: &Path) -> anyhow::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

fn postmaster(data: &Path) -> anyhow::Result<i32> {
    let text = std::fs::read_to_string(data.join("postmaster.pid"))?;
    let pid = text.lines().next().context("an empty pid file")?;
    Ok(pid.trim().parse()?)
}
