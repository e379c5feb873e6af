//! `-- broker: allow: rule, other-rule`: what somebody has looked at and wants.

use std::collections::BTreeSet;

use squawk_lexer::TokenKind;

use super::super::statements::pieces;
use super::script::Script;
use super::{Found, Weight};

/// The rule about rules.
pub(super) const UNKNOWN_RULE: &str = "unknown-rule";

const DIRECTIVE: &str = "broker: allow:";

/// What a script allows.
pub(super) struct Allowed {
    everywhere: BTreeSet<String>,
    /// For each statement.
    there: Vec<BTreeSet<String>>,
}

impl Allowed {
    pub(super) fn read(text: &str, script: &Script<'_>) -> Self {
        let there = script.statements.iter().map(|read| {
            let comments = read.statement.comments.iter();
            comments.flat_map(|comment| named(comment)).collect()
        });
        Self {
            everywhere: at_the_top(text),
            there: there.collect(),
        }
    }

    /// For the whole script.
    pub(super) fn is_everywhere(&self, rule: &str) -> bool {
        self.everywhere.contains(rule)
    }

    pub(super) fn silences(&self, found: &Found) -> bool {
        let there = found.statement.and_then(|index| self.there.get(index));
        self.everywhere.contains(&found.rule)
            || there.is_some_and(|there| there.contains(&found.rule))
    }

    /// Names that no rule has: they silence nothing.
    pub(super) fn unknown(
        &self,
        script: &Script<'_>,
        is_known: impl Fn(&str) -> bool,
    ) -> Vec<Found> {
        let everywhere = self.everywhere.iter().map(|name| (1, name));
        let there = script.statements.iter().zip(&self.there);
        let there =
            there.flat_map(|(read, names)| names.iter().map(|name| (read.statement.line, name)));
        let unknown = everywhere.chain(there).filter(|(_, name)| !is_known(name));
        unknown
            .map(|(line, name)| Found {
                rule: UNKNOWN_RULE.to_owned(),
                weight: Weight::Warning,
                line,
                statement: None,
                message: format!(
                    "{name} is allowed, and there is no such rule: it silences nothing."
                ),
                help: Some("name the rule as the finding does".to_owned()),
                tables: Vec::new(),
            })
            .collect()
    }
}

/// What a script allows, wherever it does.
pub(super) fn anywhere(text: &str) -> BTreeSet<String> {
    let comments = pieces(text).filter(|piece| piece.kind == TokenKind::LineComment);
    comments.flat_map(|piece| named(piece.text)).collect()
}

/// What comments before the first statement allow, as far as an empty line follows them.
fn at_the_top(text: &str) -> BTreeSet<String> {
    let mut allowed = BTreeSet::new();
    let mut block = Vec::new();
    for piece in pieces(text) {
        match piece.kind {
            TokenKind::LineComment => block.extend(named(piece.text)),
            TokenKind::Whitespace if piece.text.matches('\n').count() > 1 => {
                allowed.extend(block.drain(..));
            }
            TokenKind::Whitespace | TokenKind::BlockComment { .. } => {}
            _ => break,
        }
    }
    allowed
}

/// The rules that a comment names.
fn named(comment: &str) -> Vec<String> {
    let body = comment.strip_prefix("--").map(str::trim);
    let names = body.and_then(|body| body.strip_prefix(DIRECTIVE));
    let names = names.unwrap_or_default().split(',').map(str::trim);
    names
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}
