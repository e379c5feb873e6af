//! Watching a revision: the locks that its session holds, the tables that it writes anew,
//! and the queries that have to wait for it.
//!
//! Within a transaction locks are held to its end, so one look after each statement sees
//! all of them. Without one they are gone with the statement: a second session looks again
//! and again while it runs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, ToStatement};

use super::contract::{self, Contract};
use super::report::{Lock, Rewrite, Script, Statement as Told};
use crate::config::ServiceSpec;
use crate::migrate::engine::Observer;
use crate::migrate::folder::{Migration, Script as File};
use crate::migrate::history::OWN_TABLES;
use crate::migrate::lint::Size;
use crate::migrate::moves::Move;
use crate::migrate::statements::Statement;
use crate::migrate::{Error, Place};
use crate::postgres::{self, Attempted as _};

/// Locks that keep queries from running: SHARE and what is stronger keep writers out,
/// ACCESS EXCLUSIVE everybody. (PostgreSQL's documentation, table "Conflicting Lock Modes".)
const BLOCKING: [&str; 4] = [
    "ShareLock",
    "ShareRowExclusiveLock",
    "ExclusiveLock",
    "AccessExclusiveLock",
];

/// How often the second session looks, in milliseconds.
const LOOK_MS: u64 = 2;

/// Watches one script.
pub(super) struct Watch<'a> {
    schema: &'a str,
    /// A second session, for what the first is in no state to tell.
    beside: &'a Arc<Client>,
    contracts: &'a [Contract],
    /// How large the service's tables are.
    sizes: &'a BTreeMap<String, Size>,
    in_transaction: bool,
    statements: Vec<Told>,
    /// Locks that the transaction holds, and which statement took them when.
    held: Vec<Held>,
    /// Tables that were there before the script.
    original: BTreeSet<u32>,
    /// What each table's rows are stored in, before the statement.
    stored: BTreeMap<u32, Stored>,
    begun: Instant,
    looking: Option<Looking>,
    /// How long watching itself has taken.
    watching: Duration,
}

struct Held {
    statement: usize,
    since: Instant,
    /// How long watching had taken by then.
    watching: Duration,
    lock: Lock,
}

struct Stored {
    name: String,
    file: Option<u32>,
}

/// The second session, at work.
struct Looking {
    over: oneshot::Sender<()>,
    seen: JoinHandle<Result<Seen, postgres::Error>>,
}

#[derive(Default)]
struct Seen {
    locks: Vec<(u32, Lock)>,
    blocked: Vec<String>,
}

impl<'a> Watch<'a> {
    pub(super) fn new(
        service: &'a ServiceSpec,
        beside: &'a Arc<Client>,
        contracts: &'a [Contract],
        sizes: &'a BTreeMap<String, Size>,
    ) -> Self {
        Self {
            schema: &service.schema,
            beside,
            contracts,
            sizes,
            in_transaction: true,
            statements: Vec::new(),
            held: Vec::new(),
            original: BTreeSet::new(),
            stored: BTreeMap::new(),
            begun: Instant::now(),
            looking: None,
            watching: Duration::ZERO,
        }
    }

    /// What was seen of a script that took that long.
    pub(super) fn script(mut self, took: Duration, error: Option<String>) -> Script {
        self.settle();
        Script {
            took: took.saturating_sub(self.watching),
            statements: self.statements,
            error,
        }
    }

    /// Says of each lock how long it was held.
    fn settle(&mut self) {
        for held in std::mem::take(&mut self.held) {
            let watching = self.watching.saturating_sub(held.watching);
            let lock = Lock {
                held: held.since.elapsed().saturating_sub(watching),
                ..held.lock
            };
            if let Some(statement) = self.statements.get_mut(held.statement) {
                statement.locks.push(lock);
            }
        }
    }

    /// Tables, and what their rows are stored in.
    async fn stored(&self, session: &Client) -> Result<BTreeMap<u32, Stored>, postgres::Error> {
        const ASK: &str = "
            SELECT c.oid, CASE n.nspname WHEN $1 THEN c.relname::text
                          ELSE n.nspname || '.' || c.relname END, pg_relation_filenode(c.oid)
            FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE n.nspname NOT IN ('pg_catalog', 'pg_toast', 'information_schema')
              AND c.relkind IN ('r', 'm', 'p', 'v')";
        let rows = session.query(ASK, &[&self.schema]).await;
        let rows = rows.attempted("look what tables are stored in")?;
        let stored = rows.iter().map(|row| {
            let stored = Stored {
                name: row.get(1),
                file: row.get(2),
            };
            (row.get(0), stored)
        });
        Ok(stored.collect())
    }

