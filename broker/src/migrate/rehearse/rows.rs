//! A schema and its rows at one moment, to be compared.

use std::collections::BTreeMap;

use tokio_postgres::Client;

use crate::migrate::catalog::{self, Schema};
use crate::migrate::history::OWN_TABLES;
use crate::migrate::lint::Size;
use crate::postgres::{self, Attempted as _};

/// Tables larger than this have their rows counted and not compared, in bytes.
const COMPARED_BYTES_MAX: i64 = 64 << 20;
/// How long the counting of a table may take, in minutes.
const COUNT_MINUTES_MAX: u32 = 30;

/// A schema and its rows.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) schema: Schema,
    tables: BTreeMap<String, Table>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Table {
    rows: i64,
    bytes: i64,
    /// The same for the same rows, in any order. `None`: it is too large.
    checksum: Option<String>,
}

/// The sizes of a schema's tables, with their rows as the last ANALYZE has counted them.
/// A partitioned table is as large as its parts.
pub(super) async fn sizes(
    client: &Client,
    schema: &str,
) -> Result<BTreeMap<String, Size>, postgres::Error> {
    const ASK: &str = "
        SELECT c.relname::text, coalesce(p.rows, c.reltuples)::bigint,
               coalesce(p.bytes, pg_table_size(c.oid))::bigint
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        LEFT JOIN LATERAL (
            SELECT sum(greatest(l.reltuples, 0)) AS rows, sum(pg_table_size(l.oid)) AS bytes
            FROM pg_partition_tree(c.oid) t JOIN pg_class l ON l.oid = t.relid
            WHERE t.isleaf) p ON c.relkind = 'p'
        WHERE n.nspname = $1 AND c.relkind IN ('r', 'p', 'm')";
    let rows = client.query(ASK, &[&schema]).await;
    let rows = rows.attempted("look how large the tables are")?;
    let sizes = rows.iter().map(|row| {
        let size = Size {
            rows: row.get(1),
            bytes: row.get(2),
        };
        (row.get(0), size)
    });
    Ok(sizes.collect())
}

impl Snapshot {
    /// Everything as it is committed now.
    pub(super) async fn take(client: &Client, schema: &str) -> Result<Self, postgres::Error> {
        const TABLES: &str = "
            SELECT c.relname::text, format('%I.%I', n.nspname, c.relname), pg_table_size(c.oid),
                   -- Columns that come again come last: their order is no difference.
                   (SELECT string_agg(quote_ident(a.attname), ', '
                                      ORDER BY a.attname::text COLLATE \"C\")
                    FROM pg_attribute a
                    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)
            FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE n.nspname = $1 AND c.relkind = 'r' AND NOT c.relname = ANY ($2)";
        const WHAT: &str = "count the rows";
        let found = client
            .query(TABLES, &[&schema, &OWN_TABLES.as_slice()])
            .await;
        let found = found.attempted("list the tables")?;
        let begin =
            format!("BEGIN READ ONLY; SET LOCAL statement_timeout = '{COUNT_MINUTES_MAX}min'");
        client.batch_execute(&begin).await.attempted(WHAT)?;
        let mut tables = BTreeMap::new();
        for row in found {
            let (name, quoted, bytes): (String, String, i64) = (row.get(0), row.get(1), row.get(2));
            // A sum is the same in any order.
            let sum = match bytes <= COMPARED_BYTES_MAX {
                true => format!(
                    "coalesce(sum(hashtextextended(ROW({})::text, 0)::numeric), 0)::text",
                    row.get::<_, Option<String>>(3).unwrap_or_default()
                ),
                false => "NULL::text".to_owned(),
            };
            let ask = format!("SELECT count(*), {sum} FROM ONLY {quoted} AS t");
            let counted = client.query_one(&ask, &[]).await.attempted(WHAT)?;
            let table = Table {
                rows: counted.get(0),
                bytes,
                checksum: counted.get(1),
            };
            tables.insert(name, table);
        }
        client.batch_execute("COMMIT").await.attempted(WHAT)?;
        let schema = catalog::read(client, schema).await;
        let schema = schema.attempted("read the schema")?;
        Ok(Self { schema, tables })
    }

    /// The sizes of its tables.
    pub(super) fn sizes(&self) -> BTreeMap<String, Size> {
        let sizes = self.tables.iter().map(|(name, table)| {
            let Table { rows, bytes, .. } = *table;
            (name.clone(), Size { rows, bytes })
        });
        sizes.collect()
    }

    /// Tables whose rows were counted alone.
    pub(super) fn counted(&self) -> Vec<String> {
        let counted = self
            .tables
            .iter()
            .filter(|(_, table)| table.checksum.is_none());
        counted.map(|(name, _)| name.clone()).collect()
    }

    /// What differs of the rows of tables that both have.
    pub(super) fn differences(&self, after: &Snapshot) -> Vec<String> {
        let both = self.tables.iter().filter_map(|(name, before)| {
            let after = after.tables.get(name)?;
            Some((name, before, after))
        });
        let differing = both.filter_map(|(name, before, after)| {
            if before.rows != after.rows {
                return Some(format!(
                    "{name} had {} rows and has {}",
                    before.rows, after.rows
                ));
            }
            let is_other = before.checksum.is_some()
                && after.checksum.is_some()
                && before.checksum != after.checksum;
            is_other.then(|| format!("rows of {name} are not what they were"))
        });
        differing.collect()
    }
}
