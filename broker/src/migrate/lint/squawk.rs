//! squawk's rules: which are on, how much each weighs here, and what to do about it.

use squawk_linter::{Linter, Rule, Version, Violation};
use squawk_syntax::SourceFile;
use squawk_syntax::ast::{self, AstNode as _};

use super::super::statements::pieces;
use super::script::Script;
use super::{Found, Weight};
use squawk_lexer::TokenKind;

/// One of squawk's rules, in our words: its own speak of tools that are not used here.
pub(super) struct Known {
    pub(super) rule: Rule,
    weight: Weight,
    pub(super) what: &'static str,
    help: &'static str,
}

/// Those that tell of a lock, a rewrite, a loss, or a failure. What is off, and why:
///
/// - taste: prefer-*, ban-char-field, require-enum-value-ordering,
///   ban-create-domain-with-constraint, and ban-duplicate-column-assignments, which
///   Postgres refuses by itself;
/// - what the engine sees to: require-lock-timeout, require-statement-timeout,
///   require-timeout-settings (it sets them), require-table-schema (it sets the
///   search_path);
/// - what rules of ours tell better: renaming-column, renaming-table, ban-set-schema,
///   ban-drop-view (only a live version that uses it is harmed), transaction-nesting,
///   ban-uncommitted-transaction, ban-concurrent-index-creation-in-transaction (it is
///   silent about scripts of one statement, and about all but CREATE INDEX),
///   prefer-repack (silent before Postgres 19);
/// - what may break somebody who is not known to be there, and locks and loses nothing:
///   the other ban-drop-*, ban-alter-*, renaming-object, ban-revoke and all that squawk
///   has off by itself.
pub(super) const KNOWN: &[Known] = &[
    Known {
        rule: Rule::RequireConcurrentIndexCreation,
        weight: Weight::Large,
        what: "CREATE INDEX lets nobody write to the table until the index is built.",
        help: "CREATE INDEX CONCURRENTLY, in a revision of its own with run_in_transaction = false in its metadata.toml",
    },
    Known {
        rule: Rule::RequireConcurrentIndexDeletion,
        weight: Weight::Large,
        what: "DROP INDEX waits for everybody who uses the table, and everybody who comes meanwhile waits behind it.",
        help: "DROP INDEX CONCURRENTLY, in a revision of its own with run_in_transaction = false in its metadata.toml",
    },
    Known {
        rule: Rule::RequireConcurrentReindex,
        weight: Weight::Large,
        what: "REINDEX lets nobody write to the table, nor read by that index, until it is built.",
        help: "REINDEX … CONCURRENTLY, in a revision of its own with run_in_transaction = false in its metadata.toml",
    },
    Known {
        rule: Rule::RequireConcurrentPartitionDetach,
        weight: Weight::Large,
        what: "DETACH PARTITION keeps everybody from the table meanwhile.",
        help: "DETACH PARTITION … CONCURRENTLY, in a revision of its own with run_in_transaction = false in its metadata.toml",
    },
    Known {
        rule: Rule::ConstraintMissingNotValid,
        weight: Weight::Large,
        what: "A new constraint is checked against every row, and nobody can write to the table meanwhile.",
        help: "add it NOT VALID, and VALIDATE CONSTRAINT in a later revision",
    },
    Known {
        rule: Rule::AddingForeignKeyConstraint,
        weight: Weight::Large,
        what: "A new foreign key is checked against every row, and nobody can write to either table meanwhile.",
        help: "add it NOT VALID, and VALIDATE CONSTRAINT in a later revision",
    },
    Known {
        rule: Rule::DisallowedUniqueConstraint,
        weight: Weight::Large,
        what: "UNIQUE builds its index while nobody can read or write the table.",
        help: "CREATE UNIQUE INDEX CONCURRENTLY in a revision before, then ADD CONSTRAINT … UNIQUE USING INDEX",
    },
    Known {
        rule: Rule::AddingSerialPrimaryKeyField,
        weight: Weight::Large,
        what: "PRIMARY KEY builds its index while nobody can read or write the table.",
        help: "CREATE UNIQUE INDEX CONCURRENTLY in a revision before, then ADD CONSTRAINT … PRIMARY KEY USING INDEX",
    },
    Known {
        rule: Rule::AddingFieldWithDefault,
        weight: Weight::Large,
        what: "A default that differs from row to row, or a generated column, writes the whole table anew while nobody can read or write it.",
        help: "add the column without it, SET DEFAULT for new rows, and fill the old ones in batches in a later revision",
    },
    Known {
        rule: Rule::ChangingColumnType,
        weight: Weight::Large,
        what: "Another type writes the whole table anew, with its indexes, while nobody can read or write it.",
        help: "add a column of the new type, fill it in batches, and drop the old one when no version uses it; a varchar that only grows, or becomes text, rewrites nothing: allow it",
    },
    Known {
        rule: Rule::AddingNotNullableField,
        weight: Weight::Large,
        what: "SET NOT NULL reads every row while nobody can read or write the table.",
        help: "ADD CONSTRAINT … CHECK (… IS NOT NULL) NOT VALID, VALIDATE CONSTRAINT in a later revision, then SET NOT NULL, which then reads nothing",
    },
    Known {
        rule: Rule::AddingRequiredField,
        weight: Weight::Filled,
        what: "A NOT NULL column without a default fails upon a table that has rows, and live versions that do not know it can insert none.",
        help: "give it a DEFAULT, or add it nullable, fill it, and SET NOT NULL in a later revision",
    },
    Known {
        rule: Rule::BanDropColumn,
        weight: Weight::Filled,
        what: "DROP COLUMN loses what is in the column; down.sql cannot bring it back.",
        help: "drop it when no version uses it and what is in it has been moved; then allow it",
    },
    Known {
        rule: Rule::BanDropTable,
        weight: Weight::Filled,
        what: "DROP TABLE loses its rows; down.sql cannot bring them back.",
        help: "drop it when no version uses it and what is in it has been moved; then allow it",
    },
    Known {
        rule: Rule::BanTruncateCascade,
        weight: Weight::Error,
        what: "TRUNCATE … CASCADE empties every table that refers to it as well, and those that refer to them.",
        help: "name each table that is to be emptied",
    },
    Known {
        rule: Rule::BanDropSchema,
        weight: Weight::Error,
        what: "DROP SCHEMA loses what is in the schema.",
        help: "drop what is in it by name, in revisions of its service",
    },
    Known {
        rule: Rule::BanDropDatabase,
        weight: Weight::Error,
        what: "DROP DATABASE loses all that is in it.",
        help: "no revision of a service should: delete the branch",
    },
    Known {
        rule: Rule::BanDropSequence,
        weight: Weight::Warning,
        what: "DROP SEQUENCE loses how far it had counted.",
        help: "drop it when no column takes its default from it; then allow it",
    },
    Known {
        rule: Rule::BanAlterDomainWithAddConstraint,
        weight: Weight::Warning,
        what: "A domain's new constraint is checked against every row of every table that has a column of it, and nobody can write to them meanwhile.",
        help: "add it NOT VALID, and VALIDATE CONSTRAINT in a later revision",
    },
    Known {
        rule: Rule::IdentifierTooLong,
        weight: Weight::Warning,
        what: "A name is longer than 63 bytes: Postgres cuts it off without an error, and two that begin alike become one.",
        help: "give it a shorter name",
    },
];

