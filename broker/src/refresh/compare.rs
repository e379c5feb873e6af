//! Comparing a service's tables on two branches, or with what both began with.
//!
//! Of each table one query a branch: the primary key as text, in the order of its bytes,
//! and a hash of the columns that all have. The answers are read side by side as they
//! come, so that no more than a row of each is held. Rows themselves never come here.

mod merge;
mod tables;

use std::collections::BTreeMap;

use tokio_postgres::Client;

use super::report::{NotCompared, Report, Table};
use crate::config::ServiceSpec;
use crate::postgres::{self, Attempted as _, OwnerUri};
use crate::text::one_line;
use merge::{Rows, merge};
use tables::Shape;

/// How long one table may take, in milliseconds: it is read and sorted whole.
const TABLE_MS_MAX: u64 = 900_000;

/// The branches that are compared, as their owner connects.
pub(super) struct Sides {
    /// What the binding has left.
    pub(super) old: OwnerUri,
    /// What it lives on.
    pub(super) new: OwnerUri,
    /// What the first was forked with, where that can be had.
    pub(super) base: Option<OwnerUri>,
}

/// Sessions on them.
struct Sessions {
    old: Client,
    new: Client,
    base: Option<Client>,
}

/// Compares all tables of a service.
pub(super) async fn compare(sides: &Sides, service: &ServiceSpec) -> Report {
    let mut report = Report::default();
    if let Err(error) = compare_into(&mut report, sides, service).await {
        report.message = Some(one_line(&error));
    }
    report
}

async fn compare_into(
    report: &mut Report,
    sides: &Sides,
    service: &ServiceSpec,
) -> Result<(), postgres::Error> {
    let sessions = Sessions {
        old: session(&sides.old).await?,
        new: session(&sides.new).await?,
        base: match &sides.base {
            Some(base) => Some(session(base).await?),
            None => None,
        },
    };
    let old = tables::of(&sessions.old, service).await?;
    let new = tables::of(&sessions.new, service).await?;
    let base = match &sessions.base {
        Some(base) => Some(tables::of(base, service).await?),
        None => None,
    };
    for (name, shape) in &old {
        let shared = shared(name, shape, &new, base.as_ref());
        let compared = match shared {
            Ok(shared) => sessions.table(service, name, &shared).await,
            Err(reason) => Err(reason),
        };
        match compared {
            Ok(table) => report.tables.push(table),
            Err(reason) => report.not_compared.push(NotCompared {
                name: name.clone(),
                reason,
            }),
        }
    }
    Ok(())
}

/// A session in which a value has one text, whatever a branch is set to.
async fn session(uri: &OwnerUri) -> Result<Client, postgres::Error> {
    let client = postgres::session(uri).await?;
    let settings = format!(
        "SET statement_timeout = {TABLE_MS_MAX}; SET default_transaction_read_only = on;
         SET search_path = pg_catalog; SET row_security = off;
         SET DateStyle = 'ISO, YMD'; SET IntervalStyle = 'postgres'; SET TimeZone = 'UTC';
         SET bytea_output = 'hex'; SET extra_float_digits = 1; SET lc_monetary = 'C';
         SET xmloption = 'content'; SET quote_all_identifiers = off;"
    );
    let set = client.batch_execute(&settings).await;
    set.attempted("prepare a session that compares")?;
    Ok(client)
}

/// What of a table can be compared, or why nothing can.
fn shared(
    name: &str,
    old: &Shape,
    new: &BTreeMap<String, Shape>,
    base: Option<&BTreeMap<String, Shape>>,
) -> Result<Shape, String> {
    if old.key.is_empty() {
        return Err("it has no primary key".to_owned());
    }
    let there = new.get(name).ok_or("the new branch does not have it")?;
    // One that came later began empty.
    let before = base.and_then(|base| base.get(name));
    let others: Vec<&Shape> = [Some(there), before].into_iter().flatten().collect();
    if others.iter().any(|other| other.key != old.key) {
        return Err("its primary key is another on the other branch".to_owned());
    }
    let has = |column: &&String| others.iter().all(|other| other.columns.contains(*column));
    Ok(Shape {
        columns: old.columns.iter().filter(has).cloned().collect(),
        is_in_base: before.is_some(),
        ..old.clone()
    })
}

impl Sessions {
    /// Compares one table.
    async fn table(
        &self,
        service: &ServiceSpec,
        name: &str,
        shape: &Shape,
    ) -> Result<Table, String> {
        let failed = |error: merge::Error| {
            tracing::warn!(table = name, error = %one_line(&error), "is not compared");
            // What Postgres says may hold what is in a row.
            error.to_string()
        };
        let query = shape.query(service, name);
        let rows = async |client: &Client| Rows::of(client, &query, name).await;
        let base = match &self.base {
            None => None,
            Some(base) if shape.is_in_base => Some(rows(base).await.map_err(failed)?),
            Some(_) => Some(Rows::none()),
        };
        let old = rows(&self.old).await.map_err(failed)?;
        let new = rows(&self.new).await.map_err(failed)?;
        let mut table = Table {
            name: name.to_owned(),
            key: shape.key.clone(),
            ..Table::default()
        };
        merge(old, new, base, &mut table).await.map_err(failed)?;
        Ok(table)
    }
}
