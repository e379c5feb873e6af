//! From what is asked for, and how everything stands, to what is to be run. No I/O.

use super::Error;
use super::folder::Migration;
use super::history::Applied;
use super::standing::{Row, Standing};

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// Pending revisions, oldest first: so many, or all.
    Up(Option<usize>),
    /// So many of those that the branch has, newest first, taken back.
    Down(usize),
    /// Up or down to that point.
    To(Point),
    /// The newest taken back, and run again.
    Redo,
    /// The history to say that the branch is at that point. Nothing is run.
    Stamp(Point),
}

/// A point in a service's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Point {
    /// Before the first revision.
    Base,
    /// After the last one that the service's version has.
    Head,
    /// Where the branch is. To be stamped alone: what it has is written down as it is now.
    Current,
    /// After that one: its version, its folder's name, or the beginning of either.
    Revision(String),
}

/// One thing to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Move<'f> {
    /// Run it.
    Run(&'f Migration),
    /// Take it back.
    Revert(&'f Migration),
    /// Write down that the branch has it, as it is now.
    Record(&'f Migration),
}

/// What is to be done, and what the history is to forget.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Moves<'f> {
    /// In order.
    pub moves: Vec<Move<'f>>,
    /// Versions that are applied no more though nothing is run for it: a stamp's alone.
    pub forgotten: Vec<String>,
}

impl<'f> Move<'f> {
    /// Which.
    pub fn migration(&self) -> &'f Migration {
        match self {
            Move::Run(migration) | Move::Revert(migration) | Move::Record(migration) => migration,
        }
    }
}

impl<'f> Moves<'f> {
    /// The revisions that are run, in order.
    pub fn runs(&self) -> impl Iterator<Item = &'f Migration> {
        self.moves.iter().filter_map(|one| match one {
            Move::Run(migration) => Some(*migration),
            Move::Revert(_) | Move::Record(_) => None,
        })
    }

    /// The versions that the branch still has when the first of them is run.
    pub fn had<'a>(&'a self, history: &'a [Applied]) -> impl Iterator<Item = &'a str> {
        let is_reverted = |version: &str| {
            let mut moves = self.moves.iter();
            moves.any(|one| match one {
                Move::Revert(migration) => migration.revision.version == version,
                Move::Run(_) | Move::Record(_) => false,
            })
        };
        let versions = history.iter().map(|applied| applied.version.as_str());
        versions.filter(move |version| !is_reverted(version))
    }
}

impl From<&str> for Point {
    fn from(text: &str) -> Self {
        match text {
            "base" => Point::Base,
            "head" => Point::Head,
            "current" => Point::Current,
            revision => Point::Revision(revision.to_owned()),
        }
    }
}

/// What has to be done for a wish. `last` is the revision that the service's version
/// stops at, if it does.
///
/// Errors: a revision that is not there; one that has no way back; and, where there is
/// something to be run, one that was changed since it was applied.
pub fn moves<'f>(
    folder: &'f [Migration],
    rows: &'f [Row],
    last: Option<&'f str>,
    wish: &Wish,
) -> Result<Moves<'f>, Error> {
    let find = |version: &str| folder.iter().find(|one| one.revision.version == version);
    let applied = rows.iter().rev().filter(|row| row.standing.is_applied());
    let applied = applied.filter_map(|row| find(&row.version));
    let moves: Vec<Move<'f>> = match wish {
        Wish::Up(count) => {
            let pending = rows.iter().filter(|row| row.standing.is_pending());
            let pending = pending.filter_map(|row| find(&row.version)).map(Move::Run);
            pending.take(count.unwrap_or(usize::MAX)).collect()
        }
        Wish::Down(count) => reverts(applied.take(*count))?,
        Wish::Redo => {
            let newest: Vec<_> = applied.take(1).collect();
            let mut moves = reverts(newest.iter().copied())?;
            moves.extend(newest.into_iter().map(Move::Run));
            moves
        }
        Wish::To(point) => {
            let goal = resolve(folder, rows, last, point)?;
            let is_within = |version: &str| goal.is_some_and(|goal| version <= goal);
            let beyond = applied.filter(|one| !is_within(&one.revision.version));
            let mut moves = reverts(beyond)?;
            let missing = rows.iter().filter(|row| !row.standing.is_applied());
            let missing = missing.filter(|row| is_within(&row.version));
            moves.extend(missing.filter_map(|row| find(&row.version)).map(Move::Run));
            moves
        }
        // Nothing is run, so nothing is in doubt.
        Wish::Stamp(Point::Current) => return Ok(stamp_current(folder, rows)),
        Wish::Stamp(point) => return Ok(stamp(folder, rows, resolve(folder, rows, last, point)?)),
    };
    if !moves.is_empty() {
        refuse_doubtful(rows)?;
    }
    Ok(Moves {
        moves,
        forgotten: Vec::new(),
    })
}

