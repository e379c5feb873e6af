//! Tables and their columns.

use tokio_postgres::{Client, Error, Row};

use super::{Column, Generated, Identity, Schema, SequenceOptions, Table, rows};

const TABLES: &str = "
    SELECT name, relpersistence = 'u', relrowsecurity, relforcerowsecurity
    FROM own WHERE is_ordinary";

const COLUMNS: &str = "
    SELECT own.name, a.attname::text, format_type(a.atttypid, a.atttypmod),
           CASE WHEN a.attcollation <> t.typcollation AND a.attcollation <> 0
                THEN a.attcollation::regcollation::text END,
           a.attnotnull, pg_get_expr(d.adbin, d.adrelid, a.attgenerated <> ''),
           a.attidentity::text, a.attgenerated::text,
           format_type(s.seqtypid, NULL), s.seqstart, s.seqincrement, s.seqmin, s.seqmax,
           s.seqcache, s.seqcycle
    FROM own
    JOIN pg_attribute a ON a.attrelid = own.oid AND a.attnum > 0 AND NOT a.attisdropped
    JOIN pg_type t ON t.oid = a.atttypid
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    LEFT JOIN pg_depend i ON a.attidentity <> '' AND i.classid = 'pg_class'::regclass
         AND i.refclassid = 'pg_class'::regclass AND i.refobjid = a.attrelid
         AND i.refobjsubid = a.attnum AND i.deptype = 'i'
    LEFT JOIN pg_sequence s ON s.seqrelid = i.objid
    WHERE own.is_ordinary
    ORDER BY own.name, a.attnum";

pub(super) async fn read(client: &Client, schema: &str, into: &mut Schema) -> Result<(), Error> {
    for row in rows(client, TABLES, schema).await? {
        let table = Table {
            is_unlogged: row.try_get(1)?,
            has_row_security: row.try_get(2)?,
            forces_row_security: row.try_get(3)?,
            ..Table::default()
        };
        into.tables.insert(row.try_get(0)?, table);
    }
    for row in rows(client, COLUMNS, schema).await? {
        if let Some(table) = into.tables.get_mut(row.try_get::<_, &str>(0)?) {
            table.columns.push(column(&row)?);
        }
    }
    Ok(())
}

fn column(row: &Row) -> Result<Column, Error> {
    let expression: Option<String> = row.try_get(5)?;
    let identity: String = row.try_get(6)?;
    let generated: String = row.try_get(7)?;
    let (default, generated) = match (expression, generated.as_str()) {
        (default, "") => (default, None),
        (expression, stored) => {
            let is_stored = stored == "s";
            let expression = expression.unwrap_or_default();
            (
                None,
                Some(Generated {
                    expression,
                    is_stored,
                }),
            )
        }
    };
    let has_options = row.try_get::<_, Option<String>>(8)?.is_some();
    let identity = match identity.as_str() {
        kind @ ("a" | "d") if has_options => Some(Identity {
            is_always: kind == "a",
            options: options(row, 8)?,
        }),
        _ => None,
    };
    Ok(Column {
        name: row.try_get(1)?,
        data_type: row.try_get(2)?,
        collation: row.try_get(3)?,
        is_not_null: row.try_get(4)?,
        default,
        identity,
        generated,
    })
}

/// A sequence's options, from the column of that number on.
pub(super) fn options(row: &Row, from: usize) -> Result<SequenceOptions, Error> {
    Ok(SequenceOptions {
        data_type: row.try_get(from)?,
        start: row.try_get(from + 1)?,
        increment: row.try_get(from + 2)?,
        min: row.try_get(from + 3)?,
        max: row.try_get(from + 4)?,
        cache: row.try_get(from + 5)?,
        is_cycle: row.try_get(from + 6)?,
    })
}
