//! Branches of schema alone.

use anyhow::Context;
use neon_api::BranchId;
use neon_api::types::{BranchCreateRequest, InitSource};
use suite::{EmulatorProcess, Folder};

use super::{branch, notes, write};

/// Databases that nobody may connect to, and templates, are emptied as well, and
/// stay what they are.
#[tokio::test]
async fn a_schema_only_branch_has_no_rows_in_closed_databases() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let (client, project) = (emulator.client(), emulator.project());
    let main = emulator.main_branch().await?;
    let databases = ["closed", "mould"];
    let session_of = async |branch: &BranchId, database: &str| {
        let uri = emulator.uri(branch).await?;
        let uri = uri.expose().replace("/neondb?", &format!("/{database}?"));
        suite::connect(&uri, emulator.data()).await
    };
    for database in databases {
        write(&emulator, &main, &format!("CREATE DATABASE {database}")).await?;
        let session = session_of(&main, database).await?;
        session
            .batch_execute("CREATE TABLE note (text text); INSERT INTO note VALUES ('a secret')")
            .await?;
    }
    let owner = emulator.connect(&main).await?;
    for change in [
        "ALTER DATABASE closed ALLOW_CONNECTIONS false",
        "ALTER DATABASE mould IS_TEMPLATE true",
    ] {
        owner.batch_execute(change).await?;
    }
    let request = BranchCreateRequest::named("schema")
        .parent(main.clone())
        .init_source(InitSource::SchemaOnly)
        .read_write_endpoint();
    let made = client.create_branch(project, &request).await?;
    emulator.finished(&made.operations).await?;
    let id = &made.branch.id;
    let owner = emulator.connect(id).await?;
    let row = owner
        .query_one(
            "SELECT (SELECT datallowconn FROM pg_database WHERE datname = 'closed'), \
                    (SELECT datistemplate FROM pg_database WHERE datname = 'mould')",
            &[],
        )
        .await?;
    assert!(!row.get::<_, bool>(0) && row.get::<_, bool>(1));
    owner
        .batch_execute("ALTER DATABASE closed ALLOW_CONNECTIONS true")
        .await?;
    for database in databases {
        let session = session_of(id, database).await?;
        let found = session.query("SELECT FROM note", &[]).await?;
        assert!(found.is_empty(), "{database}");
    }
    emulator.stop().await
}

#[tokio::test]
async fn a_schema_only_branch_is_a_root_without_rows() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let (client, project) = (emulator.client(), emulator.project());
    let main = emulator.main_branch().await?;
    write(
        &emulator,
        &main,
        "CREATE TABLE note (id serial PRIMARY KEY, text text); \
         CREATE TABLE mark (note int REFERENCES note); \
         INSERT INTO note (text) VALUES ('a secret'), ('another'); \
         INSERT INTO mark VALUES (1); \
         CREATE MATERIALIZED VIEW seen AS SELECT * FROM note; \
         CREATE TABLE tripped (by text); \
         CREATE FUNCTION trip() RETURNS trigger LANGUAGE plpgsql AS \
           $$ BEGIN RAISE EXCEPTION 'ran as %', current_user; END $$; \
         CREATE TRIGGER trip BEFORE TRUNCATE ON note EXECUTE FUNCTION trip(); \
         ALTER TABLE note ENABLE ALWAYS TRIGGER trip; \
         CREATE ROLE by_sql LOGIN PASSWORD 'x'; \
         GRANT SELECT ON note TO by_sql; ANALYZE note",
    )
    .await?;
    let request = BranchCreateRequest::named("schema")
        .parent(main.clone())
        .init_source(InitSource::SchemaOnly)
        .read_write_endpoint();
    let made = client.create_branch(project, &request).await?;
    assert_eq!(made.branch.parent_id, None);
    assert!(made.connection_uris.is_some());
    emulator.finished(&made.operations).await?;
    let id = &made.branch.id;
    let found = branch(&emulator, id).await?;
    assert_eq!(found.init_source, Some(InitSource::SchemaOnly));
    assert_eq!(found.parent_id, None);
    assert!(notes(&emulator, id).await?.is_empty());
    let session = emulator.connect(id).await?;
    let row = session
        .query_one(
            "SELECT nextval('note_id_seq'), has_table_privilege('by_sql', 'note', 'SELECT'), \
                    (SELECT relispopulated FROM pg_class WHERE relname = 'seen'), \
                    (SELECT tgenabled::text FROM pg_trigger WHERE tgname = 'trip'), \
                    (SELECT count(*) FROM pg_stats WHERE tablename = 'note')",
            &[],
        )
        .await?;
    assert_eq!(row.get::<_, i64>(0), 1, "sequences begin anew");
    assert!(row.get::<_, bool>(1), "roles and privileges are kept");
    assert!(!row.get::<_, bool>(2));
    assert_eq!(row.get::<_, String>(3), "A");
    assert_eq!(row.get::<_, i64>(4), 0, "statistics would show values");
    assert_eq!(notes(&emulator, &main).await?.len(), 2);

    let deleted = client.delete_branch(project, id).await?;
    emulator
        .finished(&deleted.context("it was there")?.operations)
        .await?;
    emulator.stop().await
}
