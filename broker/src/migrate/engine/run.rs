//! Running one script: statement by statement, in a transaction or without one.

use std::time::{Duration, Instant};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use futures_util::future::join;
use squawk_lexer::TokenKind;
use tokio_postgres::Client;

use super::failure::{Failure, is_no_savepoint};
use super::{Migrating, Observer};
use crate::migrate::batches::{Batched, DIRECTIVE};
use crate::migrate::folder::{Migration, Script};
use crate::migrate::statements::{Statement, pieces, split};
use crate::migrate::{Error, LeftBehind};
use crate::postgres::Attempted as _;

/// How long a statement of a revision may wait for a table's lock, in
/// milliseconds: everybody who comes after it waits behind it.
pub(super) const LOCK_TIMEOUT_MS: u64 = 5_000;
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

/// How a line begins that a person has to remove before the script is run.
const STOP: &str = "-- broker: stop";

/// A script that is run, and what of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run<'f> {
    pub(super) migration: &'f Migration,
    pub(super) script: &'f Script,
    /// The statements that write it down.
    pub(super) write: &'f str,
}

/// Refuses a script that is not to be run at all, or not so.
pub fn refuse_unfit(migration: &Migration, script: &Script) -> Result<(), Error> {
    let run = Run {
        migration,
        script,
        write: "",
    };
    run.refuse_unfit(&split(&script.sql))
}

