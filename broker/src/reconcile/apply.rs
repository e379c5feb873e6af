//! Making the world match.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use neon_api::BranchId;
use neon_api::types::Branch;

use super::look::LOOK_LIMIT;
use super::steps::{step, steps_of};
use super::{Action, Error, Step, budget, lineage, look};
use crate::config::{BindingSpec, Config, Revision};
use crate::gate::{Ground, Rehearsed};
use crate::ledger::Ledger;
use crate::names::{BindingName, BranchName};
use crate::neon::{EndpointKind, Ensured, Found, Neon, NewBranch, OwnerUris};
use crate::postgres::bounded;
use crate::{migrate, postgres, roles, seed};

/// How long setting up the roles of a branch may take: it waits for who else
/// does so. Revisions and seeds take as long as they take.
const GRANT_LIMIT: Duration = Duration::from_secs(120);

/// A binding whose branch is as declared.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Its branch.
    pub branch: BranchId,
    /// How the owner connects to it.
    pub uris: OwnerUris,
    /// When the branch was last reset or restored.
    pub reset_at: Option<Timestamp>,
    /// The newest revision there before which none is missing, by its folder's name.
    pub revision: Option<String>,
}

/// A binding's branch, and why it did not get what is pending, though it serves.
struct Made {
    outcome: Outcome,
    held: Option<Error>,
}

/// What an apply did.
#[derive(Debug, Default)]
pub struct Applied {
    /// The steps that were taken, in order.
    pub steps: Vec<Step>,
    /// Bindings that are not as declared, and why.
    pub failures: Vec<(BindingName, Error)>,
}

/// Hears of bindings while an apply goes on.
pub trait Report: Send {
    /// The binding's branch is as declared.
    fn done(&mut self, spec: &BindingSpec, outcome: Outcome) -> impl Future<Output = ()> + Send;

    /// The binding's branch is not as declared.
    fn failed(&mut self, spec: &BindingSpec, error: &Error);
}

/// Makes the world match, binding by binding, parents first; `report` hears of
/// each as soon as it is done or has failed. One that fails keeps back its own
/// forks and nobody else. The error is one that keeps back all: Neon cannot be
/// asked.
pub async fn apply(
    neon: &Neon,
    ledger: &Ledger,
    config: &Config,
    report: &mut impl Report,
) -> Result<Applied, Error> {
    let mut known = look::branches_by_name(neon).await?;
    let mut applied = Applied::default();
    for spec in &config.bindings {
        let run = Run {
            neon,
            ledger,
            config,
            spec,
            applied: &mut applied,
        };
        match run.binding(&mut known).await {
            Ok(Made { outcome, held }) => {
                report.done(spec, outcome).await;
                if let Some(error) = held {
                    report.failed(spec, &error);
                    applied.failures.push((spec.name.clone(), error));
                }
            }
            Err(Error::Neon(error)) if error.is_fatal() => return Err(Error::Neon(error)),
            Err(error) => {
                report.failed(spec, &error);
                applied.failures.push((spec.name.clone(), error));
            }
        }
    }
    Ok(applied)
}

/// Makes a branch that is there what one binding declares.
pub async fn prepare(
    neon: &Neon,
    ledger: &Ledger,
    config: &Config,
    spec: &BindingSpec,
) -> Result<Outcome, Error> {
    let mut known = look::branches_by_name(neon).await?;
    if !known.contains_key(&spec.branch) {
        return Err(Error::BranchNotFound {
            branch: spec.branch.clone(),
        });
    }
    let mut applied = Applied::default();
    // Somebody asks for it.
    let spec = &BindingSpec {
        auto_migrate: true,
        ..spec.clone()
    };
    let run = Run {
        neon,
        ledger,
        config,
        spec,
        applied: &mut applied,
    };
    let Made { outcome, held } = run.binding(&mut known).await?;
    // Who is to move there would get what the gate keeps out, or not get it.
    match held {
        None => Ok(outcome),
        Some(error) => Err(error),
    }
}

