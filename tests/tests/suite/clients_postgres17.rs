//! The system on another Postgres than the system's own: 17, from npm. From 16
//! on, who makes a role has ADMIN on it, but neither INHERIT nor SET.

use anyhow::{Context, ensure};
use neon_api::types::{
    BranchSchemaQuery, ConnectionUriQuery, EndpointCreateRequest, RoleCreateRequest,
};
use proto::users::{v1, v2};
use suite::{
    Broker, EmulatorProcess, Folder, UserService, channel, eventually, example_config,
    other_postgres,
};

#[tokio::test]
async fn branches_and_roles_work_on_postgres_17() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = start(&folder).await?;
    let (client, project) = (emulator.client(), emulator.project());
    let project_read = client.get_project(project).await?.project;
    ensure!(project_read.pg_version == 17, "{project_read:?}");
    let main = emulator.main_branch().await?;
    let session = emulator.connect(&main).await?;
    let row = session.query_one("SHOW server_version_num", &[]).await?;
    let version: String = row.get(0);
    ensure!(version.starts_with("17"), "{version}");
    session
        .batch_execute("CREATE TABLE kept (id int); INSERT INTO kept VALUES (1)")
        .await?;
    let dev = emulator.branch("dev", None).await?.branch.id;
    let on_dev = emulator.connect(&dev).await?;
    let kept = on_dev.query("SELECT FROM kept", &[]).await?;
    ensure!(kept.len() == 1, "the parent's data are there");

    // A role of the API.
    let made = client
        .create_role(project, &dev, &RoleCreateRequest::named("alice"))
        .await?;
    emulator.finished(&made.operations).await?;
    let password = made.role.password.context("a new role has a password")?;
    let owner = emulator.uri(&dev).await?;
    let (_, address) = owner.expose().split_once('@').context("a URI")?;
    let uri = format!("postgresql://alice:{}@{address}", password.expose());
    let alice = suite::connect(&uri, emulator.data()).await?;
    alice.batch_execute("SELECT * FROM kept").await?;

    // A role of SQL: its maker may give it away, and has to grant itself SET.
    on_dev.batch_execute("CREATE ROLE bob").await?;
    let refused = on_dev.batch_execute("SET ROLE bob").await;
    ensure!(refused.is_err(), "no SET on a role that was just made");
    on_dev
        .batch_execute("GRANT bob TO CURRENT_USER WITH SET TRUE; SET ROLE bob; RESET ROLE")
        .await?;

    // A replica.
    let replica = EndpointCreateRequest::read_only(dev);
    let replica = client.create_endpoint(project, &replica).await?;
    emulator.finished(&replica.operations).await?;
    let query = ConnectionUriQuery::new("neondb", "alice").endpoint(replica.endpoint.id);
    let uri = client.get_connection_uri(project, &query).await?.uri;
    let alice = suite::connect(uri.expose(), emulator.data()).await?;
    on_dev.batch_execute("INSERT INTO kept VALUES (2)").await?;
    eventually("the replica follows", async || {
        let kept = alice.query("SELECT FROM kept", &[]).await?;
        ensure!(kept.len() == 2, "{} rows", kept.len());
        Ok(())
    })
    .await?;
    emulator.stop().await
}

#[tokio::test]
async fn the_whole_system_runs_on_postgres_17() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = start(&folder).await?;
    let broker = Broker::start(&folder, &emulator, &example_config()).await?;
    broker.is_ready().await?;
    let users = UserService::start(&folder, &broker).await?;
    users.is_ready().await?;
    let connection = channel(users.address()).await?;
    let listed = v1::user_service_client::UserServiceClient::new(connection.clone())
        .list_users(v1::ListUsersRequest::default())
        .await?
        .into_inner();
    ensure!(!listed.users.is_empty(), "{listed:?}");
    let listed = v2::user_service_client::UserServiceClient::new(connection)
        .list_users(v2::ListUsersRequest::default())
        .await?
        .into_inner();
    ensure!(!listed.users.is_empty(), "{listed:?}");
    users.process.stop().await?;
    broker.process.stop().await?;
    emulator.stop().await
}

#[tokio::test]
async fn the_schema_without_pg_dump_is_a_clear_error() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = start(&folder).await?;
    let main = emulator.main_branch().await?;
    let query = BranchSchemaQuery::database("neondb");
    let answer = emulator
        .client()
        .get_branch_schema(emulator.project(), &main, &query)
        .await;
    let error = answer.err().context("there is no pg_dump")?.to_string();
    for words in ["501", "pg_dump is missing", "install the package"] {
        ensure!(error.contains(words), "{words}: {error}");
    }
    emulator.stop().await
}

async fn start(folder: &Folder) -> anyhow::Result<EmulatorProcess> {
    let bin = other_postgres(17).await?;
    let bin = bin.to_str().context("UTF-8")?;
    let flags = ["--postgres-bin", bin];
    EmulatorProcess::start_with(&folder.join("data"), &suite::free_address()?, &flags).await
}
