//! Parents before children.

use std::collections::{BTreeMap, BTreeSet};

use super::BindingSpec;
use crate::names::BranchName;

/// Branches that are each other's parents: `a`, `b`, `a`.
#[derive(Debug)]
pub(super) struct Cycle(pub(super) Vec<BranchName>);

/// Sorts bindings so that a binding whose branch is another's parent comes
/// before it, and otherwise by name. Parents that no binding declares are
/// branches that exist already, and order nothing.
pub(super) fn parents_first(mut bindings: Vec<BindingSpec>) -> Result<Vec<BindingSpec>, Cycle> {
    let parents: BTreeMap<&BranchName, Option<&BranchName>> = bindings
        .iter()
        .map(|spec| (&spec.branch, spec.parent.as_ref()))
        .collect();
    let mut depths = BTreeMap::new();
    for branch in parents.keys() {
        depths.insert((*branch).clone(), ancestors_declared(branch, &parents)?);
    }
    bindings.sort_by(|a, b| {
        let depth = |spec: &BindingSpec| depths.get(&spec.branch).copied();
        depth(a).cmp(&depth(b)).then_with(|| a.name.cmp(&b.name))
    });
    Ok(bindings)
}

/// How many declared branches lie above this one.
fn ancestors_declared(
    branch: &BranchName,
    parents: &BTreeMap<&BranchName, Option<&BranchName>>,
) -> Result<usize, Cycle> {
    let mut way = vec![branch];
    let mut seen = BTreeSet::from([branch]);
    let mut current = branch;
    while let Some(Some(parent)) = parents.get(current) {
        let again = !seen.insert(parent);
        way.push(parent);
        if again {
            let start = way.iter().position(|step| step == parent).unwrap_or(0);
            return Err(Cycle(way.split_off(start).into_iter().cloned().collect()));
        }
        current = parent;
    }
    Ok(way
        .iter()
        .skip(1)
        .filter(|step| parents.contains_key(*step))
        .count())
}
