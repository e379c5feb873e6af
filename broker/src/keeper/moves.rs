//! Holding consumers back while a branch gets other data, and making a branch ready
//! for a binding that is switched to it.

use std::time::Duration;

use jiff::SignedDuration;
use neon_api::BranchId;

use super::in_force::switched;
use super::{Error, Keeper};
use crate::bindings::end_pause;
use crate::config::BindingSpec;
use crate::logins::Place;
use crate::names::{BindingName, BranchName};
use crate::reconcile::{self, Outcome};
use crate::state::{Draft, Move, Phase};
use crate::watches::{self, Standing};

/// How long consumers hold back at most while a branch gets other data, in seconds:
/// then they go on by themselves, whatever has become of the broker.
const PAUSE_SECONDS: i64 = 60;
/// How often to look whether they do, should nobody say so, in milliseconds.
const LOOK_MS: u64 = 250;

impl Keeper {
    /// Asks the consumers of bindings to hold back, and waits until they do: those whose
    /// watch acknowledges, no longer than such a watch may be away.
    pub(super) async fn pause(
        &self,
        bindings: &[BindingName],
        branch: &BranchId,
        what: &str,
    ) -> Result<(), Error> {
        let (names, branch, now) = (bindings.to_vec(), branch.clone(), self.leases.now());
        let message = format!("its branch is being {what}");
        let change = move |draft: &mut Draft<'_>| {
            let mut paused = Vec::new();
            for binding in &names {
                let moving = draft.move_of(binding, now);
                if let Some(moving) = moving.filter(|one| one.phase != Phase::Paused) {
                    return Err((binding.clone(), moving.target.clone()));
                }
                let one = Move {
                    operation: None,
                    generation: draft.next_generation(binding),
                    source: branch.clone(),
                    target: branch.clone(),
                    phase: Phase::Paused,
                    fence: false,
                    voters: watches::voters(draft, binding, now),
                    deadline: now + SignedDuration::from_secs(PAUSE_SECONDS),
                    message: message.clone(),
                    create_time: now,
                    update_time: now,
                };
                draft.move_put(binding.clone(), one.clone());
                paused.push(one);
            }
            Ok(paused)
        };
        let paused = self.state.change(change).await?;
        let paused = paused.map_err(|(binding, target)| Error::Moving { binding, target })?;
        let holding_back = async {
            for one in &paused {
                self.until_held_back(one).await;
            }
        };
        let grace = self.leases.ack_grace();
        if tokio::time::timeout(grace, holding_back).await.is_err() {
            tracing::warn!(bindings = ?bindings, "some consumers do not say that they hold back");
        }
        Ok(())
    }

    /// Returns when all who have a say hold back.
    async fn until_held_back(&self, one: &Move) {
        let mut told = self.state.moves();
        loop {
            let (now, grace) = (self.leases.now(), self.leases.ack_grace());
            let is_held_back = self.state.read(|data| {
                one.voters.iter().all(|lease| {
                    let (known, watching) = (data.leases.get(lease), data.watches.get(lease));
                    let generation = one.pause_generation();
                    let standing = watches::standing(known, watching, generation, now, grace);
                    !matches!(standing, Standing::Waiting | Standing::Refused(_))
                })
            });
            if is_held_back {
                return;
            }
            // The state lives as long as we do.
            let _ = tokio::time::timeout(Duration::from_millis(LOOK_MS), told.changed()).await;
        }
    }

    /// Lets the consumers of bindings go on.
    pub(super) async fn resume(&self, bindings: &[BindingName]) -> Result<(), Error> {
        let (names, now) = (bindings.to_vec(), self.leases.now());
        let change = move |draft: &mut Draft<'_>| {
            for binding in &names {
                end_pause(draft, binding, now);
            }
        };
        Ok(self.state.change_by_all_means(change).await?)
    }

    /// Makes a branch that is there what a binding declares: an endpoint, its
    /// revisions, its rights, and no lease roles that are nobody's.
    pub async fn prepare(&self, spec: &BindingSpec, branch: &BranchName) -> Result<Outcome, Error> {
        self.prepare_as(switched(spec, branch.clone())).await
    }

    /// As [`Keeper::prepare`], a branch that was just forked for the binding: its seed
    /// runs as well, as it does where an apply makes the fork.
    pub async fn prepare_fork(
        &self,
        spec: &BindingSpec,
        branch: &BranchName,
    ) -> Result<Outcome, Error> {
        let seed = spec.seed.clone();
        let spec = switched(spec, branch.clone());
        self.prepare_as(BindingSpec { seed, ..spec }).await
    }

    async fn prepare_as(&self, spec: BindingSpec) -> Result<Outcome, Error> {
        let _alone = self.applying.lock().await;
        let config = self.config();
        let prepared = reconcile::prepare(&self.neon, &self.ledger, &config, &spec).await;
        let outcome = prepared.map_err(|source| Error::Binding {
            binding: spec.name.clone(),
            source,
        })?;
        let place = Place {
            branch: outcome.branch.clone(),
            service: std::sync::Arc::clone(&spec.service),
            uris: outcome.uris.clone(),
            connections: spec.connections,
            generation: 0,
        };
        self.roles_right(&place, false).await?;
        // One that was to go with its children is lived on again.
        if self
            .ledger
            .going()
            .iter()
            .any(|(_, id)| *id == outcome.branch)
        {
            self.ledger.created(&spec.branch, &outcome.branch).await?;
        }
        Ok(outcome)
    }
}
