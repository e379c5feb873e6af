//! What in a revision would lock, lose or break. No I/O, and no more than a judgement of
//! the text: what tables there are, and who uses them, comes from outside.
//!
//! squawk's rules and some of our own. How much a finding weighs hangs on the target
//! branch: a lock upon a large table is an error, upon an empty one a warning, and upon
//! one that the script itself has made nothing at all. A rule is silenced by its name, in
//! the script: `-- broker: allow: rule, other-rule` directly before a statement, for that
//! one; before all statements, with an empty line behind it, for the whole script.

use std::collections::BTreeMap;

mod allow;
mod data;
mod engine;
mod script;
mod size;
mod squawk;
mod used;

pub use self::size::Size;

use self::allow::Allowed;
use self::script::Script;
use super::statements::split;

/// A revision, and what it will meet.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// up.sql.
    pub up: &'a str,
    /// down.sql. `None`: there is no such file.
    pub down: Option<&'a str>,
    /// Whether each script runs in one transaction with the history.
    pub in_transaction: bool,
    /// The tables of the target branch, by their names without a schema.
    pub tables: &'a BTreeMap<String, Size>,
    /// What live versions' queries use.
    pub used: &'a [Used],
    /// The target's major version.
    pub postgres: u32,
}

/// A table, or a column of one, that a live version's queries use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Used {
    /// Whose queries: `services/users/versions/v1`.
    pub by: String,
    /// Without its schema.
    pub table: String,
    /// `None`: the table is used, nobody knows which columns of it.
    pub column: Option<String>,
}

/// Something to look at before the revision runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The rule's name.
    pub rule: String,
    /// How bad it is.
    pub level: Level,
    /// Where: `up.sql` or `down.sql`.
    pub file: &'static str,
    /// The line in that file, counted from 1.
    pub line: usize,
    /// The statement's first line, shortened. Empty: it is about no one statement.
    pub statement: String,
    /// What would happen, and how large the table is.
    pub message: String,
    /// What to do instead.
    pub help: Option<String>,
    /// The table that it is about, without its schema.
    pub table: Option<String>,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// It may be as it should be.
    Warning,
    /// It locks, loses or breaks something that is there.
    Error,
}

/// All that is to be said of a revision, up.sql first, from top to bottom.
pub fn lint(subject: &Subject<'_>) -> Vec<Finding> {
    let script = Script::read(subject.up, subject.tables);
    let allowed = Allowed::read(subject.up, &script);
    let mut findings = up(subject, &script, &allowed);
    let missing = match subject.down {
        None => Some(about_down(
            MISSING_DOWN,
            "There is no down.sql: nothing takes this revision back.",
            "write one, or allow missing-down at the top of up.sql",
        )),
        Some(down) if split(down).is_empty() => Some(about_down(
            BLANK_DOWN,
            "down.sql has no statement: the engine refuses to take the revision back.",
            "write what takes it back, or delete the file and allow missing-down at the top of up.sql",
        )),
        Some(down) => {
            findings.extend(self::down(subject, down));
            None
        }
    };
    findings.extend(missing.filter(|one| !allowed.is_everywhere(&one.rule)));
    findings
}

/// Every rule that is on: its name, and what it finds.
pub fn rules() -> Vec<(String, &'static str)> {
    let ours = OURS.iter().map(|(name, what)| ((*name).to_owned(), *what));
    let squawks = squawk::KNOWN.iter();
    let squawks = squawks.map(|known| (known.rule.to_string(), known.what));
    let mut rules: Vec<_> = ours.chain(squawks).collect();
    rules.sort();
    rules
}

/// Whether a script says of itself that a rule is not for it: at its top, or before any of
/// its statements.
pub fn allows(script: &str, rule: &str) -> bool {
    allow::anywhere(script).contains(rule)
}

/// The rule of a rehearsal that a way back brings every row back.
pub const DOWN_LOSES_ROWS: &str = "down-loses-rows";

