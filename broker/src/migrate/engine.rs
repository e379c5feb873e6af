//! Running revisions: one session, one lock, one transaction each.
//!
//! One session runs them, as the service's own migration role, and that same session holds an advisory lock meanwhile: when it
//! dies, both end together. The lock is asked for again and again, not waited for: a
//! session that waits within Postgres keeps the snapshot that CREATE INDEX CONCURRENTLY
//! waits for. Each revision and its row in the history are one transaction, unless its
//! metadata.toml says otherwise, so a broker that is killed in the middle leaves whole
//! revisions.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use tokio_postgres::Client;
use tokio_postgres::error::{ErrorPosition, SqlState};

use super::folder::{Migration, Script};
use super::history;
use super::moves::{Move, Moves};
use super::{Error, FailedRevision, LeftBehind, Place, lock_key};
use crate::config::ServiceSpec;
use crate::postgres::{self, Attempted as _, OwnerUri, escape_identifier};
use crate::roles;
use crate::text::one_line;

/// How long to wait for another migration of the same service, in milliseconds.
pub(super) const LOCK_WAIT_MS_MAX: u64 = 60_000;
/// How often to ask for the lock meanwhile, in milliseconds.
const LOCK_POLL_MS: u64 = 200;
/// How long a statement of a revision may wait for a table's lock, in
/// milliseconds: everybody who comes after it waits behind it.
const LOCK_TIMEOUT_MS: u64 = 5_000;
/// The same of a revision that runs outside a transaction: what it waits for holds up
/// nobody, and what it has begun stays when it gives up.
const LOCK_TIMEOUT_ALONE_MS: u64 = 600_000;
/// How often a revision is begun again that did not get a lock, beyond the first time,
/// and how long to leave the table to others in between, in milliseconds.
const LOCK_RETRIES_MAX: usize = 4;
const LOCK_BACKOFF_MS_MIN: u64 = 500;
const LOCK_BACKOFF_MS_MAX: u64 = 5_000;

/// Within a revision's transaction: gone when the revision has ended it by itself.
const SAVEPOINT: &str = "branch_broker_revision";

/// A session that migrates one service, alone.
#[derive(Debug)]
pub struct Migrating<'s> {
    client: Client,
    service: &'s ServiceSpec,
}

impl<'s> Migrating<'s> {
    /// Opens the session over a direct connection, as the service's migration role, takes the service's lock, and makes its
    /// schema and history where they are not there: two that create one schema at once
    /// would collide.
    ///
    /// Errors: a pooled address, where the lock would be nobody's; somebody else who
    /// migrates for too long.
    pub async fn begin(uri: &OwnerUri, service: &'s ServiceSpec) -> Result<Self, Error> {
        if uri.is_pooled() {
            return Err(Error::Pooled);
        }
        let client = roles::migrating_session(uri, service).await?;
        lock(&client, service).await?;
        history::ensure(&client, service).await?;
        Ok(Self { client, service })
    }

    /// What the branch says that it has.
    pub async fn history(&self) -> Result<Vec<history::Applied>, Error> {
        Ok(history::read(&self.client, self.service).await?)
    }

    /// Writes down what Diesel has applied: what it was then, nobody knows, so it is taken
    /// for what the folder has.
    pub async fn adopt(
        &self,
        folder: &[Migration],
        history: &[history::Applied],
    ) -> Result<(), Error> {
        let unknown = history.iter().filter(|applied| applied.record.is_none());
        for applied in unknown {
            let known = folder
                .iter()
                .find(|one| one.revision.version == applied.version);
            let Some(migration) = known else { continue };
            tracing::warn!(
                service = %self.service.name, revision = migration.revision.name,
                "adopted a revision that Diesel applied: it is taken for what the folder has"
            );
            let record = history::record(self.service, migration);
            let adopted = self.client.batch_execute(&record).await;
            adopted.attempted("adopt a revision")?;
        }
        Ok(())
    }

