//! Running one statement in batches, each a transaction that also says how far it has
//! come: who comes after a broker that was killed goes on there.

use std::time::Instant;

use super::failure::Failure;
use super::run::{LOCK_TIMEOUT_MS, Run, execute, lock_pauses};
use super::{Migrating, Observer, Progress};
use crate::migrate::batches::Batched;
use crate::migrate::statements::Statement;
use crate::migrate::{Error, LeftBehind, history};
use crate::postgres::{Attempted as _, escape_literal};

/// The column that makes the batches.
struct Key {
    /// Its type.
    of_type: String,
    /// About how many rows its table has.
    rows: i64,
}

/// How far the batches have come.
#[derive(Default)]
struct Reached {
    key: Option<String>,
    rows: i64,
}

impl Migrating<'_> {
    pub(super) async fn in_batches(
        &self,
        run: Run<'_>,
        statement: &Statement<'_>,
        batched: &Batched<'_>,
        observer: &mut impl Observer,
    ) -> Result<(), Error> {
        self.touched();
        execute(
            &self.client,
            &self.settings(LOCK_TIMEOUT_MS),
            "begin a revision",
        )
        .await?;
        let key = self.key(run, statement, batched).await?;
        let mark = self.mark(run);
        let mut reached = self.reached(run, statement, &mark).await?;
        let failed = |error: &tokio_postgres::Error, reached: &Reached| {
            let left = match &reached.key {
                Some(key) => LeftBehind::Batches {
                    rows: reached.rows,
                    key: format!("{} {key}", batched.key),
                },
                None => LeftBehind::Nothing,
            };
            let failure = Failure::of(error, Some((run.script, statement)));
            failure.in_revision(run.migration, run.script, left)
        };
        observer.begins(&self.client, statement).await?;
        let begun = Instant::now();
        loop {
            let next = batched.next(&key.of_type, reached.key.as_deref());
            let next = self.client.query_opt(&next, &[]).await;
            let next = next.map_err(|error| failed(&error, &reached))?;
            let Some(next) = next else { break };
            let end: String = next.get(0);
            let sql = batched.sql(&key.of_type, reached.key.as_deref(), &end);
            let done = self.batch(&sql, &mark, &end).await;
            reached.rows = done.map_err(|error| failed(&error, &reached))?;
            reached.key = Some(end);
            observer.batch(
                run.migration,
                Progress {
                    rows: reached.rows,
                    of_rows: key.rows,
                },
            );
        }
        observer
            .ran(&self.client, statement, begun.elapsed())
            .await?;
        let end = format!("BEGIN; {} COMMIT;", run.write);
        let written = self.client.batch_execute(&end).await;
        observer.ended();
        if let Err(error) = written {
            self.roll_back().await;
            return Err(failed(&error, &reached));
        }
        Ok(())
    }

    /// One batch and how far it leads, in one transaction; again, where it did not get a
    /// lock. The rows changed so far, of all batches.
    async fn batch(&self, sql: &str, mark: &Mark, end: &str) -> Result<i64, tokio_postgres::Error> {
        let mut pauses = lock_pauses();
        loop {
            let error = match self.batch_once(sql, mark, end).await {
                Ok(rows) => return Ok(rows),
                Err(error) => error,
            };
            self.roll_back().await;
            let is_lock =
                error.code() == Some(&tokio_postgres::error::SqlState::LOCK_NOT_AVAILABLE);
            match pauses.next().filter(|_| is_lock) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(error),
            }
        }
    }

    async fn batch_once(
        &self,
        sql: &str,
        mark: &Mark,
        end: &str,
    ) -> Result<i64, tokio_postgres::Error> {
        self.client.batch_execute("BEGIN").await?;
        let rows = self.client.execute(sql, &[]).await?;
        let table = history::table(self.service, history::BATCHES_TABLE);
        let Mark {
            version,
            direction,
            checksum,
            ..
        } = mark;
        let write = format!(
            "INSERT INTO {table} AS b (version, direction, checksum, reached, rows)
             VALUES ({version}, {direction}, {checksum}, {end}, {rows})
             ON CONFLICT (version, direction) DO UPDATE
                 SET reached = excluded.reached, rows = b.rows + excluded.rows
             RETURNING rows",
            end = escape_literal(end)
        );
        let row = self.client.query_one(&write, &[]).await?;
        self.client.batch_execute("COMMIT").await?;
        Ok(row.get(0))
    }

    async fn key(
        &self,
        run: Run<'_>,
        statement: &Statement<'_>,
        batched: &Batched<'_>,
    ) -> Result<Key, Error> {
        const ASK: &str = "
            SELECT format_type(a.atttypid, a.atttypmod), a.attnotnull,
                   EXISTS (SELECT FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
                           WHERE i.indrelid = a.attrelid AND i.indkey[0] = a.attnum
                             AND i.indisvalid AND i.indpred IS NULL
                             AND x.relam = (SELECT oid FROM pg_am WHERE amname = 'btree')),
                   greatest(c.reltuples, 0)::bigint
            FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
            WHERE a.attrelid = to_regclass($1) AND a.attname = $2
              AND a.attnum > 0 AND NOT a.attisdropped";
        let found = self
            .client
            .query_opt(ASK, &[&batched.table, &batched.column()])
            .await
            .attempted("look at the key of the batches")?;
        let Batched { table, key, .. } = batched;
        let refused = |reason: String| run.bad_batch(statement, &reason);
        let found = found.ok_or_else(|| refused(format!("there is no column {key} of {table}")))?;
        let (is_filled, has_index): (bool, bool) = (found.get(1), found.get(2));
        if !is_filled {
            return Err(refused(format!(
                "{key} of {table} may be NULL, and such rows are in no batch"
            )));
        }
        if !has_index {
            return Err(refused(format!(
                "no index of {table} begins with {key}: each batch would read the whole table"
            )));
        }
        let rows = match found.get(3) {
            // It was never looked at by ANALYZE.
            0 => {
                let ask = format!("SELECT count(*) FROM {table}");
                let counted = self.client.query_one(&ask, &[]).await;
                counted.attempted("count the rows of the batches")?.get(0)
            }
            rows => rows,
        };
        Ok(Key {
            of_type: found.get(0),
            rows,
        })
    }

    /// How far batches that were interrupted have come.
    async fn reached(
        &self,
        run: Run<'_>,
        statement: &Statement<'_>,
        mark: &Mark,
    ) -> Result<Reached, Error> {
        let table = history::table(self.service, history::BATCHES_TABLE);
        let ask = format!(
            "SELECT reached, rows, checksum = {} FROM {table} WHERE {}",
            mark.checksum, mark.is_it
        );
        let found = self.client.query_opt(&ask, &[]).await;
        let found = found.attempted("look how far the batches have come")?;
        match found {
            None => Ok(Reached::default()),
            Some(row) if row.get(2) => Ok(Reached {
                key: Some(row.get(0)),
                rows: row.get(1),
            }),
            Some(row) => Err(run.bad_batch(
                statement,
                &format!(
                    "its files were changed since it was interrupted, with {} rows done: put them \
                     back; or `broker migrate stamp … current`, and it begins with the first row",
                    row.get::<_, i64>(1)
                ),
            )),
        }
    }

    fn mark(&self, run: Run<'_>) -> Mark {
        let direction = match run.migration.down.as_ref() {
            Some(down) if std::ptr::eq(down, run.script) => "down",
            _ => "up",
        };
        let version = escape_literal(&run.migration.revision.version);
        let direction = escape_literal(direction);
        Mark {
            is_it: format!("version = {version} AND direction = {direction}"),
            checksum: escape_literal(&run.migration.checksum().to_string()),
            version,
            direction,
        }
    }
}

/// What a script's progress is written down under, escaped.
struct Mark {
    version: String,
    direction: String,
    checksum: String,
    /// The condition on its row.
    is_it: String,
}
