//! Columns that stay, altered.

use super::impact::{Plan, of};
use super::script::Script;
use super::{sequences, types};
use crate::migrate::catalog::names::{names_in, quote};
use crate::migrate::catalog::text::identity_kind;
use crate::migrate::catalog::{Column, SequenceOptions};

/// One column after the other: what is taken from it, its type, what it gets.
pub(super) fn alter(plan: &Plan<'_>, script: &mut Script) {
    for (table, before, after) in plan.kept_columns() {
        let alter = format!(
            "ALTER TABLE {} ALTER COLUMN {}",
            quote(table),
            quote(&after.name)
        );
        if before.is_not_null && !after.is_not_null {
            script.push(format!("{alter} DROP NOT NULL"));
        }
        let key = of(table, &after.name);
        if plan.retyped.contains(&key) {
            if let Some(identity) = before
                .identity
                .as_ref()
                .filter(|_| must_fit_first(before, after))
            {
                change_options(&alter, table, &identity.options, after, script);
            }
            change_type(plan, table, before, after, script);
        }
        let is_default_dropped = plan.dropped_defaults.contains(&key);
        match (&before.default, &after.default) {
            (Some(_), None) if !is_default_dropped => script.push(format!("{alter} DROP DEFAULT")),
            (before, Some(default)) if before.as_ref() != Some(default) || is_default_dropped => {
                script.push(format!("{alter} SET DEFAULT {default}"));
            }
            _ => {}
        }
        if !before.is_not_null && after.is_not_null {
            if !plan.is_down() {
                script.stop(format!("fails where {} is null", full_name(table, after)));
            }
            script.push(format!("{alter} SET NOT NULL"));
        }
        change_identity(&alter, table, before, after, script);
    }
}

/// As a message names it.
pub(super) fn full_name(table: &str, column: &Column) -> String {
    format!("{}.{}", quote(table), quote(&column.name))
}

fn change_type(plan: &Plan<'_>, table: &str, before: &Column, after: &Column, script: &mut Script) {
    let (old, new) = (&before.data_type, &after.data_type);
    // What up.sql widened is narrowed by down.sql, as what it added is dropped.
    let is_taken_back = plan.is_down() && types::is_lossless(new, old);
    if !types::is_lossless(old, new) && !is_taken_back {
        script.stop(format!(
            "changes the type of {} from {old} to {new}, which may fail or lose data",
            full_name(table, after)
        ));
    }
    let column = quote(&after.name);
    let is_anew = old == new && !names_in(old).is_disjoint(&plan.rebuilt_enums);
    let conversion = types::conversion(&column, old, new, is_anew);
    let conversion = conversion.map(|conversion| format!(" USING {conversion}"));
    script.push(format!(
        "ALTER TABLE {} ALTER COLUMN {column} TYPE {}{}",
        quote(table),
        after.type_text(),
        conversion.unwrap_or_default()
    ));
}

fn change_identity(alter: &str, table: &str, before: &Column, after: &Column, script: &mut Script) {
    let Some(identity) = &after.identity else {
        return;
    };
    let kind = identity_kind(identity.is_always);
    let Some(old) = &before.identity else {
        script.stop(format!(
            "{} is numbered from {} on, whatever its rows have already",
            full_name(table, after),
            identity.options.start
        ));
        let options = identity.options.unusual(&after.data_type);
        let options = match options.as_slice() {
            [] => String::new(),
            options => format!(" ({})", options.join(" ")),
        };
        script.push(format!("{alter} ADD GENERATED {kind} AS IDENTITY{options}"));
        return;
    };
    if old.is_always != identity.is_always {
        script.push(format!("{alter} SET GENERATED {kind}"));
    }
    // The sequence's type has followed the column's, and its bounds the type's.
    if !must_fit_first(before, after) {
        let followed = sequences::of_type(&old.options, &after.data_type);
        change_options(alter, table, &followed, after, script);
    }
}

/// Whether the sequence's bounds are none of the new type's, so that the column could not
/// be given it.
fn must_fit_first(before: &Column, after: &Column) -> bool {
    let identity = before
        .identity
        .as_ref()
        .filter(|_| after.identity.is_some());
    identity.is_some_and(|identity| {
        let followed = sequences::of_type(&identity.options, &after.data_type);
        !sequences::fits(&followed)
    })
}

fn change_options(
    alter: &str,
    table: &str,
    before: &SequenceOptions,
    after: &Column,
    script: &mut Script,
) {
    let Some(identity) = &after.identity else {
        return;
    };
    let changes = sequences::changes(before, &identity.options);
    if changes.iter().any(|change| change == "RESTART") {
        let name = full_name(table, after);
        script.stop(format!(
            "the numbers of {name} begin anew, as they were out of bounds"
        ));
    }
    let changes = changes.into_iter().map(|change| match change.as_str() {
        "RESTART" => change,
        _ => format!("SET {change}"),
    });
    let changes: Vec<_> = changes.collect();
    if !changes.is_empty() {
        script.push(format!("{alter} {}", changes.join(" ")));
    }
}
