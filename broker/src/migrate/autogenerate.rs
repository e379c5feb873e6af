//! A revision from the difference between two schemas.
//!
//! Views that are in the way go first and come back last. Between them old things are
//! dropped, what stays is altered, and new things are made, each before what needs it.
//! Foreign keys go before all tables and come after all of them.

mod columns;
mod creates;
mod drops;
mod enums;
mod error;
mod impact;
mod noticed;
mod rename;
mod renamed;
mod script;
mod sequences;
mod types;
mod views;

#[cfg(test)]
mod tests;

use crate::migrate::catalog::Schema;
use impact::Plan;
use renamed::Renames;
use script::Script;

pub use error::Error;
pub use rename::Rename;

/// Both directions.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Written {
    /// For up.sql.
    pub up: String,
    /// For down.sql.
    pub down: String,
}

/// Which way a script leads. What up.sql adds, down.sql takes back without asking; what
/// up.sql dropped, down.sql cannot fill again, and says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Up,
    Down,
}

/// Writes what leads from one schema to another, and back. Both are empty where nothing
/// is different. What may lose data, or cannot be written, has a line before it that begins
/// with [`STOP`].
///
/// Errors: a rename of what is not there, or to what is not there then.
pub fn write(from: &Schema, to: &Schema, renames: &[Rename]) -> Result<Written, Error> {
    let renames = Renames::new(from, to, renames)?;
    Ok(Written {
        up: script(from, to, &renames, Direction::Up),
        down: script(to, from, &renames.reversed(), Direction::Down),
    })
}

/// What a line begins with that keeps a script from being run.
pub const STOP: &str = "-- broker: stop";

fn script(from: &Schema, to: &Schema, renames: &Renames, direction: Direction) -> String {
    let renamed = renames.apply(from);
    let renamed_sequences = sequences::renamed(&renamed, to);
    let renamed = sequences::rename(renamed, &renamed_sequences);
    let plan = Plan::new(&renamed, to, renames, direction);
    let mut script = Script::default();

    noticed::write_needed(&plan, &mut script);
    views::drop(&plan, &mut script);
    renames.write(&mut script);
    drops::foreign_keys(&plan, &mut script);
    drops::defaults(&plan, &mut script);
    sequences::write_renames(&renamed_sequences, &mut script);
    sequences::free(&plan, &mut script);
    drops::tables(&plan, &mut script);
    drops::constraints(&plan, &mut script);
    drops::indexes(&plan, &mut script);
    drops::columns(&plan, &mut script);
    sequences::drop(&plan, &mut script);

    enums::write(&plan, &mut script);
    sequences::create(&plan, &mut script);
    sequences::alter(&plan, &mut script);
    columns::alter(&plan, &mut script);
    enums::drop(&plan, &mut script);

    creates::rename_constraints_and_indexes(&plan, &mut script);
    creates::tables(&plan, &mut script);
    creates::columns(&plan, &mut script);
    creates::table_flags(&plan, &mut script);
    creates::constraints(&plan, &mut script);
    creates::indexes(&plan, &mut script);
    sequences::own(&plan, &mut script);
    creates::foreign_keys(&plan, &mut script);
    views::create(&plan, &mut script);
    noticed::write_rest(&plan, &mut script);
    script.finish()
}
