//! What would be run, as a script for psql: for databases that a person migrates. No I/O.

use jiff::Timestamp;

use super::Error;
use super::engine::refuse_unfit;
use super::folder::Migration;
use super::history::{self, Applied, Record};
use super::moves::{self, Move, Moves, Point};
use crate::config::ServiceSpec;
use crate::postgres::escape_identifier;

/// The history of a database that is at a point.
pub fn history_at(folder: &[Migration], point: &Point) -> Result<Vec<Applied>, Error> {
    let goal = moves::resolve(folder, &[], None, point)?;
    let within = folder
        .iter()
        .filter(|one| goal.is_some_and(|goal| one.revision.version.as_str() <= goal));
    let applied = within.map(|migration| Applied {
        version: migration.revision.version.clone(),
        at: Timestamp::UNIX_EPOCH,
        record: Some(Record {
            name: migration.revision.name.clone(),
            checksum: migration.checksum(),
        }),
    });
    Ok(applied.collect())
}

/// The script. Empty: nothing to do. Each revision is a transaction with its row in the
/// history, as when the broker runs it; a statement that the broker would run in batches is
/// whole. The service's lock is not taken: psql would wait for it within a statement, and
/// CREATE INDEX CONCURRENTLY for psql.
pub fn script(service: &ServiceSpec, moves: &Moves<'_>) -> Result<String, Error> {
    if moves.moves.is_empty() {
        return Ok(String::new());
    }
    let mut text = format!(
        "-- Revisions of {}. Run with: psql --set ON_ERROR_STOP=1 --file FILE\n\
         BEGIN;\n{}\nCOMMIT;\nSET search_path = {};\n",
        service.name,
        history::tables(service),
        escape_identifier(&service.schema),
    );
    for one in &moves.moves {
        let (what, script, write) = match one {
            Move::Run(migration) => {
                let write = history::record(service, migration);
                ("up", Some(&migration.up), write)
            }
            Move::Revert(migration) => {
                let write = history::forget(service, &migration.revision.version);
                ("down", migration.down.as_ref(), write)
            }
            Move::Record(_) => continue,
        };
        let migration = one.migration();
        let name = &migration.revision.name;
        let script = script.ok_or_else(|| Error::NoWayBack {
            revision: name.clone(),
        })?;
        refuse_unfit(migration, script)?;
        let sql = terminated(&script.sql);
        text.push_str(&match migration.in_transaction {
            true => format!("\n-- {name} ({what})\nBEGIN;\n{sql}\n{write}\nCOMMIT;\n"),
            false => format!("\n-- {name} ({what})\n{sql}\nBEGIN;\n{write}\nCOMMIT;\n"),
        });
    }
    Ok(text)
}

/// With a semicolon after its last statement, on a line that no comment swallows.
fn terminated(sql: &str) -> String {
    let sql = sql.trim_end();
    match sql.ends_with(';') {
        true => sql.to_owned(),
        false => format!("{sql}\n;"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migrate::moves::Wish;
    use crate::migrate::standing;
    use crate::migrate::tests::{migration, service};

    #[test]
    fn a_script_has_the_revisions_of_its_range_and_their_history() -> Result<(), Error> {
        let mut folder = ["1", "2", "3"].map(migration);
        folder[2].in_transaction = false;
        folder[2].up.sql = "CREATE INDEX CONCURRENTLY i ON t (a) -- no semicolon".to_owned();
        let at = history_at(&folder, &Point::from("1"))?;
        let rows = standing::rows(&folder, &at, None);
        let moves = moves::moves(&folder, &rows, None, &Wish::To(Point::Head))?;
        let text = script(&service(), &moves)?;
        assert!(!text.contains("1_m (up)"), "{text}");
        let second = text.find("-- 2_m (up)\nBEGIN;\nup\n;\n");
        let third = text
            .find("-- 3_m (up)\nCREATE INDEX CONCURRENTLY i ON t (a) -- no semicolon\n;\nBEGIN;");
        assert!(second.is_some() && second < third, "{text}");
        assert!(
            text.contains(
                "INSERT INTO \"users\".__diesel_schema_migrations (version) VALUES ('2')"
            ),
            "{text}"
        );

        let at = history_at(&folder, &Point::Head)?;
        let rows = standing::rows(&folder, &at, None);
        let moves = moves::moves(&folder, &rows, None, &Wish::Down(1))?;
        let text = script(&service(), &moves)?;
        assert!(
            text.contains("-- 3_m (down)\ndown\n;\nBEGIN;\nDELETE FROM"),
            "{text}"
        );
        assert_eq!(script(&service(), &Moves::default())?, "");
        Ok(())
    }
}