    /// Does all of it, in order, and tells of each move when it is done. One that fails
    /// is undone, and those after it are not begun.
    pub async fn perform(
        &self,
        moves: &Moves<'_>,
        mut told: impl FnMut(&Move<'_>),
    ) -> Result<(), Error> {
        if !moves.forgotten.is_empty() || moves.moves.iter().any(Move::is_record) {
            self.stamp(moves).await?;
        }
        for one in &moves.moves {
            match one {
                Move::Run(migration) => {
                    let record = history::record(self.service, migration);
                    self.script(migration, &migration.up, &record).await?;
                }
                Move::Revert(migration) => {
                    let forget = history::forget(self.service, &migration.revision.version);
                    let down = migration.down.as_ref().ok_or_else(|| Error::NoWayBack {
                        revision: migration.revision.name.clone(),
                    })?;
                    self.script(migration, down, &forget).await?;
                }
                // Done, all at once.
                Move::Record(_) => {}
            }
            told(one);
        }
        Ok(())
    }

    async fn stamp(&self, moves: &Moves<'_>) -> Result<(), Error> {
        let forget = moves.forgotten.iter();
        let forget = forget.map(|version| history::forget(self.service, version));
        let record = moves.moves.iter().filter_map(|one| match one {
            Move::Record(migration) => Some(history::record(self.service, migration)),
            _ => None,
        });
        let statements: String = forget.chain(record).collect();
        let sql = format!("BEGIN; {statements} COMMIT;");
        let stamped = self.client.batch_execute(&sql).await;
        stamped.attempted("stamp the history")?;
        Ok(())
    }

    /// Runs a script and writes it down; again, where it did not get a lock.
    async fn script(
        &self,
        migration: &Migration,
        script: &Script,
        write: &str,
    ) -> Result<(), Error> {
        if script.is_blank() {
            return Err(Error::NothingToRun {
                revision: migration.revision.name.clone(),
                path: script.path.clone(),
            });
        }
        let mut pauses = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(LOCK_BACKOFF_MS_MIN))
            .with_max_delay(Duration::from_millis(LOCK_BACKOFF_MS_MAX))
            .with_max_times(LOCK_RETRIES_MAX)
            .with_jitter()
            .build();
        loop {
            let ran = match migration.in_transaction {
                true => self.in_transaction(migration, script, write).await,
                false => self.alone(migration, script, write).await,
            };
            let again = match &ran {
                // What is not in a transaction may have left something behind.
                Err(error) if error.is_lock_timeout() && migration.in_transaction => pauses.next(),
                _ => None,
            };
            match again {
                Some(pause) => {
                    let revision = &migration.revision.name;
                    tracing::info!(revision, ?pause, "a lock is not to be had; trying again");
                    tokio::time::sleep(pause).await;
                }
                None => return ran,
            }
        }
    }

    async fn in_transaction(
        &self,
        migration: &Migration,
        script: &Script,
        write: &str,
    ) -> Result<(), Error> {
        let settings = self.settings(LOCK_TIMEOUT_MS);
        let begin = format!("{settings} BEGIN; SAVEPOINT {SAVEPOINT};");
        let begun = self.client.batch_execute(&begin).await;
        begun.attempted("begin a revision")?;
        let failure = match self.client.batch_execute(&script.sql).await {
            Ok(()) => None,
            Err(error) => Some(Failure::of(&error, Some(script))),
        };
        // Gone, when the script has ended the transaction: then what came before that is
        // there, whatever became of the rest.
        let undo = match failure {
            None => format!("RELEASE SAVEPOINT {SAVEPOINT}"),
            Some(_) => format!("ROLLBACK TO SAVEPOINT {SAVEPOINT}"),
        };
        let kept = self.client.batch_execute(&undo).await;
        if kept.as_ref().is_err_and(is_no_savepoint) {
            self.roll_back().await;
            return Err(Error::EndsTransaction {
                revision: migration.revision.name.clone(),
                path: script.path.clone(),
            });
        }
        let failure = match (failure, kept) {
            (Some(failure), _) => Some(failure),
            (None, Err(error)) => Some(Failure::of(&error, None)),
            // A constraint that is checked at the end may fail here.
            (None, Ok(())) => {
                let ended = self.client.batch_execute(&format!("{write} COMMIT;")).await;
                ended.err().map(|error| Failure::of(&error, None))
            }
        };
        match failure {
            None => Ok(()),
            Some(failure) => {
                self.roll_back().await;
                Err(failure.in_revision(migration, script, LeftBehind::Nothing))
            }
        }
    }

