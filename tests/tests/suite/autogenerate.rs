//! Revisions that are written from what two schemas hold: they lead from one to the
//! other and back, and leave the rows where they are.

mod generated;
mod pairs;
mod rows;
mod shop;
mod told;
mod tricky;

use anyhow::Context;
use broker::migrate::autogenerate::STOP;
use neon_api::types::{ConnectionUriQuery, DatabaseCreateRequest};
use suite::{EmulatorProcess, Folder};
use tokio_postgres::Client;

const OWNER: &str = "neondb_owner";

/// Two databases of a branch, and a session of the owner in each.
struct Bench {
    /// Where scripts run: in the state before, until they have led to the other.
    a: Client,
    /// Where the state is that they lead to.
    b: Client,
    emulator: EmulatorProcess,
    /// Last, since it goes last: a test that fails prints the ends of the logs in it.
    folder: Folder,
}

impl Bench {
    async fn start() -> anyhow::Result<Self> {
        Self::start_with(&[]).await
    }

    /// With these flags of the emulator's.
    async fn start_with(flags: &[&str]) -> anyhow::Result<Self> {
        let folder = Folder::new()?;
        let data = folder.join("data");
        let emulator = EmulatorProcess::start_with(&data, &suite::free_address()?, flags).await?;
        let (client, project) = (emulator.client(), emulator.project());
        let main = emulator.main_branch().await?;
        let request = DatabaseCreateRequest::new("other", OWNER);
        let made = client.create_database(project, &main, &request).await?;
        emulator.finished(&made.operations).await?;
        let session = async |database: &str| {
            let query = ConnectionUriQuery::new(database, OWNER).branch(main.clone());
            let uri = client.get_connection_uri(project, &query).await?.uri;
            suite::connect(uri.expose(), &data).await
        };
        let (a, b) = (session("neondb").await?, session("other").await?);
        Ok(Self {
            a,
            b,
            emulator,
            folder,
        })
    }

    async fn stop(self) -> anyhow::Result<()> {
        self.emulator.stop().await?;
        drop(self.folder);
        Ok(())
    }
}

/// Makes a schema anew, with what `sql` makes in it.
async fn make(client: &Client, schema: &str, sql: &str) -> anyhow::Result<()> {
    let quoted = quote(schema);
    let anew = format!(
        "SET client_min_messages TO error; DROP SCHEMA IF EXISTS {quoted} CASCADE; \
         CREATE SCHEMA {quoted}"
    );
    let made = client.batch_execute(&anew).await;
    made.with_context(|| format!("make the schema {schema} anew"))?;
    run(client, schema, sql).await
}

/// In one transaction, as a revision is, and as if somebody had meant all of it.
async fn run(client: &Client, schema: &str, script: &str) -> anyhow::Result<()> {
    let quoted = quote(schema);
    let lines = script.lines().filter(|line| !line.starts_with(STOP));
    let meant: String = lines.map(|line| format!("{line}\n")).collect();
    let script = format!("BEGIN; SET LOCAL search_path TO {quoted};\n{meant};COMMIT;");
    let ran = client.batch_execute(&script).await;
    if ran.is_err() {
        client.batch_execute("ROLLBACK").await?;
    }
    ran.with_context(|| format!("run in the schema {schema}\n{meant}"))
}

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