    async fn rewrites(
        &self,
        session: &Client,
        now: &BTreeMap<u32, Stored>,
    ) -> Result<Vec<Rewrite>, postgres::Error> {
        let mut rewrites = Vec::new();
        let original = self
            .stored
            .iter()
            .filter(|(oid, _)| self.original.contains(oid));
        for (oid, before) in original {
            let is_other = now.get(oid).is_some_and(|now| now.file != before.file);
            if !is_other {
                continue;
            }
            let ask = format!(
                "SELECT count(*) FROM ONLY {}",
                regclass(*oid, session).await?
            );
            let counted = session.query_one(&ask, &[]).await;
            let counted = counted.attempted("count the rows that were written anew")?;
            rewrites.push(Rewrite {
                table: before.name.clone(),
                rows: counted.get(0),
            });
        }
        Ok(rewrites)
    }

    /// Has the second session look, while the first runs a statement alone.
    async fn look(&mut self, session: &Client) -> Result<(), postgres::Error> {
        let row = session.query_one("SELECT pg_backend_pid()", &[]).await;
        let pid: i32 = row.attempted("ask for the session's process")?.get(0);
        let (over, is_over) = oneshot::channel();
        let (begun, has_begun) = oneshot::channel();
        let beside = Arc::clone(self.beside);
        let (schema, contracts) = (self.schema.to_owned(), self.contracts.to_vec());
        let looking = Look {
            beside,
            pid,
            schema,
            contracts,
            begun: Some(begun),
        };
        let seen = tokio::spawn(looking.run(is_over));
        // The statement may be over in a moment. An error: that is told at its end.
        let _ = has_begun.await.is_ok();
        self.looking = Some(Looking { over, seen });
        Ok(())
    }

    /// What the second session has seen.
    async fn seen(&mut self) -> Result<Option<Seen>, Error> {
        let Some(Looking { over, seen }) = self.looking.take() else {
            return Ok(None);
        };
        // An error: it has ended by itself, and says why.
        let _ = over.send(()).is_ok();
        Ok(Some(seen.await.map_err(Error::Interrupted)??))
    }

    async fn ran_in_transaction(&mut self, session: &Client) -> Result<Seen, Error> {
        let known: BTreeSet<_> = self.held.iter().map(|held| key(&held.lock)).collect();
        let mut seen = Seen {
            locks: locks(session, &locks_of("pg_backend_pid()"), self.schema).await?,
            blocked: Vec::new(),
        };
        seen.locks.retain(|(_, lock)| !known.contains(&key(lock)));
        self.retain_original(&mut seen);
        let blocking = seen.locks.iter().filter(|(_, lock)| lock.is_blocking());
        let tables: Vec<&str> = blocking.map(|(_, lock)| lock.relation.as_str()).collect();
        seen.blocked = blocked(self.beside, self.schema, self.contracts, &tables).await?;
        Ok(seen)
    }

    fn retain_original(&self, seen: &mut Seen) {
        seen.locks.retain(|(oid, _)| self.original.contains(oid));
    }

    fn told(
        &mut self,
        statement: &Statement<'_>,
        took: Duration,
        seen: Seen,
        rewrites: Vec<Rewrite>,
    ) {
        let index = self.statements.len();
        let sizes = self.sizes;
        let locks = seen.locks.into_iter().map(|(_, lock)| {
            // Counted: Postgres knows as much as the last ANALYZE.
            match sizes.get(&lock.relation) {
                Some(&Size { rows, bytes }) => Lock {
                    rows,
                    bytes,
                    ..lock
                },
                None => lock,
            }
        });
        let mut told = Told {
            sql: Place::shown(statement.sql),
            line: statement.line,
            took,
            locks: Vec::new(),
            rewrites,
            blocked: seen.blocked,
        };
        match self.in_transaction {
            true => {
                let (since, watching) = (self.begun, self.watching);
                self.held.extend(locks.map(|lock| Held {
                    statement: index,
                    since,
                    watching,
                    lock,
                }));
            }
            false => told.locks.extend(locks),
        }
        self.statements.push(told);
    }
}

impl Observer for Watch<'_> {
    fn looks_in_between(&self) -> bool {
        true
    }

    fn begun(&mut self, migration: &Migration, _: &File) {
        // Of a try before this one nothing is left.
        self.statements.clear();
        self.held.clear();
        self.original.clear();
        self.in_transaction = migration.in_transaction;
    }

    async fn begins(&mut self, session: &Client, _: &Statement<'_>) -> Result<(), Error> {
        let watching = Instant::now();
        self.stored = self.stored(session).await?;
        if self.statements.is_empty() {
            self.original = self.stored.keys().copied().collect();
        }
        if !self.in_transaction {
            self.look(session).await?;
        }
        self.watching += watching.elapsed();
        self.begun = Instant::now();
        Ok(())
    }

    async fn ran(
        &mut self,
        session: &Client,
        statement: &Statement<'_>,
        took: Duration,
    ) -> Result<(), Error> {
        let watching = Instant::now();
        let seen = match self.seen().await? {
            Some(mut seen) => {
                self.retain_original(&mut seen);
                seen
            }
            None => self.ran_in_transaction(session).await?,
        };
        let stored = self.stored(session).await?;
        let rewrites = self.rewrites(session, &stored).await?;
        self.told(statement, took, seen, rewrites);
        self.watching += watching.elapsed();
        Ok(())
    }

    fn ended(&mut self) {
        self.settle();
    }

    fn done(&mut self, _: &Move<'_>) {}
}

