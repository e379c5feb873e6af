//! What differs and is not written: a line tells of it.

use super::impact::Plan;
use super::script::Script;
use crate::migrate::catalog::Noticed;
use crate::migrate::catalog::names::{names_in, quote};

/// Kinds that others may need: they come first.
const NEEDED: [&str; 6] = [
    "function",
    "procedure",
    "aggregate",
    "domain",
    "range type",
    "composite type",
];

/// What is new or another, and may be needed by what follows; and what has to be out of the
/// way of it.
pub(super) fn write_needed(plan: &Plan<'_>, script: &mut Script) {
    write_changed(plan, script, |kind| NEEDED.contains(&kind));
    write_gone(plan, script, |noticed| noticed.on.is_some());
    for ((kind, name), noticed) in &plan.from.noticed {
        let stays = plan.to.noticed.get(&(kind.clone(), name.clone())) == Some(noticed);
        if let Some(column) = altered_column(plan, noticed).filter(|_| stays) {
            let what = format!("the {kind} {name} may be in the way of a change to {column}");
            script.cannot(
                format!("{what}: drop it, and make it again in the end"),
                None,
            );
        }
    }
}

/// What needs the tables that are there by now, and what nothing needs any more.
pub(super) fn write_rest(plan: &Plan<'_>, script: &mut Script) {
    write_changed(plan, script, |kind| !NEEDED.contains(&kind));
    write_gone(plan, script, |noticed| noticed.on.is_none());
}

fn write_gone(plan: &Plan<'_>, script: &mut Script, is_meant: impl Fn(&Noticed) -> bool) {
    for (key, noticed) in plan
        .from
        .noticed
        .iter()
        .filter(|(_, noticed)| is_meant(noticed))
    {
        if !plan.to.noticed.contains_key(key) && !goes_with_its_table(plan, noticed) {
            script.cannot(format!("the {} {} is gone", key.0, key.1), None);
        }
    }
}

/// A column that it names, and that Postgres may refuse to alter for it.
fn altered_column(plan: &Plan<'_>, noticed: &Noticed) -> Option<String> {
    let table = noticed.on.as_ref()?;
    let names = names_in(&noticed.definition);
    let mut altered = plan.retyped.iter().chain(&plan.recreated);
    let (table, column) = altered.find(|(of, name)| of == table && names.contains(name))?;
    Some(format!("{}.{}", quote(table), quote(column)))
}

fn write_changed(plan: &Plan<'_>, script: &mut Script, is_meant: impl Fn(&str) -> bool) {
    for (key, after) in &plan.to.noticed {
        let (kind, name) = key;
        let before = plan.from.noticed.get(key);
        let before = before.map(|before| &before.definition);
        if !is_meant(kind) || before == Some(&after.definition) {
            continue;
        }
        let how = if before.is_some() { "another" } else { "new" };
        script.cannot(
            format!("the {kind} {name} is {how}"),
            Some(&after.definition),
        );
    }
}

fn goes_with_its_table(plan: &Plan<'_>, noticed: &Noticed) -> bool {
    noticed.on.as_ref().is_some_and(|on| {
        let was = plan.from.tables.contains_key(on) && !plan.to.tables.contains_key(on);
        was || plan.dropped_views.contains(on)
    })
}
