//! What happens to rows: all changed, all lost, all written anew.

use squawk_syntax::ast::{self, AstNode as _};

use super::script::{Read, Script, name_of};
use super::{Found, Weight};

pub(super) const UNBATCHED_CHANGE: &str = "unbatched-change";
pub(super) const LOSES_ROWS: &str = "loses-rows";
pub(super) const DROPS_DEPENDENTS: &str = "drops-dependents";
pub(super) const REWRITES_TABLE: &str = "rewrites-table";

pub(super) fn check(script: &Script<'_>) -> Vec<Found> {
    let statements = script.statements.iter().enumerate();
    let found = statements.flat_map(|(index, read)| {
        let found = read.node.as_ref().map(|node| of(node, read));
        let found = found.unwrap_or_default().into_iter();
        found.map(move |one| Found {
            rule: one.rule.to_owned(),
            weight: one.weight,
            line: read.statement.line,
            statement: Some(index),
            message: one.what.to_owned(),
            help: Some(one.help.to_owned()),
            tables: one.tables,
        })
    });
    found.collect()
}

struct Change {
    rule: &'static str,
    weight: Weight,
    what: &'static str,
    help: &'static str,
    tables: Vec<String>,
}

fn of(node: &ast::Stmt, read: &Read<'_>) -> Vec<Change> {
    match node {
        ast::Stmt::Truncate(_) => vec![Change {
            rule: LOSES_ROWS,
            weight: Weight::Filled,
            what: "TRUNCATE loses every row; down.sql cannot bring them back.",
            help: "if that is meant, allow it",
            tables: read.tables.clone(),
        }],
        ast::Stmt::Vacuum(vacuum) if vacuum.is_full() => vec![rewrite(read)],
        ast::Stmt::Cluster(_) => vec![rewrite(read)],
        ast::Stmt::AlterTable(alter) => {
            let rewrites = alter.actions().any(|action| rewrites(&action));
            rewrites.then(|| rewrite(read)).into_iter().collect()
        }
        ast::Stmt::DropType(drop) => cascade(drop.drop_behavior()),
        ast::Stmt::DropDomain(drop) => cascade(drop.drop_behavior()),
        ast::Stmt::DropExtension(drop) => cascade(drop.drop_behavior()),
        ast::Stmt::DropOwned(_) => vec![dependents()],
        ast::Stmt::Update(_)
        | ast::Stmt::Delete(_)
        | ast::Stmt::Insert(_)
        | ast::Stmt::Merge(_)
        | ast::Stmt::Select(_) => changes(node, read),
        _ => Vec::new(),
    }
}

fn rewrites(action: &ast::AlterTableAction) -> bool {
    match action {
        ast::AlterTableAction::SetLogged(_)
        | ast::AlterTableAction::SetUnlogged(_)
        | ast::AlterTableAction::SetAccessMethod(_)
        | ast::AlterTableAction::SetTablespace(_) => true,
        // Its default counts, and so differs from row to row.
        ast::AlterTableAction::AddColumn(add) => add.ty().is_some_and(|ty| {
            let ty = ty.syntax().text().to_string().to_ascii_lowercase();
            [
                "serial",
                "bigserial",
                "smallserial",
                "serial2",
                "serial4",
                "serial8",
            ]
            .contains(&ty.trim())
        }),
        _ => false,
    }
}

fn cascade(behavior: Option<ast::DropBehavior>) -> Vec<Change> {
    match behavior {
        Some(ast::DropBehavior::Cascade(_)) => vec![dependents()],
        _ => Vec::new(),
    }
}

fn dependents() -> Change {
    Change {
        rule: DROPS_DEPENDENTS,
        weight: Weight::Error,
        what: "This drops whatever depends on it as well: columns of that type, with what is in them.",
        help: "drop what depends on it by name, then it without CASCADE",
        tables: Vec::new(),
    }
}

fn rewrite(read: &Read<'_>) -> Change {
    Change {
        rule: REWRITES_TABLE,
        weight: Weight::Large,
        what: "This writes the whole table anew while nobody can read or write it.",
        help: "leave it out, or see that nobody needs the table meanwhile and allow it; a plain VACUUM keeps nobody waiting, and a column that counts can be filled in batches",
        tables: read.tables.clone(),
    }
}

/// UPDATE and DELETE, wherever they stand in the statement.
fn changes(node: &ast::Stmt, read: &Read<'_>) -> Vec<Change> {
    let mut found = Vec::new();
    for inner in node.syntax().descendants() {
        let (relation, condition, is_delete) =
            if let Some(update) = ast::Update::cast(inner.clone()) {
                (
                    update.relation_name(),
                    update.where_clause_or_current_of(),
                    false,
                )
            } else if let Some(delete) = ast::Delete::cast(inner) {
                (
                    delete.relation_name(),
                    delete.where_clause_or_current_of(),
                    true,
                )
            } else {
                continue;
            };
        if condition.is_some_and(|condition| !is_always(&condition.syntax().text().to_string())) {
            continue;
        }
        let name = relation.and_then(|relation| relation.relation_name_ref());
        let tables: Vec<_> = name
            .and_then(|name| name_of(name.path_ref()))
            .into_iter()
            .collect();
        if is_delete {
            found.push(Change {
                rule: LOSES_ROWS,
                weight: Weight::Filled,
                what: "DELETE without WHERE loses every row; down.sql cannot bring them back.",
                help: "say which rows in a WHERE; if all are meant, allow it",
                tables: tables.clone(),
            });
        }
        if !read.is_batched() {
            found.push(Change {
                rule: UNBATCHED_CHANGE,
                weight: Weight::LargeAlone,
                what: "This changes every row in one statement: each stays locked until all are done, and what was there before stays on disk as long.",
                help: "put -- batch: 10000 by id before it, in a revision of its own whose metadata.toml has run_in_transaction = false",
                tables,
            });
        }
    }
    found
}

/// WHERE true is none.
fn is_always(condition: &str) -> bool {
    let condition: String = condition.to_ascii_lowercase().split_whitespace().collect();
    let condition = condition.trim_start_matches("where");
    matches!(condition.trim_matches(['(', ')']), "true" | "1=1")
}
