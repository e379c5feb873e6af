//! The broker's state database under test: a project of its own in the test's
//! emulator.

use anyhow::Context;
use neon_api::Secret;
use neon_api::types::{
    ConnectionUriQuery, DefaultEndpointSettings, ProjectCreateRequest, ProjectListQuery,
};

use crate::emulator::EmulatorProcess;

/// The project's name.
const PROJECT: &str = "broker-state";
/// It is never suspended.
const NEVER: i64 = -1;

/// The owner's connection URI of the state database, which is made when it is not
/// there.
///
/// # Errors
/// When the emulator does not make it.
pub async fn state_database(emulator: &EmulatorProcess) -> anyhow::Result<Secret> {
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
    Ok(answer.context("the state database's URI")?.uri)
}
