//! Going along with what is announced on the state, by this broker or another.

use std::sync::Arc;
use std::time::Duration;

use neon_api::BranchId;

use super::Keeper;
use super::in_force::as_switched;
use crate::bindings::{Pause, Target};
use crate::config::BindingSpec;
use crate::neon::{self, OwnerUris};
use crate::state::{Data, Generation, Phase};
use crate::text::one_line;

/// How often to look whether another broker has announced what could not be gone
/// along with yet, in milliseconds.
const FOLLOW_MS: u64 = 1_000;

impl Keeper {
    /// Goes along with what is announced, by this broker or others, for ever.
    pub async fn follow(&self) {
        let mut told = self.state.generations();
        // A switch ends with its operation.
        let mut operations = self.state.operations();
        let mut interval = tokio::time::interval(Duration::from_millis(FOLLOW_MS));
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = interval.tick() => {}
                // The state lives as long as we do.
                _ = told.changed() => {}
                _ = operations.changed() => {}
            }
            if !self.state.has_leader() {
                continue;
            }
            let leads = self.state.leader().borrow().is_some();
            // Who leads looks at the world first: what is stored may be true no more.
            let looks_first = leads && !*self.was_ready.borrow();
            if !looks_first {
                self.reread_if_behind();
            }
            for spec in &self.config().bindings {
                let known = self.bindings.get(&spec.name);
                if looks_first && known.is_none_or(|known| known.target.is_none()) {
                    continue;
                }
                let following = async {
                    self.follow_one(spec).await?;
                    self.follow_move(spec).await
                };
                if let Err(error) = following.await {
                    let (binding, error) = (&spec.name, one_line(&error));
                    tracing::warn!(%binding, error, "cannot go along with what is announced yet");
                }
            }
            self.note_ready();
        }
    }

    /// What another broker has announced is as broker.toml says by now, and not as
    /// it said when this one read it.
    fn reread_if_behind(&self) {
        let config = self.config();
        if !config.bindings.iter().any(|spec| {
            self.newer(spec)
                .is_some_and(|one| self.is_another(spec, &one))
        }) {
            return;
        }
        match self.read_config() {
            Ok(config) => {
                self.leases.configure(config.leases);
                self.bindings.declare(&config);
            }
            Err(error) => {
                tracing::warn!(error = %one_line(&error), "broker.toml is not read again")
            }
        }
    }

    /// The generation of a binding that is stored and not known here yet.
    fn newer(&self, spec: &BindingSpec) -> Option<Generation> {
        let stored = |data: &Data| data.generations.get(&spec.name).cloned();
        let stored = self.state.read(stored);
        stored.filter(|stored| self.bindings.is_news(&spec.name, stored))
    }

    /// Whether it is more than the same at another revision.
    fn is_another(&self, spec: &BindingSpec, generation: &Generation) -> bool {
        let known = self.bindings.get(&spec.name);
        let target = known.and_then(|binding| binding.target.clone());
        target.is_none_or(|target| target.generation != generation.number)
    }

    async fn follow_one(&self, spec: &BindingSpec) -> Result<(), neon::Error> {
        let stored = self
            .state
            .read(|data| data.generations.get(&spec.name).cloned());
        let departure = stored.as_ref().and_then(|one| one.departs(&spec.branch));
        if departure.is_some_and(|departure| departure.switched_to.is_none()) {
            self.bindings.retired(&spec.name);
            return Ok(());
        }
        if let Some(generation) = self.newer(spec) {
            let uris = self.uris_of(spec, &generation.branch).await?;
            // It may be another by now, and has its turn in a moment.
            if self.newer(spec).as_ref() != Some(&generation) {
                return Ok(());
            }
            let spec = as_switched(spec, &generation);
            self.bindings.follow(&spec, generation, uris);
        }
        Ok(())
    }

    /// What the binding is to lead to next, and whether its consumers hold back.
    async fn follow_move(&self, spec: &BindingSpec) -> Result<(), neon::Error> {
        let now = self.leases.now();
        let one = self
            .state
            .read(|data| data.move_of(&spec.name, now).cloned());
        let Some(one) = one else {
            self.bindings.moving(&spec.name, None, None);
            return Ok(());
        };
        let pause = one.holds_back(now).then(|| Pause {
            generation: one.pause_generation(),
            deadline: one.deadline,
            writes_only: one.phase == Phase::Fencing,
            reason: one.message.clone(),
        });
        let known = self
            .bindings
            .get(&spec.name)
            .and_then(|binding| binding.pending.clone());
        let known = known.filter(|pending| pending.generation == one.generation);
        let pending = match (one.phase.is_pending(), known) {
            (false, _) => None,
            (true, Some(known)) => Some(known),
            (true, None) => Some(Arc::new(Target {
                spec: spec.clone(),
                generation: one.generation,
                uris: self.uris_of(spec, &one.target).await?,
                branch: one.target,
                revision: None,
                reason: one.message,
            })),
        };
        self.bindings.moving(&spec.name, pending, pause);
        Ok(())
    }

    /// How the owner connects to the branch that the binding leads to, or is to.
    async fn uris_of(
        &self,
        spec: &BindingSpec,
        branch: &BranchId,
    ) -> Result<OwnerUris, neon::Error> {
        let known = self.bindings.get(&spec.name);
        let pending = known.and_then(|binding| binding.pending.clone());
        match pending.filter(|pending| pending.branch == *branch) {
            Some(pending) => Ok(pending.uris.clone()),
            None => self.neon.owner_uris(branch, &spec.service.database).await,
        }
    }
}
