//! What a rehearsal found, and what that comes to. No I/O.

use std::time::Duration;

use super::contract::Outcome;
use crate::config::Revision;
use crate::migrate::folder::{Checksum, Migration};
use crate::migrate::lint::{self, Finding, Level};

/// What a rehearsal found.
#[derive(Debug, Default)]
pub struct Report {
    /// The versions that the branch had before.
    pub had: Vec<String>,
    /// Each revision, in order, up to the first that failed.
    pub revisions: Vec<Rehearsed>,
    /// Each query of the contracts.
    pub contracts: Vec<Contracted>,
    /// How the schema after the second time differs from that after the first, as a
    /// unified diff.
    pub second: String,
}

/// A revision that was rehearsed.
#[derive(Debug)]
pub struct Rehearsed {
    /// Which.
    pub revision: Revision,
    /// What it was.
    pub checksum: Checksum,
    /// Whether it has a down.sql.
    pub has_down: bool,
    /// The first time up.
    pub up: Script,
    /// Back. `None`: not tried.
    pub down: Option<Script>,
    /// Up again. `None`: not tried.
    pub again: Option<Script>,
    /// What it did to the schema, as a unified diff.
    pub difference: String,
    /// Whether going back restored everything. `None`: not tried.
    pub restored: Option<Restored>,
    /// What its files say that would lock or lose.
    pub findings: Vec<Finding>,
    /// Whether its files say that down.sql is meant to lose rows.
    pub may_lose_rows: bool,
}

/// A script that was run.
#[derive(Debug, Default)]
pub struct Script {
    /// How long all of it took, less what watching it took.
    pub took: Duration,
    /// Its statements, as far as it came.
    pub statements: Vec<Statement>,
    /// Why it failed.
    pub error: Option<String>,
}

/// A statement that was run.
#[derive(Debug, Default)]
pub struct Statement {
    /// The statement, as it may be shown.
    pub sql: String,
    /// Its line, from 1.
    pub line: usize,
    /// How long it took.
    pub took: Duration,
    /// Locks of tables that it took first.
    pub locks: Vec<Lock>,
    /// Tables that it wrote anew, whole.
    pub rewrites: Vec<Rewrite>,
    /// Queries of contracts that had to wait for it.
    pub blocked: Vec<String>,
}

/// A lock of a table that was there before the revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lock {
    /// The table, or index.
    pub relation: String,
    /// As pg_locks has it: AccessExclusiveLock.
    pub mode: String,
    /// About how many rows it has.
    pub rows: i64,
    /// Its size.
    pub bytes: i64,
    /// From the beginning of the statement to the end of its transaction.
    pub held: Duration,
}

/// A table that was written anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewrite {
    /// The table.
    pub table: String,
    /// How many rows it has.
    pub rows: i64,
}

/// Whether going back restored everything.
#[derive(Debug, Default)]
pub struct Restored {
    /// How the schema differs from before, as a unified diff. Empty: not at all.
    pub schema: String,
    /// What differs of which table's rows. Empty: nothing.
    pub rows: Vec<String>,
    /// Tables whose rows were counted and not compared: they are too large.
    pub counted: Vec<String>,
}

/// A query of a contract.
#[derive(Debug)]
pub struct Contracted {
    /// Whose: services/users/versions/v1.
    pub by: String,
    /// Whether that version lives on the branch that the revisions are for.
    pub is_live: bool,
    /// Its line in the contract, from 1.
    pub line: usize,
    /// The query, as it may be shown.
    pub query: String,
    /// Before.
    pub before: Outcome,
    /// After all revisions.
    pub after: Outcome,
}

/// What a rehearsal comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// All of it was tried, and did what it should.
    Pass,
    /// Something was not tried.
    Unproven,
    /// Something did not do what it should.
    Fail,
}

impl Verdict {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Pass => "PASS",
            Verdict::Unproven => "UNPROVEN",
            Verdict::Fail => "FAIL",
        }
    }
}

impl Rehearsed {
    pub(super) fn of(migration: &Migration, up: Script, findings: Vec<Finding>) -> Self {
        let mut scripts = [Some(&migration.up), migration.down.as_ref()]
            .into_iter()
            .flatten();
        Self {
            revision: migration.revision.clone(),
            checksum: migration.checksum(),
            has_down: migration.down.is_some(),
            up,
            down: None,
            again: None,
            difference: String::new(),
            restored: None,
            findings,
            may_lose_rows: scripts.any(|script| lint::allows(&script.sql, lint::DOWN_LOSES_ROWS)),
        }
    }
}

