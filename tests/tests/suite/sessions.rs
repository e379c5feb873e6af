//! Sessions on the branches of user-service, and what its own do there.

use anyhow::{Context, ensure};
use suite::{System, eventually};
use tokio_postgres::Client;

/// A session of the owner on v1's branch.
pub(crate) async fn owner(system: &System) -> anyhow::Result<Client> {
    owner_of(system, "api_v1_branch").await
}

/// A session of the owner on that branch.
pub(crate) async fn owner_of(system: &System, branch: &str) -> anyhow::Result<Client> {
    let (client, project) = (system.emulator.client(), system.emulator.project());
    let found = client.list_all_branches(project, Some(branch)).await?;
    let found = found.branches.first().with_context(|| branch.to_owned())?;
    system.emulator.connect(&found.id).await
}

/// Ends a session, as a branch that is suspended does.
pub(crate) async fn end(owner: &Client, backend: i32) -> anyhow::Result<()> {
    let ended = owner
        .query_one("SELECT pg_terminate_backend($1)", &[&backend])
        .await?;
    ensure!(ended.get::<_, bool>(0), "{backend} is gone already");
    Ok(())
}

/// The backend of user-service that waits for a lock.
pub(crate) async fn waiting_backend(owner: &Client) -> anyhow::Result<i32> {
    another_waiting_backend(owner, 0).await
}

/// The same, when that one does no more.
pub(crate) async fn another_waiting_backend(owner: &Client, than: i32) -> anyhow::Result<i32> {
    eventually("a query waits for the lock", async || {
        let waiting = backends(owner, "wait_event_type = 'Lock'").await?;
        let another = waiting.into_iter().find(|backend| *backend != than);
        another.context("none")
    })
    .await
}

/// The backends of user-service that are so.
pub(crate) async fn backends(owner: &Client, so: &str) -> anyhow::Result<Vec<i32>> {
    let query = format!(
        "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'user-service%' AND {so}"
    );
    let rows = owner.query(&query, &[]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
