//! From what is declared and what is there to what is to be done. No I/O.

use std::collections::{BTreeMap, BTreeSet};

use super::{Action, Error, Limits, Remark, Step, budget};
use crate::config::{BindingSpec, Config};
use crate::names::{BranchName, ServiceName};
use crate::neon::EndpointKind;

/// What there is, as far as broker.toml concerns it.
#[derive(Debug, Clone, Default)]
pub struct World {
    /// Branches that are there, and the endpoints that each has.
    pub branches: BTreeMap<BranchName, BTreeSet<EndpointKind>>,
    /// What a service has on a branch, where the branch could be looked into.
    pub inside: BTreeMap<(BranchName, ServiceName), Inside>,
    /// What a branch's Postgres is set to, where it could be asked.
    pub limits: BTreeMap<BranchName, Limits>,
    /// What is otherwise than declared, and stays so.
    pub remarks: Vec<Remark>,
}

/// What a service has on a branch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inside {
    /// Versions of the revisions that were run.
    pub applied: BTreeSet<String>,
    /// Bindings and files whose seed ran.
    pub seeded: BTreeSet<(String, String)>,
    /// Whether the service's groups have their rights.
    pub granted: bool,
}

/// The steps that make the world match, in the order in which they are taken.
pub fn plan(config: &Config, world: &World) -> Result<Vec<Step>, Error> {
    // What the steps so far leave behind: a fork starts with it.
    let mut world = world.clone();
    let mut steps = Vec::new();
    for spec in &config.bindings {
        steps.extend(branch_steps(spec, &mut world)?);
        if let Some(limits) = world.limits.get(&spec.branch) {
            budget::check(config, &spec.branch, *limits)?;
        }
        steps.extend(inside_steps(spec, &mut world)?);
    }
    Ok(steps)
}

/// The steps that a binding needs before its branch can be looked into.
fn branch_steps(spec: &BindingSpec, world: &mut World) -> Result<Vec<Step>, Error> {
    let mut steps = Vec::new();
    if !world.branches.contains_key(&spec.branch) {
        if let Some(parent) = &spec.parent {
            fork(spec, parent, world)?;
        }
        let parent = spec.parent.clone();
        steps.push(step(spec, Action::CreateBranch { parent }));
        let has = BTreeSet::from([EndpointKind::ReadWrite]);
        world.branches.insert(spec.branch.clone(), has);
    }
    let has = world.branches.entry(spec.branch.clone()).or_default();
    let missing = spec.endpoints().filter(|kind| has.insert(*kind));
    steps.extend(missing.map(|kind| step(spec, Action::CreateEndpoint { kind })));
    Ok(steps)
}

/// The new branch has what its parent has, but for the rights: the parent's
/// lease roles come along and have to go.
fn fork(spec: &BindingSpec, parent: &BranchName, world: &mut World) -> Result<(), Error> {
    if !world.branches.contains_key(parent) {
        return Err(Error::ParentNotFound {
            branch: spec.branch.clone(),
            parent: parent.clone(),
        });
    }
    let inherited: Vec<_> = world
        .inside
        .iter()
        .filter(|((branch, _), _)| branch == parent)
        .map(|((_, service), inside)| {
            let inside = Inside {
                granted: false,
                ..inside.clone()
            };
            ((spec.branch.clone(), service.clone()), inside)
        })
        .collect();
    world.inside.extend(inherited);
    Ok(())
}

/// The steps that a binding needs on a branch that is there.
fn inside_steps(spec: &BindingSpec, world: &mut World) -> Result<Vec<Step>, Error> {
    let place = (spec.branch.clone(), spec.service.name.clone());
    let certain = world.inside.contains_key(&place);
    let inside = world.inside.entry(place).or_default();
    steps_of(spec, inside, certain)
}

/// The steps that a binding needs on a branch that has `inside`, which is then
/// what the branch has after them. `certain`: it was looked at.
pub(super) fn steps_of(
    spec: &BindingSpec,
    inside: &mut Inside,
    certain: bool,
) -> Result<Vec<Step>, Error> {
    refuse_ahead(spec, inside)?;
    let mut steps = Vec::new();
    for revision in &spec.revisions {
        if inside.applied.insert(revision.version.clone()) {
            let revision = revision.name.clone();
            steps.push(step(spec, Action::Migrate { revision, certain }));
        }
    }
    if let Some(seed) = &spec.seed
        && inside
            .seeded
            .insert((spec.name.to_string(), seed.name.clone()))
    {
        let file = seed.name.clone();
        steps.push(step(spec, Action::Seed { file }));
    }
    if !inside.granted {
        inside.granted = true;
        steps.push(step(spec, Action::Grant));
    }
    Ok(steps)
}

/// Nothing here migrates down.
fn refuse_ahead(spec: &BindingSpec, inside: &Inside) -> Result<(), Error> {
    let declared = |version: &&String| {
        spec.revisions
            .iter()
            .any(|revision| revision.version == **version)
    };
    match inside
        .applied
        .iter()
        .rev()
        .find(|version| !declared(version))
    {
        None => Ok(()),
        Some(version) => Err(Error::Ahead {
            branch: spec.branch.clone(),
            revision: version.clone(),
        }),
    }
}

pub(super) fn step(spec: &BindingSpec, action: Action) -> Step {
    Step {
        binding: spec.name.clone(),
        branch: spec.branch.clone(),
        action,
    }
}

#[cfg(test)]
mod tests;
