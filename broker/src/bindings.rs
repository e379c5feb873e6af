//! Bindings: what each service version leads to now.
//!
//! What is stored here, and who may change it: one state for each binding of
//! broker.toml, in memory. The keeper changes it, everybody else reads or
//! watches. The number of a binding's generation outlives the process, in
//! state.rs, and is stored there before anybody hears of it.

mod generations;

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use jiff::Timestamp;
use neon_api::BranchId;
use neon_api::types::Branch;
use rpc::clock::Clock;
use tokio::sync::watch;

use crate::config::{BindingSpec, Config};
use crate::names::BindingName;
use crate::neon::OwnerUris;
use crate::reconcile::{self, Outcome};
use crate::state::{Generation, State};

pub use generations::{Found, Rotated, Switched};
pub(crate) use generations::{end_fence, end_pause};

/// A binding, as declared and as it is.
#[derive(Debug, Clone)]
pub struct Binding {
    /// What broker.toml says.
    pub spec: BindingSpec,
    /// How far it is.
    pub status: Status,
    /// What it leads to. Once there, it stays until there is another.
    pub target: Option<Arc<Target>>,
    /// What it is to lead to next, if all its consumers can.
    pub pending: Option<Arc<Target>>,
    /// Whether its consumers are held back.
    pub pause: Option<Pause>,
    /// Why what broker.toml says now could not be made so, while the binding
    /// goes on with what it said before.
    pub trouble: Option<String>,
}

impl Binding {
    /// The revisions that somebody has to run before leases are given: its branch does
    /// not have them, and it has `auto_migrate` off. Who has a lease keeps it.
    pub fn behind(&self) -> Option<reconcile::Error> {
        let target = self.target.as_deref().filter(|_| !self.spec.auto_migrate)?;
        let missing = self.spec.after(target.revision.as_deref());
        let revisions = missing.iter().map(|one| one.name.clone()).collect();
        (!missing.is_empty()).then(|| reconcile::Error::Behind {
            branch: target.spec.branch.clone(),
            revisions,
        })
    }
}

/// How far a binding is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// Its branch is being made, migrated or seeded; or why that takes longer
    /// than it should.
    Preparing(String),
    /// Leases are given.
    Ready,
    /// Making it ready failed, and will not be tried again by itself.
    Failed(String),
    /// It was retired.
    Retired,
}

/// Consumers hold back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pause {
    /// What they acknowledge.
    pub generation: i64,
    /// When they go on at the latest.
    pub deadline: Timestamp,
    /// Whether those go on that do not write.
    pub writes_only: bool,
    /// Why, for people.
    pub reason: String,
}

/// What a binding leads to.
#[derive(Debug, Clone)]
pub struct Target {
    /// The binding as it was declared when this was made so. What broker.toml
    /// says by now may not be true yet.
    pub spec: BindingSpec,
    /// The binding's generation.
    pub generation: i64,
    /// The branch.
    pub branch: BranchId,
    /// How the owner connects to it.
    pub uris: OwnerUris,
    /// The newest revision there, by its folder's name.
    pub revision: Option<String>,
    /// Why this generation came to be, for people.
    pub reason: String,
}

impl Target {
    /// What a binding will lead to that nobody was told of yet.
    pub fn unannounced(spec: &BindingSpec, outcome: &Outcome) -> Target {
        Target {
            spec: spec.clone(),
            generation: 0,
            branch: outcome.branch.clone(),
            uris: outcome.uris.clone(),
            revision: outcome.revision.clone(),
            reason: String::new(),
        }
    }
}

/// All bindings.
#[derive(Debug)]
pub struct Bindings {
    state: Arc<State>,
    clock: Clock,
    all: RwLock<BTreeMap<BindingName, watch::Sender<Arc<Binding>>>>,
}

impl Bindings {
    /// None yet.
    pub fn new(state: Arc<State>, clock: Clock) -> Bindings {
        Bindings {
            state,
            clock,
            all: RwLock::default(),
        }
    }

    /// Takes what broker.toml declares: new bindings are being prepared, those
    /// that are there keep what they lead to, the rest go, and who watches them
    /// hears of it.
    pub fn declare(&self, config: &Config) {
        let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
        all.retain(|name, _| config.binding(name).is_some());
        for spec in &config.bindings {
            match all.get(&spec.name) {
                Some(binding) => {
                    binding.send_if_modified(|binding| {
                        let changed = binding.spec != *spec;
                        if changed {
                            Arc::make_mut(binding).spec = spec.clone();
                        }
                        changed
                    });
                }
                None => {
                    let binding = Binding {
                        spec: spec.clone(),
                        status: Status::Preparing("its branch is being prepared".to_owned()),
                        target: None,
                        pending: None,
                        pause: None,
                        trouble: None,
                    };
                    all.insert(spec.name.clone(), watch::Sender::new(Arc::new(binding)));
                }
            }
        }
    }

    /// The binding of that name.
    pub fn get(&self, name: &BindingName) -> Option<Arc<Binding>> {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        all.get(name).map(|binding| Arc::clone(&binding.borrow()))
    }

    /// All, by name.
    pub fn list(&self) -> Vec<Arc<Binding>> {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        all.values()
            .map(|binding| Arc::clone(&binding.borrow()))
            .collect()
    }

