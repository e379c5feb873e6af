//! What would break the engine, which runs a script in its session: under its lock, as
//! its role, in its transaction. By words alone: here nothing may be missed because a
//! parser does not know it.

use squawk_lexer::{LiteralKind, TokenKind};

use super::super::statements::{Piece, pieces};
use super::script::{Script, unquoted};
use super::{Found, Weight};

pub(super) const ENDS_TRANSACTION: &str = "ends-transaction";
pub(super) const NEEDS_NO_TRANSACTION: &str = "needs-no-transaction";
pub(super) const SEVERAL_STATEMENTS: &str = "several-statements";
pub(super) const BATCH_IN_TRANSACTION: &str = "batch-in-transaction";
pub(super) const LEAVES_ITS_ROLE: &str = "leaves-its-role";
pub(super) const DROPS_THE_LOCK: &str = "drops-the-lock";

pub(super) fn check(script: &Script<'_>, in_transaction: bool) -> Vec<Found> {
    let mut found = Vec::new();
    for (index, read) in script.statements.iter().enumerate() {
        let words = Words::of(read.statement.sql);
        let ends_transaction = words.end_transaction();
        let breaks = [
            (in_transaction && ends_transaction, &ENDS),
            (!in_transaction && ends_transaction, &ENDS_NOTHING),
            (in_transaction && words.need_no_transaction(), &NEEDS_NONE),
            (!in_transaction && index == 1, &SEVERAL),
            (in_transaction && read.is_batched(), &BATCH),
            (words.leave_role(), &LEAVES),
            (words.drop_lock(), &UNLOCKS),
        ];
        let breaks = breaks.into_iter().filter(|(does, _)| *does);
        found.extend(breaks.map(|(_, one)| Found {
            rule: one.rule.to_owned(),
            weight: one.weight,
            line: read.statement.line,
            statement: Some(index),
            message: one.what.to_owned(),
            help: Some(one.help.to_owned()),
            tables: Vec::new(),
        }));
    }
    found
}

struct Break {
    rule: &'static str,
    weight: Weight,
    what: &'static str,
    help: &'static str,
}

const ENDS: Break = Break {
    rule: ENDS_TRANSACTION,
    weight: Weight::Error,
    what: "The revision runs in the engine's transaction: a script that begins or ends one leaves part of itself behind when the rest fails, and the engine refuses it.",
    help: "leave BEGIN and COMMIT out; what Postgres refuses in a transaction goes into a revision of its own whose metadata.toml has run_in_transaction = false",
};

const ENDS_NOTHING: Break = Break {
    rule: ENDS_TRANSACTION,
    weight: Weight::Warning,
    what: "The revision says that it runs without a transaction, and begins or ends one.",
    help: "leave BEGIN and COMMIT out, or run_in_transaction = false",
};

const NEEDS_NONE: Break = Break {
    rule: NEEDS_NO_TRANSACTION,
    weight: Weight::Error,
    what: "Postgres refuses this within a transaction, and the revision runs in one.",
    help: "move it to a revision of its own whose metadata.toml has run_in_transaction = false",
};

const SEVERAL: Break = Break {
    rule: SEVERAL_STATEMENTS,
    weight: Weight::Error,
    what: "The revision runs without a transaction and has more than one statement: when one failed, those before it would stay, so the engine runs none.",
    help: "one statement in each revision that has run_in_transaction = false",
};

const BATCH: Break = Break {
    rule: BATCH_IN_TRANSACTION,
    weight: Weight::Error,
    what: "Each batch is a transaction of its own, and the revision runs in one: the engine refuses it.",
    help: "move it to a revision of its own whose metadata.toml has run_in_transaction = false",
};

const LEAVES: Break = Break {
    rule: LEAVES_ITS_ROLE,
    weight: Weight::Error,
    what: "The script goes on as another role, and the engine after it: the history may not be written, and what is made next belongs to somebody else.",
    help: "leave it out; GRANT what another role needs, or ALTER … OWNER TO",
};

const UNLOCKS: Break = Break {
    rule: DROPS_THE_LOCK,
    weight: Weight::Error,
    what: "This releases the advisory lock that keeps two migrations of a service apart.",
    help: "release a lock of your own by its key: pg_advisory_unlock(key)",
};

/// A statement's words, and those of the block that it runs, if it is a DO.
struct Words<'s> {
    words: Vec<Piece<'s>>,
    block: Vec<Piece<'s>>,
}