impl Lock {
    fn is_blocking(&self) -> bool {
        BLOCKING.contains(&self.mode.as_str())
    }
}

/// The second session's work.
struct Look {
    beside: Arc<Client>,
    pid: i32,
    schema: String,
    contracts: Vec<Contract>,
    /// Told when it has looked once.
    begun: Option<oneshot::Sender<()>>,
}

impl Look {
    /// Looks again and again, until told to stop.
    async fn run(mut self, mut is_over: oneshot::Receiver<()>) -> Result<Seen, postgres::Error> {
        let mut seen: BTreeMap<(String, String), (u32, Lock, Instant)> = BTreeMap::new();
        let mut waiting = BTreeSet::new();
        let ask = locks_of(&self.pid.to_string());
        let ask = self.beside.prepare(&ask).await.attempted(LOCKS)?;
        loop {
            let mut tables = Vec::new();
            for (oid, lock) in locks(&self.beside, &ask, &self.schema).await? {
                if lock.is_blocking() && !seen.contains_key(&key(&lock)) {
                    tables.push(lock.relation.clone());
                }
                let entry = seen.entry(key(&lock));
                let (_, known, since) = entry.or_insert((oid, lock, Instant::now()));
                known.held = since.elapsed();
            }
            let tables: Vec<&str> = tables.iter().map(String::as_str).collect();
            let found = blocked(&self.beside, &self.schema, &self.contracts, &tables);
            waiting.extend(found.await?);
            if let Some(begun) = self.begun.take() {
                // An error: nobody waits any more.
                let _ = begun.send(()).is_ok();
            }
            let pause = Duration::from_millis(LOOK_MS);
            if tokio::time::timeout(pause, &mut is_over).await.is_ok() {
                let locks = seen.into_values().map(|(oid, lock, _)| (oid, lock));
                return Ok(Seen {
                    locks: locks.collect(),
                    blocked: waiting.into_iter().collect(),
                });
            }
        }
    }
}

const LOCKS: &str = "look at the locks of the revision";

/// Asks for the locks of tables that a session holds. Takes none itself, as pg_table_size
/// would: it would wait for them.
fn locks_of(pid: &str) -> String {
    format!(
        "SELECT c.oid, CASE n.nspname WHEN $1 THEN c.relname::text
                       ELSE n.nspname || '.' || c.relname END,
                l.mode, greatest(c.reltuples, 0)::bigint,
                c.relpages * current_setting('block_size')::bigint
         FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
         JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE l.pid = {pid} AND l.granted AND l.locktype = 'relation'
           AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
           AND n.nspname NOT IN ('pg_catalog', 'pg_toast', 'information_schema')
           AND c.relkind IN ('r', 'm', 'p', 'v') AND NOT c.relname = ANY ($2)
         ORDER BY c.relname, l.mode"
    )
}

/// Locks of tables that a session holds.
async fn locks(
    client: &Client,
    ask: &(impl ToStatement + ?Sized + Sync),
    schema: &str,
) -> Result<Vec<(u32, Lock)>, postgres::Error> {
    let own = OWN_TABLES.as_slice();
    let rows = client.query(ask, &[&schema, &own]).await.attempted(LOCKS)?;
    let locks = rows.iter().map(|row| {
        let lock = Lock {
            relation: row.get(1),
            mode: row.get(2),
            rows: row.get(3),
            bytes: row.get(4),
            held: Duration::ZERO,
        };
        (row.get(0), lock)
    });
    Ok(locks.collect())
}

/// Queries that have to wait at this moment.
async fn blocked(
    beside: &Client,
    schema: &str,
    contracts: &[Contract],
    tables: &[&str],
) -> Result<Vec<String>, postgres::Error> {
    if tables.is_empty() {
        return Ok(Vec::new());
    }
    let found = contract::blocked(beside, schema, contracts, tables).await?;
    let named = found
        .into_iter()
        .map(|(contract, query)| format!("{}: {}", contract.by, query.shown()));
    Ok(named.collect())
}

fn key(lock: &Lock) -> (String, String) {
    (lock.relation.clone(), lock.mode.clone())
}

async fn regclass(oid: u32, session: &Client) -> Result<String, postgres::Error> {
    let row = session
        .query_one("SELECT $1::oid::regclass::text", &[&oid])
        .await;
    Ok(row.attempted("name a table")?.get(0))
}