/// What a branch has of a binding.
struct Inward {
    /// The newest revision, by its folder's name.
    revision: Option<String>,
    /// Why it is not the last that is declared.
    held: Option<Error>,
}

/// One binding's part of an apply.
pub(super) struct Run<'a> {
    pub(super) neon: &'a Neon,
    pub(super) ledger: &'a Ledger,
    pub(super) config: &'a Config,
    pub(super) spec: &'a BindingSpec,
    applied: &'a mut Applied,
}

impl Run<'_> {
    async fn binding(mut self, known: &mut BTreeMap<BranchName, Found>) -> Result<Made, Error> {
        let Ensured { found, created } = self.branch(known).await?;
        let branch = found.branch;
        for kind in self.spec.endpoints() {
            let made = Box::pin(self.neon.endpoint_ensure(&branch.id, kind)).await?;
            if made && !(created && kind == EndpointKind::ReadWrite) {
                self.took(Action::CreateEndpoint { kind });
            }
        }
        let database = &self.spec.service.database;
        let uris = Box::pin(self.neon.owner_uris(&branch.id, database)).await?;
        let Inward { revision, held } = Box::pin(self.inside(&branch, created, &uris)).await?;
        let outcome = Outcome {
            branch: branch.id,
            uris,
            reset_at: branch.last_reset_at,
            revision,
        };
        Ok(Made { outcome, held })
    }

    /// The binding's branch, forked now if it is not there.
    async fn branch(&mut self, known: &mut BTreeMap<BranchName, Found>) -> Result<Ensured, Error> {
        let spec = self.spec;
        let parent = spec.parent.as_ref().map(|name| (name, known.get(name)));
        let is_kept = |id: &BranchId| self.ledger.is_kept(id);
        let is_missing = !known.contains_key(&spec.branch);
        match (known.get(&spec.branch), parent) {
            (Some(_), _) => {
                if let Some(remark) = lineage::remark(spec, known.values(), is_kept) {
                    tracing::info!(binding = %spec.name, "{}", remark.text);
                }
            }
            (None, Some((name, None))) => {
                return Err(Error::ParentNotFound {
                    branch: spec.branch.clone(),
                    parent: name.clone(),
                });
            }
            (None, Some((name, Some(_)))) => self.refuse_unready_parent(name)?,
            (None, None) => {}
        }
        let parent_id = parent.and_then(|(_, found)| found.map(|found| found.branch.id.clone()));
        let new = NewBranch::for_binding(spec.branch.clone(), parent_id, spec.name.clone());
        if is_missing {
            self.ledger.intend_create(&spec.branch).await?;
        }
        let ensured = self.neon.branch_ensure(&new).await?;
        if is_missing {
            let found = &ensured.found;
            match found.managed {
                true => self.ledger.created(&spec.branch, &found.branch.id).await?,
                false => self.ledger.gone(&spec.branch).await?,
            }
        }
        if ensured.created {
            let parent = spec.parent.clone();
            self.took(Action::CreateBranch { parent });
        }
        known
            .entry(spec.branch.clone())
            .or_insert_with(|| ensured.found.clone());
        Ok(ensured)
    }

    /// A fork keeps what its parent had: one that is made too early would miss
    /// revisions and rows for ever. Those of services that do not live on it are missed
    /// by nobody.
    fn refuse_unready_parent(&self, parent: &BranchName) -> Result<(), Error> {
        let is_missed = |on_parent: &&BindingSpec| {
            let mut on_fork = self.config.bindings_on(&self.spec.branch);
            on_fork.any(|on_fork| on_fork.service.name == on_parent.service.name)
        };
        let on_parent = self.config.bindings_on(parent);
        let failed = on_parent.filter(is_missed).find_map(|on_parent| {
            let mut failures = self.applied.failures.iter();
            failures.find(|(name, _)| *name == on_parent.name)
        });
        match failed {
            None => Ok(()),
            Some((name, error)) => Err(Error::ParentNotReady {
                branch: self.spec.branch.clone(),
                parent: name.clone(),
                transient: error.is_transient(),
            }),
        }
    }

    /// Revisions, seed and rights.
    async fn inside(
        &mut self,
        branch: &Branch,
        created: bool,
        uris: &OwnerUris,
    ) -> Result<Inward, Error> {
        let spec = self.spec;
        let looked = |source| Error::FailedLook {
            branch: spec.branch.clone(),
            source,
        };
        let looking = async {
            let client = postgres::session(&uris.direct).await?;
            let limits = budget::limits(&client).await?;
            let inside = look::inside(&client, &spec.service, &branch.id).await?;
            Ok((client, limits, inside))
        };
        let (mut client, limits, mut inside) =
            bounded(LOOK_LIMIT, "look", looking).await.map_err(looked)?;
        budget::check(self.config, &spec.branch, limits)?;
        // As plan foretells it: what came from the parent is gone over once.
        inside.granted &= !created;
        let before = inside.applied.clone();
        let steps = steps_of(spec, &mut inside, true)?;
        let pending: Vec<&str> = steps.iter().filter_map(Step::revision).collect();
        let mut held = None;
        if !pending.is_empty() {
            let mut rehearsed = None;
            if !spec.auto_migrate {
                held = Some(Error::Behind {
                    branch: spec.branch.clone(),
                    revisions: pending.into_iter().map(str::to_owned).collect(),
                });
            // On a branch that was made just now nobody is, whatever comes of it.
            } else if let Some(gate) = spec.gate.filter(|_| !created) {
                let ground = Ground {
                    branch: branch.id.clone(),
                    reset_at: branch.last_reset_at,
                };
                match Box::pin(self.gated(gate, &ground, uris)).await {
                    Ok(of) => rehearsed = Some(of),
                    Err(error) => held = Some(error),
                }
            }
            if held.is_none() {
                self.migrate(uris, rehearsed).await?;
            }
        }
        for step in steps.iter().filter(|step| step.revision().is_none()) {
            match (&step.action, &spec.seed) {
                // A seed is for the last revision.
                (Action::Seed { .. }, Some(seed)) if held.is_none() => {
                    let ran = seed::run(&mut client, spec, seed).await;
                    let ran = ran.map_err(|source| Error::FailedSeed {
                        branch: spec.branch.clone(),
                        source,
                    })?;
                    if ran {
                        self.took(step.action.clone());
                    }
                }
                (Action::Grant, _) => {
                    let is_fenced = self
                        .ledger
                        .state()
                        .is_fenced(&branch.id, &spec.service.name);
                    let granting = roles::grant(&mut client, &spec.service, &branch.id, is_fenced);
                    match bounded(GRANT_LIMIT, "grant the rights", granting).await {
                        Ok(()) => self.took(Action::Grant),
                        // As it is to be while its binding is switched away from it.
                        Err(roles::Error::Fenced { .. }) => {}
                        Err(source) => {
                            return Err(Error::FailedGrant {
                                branch: spec.branch.clone(),
                                source,
                            });
                        }
                    }
                }
                _ => {}
            }
        }
        // None that comes before it is missing.
        let is_there = |revision: &&Revision| held.is_none() || before.contains(&revision.version);
        let newest = spec.revisions.iter().take_while(is_there).last();
        Ok(Inward {
            revision: newest.map(|revision| revision.name.clone()),
            held,
        })
    }

    /// `rehearsed`: what alone is to be run.
    async fn migrate(
        &mut self,
        uris: &OwnerUris,
        rehearsed: Option<Rehearsed>,
    ) -> Result<(), Error> {
        let spec = self.spec;
        let done = migrate::run(&uris.direct, &spec.service, &spec.revisions, rehearsed)
            .await
            .map_err(|source| Error::FailedMigrate {
                branch: spec.branch.clone(),
                source,
            })?;
        for revision in done {
            self.took(Action::Migrate {
                revision: revision.name,
                certain: true,
            });
        }
        Ok(())
    }

    fn took(&mut self, action: Action) {
        let step = step(self.spec, action);
        tracing::info!(binding = %step.binding, "{step}");
        self.applied.steps.push(step);
    }
}
