//! What Postgres said of a statement that failed, and where in its file that is.

use tokio_postgres::error::{ErrorPosition, SqlState};

use crate::migrate::folder::{Migration, Script};
use crate::migrate::statements::Statement;
use crate::migrate::{Error, FailedRevision, LeftBehind, Place};
use crate::postgres;
use crate::text::one_line;

/// What Postgres said. Not all that it says: its details have values of rows in them.
pub(super) struct Failure {
    pub(super) reason: String,
    place: Option<Place>,
    is_transient: bool,
    is_lock_timeout: bool,
}

impl Failure {
    /// `at`: the script and its statement that failed. `None`: it failed at the end.
    pub(super) fn of(error: &tokio_postgres::Error, at: Option<(&Script, &Statement<'_>)>) -> Self {
        Self::behind("", error, at)
    }

    /// Of a statement that was sent behind something of ours.
    pub(super) fn behind(
        ours: &str,
        error: &tokio_postgres::Error,
        at: Option<(&Script, &Statement<'_>)>,
    ) -> Self {
        let said = error.as_db_error();
        let ours = u32::try_from(ours.chars().count()).unwrap_or(0);
        let place = at.map(|(script, statement)| {
            let position = match said.and_then(|said| said.position()) {
                Some(ErrorPosition::Original(position)) => position.saturating_sub(ours),
                _ => 1,
            };
            place_of(&script.sql, statement, position)
        });
        Self {
            reason: match said {
                Some(said) => said.message().to_owned(),
                None => one_line(error),
            },
            place,
            is_transient: postgres::may_pass(error),
            is_lock_timeout: error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE),
        }
    }

    pub(super) fn in_revision(
        self,
        migration: &Migration,
        script: &Script,
        left_behind: LeftBehind,
    ) -> Error {
        Error::FailedRevision(Box::new(FailedRevision {
            revision: migration.revision.name.clone(),
            path: script.path.clone(),
            place: self.place,
            reason: self.reason,
            left_behind,
            is_transient: self.is_transient,
            is_lock_timeout: self.is_lock_timeout,
        }))
    }
}

/// Whether a savepoint is gone because the script has ended its transaction.
pub(super) fn is_no_savepoint(error: &tokio_postgres::Error) -> bool {
    let ended = [
        SqlState::S_E_INVALID_SPECIFICATION,
        SqlState::NO_ACTIVE_SQL_TRANSACTION,
    ];
    error.code().is_some_and(|code| ended.contains(code))
}

/// Line and column, in the script, of a statement's character that is counted from 1, and
/// the statement.
fn place_of(sql: &str, statement: &Statement<'_>, position: u32) -> Place {
    let index = usize::try_from(position).unwrap_or(1).saturating_sub(1);
    let before = sql.get(..statement.start).unwrap_or_default().chars();
    let before: String = before.chain(statement.sql.chars().take(index)).collect();
    let column = before.chars().rev().take_while(|one| *one != '\n').count();
    Place {
        line: before.matches('\n').count() + 1,
        column: column + 1,
        statement: Place::shown(statement.sql),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migrate::statements::split;

    #[test]
    fn a_place_is_a_line_and_a_column_of_characters() {
        let sql = "SELECT 1;\n  -- ä\nSELEKT\n  2;\n";
        let statements = split(sql);
        let place = |position| place_of(sql, &statements[1], position).to_string();
        assert_eq!(place(1), "3:1: in `SELEKT 2`");
        assert_eq!(place(10), "4:3: in `SELEKT 2`");
        // Beyond its end, as of what is missing there.
        assert_eq!(place(99), "4:4: in `SELEKT 2`");
    }

    #[test]
    fn what_stands_in_quotes_is_not_shown() {
        for (sql, shown) in [
            (
                "CREATE ROLE a\n PASSWORD 'hunter2' IN GROUP b",
                "CREATE ROLE a PASSWORD '…' IN GROUP b",
            ),
            (
                "ALTER ROLE a PASSWORD $$hunter2$$",
                "ALTER ROLE a PASSWORD '…'",
            ),
            ("SELECT E'a\\'hunter2', 17", "SELECT '…', 17"),
            (
                "UPDATE u -- don't\n SET token = 'hunter2'",
                "UPDATE u SET token = '…'",
            ),
            ("SELECT 'hunter2", "SELECT '…'"),
        ] {
            assert_eq!(Place::shown(sql), shown);
        }
    }
}
