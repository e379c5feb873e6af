//! A script as squawk's parser understands it: each statement by itself, so that one
//! that it does not know hides no other.

use std::collections::{BTreeMap, BTreeSet};

use squawk_lexer::TokenKind;
use squawk_syntax::ast::{self, AstNode as _};
use squawk_syntax::{SourceFile, SyntaxNode};

use super::super::statements::{Statement, pieces, split};
use super::Size;

/// A script, read.
pub(super) struct Script<'s> {
    /// As it is written, but for statements that were not understood: blanks stand there.
    pub(super) text: String,
    pub(super) statements: Vec<Read<'s>>,
}

/// A statement, read.
pub(super) struct Read<'s> {
    pub(super) statement: Statement<'s>,
    /// `None`: not understood.
    pub(super) node: Option<ast::Stmt>,
    /// What the parser said, and how many lines into the statement.
    pub(super) complaint: Option<(usize, String)>,
    /// The tables that it is about, without their schemas.
    pub(super) tables: Vec<String>,
    /// Tables that the script has made before it: nobody else has seen them.
    pub(super) fresh: BTreeSet<String>,
}

impl<'s> Script<'s> {
    pub(super) fn read(script: &'s str, on_branch: &BTreeMap<String, Size>) -> Self {
        let mut text = script.to_owned();
        let mut fresh = BTreeSet::new();
        let mut statements = Vec::new();
        for statement in split(script) {
            let (node, complaint) = parse(statement.sql);
            if complaint.is_some() {
                blank(&mut text, &statement);
            }
            let before = fresh.clone();
            if let Some(node) = &node {
                follow(node, &mut fresh, on_branch);
            }
            statements.push(Read {
                tables: node.as_ref().map(tables).unwrap_or_default(),
                statement,
                node,
                complaint,
                fresh: before,
            });
        }
        Self { text, statements }
    }

    /// The statement at that byte of the script.
    pub(super) fn at(&self, offset: usize) -> Option<usize> {
        self.statements.iter().position(|one| {
            let start = one.statement.start;
            (start..start + one.statement.sql.len()).contains(&offset)
        })
    }
}

impl Read<'_> {
    /// Whether it asks to be run in batches.
    pub(super) fn is_batched(&self) -> bool {
        let mut comments = self.statement.comments.iter();
        comments.any(|comment| {
            let body = comment.strip_prefix("--").map(str::trim_start);
            body.is_some_and(|body| body.starts_with("batch:"))
        })
    }
}

/// What stands within a string's quotes: `'…'` or `$tag$…$tag$`, as it is written. Of
/// what is no string: nothing.
pub(super) fn unquoted(text: &str) -> &str {
    let Some(start) = text.find(['\'', '$']) else {
        return "";
    };
    let rest = text.get(start + 1..).unwrap_or_default();
    let is_dollar = text.get(start..).is_some_and(|text| text.starts_with('$'));
    let quote = match is_dollar {
        true => rest.find('$').map_or(0, |end| end + 2),
        false => 1,
    };
    let end = text.len().saturating_sub(quote);
    text.get(start + quote..end).unwrap_or_default()
}

/// A table's name without its schema, as Postgres keeps it.
pub(super) fn name_of(path: Option<ast::PathRef>) -> Option<String> {
    Some(path?.segment()?.text())
}

pub(super) fn altered(node: &SyntaxNode) -> Option<String> {
    let first = node.descendants().find_map(ast::TableNameRef::cast)?;
    name_of(first.path_ref())
}

/// How deep a statement may be nested, at most: the parser goes down with it, and a stack
/// that is used up ends the process. In an unoptimised build one of 2 MB holds twice that.
const DEPTH_MAX: usize = 500;

fn parse(sql: &str) -> (Option<ast::Stmt>, Option<(usize, String)>) {
    if depth_at_most(sql) > DEPTH_MAX {
        return (None, Some((0, "it is nested too deep".to_owned())));
    }
    let parsed = SourceFile::parse(sql);
    let errors = parsed.errors();
    match errors.first() {
        None => (parsed.tree().stmts().next(), None),
        Some(error) => {
            let offset = usize::from(error.range().start());
            let before = sql.get(..offset).unwrap_or_default();
            let lines = before.matches('\n').count();
            (None, Some((lines, error.message().to_owned())))
        }
    }
}

