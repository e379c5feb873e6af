//! The tables of a database, from its catalog.

use std::collections::BTreeMap;

use neon_api::types::{
    BranchSchemaJson, SchemaColumn, SchemaConstraint, SchemaReference, SchemaTable,
};
use tokio_postgres::{Client, Row};

use super::admin::AdminError;

/// Tables that are neither the system's nor an extension's, in order.
const TABLES: &str = "\
    SELECT relation.oid, space.nspname::text, relation.relname::text \
    FROM pg_class AS relation JOIN pg_namespace AS space ON space.oid = relation.relnamespace \
    WHERE relation.relkind IN ('r', 'p', 'f') AND relation.relpersistence <> 't' \
      AND space.nspname NOT IN ('pg_catalog', 'information_schema') \
      AND space.nspname NOT LIKE 'pg\\_toast%' \
      AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_class'::regclass \
                        AND objid = relation.oid AND deptype = 'e') \
    ORDER BY 2, 3";
const COLUMNS: &str = "\
    SELECT attrelid, attname::text, format_type(atttypid, atttypmod), NOT attnotnull, \
           attgenerated <> '' \
    FROM pg_attribute WHERE attrelid = ANY($1) AND attnum > 0 AND NOT attisdropped \
    ORDER BY attrelid, attnum";
/// NOT NULL is the column's, though Postgres 18 has it here too.
const CONSTRAINTS: &str = "\
    SELECT made.conrelid, made.conname::text, made.contype::text, \
           ARRAY(SELECT attname::text FROM unnest(made.conkey) WITH ORDINALITY AS key(number, place) \
                 JOIN pg_attribute ON attrelid = made.conrelid AND attnum = key.number \
                 ORDER BY key.place), \
           space.nspname::text, other.relname::text, \
           ARRAY(SELECT attname::text FROM unnest(made.confkey) WITH ORDINALITY AS key(number, place) \
                 JOIN pg_attribute ON attrelid = made.confrelid AND attnum = key.number \
                 ORDER BY key.place) \
    FROM pg_constraint AS made \
    LEFT JOIN pg_class AS other ON other.oid = made.confrelid \
    LEFT JOIN pg_namespace AS space ON space.oid = other.relnamespace \
    WHERE made.conrelid = ANY($1) AND made.contype IN ('p', 'u', 'f', 'c', 'x') \
    ORDER BY made.conrelid, made.conname";

/// The tables of the database that the session is on.
pub(crate) async fn tables(client: &Client) -> Result<BranchSchemaJson, AdminError> {
    read(client)
        .await
        .map_err(AdminError::at("read the schema"))
}

async fn read(client: &Client) -> Result<BranchSchemaJson, tokio_postgres::Error> {
    let found = client.query(TABLES, &[]).await?;
    let ids: Vec<u32> = found
        .iter()
        .map(|row| row.try_get(0))
        .collect::<Result<_, _>>()?;
    let mut columns: BTreeMap<u32, Vec<SchemaColumn>> = BTreeMap::new();
    for row in client.query(COLUMNS, &[&ids]).await? {
        columns
            .entry(row.try_get(0)?)
            .or_default()
            .push(column(&row)?);
    }
    let mut constraints: BTreeMap<u32, Vec<SchemaConstraint>> = BTreeMap::new();
    for row in client.query(CONSTRAINTS, &[&ids]).await? {
        let of_table = constraints.entry(row.try_get(0)?).or_default();
        of_table.push(constraint(&row)?);
    }
    let tables = found.iter().map(|row| {
        let id: u32 = row.try_get(0)?;
        Ok(SchemaTable {
            schema: row.try_get(1)?,
            name: row.try_get(2)?,
            columns: columns.remove(&id).unwrap_or_default(),
            constraints: constraints.remove(&id),
        })
    });
    Ok(BranchSchemaJson {
        tables: tables.collect::<Result<_, tokio_postgres::Error>>()?,
    })
}

fn column(row: &Row) -> Result<SchemaColumn, tokio_postgres::Error> {
    Ok(SchemaColumn {
        name: row.try_get(1)?,
        column_type: row.try_get(2)?,
        nullable: Some(row.try_get(3)?),
        generated: Some(row.try_get(4)?),
    })
}

fn constraint(row: &Row) -> Result<SchemaConstraint, tokio_postgres::Error> {
    let kind: String = row.try_get(2)?;
    let kind = match kind.as_str() {
        "p" => "PRIMARY KEY",
        "u" => "UNIQUE",
        "f" => "FOREIGN KEY",
        "c" => "CHECK",
        _ => "EXCLUDE",
    };
    let referenced: Option<String> = row.try_get(5)?;
    let referenced_table = match referenced {
        None => None,
        Some(table) => Some(SchemaReference {
            schema: row.try_get::<_, Option<String>>(4)?.unwrap_or_default(),
            table,
            columns: row.try_get(6)?,
        }),
    };
    Ok(SchemaConstraint {
        constraint_type: kind.to_owned(),
        columns: row.try_get(3)?,
        name: Some(row.try_get(1)?),
        referenced_table,
    })
}
