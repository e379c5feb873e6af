//! Schemas of the emulator's branches: as SQL, as tables, and compared.

use anyhow::Context;
use neon_api::types::SchemaCompareQuery;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use suite::{EmulatorProcess, Faults, Folder, Http, count, eventually};

#[tokio::test]
async fn a_schema_is_told_as_tables() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let main = emulator.main_branch().await?;
    emulator
        .connect(&main)
        .await?
        .batch_execute(
            "CREATE SCHEMA shop; \
             CREATE TABLE shop.item (id bigint PRIMARY KEY, name varchar(20), \
               shout text GENERATED ALWAYS AS (upper(name)) STORED); \
             CREATE TABLE \"Order\" (item bigint NOT NULL REFERENCES shop.item, \
               count int CHECK (count > 0))",
        )
        .await?;
    let http = Http::of(&emulator);
    let path = format!("/projects/{}/branches/{main}/schema", emulator.project());
    let found = format!("{path}?db_name=neondb&format=json");
    let found = http.expect(200, "GET", &found, Value::Null).await?;
    assert_eq!(
        found.at("/json/tables"),
        &json!([
            {
                "schema": "public", "name": "Order",
                "columns": [
                    {"name": "item", "type": "bigint", "nullable": false, "generated": false},
                    {"name": "count", "type": "integer", "nullable": true, "generated": false},
                ],
                "constraints": [
                    {"type": "CHECK", "columns": ["count"], "name": "Order_count_check"},
                    {
                        "type": "FOREIGN KEY", "columns": ["item"], "name": "Order_item_fkey",
                        "referenced_table": {"schema": "shop", "table": "item", "columns": ["id"]},
                    },
                ],
            },
            {
                "schema": "shop", "name": "item",
                "columns": [
                    {"name": "id", "type": "bigint", "nullable": false, "generated": false},
                    {
                        "name": "name", "type": "character varying(20)",
                        "nullable": true, "generated": false,
                    },
                    {"name": "shout", "type": "text", "nullable": true, "generated": true},
                ],
                "constraints": [
                    {"type": "PRIMARY KEY", "columns": ["id"], "name": "item_pkey"},
                ],
            },
        ])
    );
    for (query, status, word) in [
        ("?db_name=neondb&format=xml", 400, "format"),
        ("?db_name=none&format=json", 404, "database"),
        ("?format=json", 400, "db_name"),
    ] {
        let refused = format!("{path}{query}");
        let refused = http.expect(status, "GET", &refused, Value::Null).await?;
        assert!(refused.text("/message").contains(word), "{refused:?}");
    }
    emulator.stop().await
}

#[tokio::test]
async fn two_branches_are_compared() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start(&folder.join("data")).await?;
    let (client, project) = (emulator.client(), emulator.project());
    let main = emulator.main_branch().await?;
    let dev = emulator.branch("dev", None).await?.branch.id;
    let query = SchemaCompareQuery::database("neondb");
    let same = client.compare_branch_schema(project, &dev, &query).await?;
    assert_eq!(same.diff.as_deref(), Some(""));
    emulator
        .connect(&dev)
        .await?
        .batch_execute("CREATE TABLE note (text text)")
        .await?;
    let added = client.compare_branch_schema(project, &dev, &query).await?;
    let added = added.diff.unwrap_or_default();
    assert!(
        added.starts_with("--- a/neondb\n+++ b/neondb\n@@ "),
        "{added}"
    );
    assert!(added.contains("\n+CREATE TABLE public.note ("), "{added}");
    // The other way round.
    let query = query.base(dev);
    let removed = client.compare_branch_schema(project, &main, &query).await?;
    let removed = removed.diff.unwrap_or_default();
    assert!(
        removed.contains("\n-CREATE TABLE public.note ("),
        "{removed}"
    );

    let query = SchemaCompareQuery::database("neondb");
    let refused = client.compare_branch_schema(project, &main, &query).await;
    assert!(refused.is_err_and(|error| error.to_string().contains("base_branch_id")));
    emulator.stop().await
}

/// Looking at a schema conflicts with nothing: who comes too soon waits.
#[tokio::test]
async fn a_schema_is_told_as_soon_as_there_is_one() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let emulator = EmulatorProcess::start_with_admin(&folder.join("data")).await?;
    let (http, faults) = (Http::of(&emulator), Faults::of(&emulator));
    let main = emulator.main_branch().await?;
    let session = emulator.connect(&main).await?;
    session
        .batch_execute("CREATE TABLE note (text text)")
        .await?;
    let branches = format!("/projects/{}/branches", emulator.project());
    let late = json!({"fault": "delay", "milliseconds": 1_000, "after": false});
    for (format, sign) in [("json", "\"note\""), ("sql", "CREATE TABLE public.note")] {
        faults.on_operation("create_branch", late.clone()).await?;
        let body = json!({"endpoints": [{"type": "read_write"}]});
        let made = http.expect(201, "POST", &branches, body).await?;
        let branch = format!("{branches}/{}", made.text("/branch/id"));
        let path = format!("{branch}/schema?db_name=neondb&format={format}");
        let found = http.expect(200, "GET", &path, Value::Null).await?;
        assert!(found.body.to_string().contains(sign), "{found:?}");
        let restart = format!(
            "/projects/{}/endpoints/{}/restart",
            emulator.project(),
            made.text("/endpoints/0/id")
        );
        faults.on_operation("suspend_compute", late.clone()).await?;
        http.expect(200, "POST", &restart, Value::Null).await?;
        let path = format!("{branch}/compare_schema?db_name=neondb");
        let found = http.expect(200, "GET", &path, Value::Null).await?;
        assert_eq!(found.at("/diff"), "");
    }
    emulator.stop().await
}

/// What went wrong is told apart: by whom it is to be mended, and whether asking
/// again helps.
#[tokio::test]
async fn a_schema_that_cannot_be_told_is_no_internal_error() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let data = folder.join("data");
    let emulator = EmulatorProcess::start(&data).await?;
    let (client, project) = (emulator.client(), emulator.project());
    let main = emulator.main_branch().await?;
    let database = neon_api::types::DatabaseCreateRequest::new("gone", "neondb_owner");
    let made = client.create_database(project, &main, &database).await?;
    emulator.finished(&made.operations).await?;
    let owner = emulator.connect(&main).await?;
    owner.batch_execute("DROP DATABASE gone").await?;
    let http = Http::of(&emulator);
    let path = format!("/projects/{project}/branches/{main}/schema");
    for format in ["sql", "json"] {
        let path = format!("{path}?db_name=gone&format={format}");
        let answer = http.expect(422, "GET", &path, Value::Null).await?;
        let message = answer.text("/message");
        assert!(message.contains("dropped by SQL"), "{message}");
    }
    // Its Postgres dies while it is asked.
    for round in 0..count(10, 50) {
        let pid = std::fs::read_to_string(
            data.join("branches")
                .join(main.as_str())
                .join("postmaster.pid"),
        )?;
        let pid = pid.lines().next().context("a pid")?.trim().parse()?;
        let path = format!(
            "{path}?db_name=neondb&format={}",
            ["sql", "json"][round % 2]
        );
        let (asked, again) = tokio::join!(http.call("GET", &path, Value::Null), async {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            http.call("GET", &path, Value::Null).await
        });
        for answer in [asked?, again?] {
            assert!([200, 423, 503].contains(&answer.status), "{answer:?}");
        }
        eventually("it is back", async || {
            http.expect(200, "GET", &path, Value::Null).await?;
            emulator.connect(&main).await
        })
        .await?;
    }
    emulator.stop().await
}