/// What its rules find in a script.
pub(super) fn check(script: &Script<'_>, in_transaction: bool, postgres: u32) -> Vec<Found> {
    let parsed = SourceFile::parse(&script.text);
    let lint = |rules: &[Rule], in_transaction| {
        let mut linter = Linter::from(rules.iter().copied());
        linter.settings.assume_in_transaction = in_transaction;
        if let Ok(version) = postgres.to_string().parse::<Version>() {
            linter.settings.pg_version = version;
        }
        linter.lint(&parsed, &script.text)
    };
    // Within a transaction it passes over each table that is made anywhere in the script,
    // one too that IF NOT EXISTS does not make. What is new is known better here.
    let all: Vec<_> = KNOWN.iter().map(|known| known.rule).collect();
    let mut violations = lint(&all, false);
    if in_transaction {
        let constraints = lint(&[Rule::ConstraintMissingNotValid], true);
        let validated = constraints.into_iter();
        violations.extend(validated.filter(|one| is_validation(one, &script.text)));
    }
    let worth = violations.iter().filter(|one| {
        !(is_constant_default(one, &script.text) || is_said_better(one, &violations))
    });
    worth
        .filter_map(|violation| found(violation, script))
        .collect()
}

fn found(violation: &Violation, script: &Script<'_>) -> Option<Found> {
    let (start, end) = (
        usize::from(violation.text_range.start()),
        usize::from(violation.text_range.end()),
    );
    let line = 1 + script.text.get(..start)?.matches('\n').count();
    let text = script.text.get(start..end)?;
    if violation.code == Rule::UnusedIgnore {
        return Some(Found {
            rule: super::allow::UNKNOWN_RULE.to_owned(),
            weight: Weight::Warning,
            line,
            statement: None,
            message: format!(
                "squawk-ignore names {text}, and squawk has no such rule: it silences nothing."
            ),
            help: Some("rules of the broker's own are silenced by -- broker: allow: …".to_owned()),
            tables: Vec::new(),
        });
    }
    let known = KNOWN.iter().find(|known| known.rule == violation.code)?;
    let index = script.at(start)?;
    let read = script.statements.get(index)?;
    let (what, help) = match is_validation(violation, &script.text) {
        false => (known.what, known.help),
        true => (
            "A constraint that is added NOT VALID and validated in one transaction keeps its lock while every row is read.",
            "VALIDATE CONSTRAINT in a later revision",
        ),
    };
    // A column that is new and NULL everywhere has nothing to be checked.
    let is_new_column = known.rule == Rule::AddingForeignKeyConstraint
        && read
            .node
            .as_ref()
            .is_some_and(|node| is_null_column(node, start - read.statement.start));
    let weight = if is_new_column {
        Weight::Warning
    } else {
        known.weight
    };
    Some(Found {
        rule: known.rule.to_string(),
        weight,
        line,
        statement: Some(index),
        message: what.to_owned(),
        help: Some(help.to_owned()),
        tables: read.tables.clone(),
    })
}

