//! What is gone, and what is in the way.

use std::collections::BTreeSet;

use super::columns::full_name;
use super::impact::{Plan, of};
use super::script::Script;
use crate::migrate::catalog::ConstraintKind;
use crate::migrate::catalog::names::quote;

/// Before the tables and keys that they lead to.
pub(super) fn foreign_keys(plan: &Plan<'_>, script: &mut Script) {
    drop_constraints(plan, script, true);
}

pub(super) fn constraints(plan: &Plan<'_>, script: &mut Script) {
    drop_constraints(plan, script, false);
}

/// What fills columns and is gone or in the way: identities, as a sequence that is made may
/// be called as theirs; expressions, as what they are computed from may go; and defaults whose
/// column gets another type, or that draw from what is gone.
pub(super) fn defaults(plan: &Plan<'_>, script: &mut Script) {
    for (table, before, after) in plan.kept_columns() {
        let alter = format!(
            "ALTER TABLE {} ALTER COLUMN {}",
            quote(table),
            quote(&before.name)
        );
        if before.identity.is_some() && after.identity.is_none() {
            script.push(format!("{alter} DROP IDENTITY"));
        }
        if before.generated.is_some() && after.generated.is_none() {
            script.push(format!("{alter} DROP EXPRESSION"));
        }
    }
    for (table, column) in &plan.dropped_defaults {
        let (table, column) = (quote(table), quote(column));
        script.push(format!(
            "ALTER TABLE {table} ALTER COLUMN {column} DROP DEFAULT"
        ));
    }
}

/// Each after those that lead to it. Where they go round in a circle, it is opened.
pub(super) fn tables(plan: &Plan<'_>, script: &mut Script) {
    let names = plan.from.tables.keys();
    let names = names.filter(|name| !plan.to.tables.contains_key(*name));
    let mut left: BTreeSet<&String> = names.collect();
    while let Some(first) = left.first().copied() {
        let free = left
            .iter()
            .find(|name| leading_to(plan, &left, name).is_empty());
        let next = free.copied().unwrap_or(first);
        for (table, constraint) in leading_to(plan, &left, next) {
            let (table, constraint) = (quote(table), quote(constraint));
            script.push(format!("ALTER TABLE {table} DROP CONSTRAINT {constraint}"));
        }
        if !plan.is_down() {
            script.stop(format!("drops the table {} with its rows", quote(next)));
        }
        script.push(format!("DROP TABLE {}", quote(next)));
        left.remove(next);
    }
}

pub(super) fn indexes(plan: &Plan<'_>, script: &mut Script) {
    for name in &plan.dropped_indexes {
        let index = plan.from.indexes.get(name);
        // It has gone with its view.
        if index.is_some_and(|index| !plan.dropped_views.contains(&index.table)) {
            script.push(format!("DROP INDEX {}", quote(name)));
        }
    }
}

/// Computed ones before those that they are computed from.
pub(super) fn columns(plan: &Plan<'_>, script: &mut Script) {
    for (table, before, after) in plan.kept_tables() {
        let gone = before.columns.iter().filter(|column| {
            after.column(&column.name).is_none()
                || plan.recreated.contains(&of(table, &column.name))
        });
        let (computed, plain): (Vec<_>, Vec<_>) = gone.partition(|gone| gone.generated.is_some());
        for column in computed.into_iter().chain(plain) {
            let after = after.column(&column.name);
            let is_computed_again =
                column.generated.is_some() && after.is_some_and(|after| after.generated.is_some());
            if !plan.is_down() && !is_computed_again {
                script.stop(format!(
                    "drops {} with its values",
                    full_name(table, column)
                ));
            }
            script.push(format!(
                "ALTER TABLE {} DROP COLUMN {}",
                quote(table),
                quote(&column.name)
            ));
        }
    }
}

fn drop_constraints(plan: &Plan<'_>, script: &mut Script, are_foreign_keys: bool) {
    for (table, name) in &plan.dropped_constraints {
        let of_table = plan.from.tables.get(table);
        let constraint = of_table.and_then(|table| table.constraints.get(name));
        let is_foreign_key = constraint.is_some_and(|one| one.kind == ConstraintKind::ForeignKey);
        if is_foreign_key == are_foreign_keys {
            let (table, name) = (quote(table), quote(name));
            script.push(format!("ALTER TABLE {table} DROP CONSTRAINT {name}"));
        }
    }
}

/// The foreign keys by which others of those tables lead to one.
fn leading_to<'s>(
    plan: &Plan<'s>,
    tables: &BTreeSet<&'s String>,
    to: &str,
) -> Vec<(&'s String, &'s String)> {
    let from = plan.from;
    let others = tables.iter().filter(|name| name.as_str() != to);
    let others = others.filter_map(|name| from.tables.get_key_value(*name));
    let keys = others.flat_map(|(table, one)| {
        let keys = one.constraints.iter();
        keys.map(move |(name, constraint)| (table, name, constraint))
    });
    let keys = keys.filter(|(_, _, constraint)| {
        let references = constraint.references.as_ref();
        references.is_some_and(|references| references.table == to)
    });
    keys.map(|(table, name, _)| (table, name)).collect()
}
