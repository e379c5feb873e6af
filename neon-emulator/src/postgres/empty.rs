//! Takes all rows out of a branch, and leaves its schema as it is: what
//! `pg_dump --schema-only` would bring elsewhere, with every role and privilege,
//! and without a pg_dump.

use std::path::Path;

use tokio_postgres::Client;

use super::admin::{AdminError, connect};

/// What the API's callers made, and not an extension: its own rows, such as a
/// list of coordinate systems, come with CREATE EXTENSION.
const OWN_RELATIONS: &str = "\
    FROM pg_class AS relation JOIN pg_namespace AS space ON space.oid = relation.relnamespace \
    WHERE space.nspname NOT IN ('pg_catalog', 'information_schema') \
      AND space.nspname NOT LIKE 'pg\\_toast%' \
      AND relation.relpersistence <> 't' \
      AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_class'::regclass \
                        AND objid = relation.oid AND deptype = 'e')";

/// Empties every database.
pub(crate) async fn remove_rows(
    client: &Client,
    sockets: &Path,
    port: u16,
) -> Result<(), AdminError> {
    let databases = client
        .query(
            "SELECT datname::text FROM pg_database WHERE datallowconn AND NOT datistemplate",
            &[],
        )
        .await
        .map_err(AdminError::at("list the databases"))?;
    for row in databases {
        let database: String = row
            .try_get(0)
            .map_err(AdminError::at("list the databases"))?;
        let session = connect(sockets, port, &database).await?;
        empty(&session)
            .await
            .map_err(AdminError::at(format!("empty the database {database}")))?;
    }
    Ok(())
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
