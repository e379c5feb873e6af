//! What a branch says of its revisions: Diesel's table, and one of ours beside it.
//!
//! Which revisions were applied is in Diesel's `__diesel_schema_migrations`, in the
//! service's own schema, so that Diesel understands what the broker applied and the
//! broker what Diesel did. What they were is in `__branch_broker_revisions`, with when they
//! were applied: what is not there for that moment was applied by Diesel.

use jiff::Timestamp;
use tokio_postgres::{Client, GenericClient};

use super::folder::{Checksum, Migration};
use crate::config::ServiceSpec;
use crate::postgres::{self, Attempted as _, escape_identifier, escape_literal};

/// Diesel's table.
pub const HISTORY_TABLE: &str = "__diesel_schema_migrations";
/// The broker's own beside it.
pub const REVISIONS_TABLE: &str = "__branch_broker_revisions";

/// How far statements that are run in batches have come; there while one is, or was cut
/// off.
pub const BATCHES_TABLE: &str = "__branch_broker_batches";

/// All three: nobody's but who migrates.
pub const OWN_TABLES: [&str; 3] = [HISTORY_TABLE, REVISIONS_TABLE, BATCHES_TABLE];

/// A revision that a branch has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// Its version.
    pub version: String,
    /// When it was applied, by the branch's clock.
    pub at: Timestamp,
    /// What was recorded with it. `None`: Diesel applied it.
    pub record: Option<Record>,
}

/// What was recorded of a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its folder's name.
    pub name: String,
    /// What it was.
    pub checksum: Checksum,
}

const READING: &str = "read the migration history";

/// The revisions that a branch has of a service, oldest first. Reads only: a branch that
/// was never migrated has none.
pub async fn read(client: &Client, service: &ServiceSpec) -> Result<Vec<Applied>, postgres::Error> {
    if !has_table(client, service, HISTORY_TABLE).await? {
        return Ok(Vec::new());
    }
    let history = table(service, HISTORY_TABLE);
    // Diesel writes the server's time of day in the session's zone, without the zone.
    let ask = match has_table(client, service, REVISIONS_TABLE).await? {
        true => format!(
            "SELECT h.version::text,
                    extract(epoch FROM h.run_on::timestamptz)::float8, r.name, r.checksum
             FROM {history} h LEFT JOIN {} r USING (version, run_on) ORDER BY h.version",
            table(service, REVISIONS_TABLE)
        ),
        false => format!(
            "SELECT h.version::text,
                    extract(epoch FROM h.run_on::timestamptz)::float8, NULL::text, NULL::text
             FROM {history} h ORDER BY h.version"
        ),
    };
    let rows = client.query(&ask, &[]).await.attempted(READING)?;
    Ok(rows
        .iter()
        .map(|row| {
            let recorded = row.get::<_, Option<String>>(2).zip(row.get(3));
            Applied {
                version: row.get(0),
                at: moment(row.get(1)),
                record: recorded.map(|(name, checksum)| Record {
                    name,
                    checksum: Checksum::recorded(checksum),
                }),
            }
        })
        .collect())
}

/// The statements that keep a role out of the history.
pub fn nothing_for(service: &ServiceSpec, role: &str) -> String {
    let role = escape_identifier(role);
    OWN_TABLES
        .map(|name| {
            let table = table(service, name);
            let is_there = escape_literal(&table);
            format!(
                "DO $broker$ BEGIN
                     IF to_regclass({is_there}) IS NOT NULL THEN
                         REVOKE ALL ON TABLE {table} FROM {role};
                     END IF;
                 END $broker$;"
            )
        })
        .concat()
}

/// Makes the tables where they are not there. What roles would get of them by default
/// is taken away again.
pub async fn ensure(client: &Client, service: &ServiceSpec) -> Result<(), postgres::Error> {
    let mut is_there = true;
    for name in OWN_TABLES {
        is_there &= has_table(client, service, name).await?;
    }
    if is_there {
        return Ok(());
    }
    let sql = format!("BEGIN; {} COMMIT;", tables(service));
    let made = client.batch_execute(&sql).await;
    made.attempted("make the migration history")
}

/// The statements that make the schema and the tables where they are not there.
pub fn tables(service: &ServiceSpec) -> String {
    let schema = escape_identifier(&service.schema);
    let [history, revisions, batches] = OWN_TABLES.map(|name| table(service, name));
    // The first is as Diesel makes it.
    format!(
        "SET LOCAL client_min_messages = warning;
         CREATE SCHEMA IF NOT EXISTS {schema};
         CREATE TABLE IF NOT EXISTS {history} (
             version varchar(50) PRIMARY KEY NOT NULL,
             run_on timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP);
         CREATE TABLE IF NOT EXISTS {revisions} (
             version varchar(50) PRIMARY KEY,
             run_on timestamp NOT NULL,
             name text NOT NULL,
             checksum text NOT NULL);
         CREATE TABLE IF NOT EXISTS {batches} (
             version varchar(50),
             direction text,
             checksum text NOT NULL,
             reached text NOT NULL,
             rows bigint NOT NULL,
             PRIMARY KEY (version, direction));
         {}",
        nobodys(&[&history, &revisions, &batches]),
    )
}

