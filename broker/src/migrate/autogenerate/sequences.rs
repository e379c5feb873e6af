//! Sequences, and what they go with.

use std::collections::BTreeMap;

use super::impact::{Plan, sequence_literal};
use super::script::Script;
use crate::migrate::catalog::names::quote;
use crate::migrate::catalog::{Column, Schema, Sequence, SequenceOptions};

/// How long a name can be, in bytes: Postgres would cut what it makes up.
const NAME_BYTES_MAX: usize = 63;

/// Sequences that take the place of one that is not there any more, in that they fill the
/// same column and go with it: with a table that has another name, `serial` has another
/// sequence. Old names to new ones.
pub(super) fn renamed(from: &Schema, to: &Schema) -> BTreeMap<String, String> {
    let mut renamed = BTreeMap::new();
    for (name, sequence) in &from.sequences {
        if to.sequences.contains_key(name) || !fills_its_owner(from, name, sequence) {
            continue;
        }
        let mut others = to.sequences.iter().filter(|(other, same)| {
            same.owner == sequence.owner
                && fills_its_owner(to, other, same)
                && !from.sequences.contains_key(*other)
                && !renamed.values().any(|new| new == *other)
        });
        if let Some((other, _)) = others.next() {
            renamed.insert(name.clone(), other.clone());
        }
    }
    renamed
}

/// The schema with those names.
pub(super) fn rename(mut schema: Schema, renamed: &BTreeMap<String, String>) -> Schema {
    for (old, new) in renamed {
        if let Some(sequence) = schema.sequences.remove(old) {
            schema.sequences.insert(new.clone(), sequence);
        }
        let columns = schema
            .tables
            .values_mut()
            .flat_map(|table| &mut table.columns);
        for default in columns.filter_map(|column| column.default.as_mut()) {
            *default = default.replace(&sequence_literal(old), &sequence_literal(new));
        }
    }
    schema
}

pub(super) fn write_renames(renamed: &BTreeMap<String, String>, script: &mut Script) {
    for (old, new) in renamed {
        script.push(format!(
            "ALTER SEQUENCE {} RENAME TO {}",
            quote(old),
            quote(new)
        ));
    }
}

/// Lets go of those that would be dropped with their column, and must not be.
pub(super) fn free(plan: &Plan<'_>, script: &mut Script) {
    for (name, sequence) in &plan.from.sequences {
        if goes_with_its_owner(plan, sequence) && !is_dropped_with_owner(plan, name, sequence) {
            script.push(format!("ALTER SEQUENCE {} OWNED BY NONE", quote(name)));
        }
    }
}

pub(super) fn drop(plan: &Plan<'_>, script: &mut Script) {
    for (name, sequence) in &plan.from.sequences {
        if plan.to.sequences.contains_key(name) || is_dropped_with_owner(plan, name, sequence) {
            continue;
        }
        if !plan.is_down() {
            script.stop(format!(
                "drops the sequence {} and how far it is",
                quote(name)
            ));
        }
        script.push(format!("DROP SEQUENCE {}", quote(name)));
    }
}

pub(super) fn create(plan: &Plan<'_>, script: &mut Script) {
    for (name, sequence) in &plan.to.sequences {
        if plan.from.sequences.contains_key(name) || comes_with_its_column(plan, name, sequence) {
            continue;
        }
        if plan.is_down() {
            script.stop(format!("{} begins anew, however far it was", quote(name)));
        }
        let mut parts = vec![format!("CREATE SEQUENCE {}", quote(name))];
        parts.extend(sequence.options.unusual("bigint"));
        script.push(parts.join(" "));
    }
}

pub(super) fn alter(plan: &Plan<'_>, script: &mut Script) {
    for (name, before) in &plan.from.sequences {
        let Some(after) = plan.to.sequences.get(name) else {
            continue;
        };
        let mut changes = changes(&before.options, &after.options);
        if before.options.data_type != after.options.data_type {
            let of_type = of_type(&before.options, &after.options.data_type);
            changes = self::changes(&of_type, &after.options);
            changes.insert(0, format!("AS {}", after.options.data_type));
        }
        if !changes.is_empty() {
            if changes.iter().any(|change| change == "RESTART") {
                script.stop(format!(
                    "{} begins anew, as it was out of bounds",
                    quote(name)
                ));
            }
            script.push(format!(
                "ALTER SEQUENCE {} {}",
                quote(name),
                changes.join(" ")
            ));
        }
    }
}

/// Says with which column those go that go with another one than before.
pub(super) fn own(plan: &Plan<'_>, script: &mut Script) {
    for (name, after) in &plan.to.sequences {
        let before = plan.from.sequences.get(name);
        let is_freed = before.is_some_and(|before| goes_with_its_owner(plan, before));
        let owner = before.and_then(|before| before.owner.as_ref());
        let owner = owner.filter(|_| !is_freed);
        let is_new = before.is_none();
        if owner == after.owner.as_ref() || (is_new && comes_with_its_column(plan, name, after)) {
            continue;
        }
        let owner = match &after.owner {
            Some((table, column)) => format!("{}.{}", quote(table), quote(column)),
            None => "NONE".to_owned(),
        };
        script.push(format!("ALTER SEQUENCE {} OWNED BY {owner}", quote(name)));
    }
}

