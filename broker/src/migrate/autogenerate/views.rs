//! Views: those that go, in order, and those that come.

use std::collections::BTreeSet;

use super::creates;
use super::impact::{Plan, of};
use super::renamed::Renames;
use super::script::Script;
use crate::migrate::catalog::names::quote;
use crate::migrate::catalog::{Schema, Use, View};

/// Which views have to go, and which can be replaced as they are.
pub(super) fn find(plan: &mut Plan<'_>, renames: &Renames) {
    for (name, view) in &plan.from.views {
        let after = plan.to.views.get(name);
        let is_blocked = view
            .uses
            .iter()
            .any(|used| is_in_the_way(plan, renames, used));
        match after {
            Some(after) if !is_blocked && is_same(view, after) => {}
            Some(after) if !is_blocked && is_replaceable(view, after) => {
                plan.replaced_views.insert(name.clone());
            }
            _ => {
                plan.dropped_views.insert(name.clone());
            }
        }
    }
    // Whatever is built upon one that goes, goes too.
    loop {
        let views = plan.from.views.iter();
        let mut more: BTreeSet<_> = views
            .filter(|(name, view)| {
                !plan.dropped_views.contains(*name) && uses_any(view, &plan.dropped_views)
            })
            .map(|(name, _)| name.clone())
            .collect();
        if more.is_empty() {
            break;
        }
        plan.replaced_views.retain(|name| !more.contains(name));
        plan.dropped_views.append(&mut more);
    }
    let indexes = plan.from.indexes.iter();
    let indexes = indexes.filter(|(_, index)| plan.dropped_views.contains(&index.table));
    let indexes: Vec<_> = indexes.map(|(name, _)| name.clone()).collect();
    plan.renamed_indexes
        .retain(|name, _| !indexes.contains(name));
    plan.dropped_indexes.extend(indexes);
}

pub(super) fn drop(plan: &Plan<'_>, script: &mut Script) {
    let mut order = ordered(plan.from, &plan.dropped_views);
    order.reverse();
    for name in order {
        let kind = match plan.from.views.get(&name) {
            Some(view) if view.is_materialized => "MATERIALIZED VIEW",
            _ => "VIEW",
        };
        for (key, noticed) in &plan.from.noticed {
            let stays = plan.to.noticed.get(key) == Some(noticed);
            if stays && noticed.on.as_ref() == Some(&name) {
                script.stop(format!(
                    "the {} {} goes with the view and does not come back by itself",
                    key.0, key.1
                ));
            }
        }
        script.push(format!("DROP {kind} {}", quote(&name)));
    }
}

/// Creates what is new or was dropped, with the indexes of materialized ones.
pub(super) fn create(plan: &Plan<'_>, script: &mut Script) {
    let views = plan.to.views.keys();
    let wanted = views.filter(|name| {
        !plan.from.views.contains_key(*name)
            || plan.dropped_views.contains(*name)
            || plan.replaced_views.contains(*name)
    });
    let wanted: BTreeSet<_> = wanted.cloned().collect();
    for name in ordered(plan.to, &wanted) {
        let Some(view) = plan.to.views.get(&name) else {
            continue;
        };
        let is_replaced = plan.replaced_views.contains(&name);
        let create = if is_replaced {
            "CREATE OR REPLACE"
        } else {
            "CREATE"
        };
        script.push(format!(
            "{create} {} AS\n{}",
            view.head(&name),
            view.definition
        ));
        creates::indexes_of_view(plan, &name, script);
    }
}

/// Those views, each after what it is built upon.
fn ordered(schema: &Schema, wanted: &BTreeSet<String>) -> Vec<String> {
    let mut left = wanted.clone();
    let mut order = Vec::new();
    while !left.is_empty() {
        let ready = left.iter().filter(|name| {
            let view = schema.views.get(*name);
            !view.is_some_and(|view| uses_any(view, &left))
        });
        let ready: Vec<_> = ready.cloned().collect();
        // Views cannot go round in a circle. Should they, Postgres will say so.
        let next = if ready.is_empty() {
            left.iter().cloned().collect()
        } else {
            ready
        };
        left.retain(|name| !next.contains(name));
        order.extend(next);
    }
    order
}

fn uses_any(view: &View, names: &BTreeSet<String>) -> bool {
    view.uses.iter().any(|used| match used {
        Use::Relation { name, .. } => names.contains(name),
        Use::Type(_) | Use::Constraint { .. } => false,
    })
}

fn is_in_the_way(plan: &Plan<'_>, renames: &Renames, used: &Use) -> bool {
    match used {
        // A rename leaves the old name in the query, as what the column is called there.
        Use::Relation { name, column } if renames.is_new(name, column.as_deref()) => true,
        Use::Relation { name, column } => {
            let (before, after) = (plan.from.tables.get(name), plan.to.tables.get(name));
            match (before, after, column) {
                (Some(_), None, _) => true,
                (Some(_), Some(after), Some(column)) => {
                    let key = of(name, column);
                    after.column(column).is_none()
                        || plan.retyped.contains(&key)
                        || plan.recreated.contains(&key)
                }
                _ => false,
            }
        }
        Use::Type(name) => {
            plan.rebuilt_enums.contains(name)
                || (plan.from.enums.contains_key(name) && !plan.to.enums.contains_key(name))
        }
        Use::Constraint { table, name } => plan.dropped_constraints.contains(&of(table, name)),
    }
}

fn is_same(before: &View, after: &View) -> bool {
    before.is_materialized == after.is_materialized
        && before.definition == after.definition
        && before.options == after.options
        && before.columns == after.columns
}

/// Postgres can add columns at the end, and nothing else.
fn is_replaceable(before: &View, after: &View) -> bool {
    !before.is_materialized && !after.is_materialized && after.columns.starts_with(&before.columns)
}
