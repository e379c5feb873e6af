//! Schemas of databases.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::BranchId;

/// A database's schema, in the format asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BranchSchemaResponse {
    /// As SQL, when `sql` was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sql: Option<String>,
    /// As tables, when `json` was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub json: Option<BranchSchemaJson>,
}

/// The difference between two schemas.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BranchSchemaCompareResponse {
    /// A unified diff. Absent or empty when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diff: Option<String>,
}

/// A schema as tables.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BranchSchemaJson {
    /// The tables.
    #[serde(deserialize_with = "super::null_as_default")]
    pub tables: Vec<SchemaTable>,
}

/// A table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchemaTable {
    /// The Postgres schema it is in.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// Its columns, in order.
    #[serde(deserialize_with = "super::null_as_default")]
    pub columns: Vec<SchemaColumn>,
    /// Its constraints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub constraints: Option<Vec<SchemaConstraint>>,
}

/// A column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchemaColumn {
    /// Its name.
    pub name: String,
    /// Its type, as Postgres writes it.
    #[serde(rename = "type")]
    pub column_type: String,
    /// Whether it can be null.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nullable: Option<bool>,
    /// Whether it is computed from others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generated: Option<bool>,
}

/// A constraint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchemaConstraint {
    /// Its kind: primary key, foreign key, unique.
    #[serde(rename = "type")]
    pub constraint_type: String,
    /// The columns it is on.
    #[serde(deserialize_with = "super::null_as_default")]
    pub columns: Vec<String>,
    /// Its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What a foreign key refers to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub referenced_table: Option<SchemaReference>,
}

/// What a foreign key refers to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchemaReference {
    /// The Postgres schema of the table.
    pub schema: String,
    /// The table.
    pub table: String,
    /// Its columns.
    #[serde(deserialize_with = "super::null_as_default")]
    pub columns: Vec<String>,
}

string_enum! {
    /// How a schema is written.
    pub enum SchemaFormat {
        /// As SQL; what is sent when nothing is asked for.
        Sql = "sql",
        /// As tables in JSON.
        Json = "json",
    }
}

/// Which schema. At most one of `lsn` and `timestamp`; with neither, as of now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BranchSchemaQuery {
    /// The database.
    pub db_name: String,
    /// As of this place in the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lsn: Option<String>,
    /// As of this time.
    #[serde(
        default,
        deserialize_with = "super::spelling::time",
        skip_serializing_if = "Option::is_none"
    )]
    pub timestamp: Option<Timestamp>,
    /// How it is to be written. Absent: as SQL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<SchemaFormat>,
}

impl BranchSchemaQuery {
    /// A database's schema as of now, as SQL.
    pub fn database(db_name: impl Into<String>) -> BranchSchemaQuery {
        BranchSchemaQuery {
            db_name: db_name.into(),
            lsn: None,
            timestamp: None,
            format: None,
        }
    }
}

/// Which schemas to compare: the branch's with the base branch's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchemaCompareQuery {
    /// The branch compared with. The API does not say what its absence means.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_branch_id: Option<BranchId>,
    /// The database, of the same name on both.
    pub db_name: String,
    /// The branch as of this place in the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lsn: Option<String>,
    /// The branch as of this time.
    #[serde(
        default,
        deserialize_with = "super::spelling::time",
        skip_serializing_if = "Option::is_none"
    )]
    pub timestamp: Option<Timestamp>,
    /// The base branch as of this place in the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_lsn: Option<String>,
    /// The base branch as of this time.
    #[serde(
        default,
        deserialize_with = "super::spelling::time",
        skip_serializing_if = "Option::is_none"
    )]
    pub base_timestamp: Option<Timestamp>,
}

impl SchemaCompareQuery {
    /// A database as of now on both branches.
    pub fn database(db_name: impl Into<String>) -> SchemaCompareQuery {
        SchemaCompareQuery {
            base_branch_id: None,
            db_name: db_name.into(),
            lsn: None,
            timestamp: None,
            base_lsn: None,
            base_timestamp: None,
        }
    }

    /// Compared with this branch.
    #[must_use]
    pub fn base(mut self, branch_id: BranchId) -> SchemaCompareQuery {
        self.base_branch_id = Some(branch_id);
        self
    }
}