impl Migrating<'_> {
    /// Runs a script and writes it down; again, where it did not get a lock.
    pub(super) async fn run(
        &self,
        run: Run<'_>,
        observer: &mut impl Observer,
    ) -> Result<(), Error> {
        let statements = split(&run.script.sql);
        run.refuse_unfit(&statements)?;
        let mut pauses = lock_pauses();
        loop {
            observer.begun(run.migration, run.script);
            let ran = match (run.migration.in_transaction, statements.as_slice()) {
                (true, _) => self.in_transaction(run, &statements, observer).await,
                (false, [only]) => match run.batched(only)? {
                    Some(batched) => self.in_batches(run, only, &batched, observer).await,
                    None => self.alone(run, only, observer).await,
                },
                (false, [] | [_, _, ..]) => return Err(run.several()),
            };
            let again = match &ran {
                // What is not in a transaction may have left something behind.
                Err(error) if error.is_lock_timeout() && run.migration.in_transaction => {
                    pauses.next()
                }
                _ => None,
            };
            match again {
                Some(pause) => {
                    let revision = &run.migration.revision.name;
                    tracing::info!(revision, ?pause, "a lock is not to be had; trying again");
                    tokio::time::sleep(pause).await;
                }
                None => return ran,
            }
        }
    }

    async fn in_transaction(
        &self,
        run: Run<'_>,
        statements: &[Statement<'_>],
        observer: &mut impl Observer,
    ) -> Result<(), Error> {
        self.set_up().await?;
        // What begins the transaction is one message with its first statement, of which
        // Postgres does nothing more once a part has failed. What ends it waits for the
        // last one, so that a broker that is killed meanwhile has not said COMMIT.
        let begin = format!("BEGIN; SAVEPOINT {SAVEPOINT}; ");
        let ahead = !observer.looks_in_between();
        if !ahead {
            let begun = self.client.batch_execute(&begin).await;
            begun.attempted("begin a revision")?;
        }
        for (index, statement) in statements.iter().enumerate() {
            let before = match ahead && index == 0 {
                true => begin.as_str(),
                false => "",
            };
            match self.statement(before, statement, observer).await {
                Err(Stopped::Observer(error)) => {
                    self.roll_back().await;
                    return Err(error);
                }
                Err(Stopped::Postgres(error)) => {
                    let at = Some((run.script, statement));
                    let failure = Failure::behind(before, &error, at);
                    return Err(self.undone(run, failure, index == 0).await);
                }
                Ok(()) => {}
            }
        }
        let end = format!("RELEASE SAVEPOINT {SAVEPOINT}; {} COMMIT;", run.write);
        // The next one finds the session as this one found it.
        let settings = self.settings(LOCK_TIMEOUT_MS);
        let (ended, set) = join(
            self.client.batch_execute(&end),
            self.client.batch_execute(&settings),
        )
        .await;
        if set.is_err() {
            self.touched();
        }
        self.ended(run, ended, observer).await
    }

    /// What became of a revision one of whose statements failed.
    async fn undone(&self, run: Run<'_>, failure: Failure, is_first: bool) -> Error {
        // Gone, when the script has ended the transaction: then what came before that
        // is there, whatever became of the rest. Before the first nothing came.
        let undo = format!("ROLLBACK TO SAVEPOINT {SAVEPOINT}");
        let undone = self.client.batch_execute(&undo).await;
        self.roll_back().await;
        match undone {
            Err(error) if !is_first && is_no_savepoint(&error) => run.ends_transaction(),
            _ => failure.in_revision(run.migration, run.script, LeftBehind::Undone),
        }
    }

    /// What became of a revision whose statements went well. A constraint that is checked
    /// at the end may fail there.
    async fn ended(
        &self,
        run: Run<'_>,
        ended: Result<(), tokio_postgres::Error>,
        observer: &mut impl Observer,
    ) -> Result<(), Error> {
        let Err(error) = ended else {
            observer.ended();
            return Ok(());
        };
        self.roll_back().await;
        Err(match is_no_savepoint(&error) {
            true => run.ends_transaction(),
            false => {
                let left = match error.as_db_error() {
                    Some(_) => LeftBehind::Undone,
                    None => LeftBehind::Unsure,
                };
                Failure::of(&error, None).in_revision(run.migration, run.script, left)
            }
        })
    }

    /// Without a transaction: what fails half-way is there, and is told.
    async fn alone(
        &self,
        run: Run<'_>,
        statement: &Statement<'_>,
        observer: &mut impl Observer,
    ) -> Result<(), Error> {
        self.touched();
        let settings = self.settings(LOCK_TIMEOUT_ALONE_MS);
        let begun = self.client.batch_execute(&settings).await;
        begun.attempted("begin a revision")?;
        match self.statement("", statement, observer).await {
            Ok(()) => {}
            Err(Stopped::Observer(error)) => return Err(error),
            Err(Stopped::Postgres(error)) => {
                self.roll_back().await;
                let left = match self.invalid_indexes().await {
                    Ok(indexes) if indexes.is_empty() => LeftBehind::Nothing,
                    Ok(indexes) => LeftBehind::Indexes(indexes),
                    Err(_) => LeftBehind::Unknown,
                };
                let failure = Failure::of(&error, Some((run.script, statement)));
                return Err(failure.in_revision(run.migration, run.script, left));
            }
        }
        // One that has opened a transaction by itself has it ended.
        let written = self.client.batch_execute("COMMIT").await;
        let written = match written {
            Ok(()) => self.client.batch_execute(run.write).await,
            Err(error) => Err(error),
        };
        observer.ended();
        written.map_err(|error| Error::NotWritten {
            revision: run.migration.revision.name.clone(),
            path: run.script.path.clone(),
            reason: Failure::of(&error, None).reason,
        })
    }

    /// `before`: what is sent with it.
    async fn statement(
        &self,
        before: &str,
        statement: &Statement<'_>,
        observer: &mut impl Observer,
    ) -> Result<(), Stopped> {
        observer.begins(&self.client, statement).await?;
        let begun = Instant::now();
        let sent = format!("{before}{}", statement.sql);
        let ran = self.client.batch_execute(&sent).await;
        let took = begun.elapsed();
        if ran.is_ok() {
            observer.ran(&self.client, statement, took).await?;
        }
        Ok(ran?)
    }

    pub(super) async fn roll_back(&self) {
        self.touched();
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

/// Why a statement was not done: by whom.
#[derive(Debug, thiserror::Error)]
enum Stopped {
    #[error(transparent)]
    Postgres(#[from] tokio_postgres::Error),
    #[error(transparent)]
    Observer(#[from] Error),
}

impl Run<'_> {
    /// What is not to be run at all: nothing is, then.
    fn refuse_unfit(&self, statements: &[Statement<'_>]) -> Result<(), Error> {
        let mut lines = self.script.sql.lines().enumerate();
        if let Some((line, text)) = lines.find(|(_, text)| text.trim_start().starts_with(STOP)) {
            let why = text.trim_start().trim_start_matches(STOP);
            return Err(Error::Stopped {
                revision: self.migration.revision.name.clone(),
                path: self.script.path.clone(),
                line: line + 1,
                why: why.trim_start_matches(':').trim().to_owned(),
            });
        }
        if statements.is_empty() {
            return Err(Error::NothingToRun {
                revision: self.migration.revision.name.clone(),
                path: self.script.path.clone(),
            });
        }
        let asks = |comment: &&str| {
            comment
                .trim_start_matches('-')
                .trim()
                .starts_with(DIRECTIVE)
        };
        let asked = pieces(&self.script.sql)
            .filter(|piece| piece.kind == TokenKind::LineComment)
            .filter(|piece| asks(&piece.text));
        let heard = statements.iter().flat_map(|statement| &statement.comments);
        if let Some(piece) = asked
            .last()
            .filter(|_| heard.filter(|one| asks(one)).count() == 0)
        {
            let before = self.script.sql.get(..piece.start).unwrap_or_default();
            return Err(Error::BadBatch {
                revision: self.migration.revision.name.clone(),
                path: self.script.path.clone(),
                line: before.matches('\n').count() + 1,
                reason: "it is to stand directly before its statement".to_owned(),
            });
        }
        for statement in statements {
            if self.batched(statement)?.is_some() && self.migration.in_transaction {
                return Err(self.bad_batch(
                    statement,
                    "each batch is a transaction: let metadata.toml say run_in_transaction = false",
                ));
            }
        }
        match statements {
            [_, _, ..] if !self.migration.in_transaction => Err(self.several()),
            _ => Ok(()),
        }
    }

    fn batched<'s>(&self, statement: &Statement<'s>) -> Result<Option<Batched<'s>>, Error> {
        let batched = Batched::of(statement);
        batched.map_err(|reason| self.bad_batch(statement, &reason.to_string()))
    }

    pub(super) fn bad_batch(&self, statement: &Statement<'_>, reason: &str) -> Error {
        Error::BadBatch {
            revision: self.migration.revision.name.clone(),
            path: self.script.path.clone(),
            line: statement.line,
            reason: reason.to_owned(),
        }
    }

    fn several(&self) -> Error {
        Error::SeveralStatements {
            revision: self.migration.revision.name.clone(),
            path: self.script.path.clone(),
        }
    }

    fn ends_transaction(&self) -> Error {
        Error::EndsTransaction {
            revision: self.migration.revision.name.clone(),
            path: self.script.path.clone(),
        }
    }
}

/// The pauses between tries for a lock.
pub(super) fn lock_pauses() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(LOCK_BACKOFF_MS_MIN))
        .with_max_delay(Duration::from_millis(LOCK_BACKOFF_MS_MAX))
        .with_max_times(LOCK_RETRIES_MAX)
        .with_jitter()
        .build()
}

/// Runs a statement of our own.
pub(super) async fn execute(client: &Client, sql: &str, what: &str) -> Result<(), Error> {
    Ok(client.batch_execute(sql).await.attempted(what)?)
}
