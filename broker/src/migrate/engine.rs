//! Running revisions: one session, one lock, one transaction each.
//!
//! One session runs them, as the service's own migration role, and that same session holds an advisory lock meanwhile: when it
//! dies, both end together. The lock is asked for again and again, not waited for: a
//! session that waits within Postgres keeps the snapshot that CREATE INDEX CONCURRENTLY
//! waits for. Each revision and its row in the history are one transaction, unless its
//! metadata.toml says otherwise, so a broker that is killed in the middle leaves whole
//! revisions.

mod batched;
mod failure;
mod run;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio_postgres::Client;

use super::folder::{Migration, Script};
use super::history;
use super::moves::{Move, Moves};
use super::statements::Statement;
use super::{Error, lock_key};
use crate::config::ServiceSpec;
use crate::postgres::{Attempted as _, OwnerUri, escape_identifier};
use crate::roles;
use run::Run;
pub use run::refuse_unfit;

/// How long to wait for another migration of the same service, in milliseconds.
pub(super) const LOCK_WAIT_MS_MAX: u64 = 60_000;
/// How often to ask for the lock meanwhile, in milliseconds.
const LOCK_POLL_MS: u64 = 200;
/// A session that migrates one service, alone.
#[derive(Debug)]
pub struct Migrating<'s> {
    client: Client,
    service: &'s ServiceSpec,
    statement_timeout: Duration,
    /// Whether batches had been cut off when it began.
    has_batches: bool,
    /// Whether the session is as a revision in a transaction is to find it.
    is_set_up: AtomicBool,
}

/// Hears how a migration goes on. What it says no to is undone.
pub trait Observer: Send {
    /// A script is begun; again, where it did not get a lock.
    fn begun(&mut self, _migration: &Migration, _script: &Script) {}

    /// Whether what it is told of a statement has to be true before the next thing is sent.
    fn looks_in_between(&self) -> bool {
        false
    }

    /// A statement is about to run.
    fn begins(
        &mut self,
        _session: &Client,
        _statement: &Statement<'_>,
    ) -> impl Future<Output = Result<(), Error>> + Send {
        std::future::ready(Ok(()))
    }

    /// A statement has run; its transaction, if it is in one, has not ended.
    fn ran(
        &mut self,
        _session: &Client,
        _statement: &Statement<'_>,
        _took: Duration,
    ) -> impl Future<Output = Result<(), Error>> + Send {
        std::future::ready(Ok(()))
    }

    /// So much of a statement that is run in batches is done, and stays.
    fn batch(&mut self, _migration: &Migration, _progress: Progress) {}

    /// The script's transaction has ended.
    fn ended(&mut self) {}

    /// All of it is done, and written down.
    fn done(&mut self, one: &Move<'_>);
}

/// How far batches have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The rows that were changed.
    pub rows: i64,
    /// About how many rows the table has.
    pub of_rows: i64,
}

/// Nobody hears.
#[derive(Debug)]
pub struct Unobserved;

impl Observer for Unobserved {
    fn done(&mut self, _: &Move<'_>) {}
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
        let has_batches = history::has_batches(&client, service).await?;
        Ok(Self {
            client,
            service,
            statement_timeout: Duration::ZERO,
            has_batches,
            is_set_up: AtomicBool::new(false),
        })
    }

    /// Bounds each statement of a revision. Zero: it may take as long as it takes.
    pub fn with_statement_timeout(mut self, limit: Duration) -> Self {
        self.statement_timeout = limit;
        self
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

    /// Has the batches of revisions whose files were changed meanwhile begin anew.
    pub async fn forget_changed(&self, folder: &[Migration]) -> Result<(), Error> {
        let forget = history::forget_changed(self.service, folder);
        let forgotten = self.client.batch_execute(&forget).await;
        Ok(forgotten.attempted("forget how far batches have come")?)
    }

    /// Does all of it, in order, and tells of each move when it is done. One that fails
    /// is undone, and those after it are not begun.
    pub async fn perform(
        &self,
        moves: &Moves<'_>,
        observer: &mut impl Observer,
    ) -> Result<(), Error> {
        if !moves.forgotten.is_empty() || moves.moves.iter().any(Move::is_record) {
            self.stamp(moves).await?;
        }
        for one in &moves.moves {
            let (migration, script, write) = match one {
                Move::Run(migration) => {
                    let forget = self.has_batches || !migration.in_transaction;
                    let record = history::applied(self.service, migration, forget);
                    (migration, Some(&migration.up), record)
                }
                Move::Revert(migration) => {
                    let forget = history::forget(self.service, &migration.revision.version);
                    (migration, migration.down.as_ref(), forget)
                }
                // Done, all at once.
                Move::Record(_) => {
                    observer.done(one);
                    continue;
                }
            };
            let script = script.ok_or_else(|| Error::NoWayBack {
                revision: migration.revision.name.clone(),
            })?;
            let run = Run {
                migration,
                script,
                write: &write,
            };
            self.run(run, observer).await?;
            observer.done(one);
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

    /// Makes the session what a revision in a transaction is to find, unless the one
    /// before has left it so.
    async fn set_up(&self) -> Result<(), Error> {
        if !self.is_set_up.load(Ordering::Relaxed) {
            let settings = self.settings(run::LOCK_TIMEOUT_MS);
            run::execute(&self.client, &settings, "begin a revision").await?;
            self.is_set_up.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// A revision may have set anything, and did not set it back.
    fn touched(&self) {
        self.is_set_up.store(false, Ordering::Relaxed);
    }

    /// What a revision finds, whatever the one before has set. A statement ends when this
    /// broker does: otherwise it would go on, and hold the lock.
    fn settings(&self, lock_timeout_ms: u64) -> String {
        let schema = escape_identifier(&self.service.schema);
        format!(
            "RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL;
             SET client_min_messages = warning; SET lock_timeout = {lock_timeout_ms};
             SET client_connection_check_interval = '1s';
             SET statement_timeout = {}; SET search_path = {schema};",
            self.statement_timeout.as_millis()
        )
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
