//! What is to be made true: broker.toml, and what switches and retirements have made of
//! it.

use std::collections::BTreeMap;
use std::sync::Arc;

use neon_api::BranchId;

use super::{Error, Keeper};
use crate::config::{BindingSpec, Config};
use crate::names::{BindingName, BranchName};
use crate::neon::{Found, Neon};
use crate::reconcile::{self, Remark};
use crate::state::Generation;

/// What is to be made true.
#[derive(Debug)]
pub(super) struct InForce {
    /// The bindings on the branches that they live on, without those that are retired.
    pub(super) config: Arc<Config>,
    /// The bindings' generations by which that was decided.
    pub(super) seen: BTreeMap<BindingName, i64>,
    /// What is otherwise than declared.
    pub(super) remarks: Vec<Remark>,
}

impl Keeper {
    /// A switch or a retirement holds for as long as broker.toml declares the branch
    /// that it declared then.
    pub(super) async fn in_force(
        &self,
        neon: &Neon,
        config: Arc<Config>,
    ) -> Result<InForce, Error> {
        let generations = self.state.read(|data| data.generations.clone());
        let departs = |spec: &BindingSpec| {
            let generation = generations.get(&spec.name);
            generation.is_some_and(|one| one.departs(&spec.branch).is_some())
        };
        let there = match config.bindings.iter().any(departs) {
            true => neon.branches().await.map_err(reconcile::Error::Neon)?,
            false => Vec::new(),
        };
        let mut in_force = (*config).clone();
        let mut remarks = Vec::new();
        in_force.bindings.clear();
        for spec in &config.bindings {
            let generation = generations.get(&spec.name);
            match generation.and_then(|one| Some((one, one.departs(&spec.branch)?))) {
                None => in_force.bindings.push(spec.clone()),
                Some((_, departure)) if departure.switched_to.is_none() => {
                    remarks.push(retired_remark(spec));
                    self.bindings.retired(&spec.name);
                }
                Some((generation, _)) => match name_of(&there, &generation.branch) {
                    Some(name) => {
                        remarks.push(switched_remark(spec, &name));
                        in_force.bindings.push(switched(spec, name));
                    }
                    None => {
                        remarks.push(lost_remark(spec, &generation.branch));
                        let message = format!(
                            "the branch {} that it was switched to is there no more; switch it \
                             to another",
                            generation.branch
                        );
                        self.bindings.not_ready(&spec.name, message, true);
                    }
                },
            }
        }
        Ok(InForce {
            config: Arc::new(in_force),
            seen: generations
                .into_iter()
                .map(|(name, one)| (name, one.number))
                .collect(),
            remarks,
        })
    }
}

/// The binding on the branch that it was switched to: that is there, and is not made.
pub(super) fn switched(spec: &BindingSpec, branch: BranchName) -> BindingSpec {
    BindingSpec {
        branch,
        parent: None,
        seed: None,
        ..spec.clone()
    }
}

/// As [`switched`], by what was known when it was.
pub(super) fn as_switched(spec: &BindingSpec, generation: &Generation) -> BindingSpec {
    let departure = generation.departs(&spec.branch);
    match departure.and_then(|departure| departure.switched_to.clone()) {
        Some(branch) => switched(spec, branch),
        None => spec.clone(),
    }
}

fn retired_remark(spec: &BindingSpec) -> Remark {
    let branch = &spec.branch;
    remark(
        spec,
        format!("it is retired, and stays so until another branch than {branch} is declared"),
    )
}

fn switched_remark(spec: &BindingSpec, to: &BranchName) -> Remark {
    let branch = &spec.branch;
    let text = format!(
        "it was switched to {to}, and stays there until another branch than {branch} is declared"
    );
    remark(spec, text)
}

fn lost_remark(spec: &BindingSpec, to: &BranchId) -> Remark {
    let text = format!("it was switched to {to}, which is there no more; switch it to another");
    remark(spec, text)
}

fn remark(spec: &BindingSpec, text: String) -> Remark {
    Remark {
        binding: spec.name.clone(),
        text,
    }
}

fn name_of(there: &[Found], id: &BranchId) -> Option<BranchName> {
    let found = there.iter().find(|found| found.branch.id == *id)?;
    found.branch.name.parse().ok()
}
