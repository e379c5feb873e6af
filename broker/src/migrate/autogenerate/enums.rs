//! Enums. Postgres adds values to one, and does nothing else: what is reordered, or has
//! fewer, is made anew, and the columns of that type with it.

use std::collections::BTreeSet;

use super::impact::Plan;
use super::script::Script;
use crate::migrate::catalog::Schema;
use crate::migrate::catalog::names::{literal, names_in, quote};

/// The enums to which values cannot simply be added.
pub(super) fn rebuilt(from: &Schema, to: &Schema) -> BTreeSet<String> {
    let kept = from.enums.iter();
    let kept = kept.filter_map(|(name, before)| Some((name, before, to.enums.get(name)?)));
    let rebuilt = kept.filter(|(name, before, after)| {
        let stays = after.iter().filter(|label| before.contains(label));
        let is_added = stays.eq(before.iter());
        let added: Vec<_> = after
            .iter()
            .filter(|label| !before.contains(label))
            .collect();
        !is_added || (!added.is_empty() && is_used_at_once(from, to, name, &added))
    });
    rebuilt.map(|(name, ..)| name.clone()).collect()
}

/// Adds, creates, and sets aside what is made anew.
pub(super) fn write(plan: &Plan<'_>, script: &mut Script) {
    for (name, labels) in &plan.to.enums {
        match plan.from.enums.get(name) {
            None => script.push(create(name, labels)),
            Some(before) if plan.rebuilt_enums.contains(name) => {
                let old = quote(&set_aside(plan, name));
                script.push(format!("ALTER TYPE {} RENAME TO {old}", quote(name)));
                let gone: Vec<_> = before
                    .iter()
                    .filter(|label| !labels.contains(label))
                    .collect();
                if !gone.is_empty() && !plan.is_down() {
                    let gone: Vec<_> = gone.iter().map(|label| literal(label)).collect();
                    script.stop(format!(
                        "takes {} from {}, which fails where a row has it",
                        gone.join(", "),
                        quote(name)
                    ));
                }
                script.push(create(name, labels));
            }
            Some(before) => add_values(name, before, labels, script),
        }
    }
}

/// Drops what is gone, and what was set aside.
pub(super) fn drop(plan: &Plan<'_>, script: &mut Script) {
    for name in plan.from.enums.keys() {
        if plan.rebuilt_enums.contains(name) {
            script.push(format!("DROP TYPE {}", quote(&set_aside(plan, name))));
        } else if !plan.to.enums.contains_key(name) {
            script.push(format!("DROP TYPE {}", quote(name)));
        }
    }
}

/// A value that is added cannot be used in the same transaction, unless its type is new.
fn is_used_at_once(from: &Schema, to: &Schema, name: &str, added: &[&String]) -> bool {
    let is_of_it = |data_type: &str| names_in(data_type).contains(name);
    let is_converted = to.tables.iter().any(|(table, after)| {
        let before = from.tables.get(table);
        after.columns.iter().any(|column| {
            let before = before.and_then(|before| before.column(&column.name));
            is_of_it(&column.data_type) && before.is_some_and(|before| !is_of_it(&before.data_type))
        })
    });
    let columns = to.tables.values().flat_map(|table| &table.columns);
    let columns = columns.flat_map(|column| {
        let generated = column
            .generated
            .as_ref()
            .map(|generated| &generated.expression);
        column.default.iter().chain(generated)
    });
    let constraints = to
        .tables
        .values()
        .flat_map(|table| table.constraints.values());
    let constraints = constraints.map(|constraint| &constraint.definition);
    let indexes = to.indexes.values().map(|index| &index.definition);
    let views = to.views.values().map(|view| &view.definition);
    let mut texts = columns.chain(constraints).chain(indexes).chain(views);
    is_converted
        || texts.any(|text| {
            let is_array = text.contains(&format!("::{}[]", quote(name)));
            added.iter().any(|label| {
                text.contains(&format!("{}::{}", literal(label), quote(name)))
                    || (is_array && text.contains(label.as_str()))
            })
        })
}

fn create(name: &str, labels: &[String]) -> String {
    let labels: Vec<_> = labels.iter().map(|label| literal(label)).collect();
    format!(
        "CREATE TYPE {} AS ENUM ({})",
        quote(name),
        labels.join(", ")
    )
}

fn add_values(name: &str, before: &[String], after: &[String], script: &mut Script) {
    for (at, label) in after.iter().enumerate() {
        if before.contains(label) {
            continue;
        }
        let follows = after[at..].iter().find(|label| before.contains(label));
        let place = match (follows, at.checked_sub(1).map(|previous| &after[previous])) {
            (None, _) => String::new(),
            (Some(_), Some(previous)) => format!(" AFTER {}", literal(previous)),
            (Some(next), None) => format!(" BEFORE {}", literal(next)),
        };
        let (name, label) = (quote(name), literal(label));
        script.push(format!("ALTER TYPE {name} ADD VALUE {label}{place}"));
    }
}

/// What an enum is called until nothing is of that type any more.
fn set_aside(plan: &Plan<'_>, name: &str) -> String {
    let mut old = format!("{name}_old");
    let is_taken = |old: &String| {
        [plan.from, plan.to].iter().any(|schema| {
            schema.enums.contains_key(old)
                || schema.tables.contains_key(old)
                || schema.views.contains_key(old)
                || schema.noticed.keys().any(|(_, name)| *name == quote(old))
        })
    };
    while is_taken(&old) {
        old.push('_');
    }
    old
}