/// As deep as its grammar can nest it at the worst: each word one step down from the one
/// before, until a comma or the end of its brackets.
fn depth_at_most(sql: &str) -> usize {
    // Of the brackets that are open around it, how deep each was when it was opened.
    let mut around = Vec::new();
    let (mut depth, mut deepest) = (0_usize, 0_usize);
    // These nest over commas too.
    let mut unions = 0;
    // The parser looks into the bodies of functions, which are strings.
    let mut body = 0;
    let mut pieces = pieces(sql).filter(|piece| !piece.is_trivia()).peekable();
    let first = pieces.peek();
    let has_bodies = first.is_some_and(|first| first.is_word("create") || first.is_word("do"));
    for piece in pieces {
        depth += 1;
        match piece.kind {
            TokenKind::OpenParen | TokenKind::OpenBracket => around.push(depth),
            TokenKind::CloseParen | TokenKind::CloseBracket => {
                depth = around.pop().unwrap_or(depth);
            }
            TokenKind::Comma | TokenKind::Semi => depth = around.last().copied().unwrap_or(0),
            _ if ["union", "intersect", "except"]
                .iter()
                .any(|word| piece.is_word(word)) =>
            {
                unions += 1;
            }
            TokenKind::Literal { .. } if has_bodies => {
                body = body.max(depth_at_most(unquoted(piece.text)));
            }
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest + unions + body
}

/// Every byte but the ends of lines: what comes after it stays where it is.
fn blank(text: &mut String, statement: &Statement<'_>) {
    let blanks = |byte| if byte == b'\n' { '\n' } else { ' ' };
    let blanks: String = statement.sql.bytes().map(blanks).collect();
    let range = statement.start..statement.start + statement.sql.len();
    text.replace_range(range, &blanks);
}

fn tables(node: &ast::Stmt) -> Vec<String> {
    let syntax = node.syntax();
    let all = || {
        let names = syntax.descendants().filter_map(ast::TableNameRef::cast);
        names.filter_map(|name| name_of(name.path_ref())).collect()
    };
    match node {
        ast::Stmt::DropTable(_)
        | ast::Stmt::Truncate(_)
        | ast::Stmt::Vacuum(_)
        | ast::Stmt::Repack(_) => all(),
        ast::Stmt::AlterTable(_)
        | ast::Stmt::CreateIndex(_)
        | ast::Stmt::Cluster(_)
        | ast::Stmt::Reindex(_) => altered(syntax).into_iter().collect(),
        _ => Vec::new(),
    }
}

/// What tables are new after it.
fn follow(node: &ast::Stmt, fresh: &mut BTreeSet<String>, on_branch: &BTreeMap<String, Size>) {
    let made = |name: Option<ast::TableName>| Some(name?.path()?.segment()?.text());
    match node {
        ast::Stmt::CreateTable(create) => {
            let name = made(create.table_name());
            // IF NOT EXISTS makes nothing of what is there.
            let is_there =
                |name: &String| create.if_not_exists().is_some() && on_branch.contains_key(name);
            fresh.extend(name.filter(|name| !is_there(name)));
        }
        ast::Stmt::CreateTableAs(create) => fresh.extend(made(create.table_name())),
        ast::Stmt::SelectInto(select) => {
            let into = select.into_clause();
            fresh.extend(into.and_then(|into| made(into.table_name())));
        }
        ast::Stmt::AlterTable(alter) => {
            for action in alter.actions() {
                if let ast::AlterTableAction::TableRenameTo(rename) = action
                    && let Some(old) = altered(node.syntax())
                    && let Some(new) = made(rename.table_name())
                {
                    match fresh.remove(&old) {
                        true => fresh.insert(new),
                        false => fresh.remove(&new),
                    };
                }
            }
        }
        _ => {}
    }
}
