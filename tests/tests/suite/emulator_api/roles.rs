//! Roles and databases.

use anyhow::Context;
use neon_api::types::{
    ConnectionUriQuery, DatabaseCreateRequest, DatabaseUpdateRequest, RoleCreateRequest,
};
use suite::{EmulatorProcess, Folder};

use super::assert_api_error;

#[tokio::test]
async fn roles_and_databases_are_real() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let (client, project) = (emulator.client(), emulator.project());
    let main = emulator.main_branch().await?;
    let made = client
        .create_role(project, &main, &RoleCreateRequest::named("reporting"))
        .await?;
    emulator.finished(&made.operations).await?;
    let database = client
        .create_database(
            project,
            &main,
            &DatabaseCreateRequest::new("reports", "reporting"),
        )
        .await?;
    emulator.finished(&database.operations).await?;

    let old = made.role.password.context("a new role has a password")?;
    let uri = async |password: &str| {
        let owner = emulator.uri(&main).await?;
        let mut uri: String = owner.expose().replace("/neondb?", "/reports?");
        let from = uri.find("//").context("a URI")? + 2;
        let to = uri.find('@').context("a URI")?;
        uri.replace_range(from..to, &format!("reporting:{password}"));
        anyhow::Ok(uri)
    };
    let session = suite::connect(&uri(old.expose()).await?, emulator.data()).await?;
    session.simple_query("CREATE TABLE report (id int)").await?;

    // A new password ends the sessions of the old one.
    let reset = client
        .reset_role_password(project, &main, "reporting")
        .await?;
    emulator.finished(&reset.operations).await?;
    assert!(session.simple_query("SELECT 1").await.is_err());
    let refused = suite::connect(&uri(old.expose()).await?, emulator.data()).await;
    assert!(refused.is_err(), "the old password opens nothing");
    let revealed = client
        .reveal_role_password(project, &main, "reporting")
        .await?;
    suite::connect(&uri(revealed.password.expose()).await?, emulator.data()).await?;

    let refused = client.delete_role(project, &main, "reporting").await;
    assert_api_error(refused, 422, "reports");
    let dropped = client.delete_database(project, &main, "reports").await?;
    emulator
        .finished(&dropped.context("it was there")?.operations)
        .await?;
    let dropped = client.delete_role(project, &main, "reporting").await?;
    emulator
        .finished(&dropped.context("it was there")?.operations)
        .await?;
    let owner = emulator.connect(&main).await?;
    let left = owner
        .query("SELECT FROM pg_roles WHERE rolname = 'reporting'", &[])
        .await?;
    assert!(left.is_empty());
    emulator.stop().await
}

#[tokio::test]
async fn a_database_is_renamed_and_another_branch_made_default() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let (client, project) = (emulator.client(), emulator.project());
    let dev = emulator.branch("dev", None).await?.branch.id;
    let made = client
        .create_database(
            project,
            &dev,
            &DatabaseCreateRequest::new("old", "neondb_owner"),
        )
        .await?;
    emulator.finished(&made.operations).await?;
    let mut rename = DatabaseUpdateRequest::default();
    rename.database.name = Some("new".to_owned());
    let renamed = client
        .update_database(project, &dev, "old", &rename)
        .await?;
    emulator.finished(&renamed.operations).await?;
    let session = emulator.connect(&dev).await?;
    let names = session
        .query(
            "SELECT datname::text FROM pg_database WHERE NOT datistemplate ORDER BY 1",
            &[],
        )
        .await?;
    let names: Vec<String> = names.iter().map(|row| row.get(0)).collect();
    assert_eq!(names, ["neondb", "new", "postgres"]);
    for name in ["postgres", "template1", ""] {
        let request = DatabaseCreateRequest::new(name, "neondb_owner");
        let refused = client.create_database(project, &dev, &request).await;
        let status = if name.is_empty() { 400 } else { 422 };
        assert_api_error(refused, status, "database.name");
    }
    for name in ["cloud_admin", "neon_superuser", "pg_x"] {
        let request = RoleCreateRequest::named(name);
        let refused = client.create_role(project, &dev, &request).await;
        assert_api_error(refused, 422, "role.name");
    }

    client.set_default_branch(project, &dev).await?;
    assert_eq!(emulator.main_branch().await?, dev);
    let child = emulator.branch("child", None).await?.branch;
    assert_eq!(child.parent_id, Some(dev), "the default parent");
    emulator.stop().await
}

/// A change that failed half way has not been made: neither in the API's lists nor
/// in Postgres.
#[tokio::test]
async fn a_role_that_could_not_be_dropped_logs_in_as_before() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let (client, project) = (emulator.client(), emulator.project());
    let main = emulator.main_branch().await?;
    let made = client
        .create_role(project, &main, &RoleCreateRequest::named("app"))
        .await?;
    emulator.finished(&made.operations).await?;
    // What it may do in a database that nobody may connect to keeps it.
    let owner = emulator.connect(&main).await?;
    owner.batch_execute("CREATE DATABASE closed").await?;
    let uri = emulator.uri(&main).await?;
    let closed = uri.expose().replace("/neondb?", "/closed?");
    let closed = suite::connect(&closed, emulator.data()).await?;
    closed
        .batch_execute("CREATE TABLE note (); GRANT SELECT ON note TO app")
        .await?;
    owner
        .batch_execute("ALTER DATABASE closed ALLOW_CONNECTIONS false")
        .await?;

    let dropped = client.delete_role(project, &main, "app").await?;
    let operations = dropped.context("it was there")?.operations;
    let failed = emulator.finished(&operations).await;
    let reason = failed.err().context("it fails")?.to_string();
    assert!(reason.contains("drop the role app"), "{reason}");
    let roles = client.list_roles(project, &main).await?.roles;
    assert!(roles.iter().any(|role| role.name == "app"));
    let query = ConnectionUriQuery::new("neondb", "app").branch(main.clone());
    let uri = client.get_connection_uri(project, &query).await?.uri;
    suite::connect(uri.expose(), emulator.data()).await?;

    // Nothing holds it any more.
    owner
        .batch_execute("ALTER DATABASE closed ALLOW_CONNECTIONS true")
        .await?;
    let dropped = client.delete_role(project, &main, "app").await?;
    emulator
        .finished(&dropped.context("it is there")?.operations)
        .await?;
    let refused = suite::connect(uri.expose(), emulator.data()).await;
    assert!(refused.is_err());
    emulator.stop().await
}
