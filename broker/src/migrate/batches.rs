//! Changes of many rows, in batches: `-- batch: 10000 by id` before an UPDATE or a DELETE.
//!
//! The statement is complete on its own, and Diesel runs it whole. Here it is run once for
//! each so many rows of its table, by ranges of a key, each in a transaction of its own: no
//! row is locked for longer than its batch takes. No I/O.

use std::fmt;

use squawk_lexer::TokenKind;

use super::statements::{Piece, Statement, pieces};
use crate::postgres::escape_literal;

/// How a comment begins that asks for batches.
pub(super) const DIRECTIVE: &str = "batch:";

/// The most rows that a batch may have.
const ROWS_MAX: u32 = 1_000_000;

/// A statement that is run in batches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Batched<'s> {
    /// How many rows of the table each batch goes over.
    pub(super) rows: u32,
    /// The column whose ranges make the batches, as it is written.
    pub(super) key: &'s str,
    /// The table, as it is written.
    pub(super) table: &'s str,
    /// What the statement calls it.
    alias: &'s str,
    /// Up to the condition.
    head: &'s str,
    /// What stands after WHERE.
    condition: Option<&'s str>,
    /// From RETURNING on.
    tail: &'s str,
}

/// Why a statement cannot be run in batches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NoBatch(&'static str);

impl fmt::Display for NoBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl<'s> Batched<'s> {
    /// The batches that the comments before a statement ask for. `None`: they do not.
    pub(super) fn of(statement: &Statement<'s>) -> Result<Option<Self>, NoBatch> {
        let asked = statement.comments.iter().find_map(|comment| {
            let text = comment.strip_prefix("--")?.trim();
            text.strip_prefix(DIRECTIVE)
        });
        let Some(asked) = asked else { return Ok(None) };
        let words: Vec<&str> = asked.split_whitespace().collect();
        let &[rows, "by", key] = words.as_slice() else {
            return Err(NoBatch("it reads `-- batch: 10000 by id`"));
        };
        let rows = rows.replace('_', "").parse().ok();
        let rows = rows.filter(|rows| (1..=ROWS_MAX).contains(rows));
        let rows = rows.ok_or(NoBatch("a batch has 1 to 1000000 rows"))?;
        Self::split(statement.sql, rows, key).map(Some)
    }

    fn split(sql: &'s str, rows: u32, key: &'s str) -> Result<Self, NoBatch> {
        const KINDS: NoBatch = NoBatch("batches are of an UPDATE or a DELETE, without WITH");
        let top = top_level(sql);
        let mut words = top.iter().peekable();
        let is_update = match words.next() {
            Some(first) if first.is_word("update") => true,
            Some(first) if first.is_word("delete") => false,
            _ => return Err(KINDS),
        };
        for skipped in ["from", "only"] {
            words.next_if(|word| word.is_word(skipped));
        }
        let mut table: Option<(usize, usize)> = None;
        let mut expects_name = true;
        while let Some(piece) = words.next_if(|piece| {
            let is_dot = piece.kind == TokenKind::Dot;
            is_dot || (expects_name && is_name(piece))
        }) {
            expects_name = piece.kind == TokenKind::Dot;
            let start = table.map_or(piece.start, |(start, _)| start);
            table = Some((start, piece.start + piece.text.len()));
        }
        let (start, end) = table.ok_or(KINDS)?;
        let table = &sql[start..end];
        words.next_if(|piece| piece.kind == TokenKind::Star);
        words.next_if(|piece| piece.is_word("as"));
        let ends = ["set", "using", "where", "returning"];
        let alias =
            words.next_if(|piece| is_name(piece) && !ends.iter().any(|end| piece.is_word(end)));
        let find = |word: &str| top.iter().find(|piece| piece.is_word(word));
        let condition = find("where");
        let returning = find("returning").map_or(sql.len(), |piece| piece.start);
        if is_update && find("set").is_none() {
            return Err(KINDS);
        }
        let end = condition.map_or(returning, |piece| piece.start);
        if is_update && is_set(&top, key, end) {
            return Err(NoBatch("it changes the key of its own batches"));
        }
        Ok(Self {
            rows,
            key,
            table,
            alias: alias.map_or(table, |alias| alias.text),
            head: sql[..condition.map_or(returning, |piece| piece.start)].trim_end(),
            condition: condition.map(|piece| sql[piece.start + "where".len()..returning].trim()),
            tail: &sql[returning..],
        })
    }

    /// The column's name, as the catalogs have it.
    pub(super) fn column(&self) -> String {
        match self
            .key
            .strip_prefix('"')
            .and_then(|key| key.strip_suffix('"'))
        {
            Some(quoted) => quoted.replace("\"\"", "\""),
            None => self.key.to_lowercase(),
        }
    }