/// What was changed since it was applied, or is not there any more, may be what the rest
/// builds on.
fn refuse_doubtful(rows: &[Row]) -> Result<(), Error> {
    for row in rows {
        let (version, name) = (row.version.clone(), row.name.clone());
        match row.standing {
            Standing::Changed => return Err(Error::RevisionChanged { revision: name }),
            Standing::Missing => return Err(Error::RevisionMissing { version, name }),
            _ => {}
        }
    }
    Ok(())
}

fn reverts<'f>(migrations: impl Iterator<Item = &'f Migration>) -> Result<Vec<Move<'f>>, Error> {
    let revert = |one: &'f Migration| match one.down {
        Some(_) => Ok(Move::Revert(one)),
        None => Err(Error::NoWayBack {
            revision: one.revision.name.clone(),
        }),
    };
    migrations.map(revert).collect()
}

/// Those that the branch has are what they are now, and those that nobody has any more are
/// forgotten.
fn stamp_current<'f>(folder: &'f [Migration], rows: &[Row]) -> Moves<'f> {
    let applied = || rows.iter().filter(|row| row.standing.is_applied());
    let find = |row: &Row| {
        folder
            .iter()
            .find(|one| one.revision.version == row.version)
    };
    let missing = applied().filter(|row| row.standing == Standing::Missing);
    Moves {
        forgotten: missing.map(|row| row.version.clone()).collect(),
        moves: applied().filter_map(find).map(Move::Record).collect(),
    }
}

fn stamp<'f>(folder: &'f [Migration], rows: &[Row], goal: Option<&str>) -> Moves<'f> {
    let is_within = |version: &str| goal.is_some_and(|goal| version <= goal);
    let is_known = |version: &str| folder.iter().any(|one| one.revision.version == version);
    let within = folder.iter().filter(|one| is_within(&one.revision.version));
    let applied = rows.iter().filter(|row| row.standing.is_applied());
    let forgotten = applied.filter(|row| !is_within(&row.version) || !is_known(&row.version));
    Moves {
        moves: within.map(Move::Record).collect(),
        forgotten: forgotten.map(|row| row.version.clone()).collect(),
    }
}

/// The version of the last revision before a point. `None`: there is none.
pub fn resolve<'f>(
    folder: &'f [Migration],
    rows: &'f [Row],
    last: Option<&'f str>,
    point: &Point,
) -> Result<Option<&'f str>, Error> {
    match point {
        Point::Base => Ok(None),
        Point::Current => {
            let newest = rows.iter().rev().find(|row| row.standing.is_applied());
            Ok(newest.map(|row| row.version.as_str()))
        }
        Point::Head => Ok(last.or(folder.last().map(|one| one.revision.version.as_str()))),
        Point::Revision(text) => {
            let digits = text.split('_').next().unwrap_or_default().replace('-', "");
            let begins = |one: &&Migration| {
                one.revision.name.starts_with(text.as_str())
                    || (!text.contains('_') && one.revision.version.starts_with(&digits))
            };
            let exact = folder
                .iter()
                .find(|one| [&one.revision.name, &one.revision.version].contains(&text));
            if let Some(one) = exact {
                return Ok(Some(&one.revision.version));
            }
            let mut found = folder.iter().filter(begins);
            match (found.next(), found.next()) {
                (Some(one), None) => Ok(Some(&one.revision.version)),
                (Some(one), Some(other)) => Err(Error::RevisionAmbiguous {
                    given: text.clone(),
                    one: one.revision.name.clone(),
                    other: other.revision.name.clone(),
                }),
                (None, _) => Err(Error::RevisionNotFound {
                    given: text.clone(),
                }),
            }
        }
    }
}

#[cfg(test)]
mod tests;
