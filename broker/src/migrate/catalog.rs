//! What one schema of a database holds, read from its catalog.
//!
//! What is not compared: owners, grants, comments, statistics targets, storage and
//! compression of columns, tablespaces, replica identities, publications, operators,
//! collations and text search. What belongs to an extension is the extension's.

mod constraints;
pub mod names;
mod noticed;
mod others;
mod tables;
pub(crate) mod text;
mod views;

use std::collections::BTreeMap;

use tokio_postgres::{Client, Error, Row};

/// What a schema holds. Two are equal when they mean the same: neither the order in which
/// things were made counts, nor that of a table's columns, as Postgres can only append.
#[derive(Debug, Clone, Default)]
pub struct Schema {
    /// Ordinary tables. Partitioned ones and the like are [`Noticed`].
    pub tables: BTreeMap<String, Table>,
    /// Indexes that no constraint has.
    pub indexes: BTreeMap<String, Index>,
    /// Sequences, without those of identity columns.
    pub sequences: BTreeMap<String, Sequence>,
    /// Enums: their labels, in order.
    pub enums: BTreeMap<String, Vec<String>>,
    /// Views, materialized or not.
    pub views: BTreeMap<String, View>,
    /// Everything else, by kind and name.
    pub noticed: BTreeMap<(String, String), Noticed>,
}

/// An ordinary table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Table {
    /// In the table's order.
    pub columns: Vec<Column>,
    /// By name.
    pub constraints: BTreeMap<String, Constraint>,
    /// Whether a crash empties it.
    pub is_unlogged: bool,
    /// Whether its policies are in force.
    pub has_row_security: bool,
    /// Whether they are for its owner too.
    pub forces_row_security: bool,
}

/// A column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type, as `format_type` has it.
    pub data_type: String,
    /// Its collation, where it is not the type's.
    pub collation: Option<String>,
    /// Whether it is declared so.
    pub is_not_null: bool,
    /// What it is filled with.
    pub default: Option<String>,
    /// Whether it numbers rows.
    pub identity: Option<Identity>,
    /// Whether it is computed.
    pub generated: Option<Generated>,
}

/// How an identity column numbers rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// `ALWAYS`, rather than `BY DEFAULT`.
    pub is_always: bool,
    /// Its sequence.
    pub options: SequenceOptions,
}

/// How a column is computed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generated {
    /// From what.
    pub expression: String,
    /// When a row is written, rather than when it is read.
    pub is_stored: bool,
}

/// What a constraint is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConstraintKind {
    /// `PRIMARY KEY`
    PrimaryKey,
    /// `UNIQUE`
    Unique,
    /// `CHECK`
    Check,
    /// `FOREIGN KEY`
    ForeignKey,
    /// `EXCLUDE`
    Exclusion,
}

/// A table's constraint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Constraint {
    /// What it is.
    pub kind: ConstraintKind,
    /// As `pg_get_constraintdef` has it; ends in `NOT VALID` where it is not validated.
    pub definition: String,
    /// Whether every row is known to keep it.
    pub is_validated: bool,
    /// The table's columns that it names.
    pub columns: Vec<String>,
    /// What a foreign key leads to, within the schema.
    pub references: Option<References>,
}

/// What a foreign key leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct References {
    /// The table.
    pub table: String,
    /// Its columns.
    pub columns: Vec<String>,
    /// The index that keeps them unique, which is called as its constraint.
    pub index: String,
}

/// An index of a table or of a materialized view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// Of which.
    pub table: String,
    /// Whether it keeps its columns unique.
    pub is_unique: bool,
    /// What follows the table's name: its method, columns and predicate.
    pub definition: String,
    /// The columns that it names as such.
    pub columns: Vec<String>,
    /// Whether there are expressions or a predicate beside them.
    pub has_expressions: bool,
}

/// A sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequence {
    /// How it counts.
    pub options: SequenceOptions,
    /// The table and column that it goes with.
    pub owner: Option<(String, String)>,
}

