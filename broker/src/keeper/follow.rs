//! Going along with what other brokers on the same state have announced.

use std::time::Duration;

use super::Keeper;
use crate::config::BindingSpec;
use crate::neon;
use crate::state::{Data, Generation};
use crate::text::one_line;

/// How often to look whether another broker has announced what could not be gone
/// along with yet, in milliseconds.
const FOLLOW_MS: u64 = 1_000;

impl Keeper {
    /// Goes along with what other brokers have announced, for ever.
    pub async fn follow(&self) {
        let mut told = self.state.generations();
        let mut interval = tokio::time::interval(Duration::from_millis(FOLLOW_MS));
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = interval.tick() => {}
                // The state lives as long as we do.
                _ = told.changed() => {}
            }
            let leads = self.state.leader().borrow().is_some();
            // Who leads looks at the world first: what is stored may be true no more.
            if leads && !*self.was_ready.borrow() {
                continue;
            }
            self.reread_if_behind();
            for spec in &self.config().bindings {
                if let Err(error) = self.follow_one(spec).await {
                    let (binding, error) = (&spec.name, one_line(&error));
                    tracing::warn!(%binding, error, "cannot go along with another broker yet");
                }
            }
            self.note_ready();
        }
    }

    /// What another broker has announced is as broker.toml says by now, and not as
    /// it said when this one read it.
    fn reread_if_behind(&self) {
        let config = self.config();
        if !config
            .bindings
            .iter()
            .any(|spec| self.newer(spec).is_some())
        {
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
        let known = self.bindings.get(&spec.name);
        let known = known.and_then(|binding| Some(binding.target.as_ref()?.generation));
        let stored = |data: &Data| data.generations.get(&spec.name).cloned();
        let stored = self.state.read(stored);
        stored.filter(|stored| known.is_none_or(|known| known < stored.number))
    }

    async fn follow_one(&self, spec: &BindingSpec) -> Result<(), neon::Error> {
        if let Some(generation) = self.newer(spec) {
            let database = &spec.service.database;
            let uris = self.neon.owner_uris(&generation.branch, database).await?;
            self.bindings.follow(spec, generation, uris);
        }
        Ok(())
    }
}
