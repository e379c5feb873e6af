//! Takes all rows out of a branch, and leaves its schema as it is: what
//! `pg_dump --schema-only` would bring elsewhere, with every role and privilege,
//! and without a pg_dump.

use std::path::Path;

use postgres_protocol::escape::escape_identifier;
use tokio_postgres::Client;

use super::admin::{AdminError, connect};

/// The connection limit of a database whose DROP was cut off.
const INVALID: i32 = -2;

/// What the API's callers made, and not an extension: its own rows, such as a
/// list of coordinate systems, come with CREATE EXTENSION.
const OWN_RELATIONS: &str = "\
    FROM pg_class AS relation JOIN pg_namespace AS space ON space.oid = relation.relnamespace \
    WHERE space.nspname NOT IN ('pg_catalog', 'information_schema') \
      AND space.nspname NOT LIKE 'pg\\_toast%' \
      AND relation.relpersistence <> 't' \
      AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_class'::regclass \
                        AND objid = relation.oid AND deptype = 'e')";

/// Empties every database: one that nobody may connect to, and one that serves as
/// a template, as well. template0 is Postgres's own and has no rows of anybody's.
pub(crate) async fn remove_rows(
    client: &Client,
    sockets: &Path,
    port: u16,
) -> Result<(), AdminError> {
    let at = || AdminError::at("list the databases");
    let databases = client
        .query(
            "SELECT datname::text, datallowconn, datconnlimit = $1 FROM pg_database \
             WHERE datname <> 'template0'",
            &[&INVALID],
        )
        .await
        .map_err(at())?;
    for row in databases {
        let database: String = row.try_get(0).map_err(at())?;
        let is_open: bool = row.try_get(1).map_err(at())?;
        let is_invalid: bool = row.try_get(2).map_err(at())?;
        let name = escape_identifier(&database);
        if is_invalid {
            // Half dropped: it can be dropped, and nothing else.
            let drop = format!("DROP DATABASE {name}");
            run(client, &drop, &database).await?;
            continue;
        }
        let open = |open| format!("ALTER DATABASE {name} ALLOW_CONNECTIONS {open}");
        if !is_open {
            run(client, &open(true), &database).await?;
        }
        let session = connect(sockets, port, &database).await?;
        empty(&session)
            .await
            .map_err(AdminError::at(format!("empty the database {database}")))?;
        if !is_open {
            run(client, &open(false), &database).await?;
        }
    }
    Ok(())
}

async fn run(client: &Client, statement: &str, database: &str) -> Result<(), AdminError> {
    let attempt = AdminError::at(format!("empty the database {database}"));
    client.batch_execute(statement).await.map_err(attempt)
}

async fn empty(session: &Client) -> Result<(), tokio_postgres::Error> {
    let tables = names(session, "'r', 'p'").await?;
    let views = names(session, "'m'").await?;
    let sequences = names(session, "'S'").await?;
    // A trigger on TRUNCATE would run its owner's code as the superuser: the
    // ordinary ones are off under this setting, the others are switched off.
    let triggers = session
        .query(
            "SELECT format('ALTER TABLE %s DISABLE TRIGGER %I', tgrelid::regclass, tgname), \
                    format('ALTER TABLE %s ENABLE %s TRIGGER %I', tgrelid::regclass, \
                           CASE tgenabled WHEN 'A' THEN 'ALWAYS' ELSE 'REPLICA' END, tgname) \
             FROM pg_trigger \
             WHERE NOT tgisinternal AND tgtype & 32 <> 0 AND tgenabled IN ('A', 'R')",
            &[],
        )
        .await?;
    let mut statements = vec!["BEGIN; SET LOCAL session_replication_role = replica".to_owned()];
    for row in &triggers {
        statements.push(row.try_get(0)?);
    }
    if !tables.is_empty() {
        statements.push(format!("TRUNCATE {}", tables.join(", ")));
    }
    for view in views {
        statements.push(format!("REFRESH MATERIALIZED VIEW {view} WITH NO DATA"));
    }
    for sequence in sequences {
        statements.push(format!("ALTER SEQUENCE {sequence} RESTART"));
    }
    // Statistics hold values of the rows.
    statements.push("DELETE FROM pg_statistic; DELETE FROM pg_statistic_ext_data".to_owned());
    statements.push("SELECT lo_unlink(oid) FROM pg_largeobject_metadata".to_owned());
    for row in &triggers {
        statements.push(row.try_get(1)?);
    }
    statements.push("COMMIT".to_owned());
    session.batch_execute(&statements.join("; ")).await
}

/// Relations of these kinds, quoted, with their schemas.
async fn names(session: &Client, kinds: &str) -> Result<Vec<String>, tokio_postgres::Error> {
    let query = format!(
        "SELECT format('%I.%I', space.nspname, relation.relname) \
         {OWN_RELATIONS} AND relation.relkind IN ({kinds})"
    );
    let rows = session.query(&query, &[]).await?;
    rows.iter().map(|row| row.try_get(0)).collect()
}
