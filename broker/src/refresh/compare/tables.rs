//! A service's tables, and how one is read so that it can be compared.

use std::collections::BTreeMap;

use tokio_postgres::Client;

use crate::config::ServiceSpec;
use crate::migrate::history::OWN_TABLES;
use crate::postgres::{self, Attempted as _, escape_identifier};

/// What matters of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shape {
    /// The columns of its primary key; none if it has none.
    pub(super) key: Vec<String>,
    /// All its columns, by name.
    pub(super) columns: Vec<String>,
    /// Whether its rows are in partitions.
    pub(super) is_partitioned: bool,
    /// Whether what the branches began with has it.
    pub(super) is_in_base: bool,
}

/// The tables of a service on a branch, but for those that say how far it is migrated.
pub(super) async fn of(
    client: &Client,
    service: &ServiceSpec,
) -> Result<BTreeMap<String, Shape>, postgres::Error> {
    let query = "
        SELECT c.relname::text, c.relkind = 'p',
               array_agg(a.attname::text ORDER BY a.attname::text COLLATE \"C\"),
               (SELECT coalesce(array_agg(k.attname::text ORDER BY x.place), '{}')
                FROM pg_index i
                CROSS JOIN unnest(i.indkey::int2[]) WITH ORDINALITY x (number, place)
                JOIN pg_attribute k ON k.attrelid = i.indrelid AND k.attnum = x.number
                WHERE i.indrelid = c.oid AND i.indisprimary AND x.place <= i.indnkeyatts)
        FROM pg_class c
        JOIN pg_namespace n ON n.oid = c.relnamespace
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        WHERE n.nspname = $1 AND c.relkind IN ('r', 'p') AND NOT c.relispartition
              AND c.relname <> ALL ($2)
        GROUP BY c.oid, c.relname, c.relkind";
    let history = OWN_TABLES.as_slice();
    let rows = client.query(query, &[&service.schema, &history]).await;
    let rows = rows.attempted("list the tables that are compared")?;
    let shape = |row: &tokio_postgres::Row| Shape {
        is_partitioned: row.get(1),
        columns: row.get(2),
        key: row.get(3),
        is_in_base: false,
    };
    let tables = rows.iter().map(|row| (row.get(0), shape(row)));
    Ok(tables.collect())
}

impl Shape {
    /// The query that reads a table: keys, in the order of their bytes, and a hash of
    /// each row.
    pub(super) fn query(&self, service: &ServiceSpec, name: &str) -> String {
        let key = self.key.iter().map(|column| {
            let column = escape_identifier(column);
            format!("{column}::text COLLATE \"C\"")
        });
        let key = key.collect::<Vec<_>>().join(", ");
        let columns = self.columns.iter().map(|column| escape_identifier(column));
        let columns = columns.collect::<Vec<_>>().join(", ");
        let (schema, table) = (escape_identifier(&service.schema), escape_identifier(name));
        // What inherits from a table is a table of its own.
        let only = if self.is_partitioned { "" } else { "ONLY " };
        format!(
            "SELECT ARRAY[{key}], sha256(convert_to(ROW({columns})::text, 'UTF8'))
             FROM {only}{schema}.{table} ORDER BY {key}"
        )
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_table_is_read_by_its_key() {
        let service = ServiceSpec {
            name: "users".parse().unwrap(),
            database: "neondb".into(),
            schema: "users".into(),
            migrations: "migrations".into(),
            statement_timeout: Duration::from_secs(30),
        };
        let shape = Shape {
            key: vec!["a\"b".to_owned(), "id".to_owned()],
            columns: vec!["a\"b".to_owned(), "id".to_owned(), "x".to_owned()],
            is_partitioned: false,
            is_in_base: false,
        };
        let query = shape.query(&service, "t");
        let words: Vec<_> = query.split_whitespace().collect();
        assert_eq!(
            words.join(" "),
            r#"SELECT ARRAY["a""b"::text COLLATE "C", "id"::text COLLATE "C"], sha256(convert_to(ROW("a""b", "id", "x")::text, 'UTF8')) FROM ONLY "users"."t" ORDER BY "a""b"::text COLLATE "C", "id"::text COLLATE "C""#
        );
    }
}