impl Contracted {
    fn complaint(&self) -> String {
        let (by, line, query) = (&self.by, self.line, &self.query);
        let how = match &self.after {
            Outcome::Fails { reason } => format!("fails afterwards: {reason}"),
            Outcome::Works { .. } => "answers with other columns afterwards".to_owned(),
        };
        format!("a query of {by} (line {line}, `{query}`) {how}")
    }

    /// Whether the revisions broke it.
    pub fn is_broken(&self) -> bool {
        match (&self.before, &self.after) {
            (Outcome::Works { columns: before }, Outcome::Works { columns: after }) => {
                before != after
            }
            (Outcome::Works { .. }, Outcome::Fails { .. }) => true,
            (Outcome::Fails { .. }, _) => false,
        }
    }
}

impl Report {
    /// What it comes to, and why: what failed first.
    pub fn verdict(&self) -> (Verdict, Vec<String>) {
        let mut said = Vec::new();
        for one in &self.revisions {
            one.judge(&mut said);
        }
        if !self.second.is_empty() {
            let why = "run again after they were taken back, the revisions make another schema";
            said.push((Verdict::Fail, why.to_owned()));
        }
        // A version that lives elsewhere does not meet these revisions.
        let live: Vec<&Contracted> = self.contracts.iter().filter(|one| one.is_live).collect();
        let broken: Vec<_> = live.iter().filter(|one| one.is_broken()).collect();
        if let Some(first) = broken.first() {
            let why = format!("{} ({} in all)", first.complaint(), broken.len());
            said.push((Verdict::Fail, why));
        }
        let fails = |one: &&&Contracted| !one.is_broken() && !one.after.works();
        let failing: Vec<_> = live.iter().filter(fails).collect();
        if let Some(first) = failing.first() {
            let count = failing.len();
            let why = format!("{}, as before ({count} in all)", first.complaint());
            said.push((Verdict::Unproven, why));
        }
        if self.revisions.is_empty() {
            let why = "nothing is pending, so nothing was tried".to_owned();
            said.push((Verdict::Unproven, why));
        }
        said.sort_by_key(|(verdict, _)| std::cmp::Reverse(*verdict));
        let verdict = said.first().map_or(Verdict::Pass, |(verdict, _)| *verdict);
        (verdict, said.into_iter().map(|(_, why)| why).collect())
    }
}

impl Rehearsed {
    /// Whether its statements wrote rows of a table.
    fn writes(&self, table: &str) -> bool {
        let scripts = [Some(&self.up), self.down.as_ref()].into_iter().flatten();
        let mut statements = scripts.flat_map(|script| &script.statements);
        statements.any(|statement| {
            let mut locks = statement.locks.iter();
            locks.any(|lock| lock.relation == table && lock.mode == "RowExclusiveLock")
                || statement
                    .rewrites
                    .iter()
                    .any(|rewrite| rewrite.table == table)
        })
    }

    fn judge(&self, said: &mut Vec<(Verdict, String)>) {
        let name = &self.revision.name;
        let tries = [
            ("up", Some(&self.up)),
            ("down", self.down.as_ref()),
            ("up again", self.again.as_ref()),
        ];
        for (what, script) in tries {
            let error = script.and_then(|script| script.error.as_ref());
            if let Some(error) = error {
                said.push((Verdict::Fail, format!("{name}: {what}: {error}")));
            }
        }
        if self.up.error.is_none() && self.down.is_none() {
            let why = match self.has_down {
                true => "a newer one could not be taken back",
                false => "it has no down.sql",
            };
            said.push((
                Verdict::Unproven,
                format!("{name}: down was not tried: {why}"),
            ));
        }
        if let Some(restored) = &self.restored {
            if !restored.schema.is_empty() {
                let why = format!("{name}: down does not restore the schema");
                said.push((Verdict::Fail, why));
            }
            for table in restored.counted.iter().filter(|table| self.writes(table)) {
                let why = format!(
                    "{name}: the rows of {table}, which it writes, were counted and not compared: \
                     it is too large"
                );
                said.push((Verdict::Unproven, why));
            }
            let rows = &restored.rows;
            if !rows.is_empty() && !self.may_lose_rows {
                let why = format!(
                    "{name}: down does not restore the rows: {}",
                    rows.join("; ")
                );
                said.push((Verdict::Fail, why));
            }
        }
        for one in &self.findings {
            if one.level == Level::Error {
                let why = format!(
                    "{name}: {}:{}: {} ({})",
                    one.file, one.line, one.message, one.rule
                );
                said.push((Verdict::Fail, why));
            }
        }
    }
}
