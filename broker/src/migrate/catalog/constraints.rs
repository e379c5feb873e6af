//! Constraints and indexes.

use tokio_postgres::{Client, Error};

use super::{Constraint, ConstraintKind, Index, References, Schema, rows};

/// From Postgres 18 on, `NOT NULL` is a constraint too ('n'): the column says it already.
const CONSTRAINTS: &str = "
    SELECT own.name, k.conname::text, k.contype::text, pg_get_constraintdef(k.oid, true),
           k.convalidated,
           ARRAY(SELECT a.attname::text
                 FROM unnest(k.conkey) WITH ORDINALITY AS u (attnum, place)
                 JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.attnum
                 ORDER BY u.place),
           f.relname::text,
           ARRAY(SELECT a.attname::text
                 FROM unnest(k.confkey) WITH ORDINALITY AS u (attnum, place)
                 JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.attnum
                 ORDER BY u.place),
           i.relname::text
    FROM own
    JOIN pg_constraint k ON k.conrelid = own.oid AND k.conparentid = 0
    LEFT JOIN pg_class f ON f.oid = k.confrelid AND f.relnamespace = own.relnamespace
    LEFT JOIN pg_class i ON i.oid = k.conindid
    WHERE own.is_ordinary AND k.contype IN ('p', 'u', 'c', 'f', 'x')";

const INDEXES: &str = "
    SELECT own.name, x.relname::text, i.indisunique, pg_get_indexdef(i.indexrelid, 0, true),
           ' ON ' || quote_ident(own.name) || ' USING ',
           ARRAY(SELECT a.attname::text
                 FROM unnest(i.indkey) AS u (attnum)
                 JOIN pg_attribute a ON a.attrelid = own.oid AND a.attnum = u.attnum),
           i.indexprs IS NOT NULL OR i.indpred IS NOT NULL
    FROM own
    JOIN pg_index i ON i.indrelid = own.oid
    JOIN pg_class x ON x.oid = i.indexrelid
    WHERE (own.is_ordinary OR own.relkind = 'm') AND i.indisvalid
      AND NOT EXISTS (SELECT FROM pg_constraint k
                      WHERE k.conindid = i.indexrelid AND k.contype IN ('p', 'u', 'x'))
      AND NOT EXISTS (SELECT FROM pg_depend d
                      WHERE d.classid = 'pg_class'::regclass AND d.objid = x.oid
                        AND d.deptype = 'e')";

pub(super) async fn read(client: &Client, schema: &str, into: &mut Schema) -> Result<(), Error> {
    for row in rows(client, CONSTRAINTS, schema).await? {
        let Some(table) = into.tables.get_mut(row.try_get::<_, &str>(0)?) else {
            continue;
        };
        let kind = match row.try_get::<_, &str>(2)? {
            "p" => ConstraintKind::PrimaryKey,
            "u" => ConstraintKind::Unique,
            "c" => ConstraintKind::Check,
            "f" => ConstraintKind::ForeignKey,
            _ => ConstraintKind::Exclusion,
        };
        let references = match row.try_get(6)? {
            Some(table) => Some(References {
                table,
                columns: row.try_get(7)?,
                index: row.try_get::<_, Option<_>>(8)?.unwrap_or_default(),
            }),
            None => None,
        };
        let constraint = Constraint {
            kind,
            definition: row.try_get(3)?,
            is_validated: row.try_get(4)?,
            columns: row.try_get(5)?,
            references,
        };
        table.constraints.insert(row.try_get(1)?, constraint);
    }
    for row in rows(client, INDEXES, schema).await? {
        let (whole, on): (String, String) = (row.try_get(3)?, row.try_get(4)?);
        let definition = whole.split_once(&on).map(|(_, definition)| definition);
        let index = Index {
            table: row.try_get(0)?,
            is_unique: row.try_get(2)?,
            definition: definition.unwrap_or(&whole).to_owned(),
            columns: row.try_get(5)?,
            has_expressions: row.try_get(6)?,
        };
        into.indexes.insert(row.try_get(1)?, index);
    }
    Ok(())
}
