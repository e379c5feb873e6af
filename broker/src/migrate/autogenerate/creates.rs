//! What is new, and what comes back.

use super::columns::full_name;
use super::impact::{Plan, of, validates};
use super::script::Script;
use super::sequences;
use crate::migrate::catalog::names::quote;
use crate::migrate::catalog::text::{constraint_text, index_text};
use crate::migrate::catalog::{Column, Constraint, ConstraintKind, Table};

pub(super) fn rename_constraints_and_indexes(plan: &Plan<'_>, script: &mut Script) {
    for ((table, old), new) in &plan.renamed_constraints {
        let (table, old, new) = (quote(table), quote(old), quote(new));
        script.push(format!(
            "ALTER TABLE {table} RENAME CONSTRAINT {old} TO {new}"
        ));
    }
    for (old, new) in &plan.renamed_indexes {
        script.push(format!(
            "ALTER INDEX {} RENAME TO {}",
            quote(old),
            quote(new)
        ));
    }
}

/// New tables, with all that stands in them.
pub(super) fn tables(plan: &Plan<'_>, script: &mut Script) {
    for (name, table) in &plan.to.tables {
        if plan.from.tables.contains_key(name) {
            continue;
        }
        if plan.is_down() {
            script.stop(format!("makes {} again, without its rows", quote(name)));
        }
        let columns = table.columns.iter();
        let columns = columns.map(|column| definition(plan, name, column));
        let constraints = table.constraints.iter().filter(|(_, one)| is_inline(one));
        let mut constraints: Vec<_> = constraints.collect();
        constraints.sort_by_key(|(_, constraint)| rank(constraint.kind));
        let constraints = constraints.into_iter();
        let constraints = constraints.map(|(name, one)| constraint_text(name, one));
        let lines = columns
            .chain(constraints)
            .map(|line| format!("\n    {line}"));
        let lines: Vec<_> = lines.collect();
        let lines = lines.join(",");
        let unlogged = if table.is_unlogged { "UNLOGGED " } else { "" };
        script.push(format!(
            "CREATE {unlogged}TABLE {} ({lines}\n)",
            quote(name)
        ));
    }
}

/// New columns of tables that stay: those that others are computed from first.
pub(super) fn columns(plan: &Plan<'_>, script: &mut Script) {
    for (table, before, after) in plan.kept_tables() {
        let is_new = |column: &&Column| {
            before.column(&column.name).is_none()
                || plan.recreated.contains(&of(table, &column.name))
        };
        let new = after.columns.iter().filter(is_new);
        let (computed, plain): (Vec<_>, Vec<_>) = new.partition(|new| new.generated.is_some());
        for column in plain.into_iter().chain(computed) {
            if let Some(what) = lacking(plan, table, column) {
                script.stop(what);
            }
            let (table, column) = (quote(table), definition(plan, table, column));
            script.push(format!("ALTER TABLE {table} ADD COLUMN {column}"));
        }
    }
}

/// Whether a table is logged, and has policies in force.
pub(super) fn table_flags(plan: &Plan<'_>, script: &mut Script) {
    for (name, after) in &plan.to.tables {
        let before = plan.from.tables.get(name);
        let was = |flag: fn(&Table) -> bool| before.is_some_and(flag);
        let alter = format!("ALTER TABLE {}", quote(name));
        if before.is_some() && was(|table| table.is_unlogged) != after.is_unlogged {
            let logged = if after.is_unlogged {
                "UNLOGGED"
            } else {
                "LOGGED"
            };
            script.push(format!("{alter} SET {logged}"));
        }
        if was(|table| table.has_row_security) != after.has_row_security {
            let enable = if after.has_row_security {
                "ENABLE"
            } else {
                "DISABLE"
            };
            script.push(format!("{alter} {enable} ROW LEVEL SECURITY"));
        }
        if was(|table| table.forces_row_security) != after.forces_row_security {
            let force = if after.forces_row_security {
                "FORCE"
            } else {
                "NO FORCE"
            };
            script.push(format!("{alter} {force} ROW LEVEL SECURITY"));
        }
    }
}

pub(super) fn constraints(plan: &Plan<'_>, script: &mut Script) {
    add_constraints(plan, script, false);
}