const UP: &str = "up.sql";
const DOWN: &str = "down.sql";
const MISSING_DOWN: &str = "missing-down";
const BLANK_DOWN: &str = "blank-down";
const BLANK_UP: &str = "blank-up";
const NOT_UNDERSTOOD: &str = "not-understood";
/// How much of a statement is shown.
const STATEMENT_CHARS_MAX: usize = 80;

/// Our own.
const OURS: &[(&str, &str)] = &[
    (MISSING_DOWN, "There is no down.sql."),
    (BLANK_DOWN, "down.sql has no statement."),
    (BLANK_UP, "up.sql has no statement."),
    (
        NOT_UNDERSTOOD,
        "A statement that the parser does not know: no other rule has looked at it.",
    ),
    (
        allow::UNKNOWN_RULE,
        "A rule is silenced that does not exist.",
    ),
    (
        engine::ENDS_TRANSACTION,
        "A script begins or ends a transaction: the engine does.",
    ),
    (
        engine::NEEDS_NO_TRANSACTION,
        "A statement that Postgres refuses within a transaction, in a revision that runs in one.",
    ),
    (
        engine::SEVERAL_STATEMENTS,
        "A revision without a transaction has more than one statement.",
    ),
    (
        engine::BATCH_IN_TRANSACTION,
        "A statement asks for batches in a revision that runs in one transaction.",
    ),
    (
        engine::LEAVES_ITS_ROLE,
        "A script goes on as another role, and so would the engine.",
    ),
    (
        engine::DROPS_THE_LOCK,
        "A script releases the lock that keeps two migrations apart.",
    ),
    (
        data::UNBATCHED_CHANGE,
        "UPDATE or DELETE of every row of a large table in one statement.",
    ),
    (
        data::LOSES_ROWS,
        "TRUNCATE, or DELETE without WHERE, of a table that has rows.",
    ),
    (
        data::DROPS_DEPENDENTS,
        "DROP TYPE, DOMAIN or EXTENSION … CASCADE, and DROP OWNED, lose columns that nobody has named.",
    ),
    (
        data::REWRITES_TABLE,
        "VACUUM FULL, CLUSTER, SET LOGGED, a new serial column and the like write the whole table anew.",
    ),
    (
        DOWN_LOSES_ROWS,
        "down.sql does not bring every row back as it was, as a rehearsal finds.",
    ),
    (
        used::DROPS_USED,
        "A table or column is dropped that a live version uses.",
    ),
    (
        used::RENAMES_USED,
        "A table or column is renamed that a live version uses.",
    ),
];

/// What a rule has found, before it is weighed.
struct Found {
    rule: String,
    weight: Weight,
    line: usize,
    /// Which statement of the script.
    statement: Option<usize>,
    message: String,
    help: Option<String>,
    tables: Vec<String>,
}

/// What makes a finding an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Weight {
    /// Nothing does.
    Warning,
    /// It is one.
    Error,
    /// One row: it fails, or something is lost.
    Filled,
    /// Many rows: it takes as long as there are rows.
    Large,
    /// The same, and it is nothing else otherwise.
    LargeAlone,
}

fn up(subject: &Subject<'_>, script: &Script<'_>, allowed: &Allowed) -> Vec<Finding> {
    let mut found = engine::check(script, subject.in_transaction);
    found.extend(squawk::check(
        script,
        subject.in_transaction,
        subject.postgres,
    ));
    found.extend(data::check(script));
    found.extend(used::check(script, subject.used));
    found.extend(not_understood(script));
    if script.statements.is_empty() {
        found.push(Found {
            rule: BLANK_UP.to_owned(),
            weight: Weight::Error,
            line: 1,
            statement: None,
            message: "up.sql has no statement: the engine refuses to run it.".to_owned(),
            help: Some("write what the revision does, or delete its folder".to_owned()),
            tables: Vec::new(),
        });
    }
    told(UP, script, allowed, found, subject.tables)
}

/// A way back drops what the way there has made: what it locks and loses is known. What
/// would break the engine is asked of it too.
fn down(subject: &Subject<'_>, down: &str) -> Vec<Finding> {
    let script = Script::read(down, subject.tables);
    let mut found = engine::check(&script, subject.in_transaction);
    found.extend(not_understood(&script));
    told(
        DOWN,
        &script,
        &Allowed::read(down, &script),
        found,
        subject.tables,
    )
}