/// A new column that a person would write as `serial`: its definition.
pub(super) fn serial(plan: &Plan<'_>, table: &str, column: &Column) -> Option<String> {
    let name = serial_name(table, &column.name);
    let sequence = plan.to.sequences.get(&name)?;
    let kind = match column.data_type.as_str() {
        "smallint" => "smallserial",
        "integer" => "serial",
        "bigint" => "bigserial",
        _ => return None,
    };
    let draws = format!("nextval({})", sequence_literal(&name));
    let before = plan.from.tables.get(table);
    let is_serial = before.is_none_or(|before| before.column(&column.name).is_none())
        && !plan.from.sequences.contains_key(&name)
        && name.len() <= NAME_BYTES_MAX
        && column.is_not_null
        && column.default.as_ref() == Some(&draws)
        && sequence.options.unusual(&column.data_type).is_empty()
        && sequence.owner == Some((table.to_owned(), column.name.clone()))
        && !is_shared(plan.to, &name, sequence);
    is_serial.then(|| format!("{} {kind}", quote(&column.name)))
}

/// The options after `ALTER SEQUENCE … AS`, which moves bounds that were the type's.
pub(super) fn of_type(options: &SequenceOptions, data_type: &str) -> SequenceOptions {
    let mut moved = options.clone();
    moved.data_type = data_type.to_owned();
    let (old_lowest, old_highest) = bounds(&options.data_type);
    let (lowest, highest) = bounds(data_type);
    if moved.min == old_lowest {
        moved.min = lowest;
    }
    if moved.max == old_highest {
        moved.max = highest;
    }
    moved
}

/// Whether the bounds are within the type's.
pub(super) fn fits(options: &SequenceOptions) -> bool {
    let (lowest, highest) = bounds(&options.data_type);
    let is_within = |bound| (lowest..=highest).contains(&bound);
    is_within(options.min) && is_within(options.max)
}

/// The options that differ, the type left out.
pub(super) fn changes(before: &SequenceOptions, after: &SequenceOptions) -> Vec<String> {
    let numbers = [
        ("INCREMENT BY", before.increment, after.increment),
        ("MINVALUE", before.min, after.min),
        ("MAXVALUE", before.max, after.max),
        ("START WITH", before.start, after.start),
        ("CACHE", before.cache, after.cache),
    ];
    let changed = numbers.iter().filter(|(_, before, after)| before != after);
    let mut changes: Vec<_> = changed
        .map(|(option, _, after)| format!("{option} {after}"))
        .collect();
    // Postgres refuses bounds that the sequence is beyond, and here nobody knows how far it
    // is: at its start, at least.
    if !(after.min..=after.max).contains(&before.start) {
        changes.push("RESTART".to_owned());
    }
    if before.is_cycle != after.is_cycle {
        let cycle = if after.is_cycle { "CYCLE" } else { "NO CYCLE" };
        changes.push(cycle.to_owned());
    }
    changes
}

/// Whether a new one is made by its column's `serial`.
fn comes_with_its_column(plan: &Plan<'_>, name: &str, sequence: &Sequence) -> bool {
    let Some((table, column)) = &sequence.owner else {
        return false;
    };
    let after = plan.to.tables.get(table);
    let after = after.and_then(|after| after.column(column));
    let is_named_so = name == serial_name(table, column);
    is_named_so && after.is_some_and(|one| serial(plan, table, one).is_some())
}

fn serial_name(table: &str, column: &str) -> String {
    format!("{table}_{column}_seq")
}

fn fills_its_owner(schema: &Schema, name: &str, sequence: &Sequence) -> bool {
    let owner = sequence.owner.as_ref();
    let table = owner.and_then(|(table, _)| schema.tables.get(table));
    let column = table
        .zip(owner)
        .and_then(|(table, (_, column))| table.column(column));
    let default = column.and_then(|column| column.default.as_ref());
    default.is_some_and(|default| default.contains(&sequence_literal(name)))
}

fn bounds(data_type: &str) -> (i64, i64) {
    match data_type {
        "smallint" => (i64::from(i16::MIN), i64::from(i16::MAX)),
        "integer" => (i64::from(i32::MIN), i64::from(i32::MAX)),
        _ => (i64::MIN, i64::MAX),
    }
}

/// Whether the column that it goes with is dropped.
fn goes_with_its_owner(plan: &Plan<'_>, sequence: &Sequence) -> bool {
    sequence.owner.as_ref().is_some_and(|owner| {
        let table = plan.to.tables.get(&owner.0);
        let is_column_left = table.is_some_and(|table| table.column(&owner.1).is_some());
        !is_column_left || plan.recreated.contains(owner)
    })
}

/// Whether dropping it can be left to Postgres: it is gone, and nothing else draws from it.
fn is_dropped_with_owner(plan: &Plan<'_>, name: &str, sequence: &Sequence) -> bool {
    !plan.to.sequences.contains_key(name)
        && goes_with_its_owner(plan, sequence)
        && !is_shared(plan.from, name, sequence)
}

/// Whether columns draw from it that it does not go with.
fn is_shared(schema: &Schema, name: &str, sequence: &Sequence) -> bool {
    let drawn = sequence_literal(name);
    schema.tables.iter().any(|(table, one)| {
        one.columns.iter().any(|column| {
            let owner = sequence.owner.as_ref();
            let is_owner = owner.is_some_and(|(of, its)| of == table && *its == column.name);
            let default = column.default.as_deref().unwrap_or_default();
            !is_owner && default.contains(&drawn)
        })
    })
}