/// The statements that take from everybody else what they have of tables, which are quoted
/// already: what roles get by default.
fn nobodys(tables: &[&String]) -> String {
    let tables = tables
        .iter()
        .map(|name| format!("{}::regclass", escape_literal(name)));
    let tables = tables.collect::<Vec<_>>().join(", ");
    format!(
        "DO $broker$ DECLARE held record; BEGIN
             FOR held IN
                 SELECT DISTINCT c.oid::regclass AS relation,
                        CASE acl.grantee WHEN 0 THEN 'PUBLIC'
                        ELSE acl.grantee::regrole::text END AS grantee
                 FROM pg_class c CROSS JOIN aclexplode(c.relacl) acl
                 WHERE c.oid IN ({tables}) AND acl.grantee <> c.relowner
             LOOP EXECUTE format('REVOKE ALL ON TABLE %s FROM %s', held.relation, held.grantee);
             END LOOP;
         END $broker$;"
    )
}

/// The statements that write a revision down as applied now, by the transaction that they
/// are in.
///
/// With `forget` they forget batches of it that were cut off too: whatever became of them,
/// it is whole.
pub fn applied(service: &ServiceSpec, migration: &Migration, forget: bool) -> String {
    written(service, migration, "CURRENT_TIMESTAMP", forget)
}

/// Whether batches of any revision were cut off.
pub async fn has_batches(client: &Client, service: &ServiceSpec) -> Result<bool, postgres::Error> {
    let ask = format!(
        "SELECT EXISTS (SELECT FROM {})",
        table(service, BATCHES_TABLE)
    );
    let row = client.query_one(&ask, &[]).await.attempted(READING)?;
    Ok(row.get(0))
}

/// The statements that write a revision down as what it is now, when it was applied before.
///
/// Batches of it that were cut off count no more: whatever became of them, it is whole.
pub fn record(service: &ServiceSpec, migration: &Migration) -> String {
    let history = table(service, HISTORY_TABLE);
    let version = escape_literal(&migration.revision.version);
    let run_on = format!("(SELECT run_on FROM {history} WHERE version = {version})");
    written(service, migration, &run_on, true)
}

/// `run_on`: when it was applied, as SQL.
fn written(service: &ServiceSpec, migration: &Migration, run_on: &str, forget: bool) -> String {
    let [history, revisions, batches] = OWN_TABLES.map(|name| table(service, name));
    let version = escape_literal(&migration.revision.version);
    let forget = match forget {
        true => format!("DELETE FROM {batches} WHERE version = {version};"),
        false => String::new(),
    };
    // Times of day are of the session's zone, which a revision may have changed.
    format!(
        "RESET timezone;
         INSERT INTO {history} (version) VALUES ({version}) ON CONFLICT DO NOTHING;
         INSERT INTO {revisions} (version, run_on, name, checksum)
             VALUES ({version}, {run_on}, {name}, {checksum})
             ON CONFLICT (version) DO UPDATE SET run_on = excluded.run_on,
                 name = excluded.name, checksum = excluded.checksum;
         {forget}",
        name = escape_literal(&migration.revision.name),
        checksum = escape_literal(&migration.checksum().to_string()),
    )
}

/// The statement that forgets how far batches have come of revisions that are not what they
/// were then: what they are now begins anew.
pub fn forget_changed(service: &ServiceSpec, folder: &[Migration]) -> String {
    let known = folder.iter().map(|migration| {
        let version = escape_literal(&migration.revision.version);
        format!(
            "({version}, {})",
            escape_literal(&migration.checksum().to_string())
        )
    });
    let known = known.collect::<Vec<_>>().join(", ");
    let table = table(service, BATCHES_TABLE);
    match known.is_empty() {
        true => format!("DELETE FROM {table};"),
        false => format!("DELETE FROM {table} WHERE (version, checksum) NOT IN ({known});"),
    }
}

/// The statement that says that a revision is not applied.
pub fn forget(service: &ServiceSpec, version: &str) -> String {
    let version = escape_literal(version);
    OWN_TABLES
        .map(|name| {
            format!(
                "DELETE FROM {} WHERE version = {version};",
                table(service, name)
            )
        })
        .concat()
}

/// A table in the service's schema, quoted.
pub fn table(service: &ServiceSpec, name: &str) -> String {
    format!("{}.{name}", escape_identifier(&service.schema))
}

async fn has_table(
    client: &impl GenericClient,
    service: &ServiceSpec,
    name: &str,
) -> Result<bool, postgres::Error> {
    let row = client
        .query_one(
            "SELECT to_regclass($1) IS NOT NULL",
            &[&table(service, name)],
        )
        .await
        .attempted(READING)?;
    Ok(row.get(0))
}

fn moment(seconds: f64) -> Timestamp {
    // Out of what a timestamp can be: never, for a clock.
    Timestamp::from_microsecond((seconds * 1e6) as i64).unwrap_or(Timestamp::UNIX_EPOCH)
}
