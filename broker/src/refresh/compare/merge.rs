//! Reading two or three answers side by side, each in the order of its keys.

use std::pin::Pin;

use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row};

use crate::postgres::{self, Attempted as _};
use crate::refresh::report::{Rows as Told, Table};

/// How many keys of each kind are told.
const KEYS_MAX: usize = 20;

/// A row's primary key, as text.
pub(super) type Key = Vec<String>;

/// Why a table cannot be compared.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// It cannot be read.
    #[error(transparent)]
    Postgres(#[from] postgres::Error),
    /// Its keys do not come in the order of their bytes, and cannot be told apart by it.
    #[error("its keys are not in an order that this broker knows")]
    Disordered,
}

type Answer = Pin<Box<dyn Stream<Item = Result<(Key, Vec<u8>), postgres::Error>> + Send>>;

/// The rows of a table on one branch, as they come.
pub(super) struct Rows {
    answer: Answer,
    /// The next one, if it was read already.
    next: Option<(Key, Vec<u8>)>,
}

impl Rows {
    /// What that query answers.
    pub(super) async fn of(client: &Client, query: &str, table: &str) -> Result<Rows, Error> {
        let reading = format!("read the table {table} to compare it");
        let nothing: [&(dyn ToSql + Sync); 0] = [];
        let rows = client.query_raw(query, nothing).await;
        let rows = rows.attempted(reading.clone())?;
        let row = |row: Row| Ok::<_, tokio_postgres::Error>((row.try_get(0)?, row.try_get(1)?));
        let rows = rows.map(move |read| read.and_then(row).attempted(reading.clone()));
        Ok(Rows::begin(rows))
    }

    /// Those of a table that is not there.
    pub(super) fn none() -> Rows {
        Rows::begin(stream::empty())
    }

    fn begin(
        rows: impl Stream<Item = Result<(Key, Vec<u8>), postgres::Error>> + Send + 'static,
    ) -> Rows {
        Rows {
            // One that has ended is asked again, for as long as others go on.
            answer: Box::pin(rows.fuse()),
            next: None,
        }
    }

    /// Has the next one at hand.
    async fn look(&mut self, after: Option<&Key>) -> Result<Option<&Key>, Error> {
        if self.next.is_none() {
            self.next = self.answer.try_next().await?;
        }
        match (&self.next, after) {
            (Some((key, _)), Some(after)) if key <= after => Err(Error::Disordered),
            (next, _) => Ok(next.as_ref().map(|(key, _)| key)),
        }
    }

    /// The hash of the row of that key, if it is the next.
    fn take(&mut self, wanted: &Key) -> Option<Vec<u8>> {
        let next = self.next.take_if(|(key, _)| key == wanted);
        next.map(|(_, hash)| hash)
    }
}

/// Counts what the old branch has and the new one does not. With `base`, what both began
/// with, only what is otherwise on the old branch than there.
pub(super) async fn merge(
    mut old: Rows,
    mut new: Rows,
    mut base: Option<Rows>,
    table: &mut Table,
) -> Result<(), Error> {
    let mut last: Option<Key> = None;
    loop {
        let before = match &mut base {
            Some(base) => base.look(last.as_ref()).await?,
            None => None,
        };
        let heads = [
            old.look(last.as_ref()).await?,
            new.look(last.as_ref()).await?,
            before,
        ];
        let Some(key) = heads.into_iter().flatten().min().cloned() else {
            return Ok(());
        };
        let (in_old, in_new) = (old.take(&key), new.take(&key));
        let is_its_own = match &mut base {
            Some(base) => base.take(&key) != in_old,
            None => in_old.is_some(),
        };
        if is_its_own && in_old != in_new {
            let kind = match (in_old, in_new) {
                (Some(_), None) => &mut table.only_in_old,
                (Some(_), Some(_)) => &mut table.differing,
                (None, _) => &mut table.deleted_in_old,
            };
            count(kind, &key);
        }
        last = Some(key);
    }
}

fn count(kind: &mut Told, key: &Key) {
    kind.count += 1;
    if kind.keys.len() < KEYS_MAX {
        kind.keys.push(key.clone());
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Rows of one letter and one digit: `a1` is the key `a` with the hash 1.
    fn rows(text: &str) -> Rows {
        let rows: Vec<_> = text
            .split_whitespace()
            .map(|row| {
                let (key, hash) = row.split_at(1);
                Ok((vec![key.to_owned()], hash.as_bytes().to_vec()))
            })
            .collect();
        // As an answer of Postgres, it must not be asked again when it has ended.
        Rows::begin(stream::unfold(rows.into_iter(), |mut rows| async {
            rows.next().map(|row| (row, rows))
        }))
    }

    /// The keys of each kind.
    async fn merged(old: &str, new: &str, base: Option<&str>) -> Result<[String; 3], Error> {
        let mut table = Table::default();
        merge(rows(old), rows(new), base.map(rows), &mut table).await?;
        let keys = |told: Told| {
            assert_eq!(usize::try_from(told.count).unwrap(), told.keys.len());
            told.keys.concat().concat()
        };
        let Table {
            only_in_old,
            differing,
            deleted_in_old,
            ..
        } = table;
        Ok([only_in_old, differing, deleted_in_old].map(keys))
    }

    #[tokio::test]
    async fn two_branches_differ_in_what_either_has_done() {
        let found = merged("a1 b1 d1", "b2 c1 d1 e1", None).await.unwrap();
        assert_eq!(found, ["a", "b", ""]);
        assert_eq!(merged("", "a1", None).await.unwrap(), ["", "", ""]);
        assert_eq!(merged("a1 b1", "", None).await.unwrap(), ["ab", "", ""]);
    }

    #[tokio::test]
    async fn what_came_with_the_fork_is_not_its_own() {
        // a: inserted. b: changed by both. c: deleted in the parent. d: changed in the
        // parent. e: deleted, and still there. f: deleted by both. g: nobody's.
        // h: inserted by both, alike. i: inserted by both, not alike.
        let old = "a1 b2 c1 d1 g1 h1 i1";
        let new = "b3 d2 e1 g1 h1 i2";
        let base = "b1 c1 d1 e1 f1 g1";
        let found = merged(old, new, Some(base)).await.unwrap();
        assert_eq!(found, ["a", "bi", "e"]);
        let found = merged(old, new, Some("")).await.unwrap();
        assert_eq!(found, ["ac", "bdi", ""]);
    }

    #[tokio::test]
    async fn keys_that_come_in_no_order_are_not_merged() {
        for (old, new) in [("b1 a1", ""), ("a1 a1", ""), ("a1 b1", "c1 b1")] {
            let merged = merged(old, new, None).await;
            assert!(matches!(merged, Err(Error::Disordered)), "{old}, {new}");
        }
    }

    #[tokio::test]
    async fn all_are_counted_and_some_are_named() {
        let many: Vec<_> = (b'A'..=b'Z')
            .map(|key| format!("{}1", key as char))
            .collect();
        let mut table = Table::default();
        let (old, new) = (rows(&many.join(" ")), rows(""));
        merge(old, new, None, &mut table).await.unwrap();
        assert_eq!(table.only_in_old.count, 26);
        assert_eq!(table.only_in_old.keys.len(), KEYS_MAX);
    }
}
