//! What live versions' queries would miss.

use std::collections::BTreeSet;

use squawk_syntax::ast::{self, AstNode as _, NameLike as _};

use super::script::{Script, altered, name_of};
use super::{Found, Used, Weight};

pub(super) const DROPS_USED: &str = "drops-used";
pub(super) const RENAMES_USED: &str = "renames-used";

pub(super) fn check(script: &Script<'_>, used: &[Used]) -> Vec<Found> {
    let views: BTreeSet<_> = script
        .statements
        .iter()
        .filter_map(|read| match read.node.as_ref()? {
            ast::Stmt::CreateView(create) => Some(create.view()?.path()?.segment()?.text()),
            _ => None,
        })
        .collect();
    let mut found = Vec::new();
    for (index, read) in script.statements.iter().enumerate() {
        let Some(node) = &read.node else { continue };
        for gone in gone(node) {
            let users = gone.users(used);
            if users.is_empty() || read.fresh.contains(&gone.table) {
                continue;
            }
            let is_replaced = gone.column.is_none() && views.contains(&gone.table);
            found.push(Found {
                rule: gone.rule().to_owned(),
                weight: if is_replaced {
                    Weight::Warning
                } else {
                    Weight::Error
                },
                line: read.statement.line,
                statement: Some(index),
                message: gone.message(&users, is_replaced),
                help: Some(gone.help().to_owned()),
                tables: vec![gone.table],
            });
        }
    }
    found
}

/// A name that is there no more.
struct Gone {
    table: String,
    column: Option<String>,
    is_renamed: bool,
}

impl Gone {
    fn rule(&self) -> &'static str {
        if self.is_renamed {
            RENAMES_USED
        } else {
            DROPS_USED
        }
    }

    fn users<'u>(&self, used: &'u [Used]) -> BTreeSet<&'u str> {
        let hit = |one: &&Used| {
            one.table == self.table && (self.column.is_none() || one.column == self.column)
        };
        used.iter().filter(hit).map(|one| one.by.as_str()).collect()
    }

    fn message(&self, users: &BTreeSet<&str>, is_replaced: bool) -> String {
        let name = match &self.column {
            None => self.table.clone(),
            Some(column) => format!("{}.{column}", self.table),
        };
        let verb = if users.len() == 1 { "uses" } else { "use" };
        let done = if self.is_renamed {
            "renamed"
        } else {
            "dropped"
        };
        let users = users.iter().copied().collect::<Vec<_>>().join(", ");
        match is_replaced {
            false => format!(
                "{name} is {done}, and {users} still {verb} it: those queries fail from then on."
            ),
            true => format!(
                "{name} is {done}, and {users} still {verb} it: the view of that name must answer those queries."
            ),
        }
    }

    fn help(&self) -> &'static str {
        if self.is_renamed {
            "add the new name beside the old one, move every version to it, and drop the old one in a later revision"
        } else {
            "drop it when no live version uses it"
        }
    }
}

fn gone(node: &ast::Stmt) -> Vec<Gone> {
    let dropped = |table| Gone {
        table,
        column: None,
        is_renamed: false,
    };
    let views = |refs: ast::AstChildren<ast::ViewRef>| {
        refs.filter_map(|view| name_of(view.path_ref()))
            .map(dropped)
            .collect()
    };
    match node {
        ast::Stmt::DropTable(drop) => {
            let names = drop.table_name_refs();
            names
                .filter_map(|name| name_of(name.path_ref()))
                .map(dropped)
                .collect()
        }
        ast::Stmt::DropView(drop) => views(drop.view_refs()),
        ast::Stmt::DropMaterializedView(drop) => views(drop.view_refs()),
        ast::Stmt::AlterTable(alter) => {
            let Some(table) = altered(node.syntax()) else {
                return Vec::new();
            };
            alter
                .actions()
                .filter_map(|action| of_table(&table, &action))
                .collect()
        }
        ast::Stmt::AlterView(alter) => {
            let table = alter.view_ref().and_then(|view| name_of(view.path_ref()));
            let (Some(table), Some(action)) = (table, alter.action()) else {
                return Vec::new();
            };
            of_view(table, &action).into_iter().collect()
        }
        _ => Vec::new(),
    }
}

fn of_table(table: &str, action: &ast::AlterTableAction) -> Option<Gone> {
    let (column, is_renamed) = match action {
        ast::AlterTableAction::DropColumn(drop) => (Some(drop.column_name_ref()?.text()), false),
        ast::AlterTableAction::RenameColumn(rename) => {
            (Some(rename.column_name_ref()?.text()), true)
        }
        ast::AlterTableAction::TableRenameTo(_) | ast::AlterTableAction::SetSchema(_) => {
            (None, true)
        }
        _ => return None,
    };
    Some(Gone {
        table: table.to_owned(),
        column,
        is_renamed,
    })
}

fn of_view(table: String, action: &ast::AlterViewAction) -> Option<Gone> {
    let column = match action {
        ast::AlterViewAction::RenameColumn(rename) => Some(rename.column_name_ref()?.text()),
        ast::AlterViewAction::ViewRenameTo(_) | ast::AlterViewAction::SetSchema(_) => None,
        _ => return None,
    };
    Some(Gone {
        table,
        column,
        is_renamed: true,
    })
}
