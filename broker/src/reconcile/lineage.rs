//! Where a branch that is there comes from, and where broker.toml says it should.

use std::fmt;

use neon_api::BranchId;

use crate::config::BindingSpec;
use crate::names::{BindingName, BranchName};
use crate::neon::Found;

/// What is otherwise than declared, and stays so: a branch that is no child of its
/// declared parent, or a binding that lives on another branch, or on none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remark {
    /// The binding on it.
    pub binding: BindingName,
    branch: BranchName,
    /// The parent that is declared, or where the binding was switched to.
    declared: String,
    why: Why,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Why {
    /// A restore has put this one, with the old data, in the parent's place.
    History(String),
    /// Somebody made it so.
    Drift,
    /// It was switched to that branch.
    Switched,
    /// It was switched to a branch that is there no more.
    SwitchedAway,
    /// It was retired.
    Retired,
}

impl Remark {
    /// The binding lives on that branch.
    pub fn switched(spec: &BindingSpec, branch: &BranchName) -> Remark {
        Remark::departed(spec, branch.to_string(), Why::Switched)
    }

    /// The branch that the binding lives on is there no more.
    pub fn switched_away(spec: &BindingSpec, branch: &BranchId) -> Remark {
        Remark::departed(spec, branch.to_string(), Why::SwitchedAway)
    }

    /// The binding was retired.
    pub fn retired(spec: &BindingSpec) -> Remark {
        Remark::departed(spec, String::new(), Why::Retired)
    }

    fn departed(spec: &BindingSpec, branch: String, why: Why) -> Remark {
        Remark {
            binding: spec.name.clone(),
            branch: spec.branch.clone(),
            declared: branch,
            why,
        }
    }
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Remark {
            branch,
            declared,
            why,
            ..
        } = self;
        match why {
            Why::History(parent) => write!(
                f,
                "{branch} is a child of {parent}, which is history of {declared}: what a restore kept"
            ),
            Why::Switched => write!(
                f,
                "it was switched to {declared}, and stays there until another branch than {branch} is declared"
            ),
            Why::SwitchedAway => write!(
                f,
                "it was switched to {declared}, which is there no more; switch it to another"
            ),
            Why::Retired => write!(
                f,
                "it is retired, and stays so until another branch than {branch} is declared"
            ),
            Why::Drift => write!(
                f,
                "{branch} is there, and is not a child of {declared}, its declared parent; it is used as it is"
            ),
        }
    }
}

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
    Some(Remark {
        binding: spec.name.clone(),
        branch: spec.branch.clone(),
        declared: declared.branch.name.clone(),
        why: match kept {
            Some(parent) => Why::History(parent.branch.name.clone()),
            None => Why::Drift,
        },
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