/// Once every table and every key is there.
pub(super) fn foreign_keys(plan: &Plan<'_>, script: &mut Script) {
    add_constraints(plan, script, true);
}

/// Those of tables, and of views that stay.
pub(super) fn indexes(plan: &Plan<'_>, script: &mut Script) {
    write_indexes(plan, script, |table| {
        plan.to.tables.contains_key(table) || is_view_left(plan, table)
    });
}

/// Those of views that come back, or are new.
pub(super) fn indexes_of_view(plan: &Plan<'_>, view: &str, script: &mut Script) {
    if !is_view_left(plan, view) {
        write_indexes(plan, script, |table| table == view);
    }
}

fn write_indexes(plan: &Plan<'_>, script: &mut Script, is_meant: impl Fn(&str) -> bool) {
    for (name, index) in plan
        .to
        .indexes
        .iter()
        .filter(|(_, index)| is_meant(&index.table))
    {
        let before = plan.from.indexes.get(name);
        let is_left = before.is_some_and(|before| {
            !plan.dropped_indexes.contains(name)
                && (plan.to.tables.contains_key(&before.table) || is_view_left(plan, &before.table))
        });
        let is_renamed = plan.renamed_indexes.values().any(|new| new == name);
        if !is_left && !is_renamed {
            script.push(format!("CREATE {}", index_text(name, index)));
        }
    }
}

fn is_view_left(plan: &Plan<'_>, name: &str) -> bool {
    plan.from.views.contains_key(name) && !plan.dropped_views.contains(name)
}

fn add_constraints(plan: &Plan<'_>, script: &mut Script, are_foreign_keys: bool) {
    for (table, after) in &plan.to.tables {
        let before = plan.from.tables.get(table);
        let alter = format!("ALTER TABLE {}", quote(table));
        let mut constraints: Vec<_> = after.constraints.iter().collect();
        constraints.sort_by_key(|(_, constraint)| rank(constraint.kind));
        for (name, constraint) in constraints {
            if (constraint.kind == ConstraintKind::ForeignKey) != are_foreign_keys {
                continue;
            }
            let is_renamed = plan.renamed_constraints.iter();
            let mut is_renamed = is_renamed.filter(|(key, new)| key.0 == *table && *new == name);
            let left = before.and_then(|before| before.constraints.get(name));
            let left = left.filter(|_| !plan.dropped_constraints.contains(&of(table, name)));
            match left {
                Some(left) if validates(left, constraint) => {
                    script.push(format!("{alter} VALIDATE CONSTRAINT {}", quote(name)));
                }
                Some(_) => {}
                None if is_renamed.next().is_some() => {}
                None if before.is_none() && is_inline(constraint) => {}
                None => script.push(format!("{alter} ADD {}", constraint_text(name, constraint))),
            }
        }
    }
}

fn definition(plan: &Plan<'_>, table: &str, column: &Column) -> String {
    let serial = sequences::serial(plan, table, column);
    serial.unwrap_or_else(|| column.definition())
}

/// Why adding a column does not do all that is wished.
fn lacking(plan: &Plan<'_>, table: &str, column: &Column) -> Option<String> {
    if column.generated.is_some() {
        return None;
    }
    let name = full_name(table, column);
    let is_filled = column.default.is_some() || column.identity.is_some();
    let fails = column.is_not_null && !is_filled;
    match (plan.is_down(), fails) {
        (false, false) => None,
        (false, true) => Some(format!(
            "{name} is not null and has no default, which fails where there are rows"
        )),
        (true, false) => Some(format!("adds {name} again, without its values")),
        (true, true) => Some(format!(
            "adds {name} again, without its values, which fails where there are rows, as it \
             is not null"
        )),
    }
}

/// Whether a new table's statement can hold it: one that is not validated is added.
fn is_inline(constraint: &Constraint) -> bool {
    constraint.kind != ConstraintKind::ForeignKey && constraint.is_validated
}

/// The order in which a person would write them.
fn rank(kind: ConstraintKind) -> u8 {
    match kind {
        ConstraintKind::PrimaryKey => 0,
        ConstraintKind::Unique => 1,
        ConstraintKind::Exclusion => 2,
        ConstraintKind::Check => 3,
        ConstraintKind::ForeignKey => 4,
    }
}
