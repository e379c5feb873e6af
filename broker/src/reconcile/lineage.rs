//! Where a branch that is there comes from, and where broker.toml says it should.

use neon_api::BranchId;

use super::Remark;
use crate::config::BindingSpec;
use crate::names::BranchName;
use crate::neon::Found;

/// What there is to say about the parent of a binding's branch. `None`: it is as
/// declared, or not there. `told`: what the ledger says of a branch, whether a
/// restore kept old data in it.
pub(super) fn remark<'a>(
    spec: &BindingSpec,
    all: impl Iterator<Item = &'a Found> + Clone,
    told: impl Fn(&BranchId) -> Option<bool>,
) -> Option<Remark> {
    let named = |name: &BranchName| {
        let name = name.as_str().to_owned();
        all.clone().find(move |found| found.branch.name == name)
    };
    let of = |id: &BranchId| all.clone().find(|found| found.branch.id == *id);
    let found = named(&spec.branch)?;
    let declared = match &spec.parent {
        Some(parent) => named(parent)?,
        None => all.clone().find(|found| found.branch.default)?,
    };
    let parent = &found.branch.parent_id;
    if *parent == Some(declared.branch.id.clone()) || found.branch.default {
        return None;
    }
    let parent = parent.as_ref().and_then(of);
    let was_restored = [found, declared]
        .iter()
        .any(|found| found.branch.last_reset_at.is_some());
    let kept = parent.filter(|parent| {
        let is_kept = match told(&parent.branch.id) {
            Some(told) => told,
            None => was_restored && may_be_kept(parent, found),
        };
        is_kept && is_history(parent, found, declared, &told, of)
    });
    if kept.is_none() && spec.parent.is_none() {
        // Without a declared parent a branch may be whosesoever child.
        return None;
    }
    let (branch, declared) = (&spec.branch, &declared.branch.name);
    let text = match kept {
        // A restore has put it, with the old data, in the parent's place.
        Some(parent) => format!(
            "{branch} is a child of {}, which is history of {declared}: what a restore kept",
            parent.branch.name
        ),
        // Somebody made it so. It is used all the same.
        None => format!(
            "{branch} is there, and is not a child of {declared}, its declared parent; it is used \
             as it is"
        ),
    };
    Some(Remark {
        binding: spec.name.clone(),
        text,
    })
}

/// Whether a parent of which the ledger says nothing, because another broker's has
/// it or none, is one that a restore put there: it is younger than its child, as no
/// other parent is (but times are whole seconds), and the annotation and being the
/// default stayed with the branch.
fn may_be_kept(parent: &Found, child: &Found) -> bool {
    parent.branch.created_at >= child.branch.created_at && !parent.managed && !parent.branch.default
}

/// Whether the old data in `parent` are those of the declared parent, or of the
/// branch itself when it was a child of that.
fn is_history<'a>(
    parent: &Found,
    found: &Found,
    declared: &Found,
    told: impl Fn(&BranchId) -> Option<bool>,
    of: impl Fn(&BranchId) -> Option<&'a Found>,
) -> bool {
    // Each restore puts one more branch between.
    const RESTORES_MAX: usize = 100;
    let is = |a: &Found, b: &Found| a.branch.id == b.branch.id;
    // Up from a branch, through what was kept.
    let reaches = |from: &Found, to: &Found| {
        let mut child = from.branch.parent_id.as_ref().and_then(&of);
        for _ in 0..RESTORES_MAX {
            match child {
                Some(found) if is(found, to) => return true,
                Some(found) if told(&found.branch.id).unwrap_or(!found.managed) => {
                    child = found.branch.parent_id.as_ref().and_then(&of);
                }
                _ => return false,
            }
        }
        false
    };
    reaches(declared, parent) || reaches(found, declared)
}

#[cfg(test)]
mod tests;
