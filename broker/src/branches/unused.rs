//! Branches that were made for bindings which broker.toml declares no more. No I/O.

use neon_api::BranchId;
use neon_api::types::Branch;

use super::Error;
use super::checks::{Users, View};
use crate::config::Config;
use crate::ledger;
use crate::names::{BindingName, BranchName};
use crate::neon::Found;

/// A branch that the broker made for a binding, and that nothing declared needs.
#[derive(Debug)]
pub(super) struct Unused {
    /// The branch.
    pub(super) branch: BranchId,
    /// Its name, or its id where that is a name that we would not give.
    pub(super) name: BranchName,
    /// The binding that it was made for.
    pub(super) binding: BindingName,
    /// Why it is not deleted; none: it may be.
    pub(super) kept: Option<Kept>,
}

/// Why a branch that nothing declared needs is not deleted.
#[derive(Debug, thiserror::Error)]
pub(super) enum Kept {
    /// Its binding is declared, to live on another branch: who declared that may not
    /// mean its data.
    #[error("{binding} is, to live on {branch}; `broker branches delete` deletes it")]
    Moved {
        /// The binding.
        binding: BindingName,
        /// Its branch.
        branch: BranchName,
    },
    /// What deletes no branch for anybody.
    #[error(transparent)]
    Refused(#[from] Error),
}

/// Whether something that is declared needs the branch. All that can point a binding to
/// a branch is to be asked here, and here alone.
fn is_in_use(config: &Config, branch: &Branch) -> bool {
    let is_it = |name: &BranchName| name.as_str() == branch.name;
    let mut bindings = config.bindings.iter();
    bindings.any(|spec| is_it(&spec.branch) || spec.parent.as_ref().is_some_and(is_it))
}

/// The binding that a branch of ours was made for, if nothing declared needs it.
pub(super) fn unused_of<'a>(config: &Config, found: &'a Found) -> Option<&'a BindingName> {
    let binding = found.binding.as_ref().filter(|_| found.managed)?;
    (!is_in_use(config, &found.branch)).then_some(binding)
}

/// All of them, in the order in which they can be deleted: children before their
/// parents. `users`: who needs a branch all the same.
pub(super) fn unused(
    config: &Config,
    view: &View,
    users: impl Fn(&Branch) -> Users,
) -> Vec<Unused> {
    let all = view.0.iter();
    let mut unused: Vec<(&Found, &BindingName)> = all
        .filter_map(|found| Some((found, unused_of(config, found)?)))
        .collect();
    unused.sort_by_key(|(found, _)| std::cmp::Reverse(view.ancestors(found).count()));
    // As it is when those before are gone.
    let mut then = View(view.0.clone());
    let mut all = Vec::new();
    for (found, binding) in unused {
        let kept = match config.binding(binding) {
            Some(spec) => Some(Kept::Moved {
                binding: binding.clone(),
                branch: spec.branch.clone(),
            }),
            None => {
                let refused = then.may_delete(found, &users(&found.branch));
                refused.err().map(Kept::Refused)
            }
        };
        if kept.is_none() {
            then.0.retain(|other| other.branch.id != found.branch.id);
        }
        all.push(Unused {
            branch: found.branch.id.clone(),
            name: ledger::key(&found.branch),
            binding: binding.clone(),
            kept,
        });
    }
    all
}

#[cfg(test)]
mod tests;
