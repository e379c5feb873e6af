//! Contracts: the queries that a version of a service runs, tried for real and undone.
//!
//! A contract is a file of SQL. A query without parameters is run. One with them (`$1`) is
//! run with the values of the comment before it, `-- example: 1, 'Ada'`; without such a
//! comment it is prepared alone, which finds what is renamed, dropped, or of another type.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{fs, io};

use futures_util::future::{join, join4};
use squawk_lexer::TokenKind;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::config::Config;
use crate::migrate::catalog::Schema;
use crate::migrate::lint::Used;
use crate::migrate::statements::{pieces, split};
use crate::migrate::{Error, Place};
use crate::names::{BindingName, ServiceName};
use crate::postgres::{self, Attempted as _, escape_identifier};
use crate::text::one_line;

/// How long a query may wait for a lock before it counts as blocked, in milliseconds.
const BLOCKED_MS: u64 = 1;
/// How long a query may take, in milliseconds.
const QUERY_MS_MAX: u64 = 30_000;
/// What a query with values is called on its session.
const PREPARED: &str = "branch_broker_query";
/// How the comment begins that has values for a query's parameters.
const EXAMPLE: &str = "example:";

/// The queries of one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contract {
    /// Whose: services/users/versions/v1.
    pub by: String,
    /// Whether that version lives on the branch.
    pub is_live: bool,
    /// In the order of the file.
    pub queries: Vec<Query>,
}

/// A query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// Its line in the file, from 1.
    pub line: usize,
    /// The query.
    pub sql: String,
    has_parameters: bool,
    example: Option<String>,
}

impl Query {
    /// As it may be shown.
    pub(super) fn shown(&self) -> String {
        Place::shown(&self.sql)
    }

    /// What it says, word by word, in lower case.
    fn words(&self) -> BTreeSet<String> {
        let words = pieces(&self.sql).filter(|piece| !piece.is_trivia());
        words
            .map(|piece| piece.text.trim_matches('"').to_lowercase())
            .collect()
    }
}

impl Outcome {
    /// Whether it ran.
    pub(super) fn works(&self) -> bool {
        matches!(self, Outcome::Works { .. })
    }
}

/// What became of a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It ran.
    Works {
        /// The names and types of what it takes and answers with.
        columns: Vec<String>,
    },
    /// It did not.
    Fails {
        /// What Postgres said.
        reason: String,
    },
}

/// What each version of a service asks of its schema, as files say. `is_live`: whether it
/// lives on the branch that is rehearsed.
pub async fn of_service(
    config: &Config,
    service: &ServiceName,
    is_live: impl Fn(&BindingName) -> bool,
) -> Result<Vec<Contract>, Error> {
    let of_service = config.bindings.iter();
    let of_service = of_service.filter(|spec| spec.service.name == *service);
    let declared: Vec<_> = of_service
        .filter_map(|spec| {
            let path = spec.contract.as_ref()?.path.clone();
            Some((spec.name.to_string(), is_live(&spec.name), path))
        })
        .collect();
    let reading = tokio::task::spawn_blocking(move || {
        let read = declared.into_iter().map(|(by, is_live, path)| {
            Ok(Contract {
                by,
                is_live,
                queries: read(&path)?,
            })
        });
        read.collect::<Result<Vec<_>, Error>>()
    });
    reading.await.map_err(Error::Interrupted)?
}

/// The queries in a file.
fn read(path: &Path) -> Result<Vec<Query>, Error> {
    let text = fs::read_to_string(path).map_err(|error: io::Error| Error::BadFolder {
        path: PathBuf::from(path),
        reason: error.to_string(),
    })?;
    Ok(queries(&text))
}

fn queries(text: &str) -> Vec<Query> {
    let queries = split(text).into_iter().map(|statement| {
        let example = statement.comments.iter().find_map(|comment| {
            let text = comment.strip_prefix("--")?.trim();
            text.strip_prefix(EXAMPLE)
                .map(|text| text.trim().to_owned())
        });
        let mut pieces = pieces(statement.sql);
        Query {
            line: statement.line,
            sql: statement.sql.to_owned(),
            has_parameters: pieces
                .any(|piece| matches!(piece.kind, TokenKind::PositionalParam { .. })),
            example,
        }
    });
    queries.collect()
}

/// The tables and columns that queries of live versions name, as far as words tell.
pub(super) fn used(contracts: &[Contract], schema: &Schema) -> Vec<Used> {
    let mut used = Vec::new();
    for contract in contracts.iter().filter(|contract| contract.is_live) {
        for query in &contract.queries {
            let words = query.words();
            let named = |name: &str| words.contains(&name.to_lowercase());
            for (table, of_table) in &schema.tables {
                if !named(table) {
                    continue;
                }
                let columns = of_table.columns.iter().map(|column| column.name.as_str());
                let columns = columns.filter(|column| named(column) || named("*"));
                let of = |column: Option<&str>| Used {
                    by: contract.by.clone(),
                    table: table.clone(),
                    column: column.map(str::to_owned),
                };
                used.extend(columns.map(|column| of(Some(column))));
                used.push(of(None));
            }
        }
    }
    used
}

