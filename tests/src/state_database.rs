//! The broker's state database under test: a project of its own in the test's
//! emulator, or an emulator of its own.

use std::path::Path;

use anyhow::Context;
use neon_api::types::{
    ConnectionUriQuery, DefaultEndpointSettings, EndpointUpdate, EndpointUpdateRequest,
    ProjectCreateRequest, ProjectListQuery,
};
use neon_api::{ProjectId, Secret};

use crate::emulator::EmulatorProcess;

/// The project's name.
const PROJECT: &str = "broker-state";
/// It is never suspended.
const NEVER: i64 = -1;

/// The state database of the brokers on an emulator.
#[derive(Debug)]
pub struct StateDatabase {
    project: ProjectId,
    /// The owner's connection URI.
    pub uri: Secret,
}

impl StateDatabase {
    /// The one of this emulator, made when it is not there.
    ///
    /// # Errors
    /// When the emulator does not make it.
    pub async fn of(emulator: &EmulatorProcess) -> anyhow::Result<Self> {
        let client = emulator.client();
        let query = ProjectListQuery {
            search: Some(PROJECT.to_owned()),
            ..ProjectListQuery::default()
        };
        let found = client.list_projects(&query).await?.projects;
        let project = match found.into_iter().next() {
            Some(found) => found.id,
            None => {
                let mut request = ProjectCreateRequest::named(PROJECT);
                request.project.default_endpoint_settings = Some(DefaultEndpointSettings {
                    suspend_timeout_seconds: Some(NEVER),
                    ..DefaultEndpointSettings::default()
                });
                let created = client.create_project(&request).await?;
                let id = created.project.id;
                emulator.finished_in(&id, &created.operations).await?;
                id
            }
        };
        let query = ConnectionUriQuery::new("neondb", "neondb_owner");
        let answer = client.get_connection_uri(&project, &query).await;
        let uri = answer.context("the state database's URI")?.uri;
        Ok(Self { project, uri })
    }

    /// One on an emulator of its own, as `cargo xtask up` has it: what it
    /// acknowledges is on the disk.
    ///
    /// # Errors
    /// When the emulator does not start.
    pub async fn durable(data: &Path) -> anyhow::Result<(EmulatorProcess, Self)> {
        let flags = ["--durability", "machine"];
        let emulator = EmulatorProcess::start_with(data, &crate::free_address()?, &flags).await?;
        let database = Self::of(&emulator).await?;
        Ok((emulator, database))
    }

    /// Lets nobody reach it, or everybody again.
    ///
    /// # Errors
    /// When its endpoint cannot be changed.
    pub async fn disable(&self, emulator: &EmulatorProcess, disabled: bool) -> anyhow::Result<()> {
        let client = emulator.client();
        let endpoints = client.list_endpoints(&self.project).await?.endpoints;
        let endpoint = endpoints.first().context("its endpoint")?;
        let request = EndpointUpdateRequest {
            endpoint: EndpointUpdate {
                disabled: Some(disabled),
                ..EndpointUpdate::default()
            },
        };
        let updated = client
            .update_endpoint(&self.project, &endpoint.id, &request)
            .await?;
        emulator
            .finished_in(&self.project, &updated.operations)
            .await
    }

    /// A session of its owner.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub async fn session(
        &self,
        emulator: &EmulatorProcess,
    ) -> anyhow::Result<tokio_postgres::Client> {
        crate::connect(self.uri.expose(), emulator.data()).await
    }
}