    /// The binding of that name, as it is and will be. The channel closes when
    /// it is declared no more.
    pub fn watch(&self, name: &BindingName) -> Option<watch::Receiver<Arc<Binding>>> {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        all.get(name).map(watch::Sender::subscribe)
    }

    /// Whether leases are given on each.
    pub fn are_ready(&self) -> bool {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        all.values().all(|binding| {
            let status = &binding.borrow().status;
            matches!(status, Status::Ready | Status::Retired)
        })
    }

    /// Whether that generation is younger than what the binding leads to here, or the
    /// same at another revision.
    pub fn is_news(&self, name: &BindingName, generation: &Generation) -> bool {
        let binding = self.get(name);
        let known = binding.and_then(|binding| binding.target.clone());
        known.is_none_or(|known| {
            let is_same = known.generation == generation.number;
            known.generation < generation.number
                || (is_same && known.revision != generation.revision)
        })
    }

    /// Another broker has given the binding that generation. One that is here
    /// already is not told again.
    pub fn follow(&self, spec: &BindingSpec, generation: Generation, uris: OwnerUris) {
        if self.is_news(&spec.name, &generation) {
            let Generation { number, reason, .. } = &generation;
            tracing::info!(binding = %spec.name, generation = number, %reason, "follows");
            self.announce(spec, generation, uris);
        }
    }

    fn announce(&self, spec: &BindingSpec, generation: Generation, uris: OwnerUris) {
        // It may have been since whoever announces it looked.
        if generation.is_retired() {
            return self.retired(&spec.name);
        }
        let target = Target {
            spec: spec.clone(),
            generation: generation.number,
            branch: generation.branch,
            uris,
            revision: generation.revision,
            reason: generation.reason,
        };
        self.modify(&spec.name, |binding| {
            let same = binding.target.as_deref().is_some_and(|now| {
                now.generation == target.generation
                    && now.revision == target.revision
                    && now.spec == target.spec
            });
            let changed = !same || binding.status != Status::Ready || binding.trouble.is_some();
            binding.status = Status::Ready;
            binding.trouble = None;
            let is_over = |pending: &Arc<Target>| pending.generation <= target.generation;
            binding.pending.take_if(|pending| is_over(pending));
            // The owner's password may have changed all the same.
            binding.target = Some(Arc::new(target));
            changed
        });
    }

    /// What the binding is to lead to next, and whether its consumers are held back.
    pub fn moving(&self, name: &BindingName, pending: Option<Arc<Target>>, pause: Option<Pause>) {
        let number = |target: &Option<Arc<Target>>| target.as_ref().map(|one| one.generation);
        self.modify(name, |binding| {
            let changed = number(&binding.pending) != number(&pending) || binding.pause != pause;
            binding.pending = pending;
            binding.pause = pause;
            changed
        });
    }

    /// The binding was retired: it leads nowhere.
    pub fn retired(&self, name: &BindingName) {
        self.modify(name, |binding| {
            let changed = binding.status != Status::Retired;
            binding.status = Status::Retired;
            binding.trouble = None;
            changed
        });
    }

    /// Whether the branch was reset or restored since the binding was last
    /// announced, whoever did it.
    pub fn has_other_data(&self, name: &BindingName, outcome: &Outcome) -> bool {
        self.state.read(|data| {
            let last = data.generations.get(name);
            last.is_some_and(|last| {
                last.branch == outcome.branch && last.reset_at != outcome.reset_at
            })
        })
    }

    /// Bindings that point at that branch, or are declared to live on it.
    pub fn on_branch(&self, branch: &Branch) -> Vec<BindingName> {
        // One that departs from what is declared leaves the declared branch alone.
        let departs = |binding: &Binding| {
            self.state.read(|data| {
                let last = data.generations.get(&binding.spec.name);
                last.is_some_and(|last| last.departs(&binding.spec.branch).is_some())
            })
        };
        let all = self.list().into_iter().filter(|binding| {
            let target = binding.target.as_deref();
            let leads_there = target.is_some_and(|target| target.branch == branch.id);
            let is_declared = || binding.spec.branch.as_str() == branch.name;
            match binding.status {
                Status::Retired => false,
                _ => leads_there || (is_declared() && !departs(binding)),
            }
        });
        all.map(|binding| binding.spec.name.clone()).collect()
    }

    /// Gives no leases on the binding until it is ready again. Who has one keeps
    /// it, and hears nothing yet.
    pub fn hold(&self, name: &BindingName, message: String) {
        self.modify(name, |binding| {
            binding.status = Status::Preparing(message);
            false
        });
    }

    /// The binding's branch is not as declared. One that leads somewhere goes
    /// on doing so, and says why it leads nowhere else.
    pub fn not_ready(&self, name: &BindingName, message: String, for_good: bool) {
        self.modify(name, |binding| {
            if binding.target.is_some() {
                binding.trouble = Some(message);
                // Nothing that a watcher is told.
                return false;
            }
            binding.status = match for_good {
                true => Status::Failed(message),
                false => Status::Preparing(message),
            };
            true
        });
    }

    fn modify(&self, name: &BindingName, change: impl FnOnce(&mut Binding) -> bool) {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(binding) = all.get(name) {
            binding.send_if_modified(|binding| change(Arc::make_mut(binding)));
        }
    }
}

#[cfg(test)]
mod tests;