fn told(
    file: &'static str,
    script: &Script<'_>,
    allowed: &Allowed,
    mut found: Vec<Found>,
    tables: &BTreeMap<String, Size>,
) -> Vec<Finding> {
    found.extend(allowed.unknown(script, is_known));
    found.retain(|one| !allowed.silences(one));
    let weighed = found.into_iter();
    let mut findings: Vec<_> = weighed
        .filter_map(|one| weighed_one(file, script, one, tables))
        .collect();
    findings.sort_by(|one, other| (one.line, &one.rule).cmp(&(other.line, &other.rule)));
    findings.dedup();
    findings
}

fn weighed_one(
    file: &'static str,
    script: &Script<'_>,
    found: Found,
    tables: &BTreeMap<String, Size>,
) -> Option<Finding> {
    let read = found
        .statement
        .and_then(|index| script.statements.get(index));
    let by_size = !matches!(found.weight, Weight::Warning | Weight::Error);
    let is_fresh =
        |table: &&String| by_size && read.is_some_and(|read| read.fresh.contains(*table));
    let old = found.tables.iter().filter(|table| !is_fresh(table));
    // The one that it is worst for.
    let table = old.max_by_key(|table| tables.get(*table).map(Size::weight));
    if table.is_none() && !found.tables.is_empty() {
        return None;
    }
    let size = table.and_then(|table| tables.get(table));
    let level = match found.weight {
        Weight::Warning => Level::Warning,
        Weight::Error => Level::Error,
        Weight::Filled if table.is_none() || size.is_some_and(|size| !size.is_empty()) => {
            Level::Error
        }
        Weight::Large | Weight::LargeAlone if size.is_some_and(Size::is_large) => Level::Error,
        Weight::LargeAlone => return None,
        Weight::Filled | Weight::Large => Level::Warning,
    };
    let message = match table {
        Some(table) if by_size => format!("{} {}", found.message, size::said(table, size)),
        _ => found.message,
    };
    Some(Finding {
        rule: found.rule,
        level,
        file,
        line: found.line,
        statement: read
            .map(|read| shortened(read.statement.sql))
            .unwrap_or_default(),
        message,
        help: found.help,
        table: table.cloned(),
    })
}

/// Postgres is the judge of what it understands: this says what nobody has looked at.
fn not_understood(script: &Script<'_>) -> Vec<Found> {
    let complaints = script.statements.iter().enumerate();
    let complaints = complaints.filter_map(|(index, read)| {
        let (lines, complaint) = read.complaint.as_ref()?;
        Some(Found {
            rule: NOT_UNDERSTOOD.to_owned(),
            weight: Weight::Warning,
            line: read.statement.line + lines,
            statement: Some(index),
            message: format!(
                "This was not understood, so no rule about tables has looked at it ({complaint})."
            ),
            help: Some("Postgres may know better: try it on a branch, then allow it".to_owned()),
            tables: Vec::new(),
        })
    });
    complaints.collect()
}

fn about_down(rule: &str, message: &str, help: &str) -> Finding {
    Finding {
        rule: rule.to_owned(),
        level: Level::Warning,
        file: DOWN,
        line: 1,
        statement: String::new(),
        message: message.to_owned(),
        help: Some(help.to_owned()),
        table: None,
    }
}

/// Rules that are off are known too: a script may have been written for squawk.
fn is_known(name: &str) -> bool {
    OURS.iter().any(|(ours, _)| *ours == name) || squawk_linter::Rule::try_from(name).is_ok()
}

/// As it may be shown: what stands in quotes may be a password.
fn shortened(sql: &str) -> String {
    let first = sql.lines().next().unwrap_or_default().trim_end();
    let parts = first.split('\'').enumerate();
    let masked = parts.map(|(index, part)| if index % 2 == 0 { part } else { "…" });
    let masked = masked.collect::<Vec<_>>().join("'");
    match masked.char_indices().nth(STATEMENT_CHARS_MAX) {
        None => masked,
        Some((end, _)) => format!("{}…", masked.get(..end).unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests;