/// Tries each query of each contract.
pub(super) async fn try_all(
    client: &Client,
    schema: &str,
    contracts: &[Contract],
) -> Result<Vec<Vec<Outcome>>, postgres::Error> {
    let mut all = Vec::new();
    for contract in contracts {
        let mut outcomes = Vec::new();
        for query in &contract.queries {
            let tried = tried(client, schema, query, QUERY_MS_MAX).await?;
            outcomes.push(match tried {
                Ok(columns) => Outcome::Works { columns },
                Err(error) => Outcome::Fails {
                    reason: reason(&error),
                },
            });
        }
        all.push(outcomes);
    }
    Ok(all)
}

/// The queries of live versions that name one of these tables and have to wait at this
/// moment.
pub(super) async fn blocked<'c>(
    client: &Client,
    schema: &str,
    contracts: &'c [Contract],
    tables: &[&str],
) -> Result<Vec<(&'c Contract, &'c Query)>, postgres::Error> {
    let mut blocked = Vec::new();
    for contract in contracts.iter().filter(|contract| contract.is_live) {
        let names = |query: &&Query| tables.iter().any(|table| query.words().contains(*table));
        for query in contract.queries.iter().filter(names) {
            let tried = tried(client, schema, query, BLOCKED_MS).await?;
            let code = tried.as_ref().err().and_then(|error| error.code());
            if code == Some(&SqlState::LOCK_NOT_AVAILABLE) {
                blocked.push((contract, query));
            }
        }
    }
    Ok(blocked)
}

/// Runs a query and undoes it. The outer error: that could not be tried.
async fn tried(
    client: &Client,
    schema: &str,
    query: &Query,
    lock_timeout_ms: u64,
) -> Result<Result<Vec<String>, tokio_postgres::Error>, postgres::Error> {
    let begin = format!(
        "BEGIN; SET LOCAL search_path = {}; SET LOCAL lock_timeout = {lock_timeout_ms};
         SET LOCAL statement_timeout = {QUERY_MS_MAX};",
        escape_identifier(schema)
    );
    let what = "try the queries of a contract";
    // Sent in this order, without waiting for answers in between: what fails has Postgres
    // refuse the rest, up to the ROLLBACK.
    let (begun, prepared, ran, undone) = join4(
        client.batch_execute(&begin),
        client.prepare(&query.sql),
        run(client, query),
        undo(client),
    )
    .await;
    begun.attempted(what)?;
    undone.attempted(what)?;
    Ok(match (prepared, ran) {
        (Ok(prepared), Ok(())) => Ok(shape(&prepared)),
        (Err(error), _) | (_, Err(error)) => Err(error),
    })
}

/// Undoes it. What is prepared outlives its transaction, and may not have come to be;
/// what others have prepared on the session stays.
async fn undo(client: &Client) -> Result<(), tokio_postgres::Error> {
    let forget = format!("DEALLOCATE {PREPARED}");
    let (undone, _) = join(
        client.batch_execute("ROLLBACK"),
        client.batch_execute(&forget),
    )
    .await;
    undone
}

/// What a query takes and gives.
fn shape(prepared: &tokio_postgres::Statement) -> Vec<String> {
    let takes = prepared
        .params()
        .iter()
        .map(|of_type| format!("${of_type}"));
    let gives = prepared.columns().iter();
    let gives = gives.map(|column| format!("{} {}", column.name(), column.type_()));
    takes.chain(gives).collect()
}

async fn run(client: &Client, query: &Query) -> Result<(), tokio_postgres::Error> {
    match (&query.example, query.has_parameters) {
        (Some(example), true) => {
            let sql = format!(
                "PREPARE {PREPARED} AS {}\n; EXECUTE {PREPARED} ({example})",
                query.sql
            );
            client.batch_execute(&sql).await
        }
        (None, true) => Ok(()),
        (_, false) => client.batch_execute(&query.sql).await,
    }
}

fn reason(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(said) => said.message().to_owned(),
        None => one_line(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_contract_is_queries_with_examples() {
        let found = queries(
            "-- All.\nSELECT * FROM users;\n\n-- example: 1, 'Ada'\n\
             UPDATE users SET name = $2 WHERE id = $1;\nSELECT $$no $1$$;\n",
        );
        let told: Vec<_> = found
            .iter()
            .map(|query| (query.line, query.has_parameters, query.example.as_deref()))
            .collect();
        assert_eq!(
            told,
            [
                (2, false, None),
                (5, true, Some("1, 'Ada'")),
                (6, false, None)
            ]
        );
    }
}
