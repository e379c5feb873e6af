//! What a session has prepared, and the rows that come of it: none, but where Postgres is
//! asked how far its log goes.

use std::collections::HashMap;

use super::message;

const BOOL: u32 = 16;
const TEXT: u32 = 25;

/// The statements of one session.
#[derive(Default)]
pub(super) struct Statements {
    by_name: HashMap<String, Statement>,
    /// What comes of the one that was bound last.
    bound: Option<Row>,
}

struct Statement {
    /// Its parameters' types, as they came: they are described in the same way.
    parameters: Vec<u8>,
    row: Option<Row>,
}

/// All that a statement returns: one row of one column.
#[derive(Clone, Copy)]
struct Row {
    column: &'static str,
    type_oid: u32,
    value: &'static [u8],
}

impl Statements {
    /// Answers Parse.
    pub(super) fn parse(&mut self, body: &[u8], is_replica: bool) -> Vec<u8> {
        let (name, rest) = split(body);
        let (text, parameters) = split(rest);
        let statement = Statement {
            parameters: parameters.to_vec(),
            row: Row::of(&text, is_replica),
        };
        self.by_name.insert(name, statement);
        message(b'1', &[])
    }

    /// Answers Describe, of a statement.
    pub(super) fn describe(&self, body: &[u8]) -> Vec<u8> {
        let (name, _) = split(body.get(1..).unwrap_or_default());
        let statement = self.by_name.get(&name);
        let none: &[u8] = &[0, 0];
        let parameters = statement.map_or(none, |statement| statement.parameters.as_slice());
        let row = statement.and_then(|statement| statement.row);
        let columns = row.map_or_else(|| message(b'n', &[]), |row| row.description());
        [message(b't', parameters), columns].concat()
    }

    /// Answers Bind.
    pub(super) fn bind(&mut self, body: &[u8]) -> Vec<u8> {
        let (_portal, rest) = split(body);
        let (name, _) = split(rest);
        self.bound = self.by_name.get(&name).and_then(|statement| statement.row);
        message(b'2', &[])
    }

    /// Answers Execute.
    pub(super) fn execute(&self) -> Vec<u8> {
        match self.bound {
            Some(row) => [row.data(), message(b'C', b"SELECT 1\0")].concat(),
            None => message(b'C', b"SET\0"),
        }
    }
}

impl Row {
    fn of(text: &str, is_replica: bool) -> Option<Self> {
        if text.contains("pg_current_wal_lsn()") {
            return Some(Self {
                column: "lsn",
                type_oid: TEXT,
                value: b"0/1500000",
            });
        }
        if !text.contains("pg_last_wal_replay_lsn()") {
            return None;
        }
        // A replica has replayed everything. A primary replays nothing: who does not ask
        // whether it is one waits for ever.
        let reached = is_replica || text.contains("NOT pg_is_in_recovery()");
        Some(Self {
            column: "reached",
            type_oid: BOOL,
            value: if reached { &[1] } else { &[0] },
        })
    }

    /// RowDescription.
    fn description(&self) -> Vec<u8> {
        let mut body: Vec<u8> = Vec::new();
        body.extend(1_i16.to_be_bytes());
        body.extend(self.column.bytes());
        body.push(0);
        // Of no table, and no column there.
        body.extend(0_i32.to_be_bytes());
        body.extend(0_i16.to_be_bytes());
        body.extend(self.type_oid.to_be_bytes());
        // Of any size, without a modifier, binary.
        body.extend((-1_i16).to_be_bytes());
        body.extend((-1_i32).to_be_bytes());
        body.extend(1_i16.to_be_bytes());
        message(b'T', &body)
    }

    /// DataRow.
    fn data(&self) -> Vec<u8> {
        let length = i32::try_from(self.value.len()).unwrap_or(i32::MAX);
        let mut body: Vec<u8> = Vec::new();
        body.extend(1_i16.to_be_bytes());
        body.extend(length.to_be_bytes());
        body.extend(self.value);
        message(b'D', &body)
    }
}

/// The text of the statement that comes with this message: it is to be prepared, or run at
/// once. Any other message has none.
pub(super) fn text_of(kind: u8, body: &[u8]) -> Option<String> {
    let body = match kind {
        b'P' => split(body).1,
        b'Q' => body,
        _ => return None,
    };
    Some(split(body).0)
}

/// What comes before the next zero byte, and what after it.
fn split(body: &[u8]) -> (String, &[u8]) {
    let end = body.iter().position(|byte| *byte == 0);
    let end = end.unwrap_or(body.len());
    let text = String::from_utf8_lossy(&body[..end]).into_owned();
    (text, body.get(end + 1..).unwrap_or_default())
}