    /// Asks for the key that the batch after `reached` ends with: no row, when there is no
    /// batch any more. `of_type` is the column's type.
    pub(super) fn next(&self, of_type: &str, reached: Option<&str>) -> String {
        let Self {
            rows, key, table, ..
        } = self;
        let beyond =
            reached.map(|reached| format!(" WHERE {key} > {}::{of_type}", escape_literal(reached)));
        format!(
            "SELECT one.key::text FROM (SELECT {key} AS key FROM {table}{} ORDER BY {key} LIMIT {rows}) \
             AS one ORDER BY one.key DESC LIMIT 1",
            beyond.unwrap_or_default()
        )
    }

    /// The statement for the rows after `reached`, up to `end`.
    pub(super) fn sql(&self, of_type: &str, reached: Option<&str>, end: &str) -> String {
        let key = format!("{}.{}", self.alias, self.key);
        let mut conditions = Vec::new();
        // In lines of its own: it may end with a comment.
        conditions.extend(self.condition.map(|condition| format!("({condition}\n)")));
        conditions.extend(
            reached.map(|reached| format!("{key} > {}::{of_type}", escape_literal(reached))),
        );
        conditions.push(format!("{key} <= {}::{of_type}", escape_literal(end)));
        format!(
            "{}\nWHERE {}\n{}",
            self.head,
            conditions.join(" AND "),
            self.tail
        )
    }
}

/// What is not within parentheses, without spaces and comments.
fn top_level(sql: &str) -> Vec<Piece<'_>> {
    let mut depth = 0_usize;
    let within = pieces(sql).filter(|piece| {
        let is_closing = piece.kind == TokenKind::CloseParen;
        match piece.kind {
            TokenKind::OpenParen => depth += 1,
            TokenKind::CloseParen => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth == 0 && !is_closing && !piece.is_trivia()
    });
    within.collect()
}

/// Whether a column gets a value before that place: behind SET, or a comma.
fn is_set(top: &[Piece<'_>], column: &str, end: usize) -> bool {
    top.windows(3).any(|three| {
        let [before, name, equals] = three else {
            return false;
        };
        let is_assigned = before.is_word("set") || before.kind == TokenKind::Comma;
        let is_it = equals.kind == TokenKind::Eq && name.text.eq_ignore_ascii_case(column);
        is_assigned && is_it && equals.start < end
    })
}

fn is_name(piece: &Piece<'_>) -> bool {
    matches!(piece.kind, TokenKind::Ident | TokenKind::QuotedIdent { .. })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::migrate::statements::split;

    fn batched(script: &str) -> Result<Option<Batched<'_>>, NoBatch> {
        Batched::of(&split(script)[0])
    }

    fn text(script: &str, reached: Option<&str>) -> String {
        let batched = batched(script).unwrap().unwrap();
        batched
            .sql("bigint", reached, "20")
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn a_statement_is_cut_by_ranges_of_its_key() {
        let script = "-- batch: 10 by id\nUPDATE users SET a = (SELECT 1 WHERE true)";
        assert_eq!(
            text(script, None),
            "UPDATE users SET a = (SELECT 1 WHERE true) WHERE users.id <= '20'::bigint"
        );
        let script = "-- Old ones.\n-- batch: 10 by id\n\
                      DELETE FROM app.users AS u WHERE old OR gone -- both\n RETURNING id;";
        assert_eq!(
            text(script, Some("10")),
            "DELETE FROM app.users AS u WHERE (old OR gone -- both ) AND u.id > '10'::bigint \
             AND u.id <= '20'::bigint RETURNING id"
        );
        let script =
            "-- batch: 10_000 by \"Id\"\nUPDATE ONLY \"Us ers\" SET a = f.a FROM f WHERE f.b";
        let cut = batched(script).unwrap().unwrap();
        assert_eq!((cut.rows, cut.column().as_str()), (10_000, "Id"));
        assert_eq!(cut.table, "\"Us ers\"");
        assert!(text(script, None).contains("WHERE (f.b ) AND \"Us ers\".\"Id\" <= "));
    }

    #[test]
    fn the_next_batch_begins_where_the_last_has_ended() {
        let cut = batched("-- batch: 5 by id\nDELETE FROM t")
            .unwrap()
            .unwrap();
        let first = cut.next("uuid", None);
        assert!(first.contains("FROM t ORDER BY id LIMIT 5"), "{first}");
        let second = cut.next("uuid", Some("it's"));
        assert!(second.contains("WHERE id > 'it''s'::uuid"), "{second}");
    }

    #[test]
    fn what_cannot_be_cut_is_refused() {
        for script in [
            "-- batch: 10 by id\nINSERT INTO t SELECT 1",
            "-- batch: 10 by id\nWITH a AS (SELECT 1) UPDATE t SET a = 1",
            "-- batch: many by id\nDELETE FROM t",
            "-- batch: 0 by id\nDELETE FROM t",
            "-- batch: 10\nDELETE FROM t",
            "-- batch: 10 by id\nUPDATE t SET a = 1, id = id + 1000",
        ] {
            assert!(batched(script).is_err(), "{script}");
        }
        assert_eq!(batched("-- in a batch\nDELETE FROM t"), Ok(None));
    }
}
