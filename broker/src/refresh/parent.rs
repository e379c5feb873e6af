//! What a version is refreshed from.

use neon_api::BranchId;

use super::Refreshes;
use crate::config::BindingSpec;
use crate::keeper;
use crate::moving::Error;
use crate::names::BindingName;
use crate::reconcile;
use crate::state::Generation;

impl Refreshes {
    /// The branch that the binding's branch is declared to be forked from, as it is now:
    /// where a version of the service is declared to live there, what that leads to by
    /// now, and otherwise the branch of that name.
    pub(super) async fn parent(&self, spec: &BindingSpec) -> Result<BranchId, Error> {
        let binding = &spec.name;
        let parent = spec.parent.as_ref();
        let parent = parent.ok_or_else(|| Error::NoParent(binding.clone()))?;
        let config = self.keeper.config();
        let on_parent = config.bindings_on(parent);
        let of_service = on_parent
            .filter(|other| other.service.name == spec.service.name && other.name != *binding);
        let generations: Vec<(BindingName, Option<Generation>)> = self.state.read(|data| {
            let known = of_service.map(|other| {
                let generation = data.generations.get(&other.name).cloned();
                (other.name.clone(), generation)
            });
            known.collect()
        });
        match leads_to(spec, parent, generations)? {
            Some(branch) => Ok(branch),
            None => {
                let found = self.keeper.neon().branch_named(parent).await?;
                let found = found.ok_or_else(|| {
                    let source = reconcile::Error::ParentNotFound {
                        branch: spec.branch.clone(),
                        parent: parent.clone(),
                    };
                    keeper::Error::Reconcile(source)
                })?;
                Ok(found.branch.id)
            }
        }
    }
}

/// Where those lead that are declared to live on the parent; none if there are none.
fn leads_to(
    spec: &BindingSpec,
    parent: &crate::names::BranchName,
    generations: Vec<(BindingName, Option<Generation>)>,
) -> Result<Option<BranchId>, Error> {
    let retired = |one: &Option<Generation>| one.as_ref().is_some_and(Generation::is_retired);
    let mut branches: Vec<BranchId> = Vec::new();
    for (name, generation) in generations.iter().filter(|(_, one)| !retired(one)) {
        let generation = generation.as_ref();
        let generation = generation.ok_or_else(|| Error::NotReady(name.clone()))?;
        branches.push(generation.branch.clone());
    }
    branches.sort();
    branches.dedup();
    match (branches.len(), generations.first()) {
        (0, None) => Ok(None),
        (0, Some((name, _))) => Err(Error::Retired(name.clone())),
        (1, _) => Ok(branches.pop()),
        _ => Err(Error::ParentUnclear {
            binding: spec.name.clone(),
            parent: parent.clone(),
            bindings: generations.into_iter().map(|(name, _)| name).collect(),
        }),
    }
}
