//! Bindings: what each service version leads to now.
//!
//! What is stored here, and who may change it: one state for each binding of
//! broker.toml, in memory. The keeper changes it, everybody else reads or
//! watches. The number of a binding's generation outlives the process, in
//! state.rs, and is stored there before anybody hears of it.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use jiff::Timestamp;
use neon_api::BranchId;
use neon_api::types::Branch;
use rpc::clock::Clock;
use tokio::sync::watch;

use crate::audit::{Action, Event};
use crate::config::{BindingSpec, Config};
use crate::connection;
use crate::leases::{self, RequestId};
use crate::names::BindingName;
use crate::neon::OwnerUris;
use crate::reconcile::Outcome;
use crate::state::{self, Draft, Generation, State};

/// A binding, as declared and as it is.
#[derive(Debug, Clone)]
pub struct Binding {
    /// What broker.toml says.
    pub spec: BindingSpec,
    /// How far it is.
    pub status: Status,
    /// What it leads to. Once there, it stays until there is another.
    pub target: Option<Arc<Target>>,
    /// Why what broker.toml says now could not be made so, while the binding
    /// goes on with what it said before.
    pub trouble: Option<String>,
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
        all.values()
            .all(|binding| binding.borrow().status == Status::Ready)
    }

    /// The binding's branch is as declared. Its generation goes up when it
    /// leads elsewhere than before, or to other data, and is stored before this is
    /// told. `renewed`: why it has other data, where that is known.
    /// `in_background`: nobody asked for it.
    pub async fn ready(
        &self,
        spec: &BindingSpec,
        outcome: Outcome,
        renewed: Option<String>,
        in_background: bool,
    ) -> Result<(), state::Error> {
        let generation = self
            .generation(&spec.name, &outcome, renewed, in_background)
            .await?;
        self.announce(spec, generation, outcome.uris);
        Ok(())
    }

    /// Gives the holders of a binding other roles: those that they have are given no
    /// more, and its generation goes up. The same request does so once.
    pub async fn rotate(
        &self,
        name: &BindingName,
        target: &Target,
        by: String,
        request_id: Option<RequestId>,
    ) -> Result<(), leases::Error> {
        let now = Timestamp::try_from(self.clock.now()).unwrap_or(Timestamp::MAX);
        let (binding, branch) = (name.clone(), target.branch.clone());
        let change = move |draft: &mut Draft<'_>| {
            if leases::is_repeated(draft, request_id.as_ref(), now)? {
                return Ok(None);
            }
            let Some(last) = draft.generation(&binding).cloned() else {
                return Ok(None);
            };
            let generation = Generation {
                number: last.number + 1,
                since: now,
                reason: format!("credentials were rotated by {by}"),
                ..last
            };
            leases::retire_roles(draft, &branch, &binding, &by, now);
            draft.generation_put(binding.clone(), generation.clone());
            draft.audit(announced(&binding, &generation));
            Ok::<_, leases::Error>(Some(generation))
        };
        if let Some(generation) = self.state.change(change).await?? {
            self.follow(&target.spec, generation, target.uris.clone());
        }
        Ok(())
    }

    /// Another broker has given the binding that generation. One that is here
    /// already is not told again.
    pub fn follow(&self, spec: &BindingSpec, generation: Generation, uris: OwnerUris) {
        let known = self.get(&spec.name).and_then(|binding| {
            let target = binding.target.as_ref()?;
            Some(target.generation)
        });
        if known.is_none_or(|known| known < generation.number) {
            let Generation { number, reason, .. } = &generation;
            tracing::info!(binding = %spec.name, generation = number, %reason, "follows");
            self.announce(spec, generation, uris);
        }
    }

    fn announce(&self, spec: &BindingSpec, generation: Generation, uris: OwnerUris) {
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
            // The owner's password may have changed all the same.
            binding.target = Some(Arc::new(target));
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
        let all = self.list().into_iter().filter(|binding| {
            let target = binding.target.as_deref();
            target.is_some_and(|target| target.branch == branch.id)
                || binding.spec.branch.as_str() == branch.name
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

    async fn generation(
        &self,
        binding: &BindingName,
        outcome: &Outcome,
        renewed: Option<String>,
        in_background: bool,
    ) -> Result<Generation, state::Error> {
        let now = Timestamp::try_from(self.clock.now()).unwrap_or(Timestamp::MAX);
        let name = binding.clone();
        let (branch, address) = (outcome.branch.clone(), address(&outcome.uris));
        let (revision, reset_at) = (outcome.revision.clone(), outcome.reset_at);
        let change = move |draft: &mut Draft<'_>| {
            let last = draft.generation(&name).cloned();
            let (number, reason) = match &last {
                None => (1, format!("the branch {branch} is ready")),
                Some(last) if last.branch != branch => {
                    (last.number + 1, format!("moved to the branch {branch}"))
                }
                Some(last) if last.address != address => {
                    let reason = format!("the branch {branch} has another address");
                    (last.number + 1, reason)
                }
                Some(last) => match &renewed {
                    Some(reason) => (last.number + 1, reason.clone()),
                    None => (last.number, last.reason.clone()),
                },
            };
            let is_new = last.as_ref().is_none_or(|last| last.number != number);
            let since = last.as_ref().map_or(now, |last| last.since);
            let generation = Generation {
                number,
                branch: branch.clone(),
                address: address.clone(),
                revision: revision.clone(),
                reset_at,
                since: if is_new { now } else { since },
                reason,
            };
            if last.as_ref() != Some(&generation) {
                draft.generation_put(name.clone(), generation.clone());
            }
            if is_new {
                draft.audit(announced(&name, &generation));
            }
            (generation, is_new)
        };
        let (generation, is_new) = match in_background {
            true => self.state.change_in_background(change).await?,
            false => self.state.change(change).await?,
        };
        if is_new {
            let Generation { number, reason, .. } = &generation;
            tracing::info!(binding = %binding, generation = number, %reason, "ready");
        }
        Ok(generation)
    }
}

fn announced(binding: &BindingName, generation: &Generation) -> Event {
    Event {
        id: 0,
        time: generation.since,
        action: Action::Announced,
        service: Some(binding.service.clone()),
        binding: Some(binding.clone()),
        branch: Some(generation.branch.clone()),
        lease: None,
        holder: String::new(),
        message: format!("generation {}: {}", generation.number, generation.reason),
    }
}

/// Where both URIs lead, without who connects and how.
fn address(uris: &OwnerUris) -> String {
    let (direct, pooled) = (
        connection::address_of(&uris.direct),
        connection::address_of(&uris.pooled),
    );
    match direct == pooled {
        true => direct,
        false => format!("{direct} {pooled}"),
    }
}

#[cfg(test)]
mod tests;