    /// Without a transaction: what fails half-way is there, and is told.
    async fn alone(
        &self,
        migration: &Migration,
        script: &Script,
        write: &str,
    ) -> Result<(), Error> {
        let settings = self.settings(LOCK_TIMEOUT_ALONE_MS);
        let begun = self.client.batch_execute(&settings).await;
        begun.attempted("begin a revision")?;
        if let Err(error) = self.client.batch_execute(&script.sql).await {
            self.roll_back().await;
            let left = match self.invalid_indexes().await {
                Ok(indexes) if indexes.is_empty() => LeftBehind::Nothing,
                Ok(indexes) => LeftBehind::Indexes(indexes),
                Err(_) => LeftBehind::Unknown,
            };
            return Err(Failure::of(&error, Some(script)).in_revision(migration, script, left));
        }
        // One that has opened a transaction by itself has it ended.
        let written = self.client.batch_execute("COMMIT").await;
        let written = match written {
            Ok(()) => self.client.batch_execute(write).await,
            Err(error) => Err(error),
        };
        written.map_err(|error| Error::NotWritten {
            revision: migration.revision.name.clone(),
            path: script.path.clone(),
            reason: Failure::of(&error, None).reason,
        })
    }

    /// What a revision finds, whatever the one before has set.
    fn settings(&self, lock_timeout_ms: u64) -> String {
        let schema = escape_identifier(&self.service.schema);
        format!(
            "RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL;
             SET client_min_messages = warning; SET lock_timeout = {lock_timeout_ms};
             SET statement_timeout = 0; SET search_path = {schema};"
        )
    }

    async fn roll_back(&self) {
        // An error: the session is gone, and its transaction with it.
        let _ = self.client.batch_execute("ROLLBACK").await.is_ok();
    }

    /// Indexes that CREATE INDEX CONCURRENTLY has begun and not finished.
    async fn invalid_indexes(&self) -> Result<Vec<String>, Error> {
        const ASK: &str = "
            SELECT format('%I.%I', n.nspname, c.relname) FROM pg_index i
            JOIN pg_class c ON c.oid = i.indexrelid
            JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE NOT i.indisvalid AND n.nspname = $1 ORDER BY 1";
        let rows = self.client.query(ASK, &[&self.service.schema]).await;
        let rows = rows.attempted("look for what was left behind")?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }
}

impl Move<'_> {
    fn is_record(&self) -> bool {
        matches!(self, Move::Record(_))
    }
}

/// Takes the service's lock.
async fn lock(client: &Client, service: &ServiceSpec) -> Result<(), Error> {
    let ask = format!("SELECT pg_try_advisory_lock({})", lock_key(service));
    let waiting = async {
        loop {
            let answer = client.query_one(&ask, &[]).await;
            if answer.attempted("take the migration lock")?.get(0) {
                return Ok::<(), Error>(());
            }
            tokio::time::sleep(Duration::from_millis(LOCK_POLL_MS)).await;
        }
    };
    let limit = Duration::from_millis(LOCK_WAIT_MS_MAX);
    let taken = tokio::time::timeout(limit, waiting).await;
    taken.map_err(|_| Error::LockTaken {
        service: service.name.to_string(),
    })?
}

/// What Postgres said of a script that failed. Not all that it says: its details have
/// values of rows in them.
struct Failure {
    reason: String,
    place: Option<Place>,
    is_transient: bool,
    is_lock_timeout: bool,
}

impl Failure {
    fn of(error: &tokio_postgres::Error, script: Option<&Script>) -> Self {
        let said = error.as_db_error();
        let place = match (said.and_then(|said| said.position()), script) {
            (Some(ErrorPosition::Original(position)), Some(script)) => {
                place_of(&script.sql, *position)
            }
            _ => None,
        };
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

    fn in_revision(self, migration: &Migration, script: &Script, left_behind: LeftBehind) -> Error {
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

fn is_no_savepoint(error: &tokio_postgres::Error) -> bool {
    let ended = [
        SqlState::S_E_INVALID_SPECIFICATION,
        SqlState::NO_ACTIVE_SQL_TRANSACTION,
    ];
    error.code().is_some_and(|code| ended.contains(code))
}

/// Line, column, and the line itself, of a character that is counted from 1.
fn place_of(sql: &str, position: u32) -> Option<Place> {
    let index = usize::try_from(position).ok()?.checked_sub(1)?;
    let before: String = sql.chars().take(index).collect();
    let line = before.matches('\n').count();
    let column = before.chars().rev().take_while(|one| *one != '\n').count();
    Some(Place {
        line: line + 1,
        column: column + 1,
        text: shown(sql.lines().nth(line).unwrap_or_default()),
    })
}

/// A line as it may be shown: what stands in quotes may be a password.
fn shown(line: &str) -> String {
    const CHARS_MAX: usize = 120;
    let parts = line.trim().split('\'').enumerate();
    let masked = parts.map(|(index, part)| if index % 2 == 0 { part } else { "…" });
    let masked = masked.collect::<Vec<_>>().join("'");
    masked.chars().take(CHARS_MAX).collect()
}

#[cfg(test)]
mod tests;