impl<'s> Words<'s> {
    fn of(sql: &'s str) -> Self {
        let words = without_trivia(sql);
        let is_do = words.first().is_some_and(|first| first.is_word("do"));
        let bodies = words.iter().filter(|one| is_do && is_dollar_quoted(one));
        let block = bodies.flat_map(|body| without_trivia(unquoted(body.text)));
        Self {
            block: block.collect(),
            words,
        }
    }

    fn begin(&self, words: &[&str]) -> bool {
        begins(&self.words, words)
    }

    fn end_transaction(&self) -> bool {
        let second = |word: &str| self.words.get(1).is_some_and(|one| one.is_word(word));
        let has_to = || self.words.iter().any(|one| one.is_word("to"));
        self.begin(&["begin"])
            || self.begin(&["start", "transaction"])
            || self.begin(&["end"])
            || self.begin(&["abort"])
            || self.begin(&["prepare", "transaction"])
            || (self.begin(&["commit"]) && !second("prepared"))
            // To a savepoint of its own it may go back.
            || (self.begin(&["rollback"]) && !second("prepared") && !has_to())
    }

    fn need_no_transaction(&self) -> bool {
        let has = |word: &str| self.words.iter().any(|one| one.is_word(word));
        let concurrently = has("concurrently");
        let whole = || has("database") || has("system") || has("schema");
        const NEVER: [&[&str]; 9] = [
            &["vacuum"],
            &["create", "database"],
            &["drop", "database"],
            &["create", "tablespace"],
            &["drop", "tablespace"],
            &["alter", "system"],
            &["commit", "prepared"],
            &["rollback", "prepared"],
            &["prepare", "transaction"],
        ];
        NEVER.iter().any(|words| self.begin(words))
            || self.begin(&["create", "index", "concurrently"])
            || self.begin(&["create", "unique", "index", "concurrently"])
            || self.begin(&["drop", "index", "concurrently"])
            || (self.begin(&["reindex"]) && (concurrently || whole()))
            || (self.begin(&["alter", "table"]) && has("detach") && concurrently)
            || (self.begin(&["cluster"]) && self.words.len() == 1)
    }

    fn leave_role(&self) -> bool {
        const CHANGES: [&[&str]; 10] = [
            &["set", "role"],
            &["set", "local", "role"],
            &["set", "session", "role"],
            &["reset", "role"],
            &["set", "session", "authorization"],
            &["set", "local", "session", "authorization"],
            &["reset", "session", "authorization"],
            &["set", "session_authorization"],
            &["set", "local", "session_authorization"],
            &["reset", "session_authorization"],
        ];
        let config = |words: &[Piece<'_>]| {
            let begins = begins(words, &["set_config"]);
            let names = ["'role'", "'session_authorization'"];
            begins
                && words
                    .get(2)
                    .is_some_and(|name| names.contains(&name.text.to_ascii_lowercase().as_str()))
        };
        CHANGES
            .iter()
            .any(|words| self.begin(words) || anywhere(&self.block, |at| begins(at, words)))
            || (!self.begin(&["create"]) && anywhere(&self.words, config))
            || anywhere(&self.block, config)
    }

    fn drop_lock(&self) -> bool {
        let unlocks = |at: &[Piece<'_>]| begins(at, &["pg_advisory_unlock_all"]);
        self.begin(&["discard", "all"])
            // A function that is made is not run.
            || (!self.begin(&["create"]) && anywhere(&self.words, unlocks))
            || anywhere(&self.block, unlocks)
    }
}

fn without_trivia(sql: &str) -> Vec<Piece<'_>> {
    pieces(sql).filter(|piece| !piece.is_trivia()).collect()
}

fn begins(pieces: &[Piece<'_>], words: &[&str]) -> bool {
    pieces.len() >= words.len()
        && pieces
            .iter()
            .zip(words)
            .all(|(piece, word)| piece.is_word(word))
}

fn anywhere<'s>(pieces: &[Piece<'s>], is: impl Fn(&[Piece<'s>]) -> bool) -> bool {
    (0..pieces.len()).any(|start| pieces.get(start..).is_some_and(&is))
}

fn is_dollar_quoted(piece: &Piece<'_>) -> bool {
    matches!(
        piece.kind,
        TokenKind::Literal {
            kind: LiteralKind::DollarQuotedString { terminated: true }
        }
    )
}