/// How a sequence counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SequenceOptions {
    /// `smallint`, `integer` or `bigint`.
    pub data_type: String,
    /// From.
    pub start: i64,
    /// In steps of.
    pub increment: i64,
    /// Not below.
    pub min: i64,
    /// Not above.
    pub max: i64,
    /// So many at a time.
    pub cache: i64,
    /// Whether from the beginning again.
    pub is_cycle: bool,
}

/// A view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// Whether it keeps its rows.
    pub is_materialized: bool,
    /// Its query, as `pg_get_viewdef` has it.
    pub definition: String,
    /// `security_barrier=true`, and so on.
    pub options: Vec<String>,
    /// Names and types, in order.
    pub columns: Vec<(String, String)>,
    /// What of the schema it is built upon.
    pub uses: Vec<Use>,
}

/// What a view is built upon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Use {
    /// A table or a view, or a column of it.
    Relation {
        /// Its name.
        name: String,
        /// The column's.
        column: Option<String>,
    },
    /// A type.
    Type(String),
    /// A constraint: what is grouped by a primary key may select the other columns.
    Constraint {
        /// Of which table.
        table: String,
        /// Its name.
        name: String,
    },
}

/// What is seen to be there and to differ, but not written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Noticed {
    /// How it is defined.
    pub definition: String,
    /// The table or view that it goes with.
    pub on: Option<String>,
}

impl Table {
    /// The column of that name.
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }
}

/// Reads what `schema` holds; one that is not there holds nothing. Begins and ends a
/// transaction of its own: the session must not be in one. Should the future be dropped, the
/// session may be left in it.
pub async fn read(client: &Client, schema: &str) -> Result<Schema, Error> {
    // Texts are to be the same whatever the session's settings. With nothing else in the
    // search path, names outside of the schema come qualified, and those in it do not.
    let begin = format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
         SET LOCAL search_path TO \"{}\";
         SET LOCAL DateStyle TO 'ISO, YMD';
         SET LOCAL IntervalStyle TO 'postgres';
         SET LOCAL TimeZone TO 'UTC';
         SET LOCAL extra_float_digits TO 1;
         SET LOCAL bytea_output TO 'hex';
         SET LOCAL quote_all_identifiers TO off;
         SET LOCAL jit TO off;",
        schema.replace('"', "\"\"")
    );
    let read = match client.batch_execute(&begin).await {
        Ok(()) => read_all(client, schema).await,
        Err(error) => Err(error),
    };
    let ended = client.batch_execute("ROLLBACK").await;
    let read = read?;
    ended?;
    Ok(read)
}

async fn read_all(client: &Client, schema: &str) -> Result<Schema, Error> {
    let mut read = Schema::default();
    tables::read(client, schema, &mut read).await?;
    constraints::read(client, schema, &mut read).await?;
    others::read(client, schema, &mut read).await?;
    views::read(client, schema, &mut read).await?;
    noticed::read(client, schema, &mut read).await?;
    Ok(read)
}

/// What every query begins with: `own`, the schema's relations. An `is_ordinary` one is a
/// table that this broker knows how to write.
const OWN: &str = "WITH own AS (
    SELECT c.oid, c.relname::text AS name, c.relkind, c.relnamespace, c.reloptions,
           c.relpersistence, c.relrowsecurity, c.relforcerowsecurity, c.reltype,
           c.relkind = 'r' AND NOT c.relispartition AND c.reloftype = 0
               AND NOT EXISTS (SELECT FROM pg_inherits i
                               WHERE c.oid IN (i.inhrelid, i.inhparent)) AS is_ordinary
    FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = $1
      AND c.relname NOT IN ('__diesel_schema_migrations', '__branch_broker_revisions',
                            '__branch_broker_batches')
      AND NOT EXISTS (SELECT FROM pg_depend d
                      WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                        AND d.deptype = 'e')
) ";

async fn rows(client: &Client, query: &str, schema: &str) -> Result<Vec<Row>, Error> {
    client.query(&format!("{OWN}{query}"), &[&schema]).await
}
