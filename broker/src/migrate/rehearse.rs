//! Rehearsing pending revisions on a throw-away branch: up, down, and up again, with a
//! look at everything in between.
//!
//! The engine that will run them runs them here. What it is watched by is read on its own
//! session within each revision's transaction, where its locks are held until the end
//! (PostgreSQL's documentation, "Explicit Locking"), so nothing is missed and nothing is
//! guessed. What was not tried is never called good.

pub mod contract;
pub mod report;
mod rows;
mod watch;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use tokio_postgres::Client;

use self::contract::{Contract, Outcome};
use self::report::{Contracted, Rehearsed, Report, Restored, Script};
use self::rows::Snapshot;
use self::watch::Watch;
use super::Error;
use super::catalog;
use super::engine::Migrating;
use super::folder::Migration;
use super::lint::{self, Size, Used};
use super::moves::{self, Move, Moves, Wish};
use super::standing::{self, Standing};
use crate::config::ServiceSpec;
use crate::postgres::{self, Attempted as _, OwnerUri};

/// What is to be rehearsed.
#[derive(Debug)]
pub struct Rehearsal<'a> {
    /// Whose revisions.
    pub service: &'a ServiceSpec,
    /// All of them.
    pub folder: &'a [Migration],
    /// The version of the last one that the service's version has. `None`: all.
    pub last: Option<&'a str>,
    /// Which of those that are pending.
    pub wish: Wish,
    /// What is asked of the schema, before and after.
    pub contracts: &'a [Contract],
}

impl Rehearsal<'_> {
    /// Rehearses on a branch that nobody needs: `uri` leads there directly.
    ///
    /// A revision that fails is no error but a finding. Errors: the branch cannot be
    /// reached; the folder and the branch do not fit together.
    pub async fn run(&self, uri: &OwnerUri) -> Result<Report, Error> {
        let migrating = Migrating::begin(uri, self.service).await?;
        let beside = Arc::new(postgres::session(uri).await?);
        let schema = &self.service.schema;
        let history = migrating.history().await?;
        migrating.adopt(self.folder, &history).await?;
        let mut rows = standing::rows(self.folder, &history, self.last);
        rows.retain(|row| row.standing != Standing::Missing);
        let moves = moves::moves(self.folder, &rows, self.last, &self.wish)?;
        if let Some(back) = moves
            .moves
            .iter()
            .find(|one| matches!(one, Move::Revert(_)))
        {
            return Err(Error::Backwards {
                revision: back.migration().revision.name.clone(),
            });
        }
        let version = server_version(&beside).await?;
        let before = contract::try_all(&beside, schema, self.contracts).await?;
        let run = Run {
            of: self,
            migrating: &migrating,
            beside: &beside,
            version,
        };
        let mut report = Report {
            had: moves.had(&history).map(str::to_owned).collect(),
            ..Report::default()
        };
        let mut snapshots = run.up(&moves, &mut report).await?;
        let is_up = report.revisions.iter().all(|one| one.up.error.is_none());
        let after = contract::try_all(&beside, schema, self.contracts).await?;
        report.contracts = contracts(self.contracts, before, after);
        if is_up {
            let at_head = Snapshot::take(&beside, schema).await?;
            let done = run.down(&moves, &mut snapshots, &mut report).await?;
            run.again(&moves, done, &at_head, &mut report).await?;
        }
        Ok(report)
    }
}

/// What a revision meets on a branch, for linting.
#[derive(Debug)]
pub struct Met {
    tables: BTreeMap<String, Size>,
    used: Vec<Used>,
    version: u32,
}

impl Met {
    /// A revision, and what it meets.
    pub fn subject<'a>(&'a self, migration: &'a Migration) -> lint::Subject<'a> {
        lint::Subject {
            up: &migration.up.sql,
            down: migration.down.as_ref().map(|down| down.sql.as_str()),
            in_transaction: migration.in_transaction,
            tables: &self.tables,
            used: &self.used,
            postgres: self.version,
        }
    }
}

/// What revisions of the service meet on a branch. Reads only, and counts rows by what
/// Postgres believes to know of them.
pub async fn met(
    uri: &OwnerUri,
    service: &ServiceSpec,
    contracts: &[Contract],
) -> Result<Met, Error> {
    let client = postgres::session(uri).await?;
    let schema = catalog::read(&client, &service.schema).await;
    let schema = schema.attempted("read the schema")?;
    Ok(Met {
        tables: rows::sizes(&client, &service.schema).await?,
        used: contract::used(contracts, &schema),
        version: server_version(&client).await?,
    })
}

/// One rehearsal that is under way.
struct Run<'a> {
    of: &'a Rehearsal<'a>,
    migrating: &'a Migrating<'a>,
    beside: &'a Arc<Client>,
    version: u32,
}

