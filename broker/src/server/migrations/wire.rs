//! What arrives at MigrationService, decoded, and what it answers, encoded.

use std::time::Duration;

use neon_api::BranchId;
use proto::broker::v1 as pb;
use rpc::status::{FieldViolation, FieldViolations};

use crate::migrate::lint::{Finding, Level};
use crate::migrate::moves::{Point, Wish};
use crate::migrate::standing::{Row, Standing};
use crate::names::{BindingName, BranchResource};
use crate::server::branches::time;
use crate::server::request;

/// Of which binding's revisions, and on which branch, where it is not the binding's.
pub(super) fn place(
    violations: &mut FieldViolations,
    binding: &str,
    branch: &str,
) -> Option<(BindingName, Option<BranchId>)> {
    let binding = violations.take(request::name::<BindingName>("binding", binding));
    let branch = match branch {
        "" => Some(None),
        branch => {
            let branch = violations.take(request::name::<BranchResource>("branch", branch));
            branch.map(|branch| Some(branch.0))
        }
    };
    Some((binding?, branch?))
}

/// What is to be done.
pub(super) fn wish(wish: Option<pb::migrate_request::Wish>) -> Result<Wish, FieldViolation> {
    use pb::migrate_request::Wish as Asked;
    let point = |field, text: String| match text.trim() {
        "" => Err(FieldViolation::new(field, "is base, head, or a revision")),
        text => Ok(Point::from(text)),
    };
    match wish {
        None => Err(FieldViolation::new(
            "wish",
            "is one of up, down, to, redo and stamp",
        )),
        Some(Asked::Up(up)) => match usize::try_from(up.count) {
            Ok(0) => Ok(Wish::Up(None)),
            Ok(count) => Ok(Wish::Up(Some(count))),
            Err(_) => Err(FieldViolation::new("up.count", "is 0 or more")),
        },
        Some(Asked::Down(down)) => match usize::try_from(down.count) {
            Ok(count) if count > 0 => Ok(Wish::Down(count)),
            _ => Err(FieldViolation::new("down.count", "is 1 or more")),
        },
        Some(Asked::To(text)) => Ok(Wish::To(point("to", text)?)),
        Some(Asked::Redo(_)) => Ok(Wish::Redo),
        Some(Asked::Stamp(text)) => Ok(Wish::Stamp(point("stamp", text)?)),
    }
}

/// What is to be written as a script.
pub(super) fn offline_wish(
    wish: Option<pb::get_migration_script_request::Wish>,
) -> Result<Wish, FieldViolation> {
    use pb::get_migration_script_request::Wish as Asked;
    use pb::migrate_request::Wish as Same;
    let wished = match wish {
        None => {
            let what = "is one of up, down and to";
            return Err(FieldViolation::new("wish", what));
        }
        Some(Asked::Up(up)) => Same::Up(up),
        Some(Asked::Down(down)) => Same::Down(down),
        Some(Asked::To(to)) => Same::To(to),
    };
    self::wish(Some(wished))
}

pub(super) fn revision(row: &Row) -> pb::Revision {
    let state = match row.standing {
        Standing::Applied => pb::RevisionState::Applied,
        Standing::Changed => pb::RevisionState::Changed,
        Standing::Missing => pb::RevisionState::Missing,
        Standing::Ahead => pb::RevisionState::Ahead,
        Standing::Pending => pb::RevisionState::Pending,
        Standing::OutOfOrder => pb::RevisionState::OutOfOrder,
        Standing::Beyond => pb::RevisionState::Beyond,
    };
    pb::Revision {
        version: row.version.clone(),
        name: row.name.clone(),
        state: state.into(),
        apply_time: row.applied_at.map(time),
        adopted: row.is_adopted,
    }
}

pub(super) fn step(version: &str, name: &str, step: pb::MigrationStep) -> pb::MigrateResponse {
    pb::MigrateResponse {
        version: version.to_owned(),
        name: name.to_owned(),
        step: step.into(),
        ..pb::MigrateResponse::default()
    }
}

/// Zero: none.
pub(super) fn statement_timeout(
    wished: Option<prost_types::Duration>,
) -> Result<Duration, FieldViolation> {
    let Some(wished) = wished else {
        return Ok(Duration::ZERO);
    };
    let limit = Duration::try_from(wished).ok();
    let limit = limit.filter(|limit| (1..=STATEMENT_MS_MAX).contains(&limit.as_millis()));
    limit.ok_or_else(|| FieldViolation::new("statement_timeout", "is from 1 ms to 24 days"))
}

/// What Postgres takes.
const STATEMENT_MS_MAX: u128 = i32::MAX as u128;

/// What linting found of a revision.
pub(super) fn finding(revision: &str, finding: &Finding) -> pb::LintFinding {
    let level = match finding.level {
        Level::Warning => pb::LintLevel::Warning,
        Level::Error => pb::LintLevel::Error,
    };
    pb::LintFinding {
        revision: revision.to_owned(),
        file: finding.file.to_owned(),
        line: line(finding.line),
        rule: finding.rule.clone(),
        level: level.into(),
        statement: finding.statement.clone(),
        message: finding.message.clone(),
        help: finding.help.clone().unwrap_or_default(),
    }
}

/// A line's number.
pub(super) fn line(line: usize) -> i32 {
    i32::try_from(line).unwrap_or(i32::MAX)
}

/// How long something took.
pub(super) fn duration(took: Duration) -> Option<prost_types::Duration> {
    prost_types::Duration::try_from(took).ok()
}