/// Of what one rule says, the half about VALIDATE in the transaction of NOT VALID.
fn is_validation(violation: &Violation, text: &str) -> bool {
    let begins = text.get(usize::from(violation.text_range.start())..);
    violation.code == Rule::ConstraintMissingNotValid
        && begins
            .and_then(|text| text.get(.."validate".len()))
            .is_some_and(|word| word.eq_ignore_ascii_case("validate"))
}

/// squawk takes -1, current_date and (1) for volatile: what calls no function is not. A
/// generated column that is not STORED has nothing written either.
fn is_constant_default(violation: &Violation, text: &str) -> bool {
    let range = usize::from(violation.text_range.start())..usize::from(violation.text_range.end());
    let Some(default) = text.get(range) else {
        return false;
    };
    let default: Vec<_> = pieces(default).filter(|piece| !piece.is_trivia()).collect();
    let has = |word: &str| default.iter().any(|piece| piece.is_word(word));
    let calls = default.windows(2).any(|pair| {
        let is_name = matches!(
            pair[0].kind,
            TokenKind::Ident | TokenKind::QuotedIdent { .. }
        );
        is_name && pair[1].kind == TokenKind::OpenParen
    });
    let is_generated = default
        .first()
        .is_some_and(|piece| piece.is_word("generated"));
    let is_constant = match is_generated {
        true => !(has("stored") || has("identity")),
        false => !calls,
    };
    violation.code == Rule::AddingFieldWithDefault && is_constant
}

/// Whether a rule that knows more has spoken of the same constraint.
fn is_said_better(violation: &Violation, all: &[Violation]) -> bool {
    const BETTER: [Rule; 3] = [
        Rule::AddingForeignKeyConstraint,
        Rule::DisallowedUniqueConstraint,
        Rule::AddingSerialPrimaryKeyField,
    ];
    violation.code == Rule::ConstraintMissingNotValid
        && all.iter().any(|other| {
            BETTER.contains(&other.code) && violation.text_range.contains_range(other.text_range)
        })
}

fn is_null_column(node: &ast::Stmt, offset: usize) -> bool {
    let columns = node.syntax().descendants().filter_map(ast::AddColumn::cast);
    let mut columns = columns.filter(|column| {
        let range = column.syntax().text_range();
        (usize::from(range.start())..usize::from(range.end())).contains(&offset)
    });
    columns.any(|column| {
        !column
            .constraints()
            .any(|one| matches!(one, ast::Constraint::DefaultConstraint(_)))
    })
}