impl Run<'_> {
    /// Runs them up, until one fails. What was there before each.
    async fn up(&self, moves: &Moves<'_>, report: &mut Report) -> Result<Vec<Snapshot>, Error> {
        let schema = &self.of.service.schema;
        let mut snapshots = vec![Snapshot::take(self.beside, schema).await?];
        for one in &moves.moves {
            let Move::Run(migration) = one else { continue };
            let before = &snapshots[snapshots.len() - 1];
            let met = Met {
                tables: before.sizes(),
                used: contract::used(self.of.contracts, &before.schema),
                version: self.version,
            };
            let findings = lint::lint(&met.subject(migration));
            let up = self.script(*one, &met.tables, self.of.contracts).await?;
            let failed = up.error.is_some();
            let mut rehearsed = Rehearsed::of(migration, up, findings);
            if !failed {
                let after = Snapshot::take(self.beside, schema).await?;
                rehearsed.difference = catalog::Schema::difference(&before.schema, &after.schema);
                snapshots.push(after);
            }
            report.revisions.push(rehearsed);
            if failed {
                break;
            }
        }
        Ok(snapshots)
    }

    /// Takes them back, until one cannot be; how many could.
    async fn down(
        &self,
        moves: &Moves<'_>,
        snapshots: &mut Vec<Snapshot>,
        report: &mut Report,
    ) -> Result<usize, Error> {
        let schema = &self.of.service.schema;
        let sizes = snapshots.pop().map(|last| last.sizes()).unwrap_or_default();
        let mut done = 0;
        let rehearsed = report.revisions.iter_mut().zip(&moves.moves).rev();
        for ((rehearsed, one), before) in rehearsed.zip(snapshots.iter().rev()) {
            let Move::Run(migration) = one else { break };
            if migration.down.is_none() {
                break;
            }
            let down = Move::Revert(migration);
            let down = self.script(down, &sizes, self.of.contracts).await?;
            let failed = down.error.is_some();
            rehearsed.down = Some(down);
            if failed {
                break;
            }
            let after = Snapshot::take(self.beside, schema).await?;
            rehearsed.restored = Some(Restored {
                schema: catalog::Schema::difference(&before.schema, &after.schema),
                rows: before.differences(&after),
                counted: before.counted(),
            });
            done += 1;
        }
        Ok(done)
    }

    /// Runs the last so many again.
    async fn again(
        &self,
        moves: &Moves<'_>,
        count: usize,
        at_head: &Snapshot,
        report: &mut Report,
    ) -> Result<(), Error> {
        let sizes = at_head.sizes();
        let skipped = moves.moves.len().saturating_sub(count);
        let rehearsed = report.revisions.iter_mut().zip(&moves.moves).skip(skipped);
        for (rehearsed, one) in rehearsed {
            // Whom it keeps waiting is known from the first time.
            let again = self.script(*one, &sizes, &[]).await?;
            let failed = again.error.is_some();
            rehearsed.again = Some(again);
            if failed {
                return Ok(());
            }
        }
        let after = Snapshot::take(self.beside, &self.of.service.schema).await?;
        report.second = catalog::Schema::difference(&at_head.schema, &after.schema);
        Ok(())
    }

    /// Runs one script, watched. That it fails is part of what is found.
    async fn script(
        &self,
        one: Move<'_>,
        sizes: &BTreeMap<String, Size>,
        contracts: &[Contract],
    ) -> Result<Script, Error> {
        let mut watch = Watch::new(self.of.service, self.beside, contracts, sizes);
        let moves = Moves {
            moves: vec![one],
            forgotten: Vec::new(),
        };
        let begun = Instant::now();
        let done = self.migrating.perform(&moves, &mut watch).await;
        let took = begun.elapsed();
        match done {
            Ok(()) => Ok(watch.script(took, None)),
            Err(error) if error.is_of_revision() => Ok(watch.script(took, Some(error.to_string()))),
            Err(error) => Err(error),
        }
    }
}

/// What became of each query.
fn contracts(
    contracts: &[Contract],
    before: Vec<Vec<Outcome>>,
    after: Vec<Vec<Outcome>>,
) -> Vec<Contracted> {
    let mut all = Vec::new();
    for ((contract, before), after) in contracts.iter().zip(before).zip(after) {
        for ((query, before), after) in contract.queries.iter().zip(before).zip(after) {
            all.push(Contracted {
                by: contract.by.clone(),
                is_live: contract.is_live,
                line: query.line,
                query: query.shown(),
                before,
                after,
            });
        }
    }
    all
}

async fn server_version(client: &Client) -> Result<u32, postgres::Error> {
    const ASK: &str = "SELECT current_setting('server_version_num')::int / 10000";
    let row = client.query_one(ASK, &[]).await;
    let row = row.attempted("ask which Postgres it is")?;
    Ok(row.get::<_, i32>(0).unsigned_abs())
}
