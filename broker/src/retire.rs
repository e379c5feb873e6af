//! Ending a version: its binding gives no leases any more, those that live end, and its
//! branch goes.
//!
//! That the binding is retired is written down first, and with that, in the same
//! transaction, looked whether leases live: none is given afterwards. What follows can
//! be done twice, and whoever takes the operation up does it.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use neon_api::BranchId;

use crate::audit::{Action, Event};
use crate::bindings::Bindings;
use crate::branches::{self, Branches, End, Users};
use crate::keeper::Keeper;
use crate::leases::{self, Lease, Leases, RevokeRequest, Which};
use crate::leasing::{self, Leasing};
use crate::moving::Error;
use crate::names::{BindingName, BranchName, BranchResource, LeaseId};
use crate::neon;
use crate::operations::Work;
use crate::state::{Departure, Draft, Generation, State};

/// How often to look whether leases still live, in milliseconds.
const LOOK_MS: u64 = 200;

/// A version that is to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retire {
    /// Its binding.
    pub binding: BindingName,
    /// How long its leases have to end. None: it does not end while one lives.
    pub drain_timeout: Option<Duration>,
    /// The branch that is made the default one before.
    pub new_default: Option<BranchId>,
    /// Who asks, for people.
    pub by: String,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retired {
    /// The branch that it lived on.
    pub branch: BranchId,
    /// What became of that.
    pub end: End,
}

/// Ends versions.
#[derive(Debug)]
pub struct Retirement {
    /// What is stored.
    pub state: Arc<State>,
    /// The world as declared.
    pub keeper: Arc<Keeper>,
    /// The branches.
    pub branches: Branches,
    /// The bindings.
    pub bindings: Arc<Bindings>,
    /// The leases.
    pub leases: Arc<Leases>,
    /// And how they are taken.
    pub leasing: Arc<Leasing>,
}

impl Retirement {
    /// Whether the version can end, as far as can be seen without doing so.
    pub async fn check(&self, retire: &Retire) -> Result<(), Error> {
        let (_, branch) = self.place(&retire.binding)?;
        let now = self.leases.now();
        self.state.read(|data| {
            let leases = data.leases.values();
            check_leases(retire, &live_on(leases, &retire.binding, &branch, now))
        })?;
        if let Some(id) = &retire.new_default {
            let found = self.keeper.neon().branch(id).await?;
            let found = found.ok_or_else(|| branches::Error::NotFound {
                field: "new_default_branch",
                name: BranchResource(id.clone()),
            })?;
            let name = found.branch.name.clone();
            if *id == branch {
                return Err(branches::Error::Default { name }.into());
            }
            if found.branch.expires_at.is_some() {
                return Err(branches::Error::Expires { name }.into());
            }
        }
        let others = |found: &neon::Found| {
            let mut bindings = self.keeper.bindings_on(&found.branch);
            bindings.retain(|name| *name != retire.binding);
            Users {
                bindings,
                lease: None,
            }
        };
        let checking = self
            .branches
            .check_retire(&branch, retire.new_default.is_some(), others);
        Ok(checking.await?)
    }

    /// Ends a version, or goes on with that.
    pub async fn run(&self, retire: &Retire, work: &Work) -> Result<Retired, Error> {
        let (declared, branch) = self.place(&retire.binding)?;
        work.describe(BranchResource(branch.clone()).to_string());
        let since = self.note(retire, declared, &branch, work).await?;
        self.bindings.retired(&retire.binding);
        if let Some(id) = &retire.new_default {
            let turn = self.keeper.neon().turn().await?;
            self.keeper.neon().branch_set_default(id, &turn).await?;
        }
        self.drain(retire, &branch, since).await?;
        let end = self.branches.retire(&branch, work).await?;
        Ok(Retired { branch, end })
    }

    /// The branch that broker.toml declares, and the one that the binding lives on.
    fn place(&self, binding: &BindingName) -> Result<(BranchName, BranchId), Error> {
        let known = self.bindings.get(binding);
        let known = known.ok_or_else(|| Error::BindingNotFound(binding.clone()))?;
        let last = self
            .state
            .read(|data| data.generations.get(binding).cloned());
        let last = last.ok_or_else(|| Error::NotReady(binding.clone()))?;
        Ok((known.spec.branch.clone(), last.branch))
    }

    /// Writes down that the version is retired, since when: from here on it gives no
    /// leases.
    async fn note(
        &self,
        retire: &Retire,
        declared: BranchName,
        branch: &BranchId,
        work: &Work,
    ) -> Result<Timestamp, Error> {
        let (asked, branch, now) = (retire.clone(), branch.clone(), self.leases.now());
        let note = move |draft: &mut Draft<'_>| {
            let binding = &asked.binding;
            let last = draft.generation(binding).cloned();
            let last = last.ok_or_else(|| Error::NotReady(binding.clone()))?;
            if last.branch != branch {
                return Err(Error::Overtaken(binding.clone()));
            }
            if last.is_retired() {
                return Ok(());
            }
            if let Some(moving) = draft.move_of(binding, now) {
                return Err(Error::of_move(binding, moving));
            }
            check_leases(&asked, &live_on(draft.leases(), binding, &branch, now))?;
            let retired = Generation {
                since: now,
                departure: Some(Departure {
                    declared: declared.clone(),
                    switched_to: None,
                }),
                ..last
            };
            draft.generation_put(binding.clone(), retired);
            draft.audit(Event {
                id: 0,
                time: now,
                action: Action::Retired,
                service: Some(binding.service.clone()),
                binding: Some(binding.clone()),
                branch: Some(branch.clone()),
                lease: None,
                holder: asked.by.clone(),
                message: "gives no leases any more".to_owned(),
            });
            Ok(())
        };
        work.commit(None, note).await?;
        let since = self.state.read(|data| {
            let last = data.generations.get(&retire.binding);
            last.map_or(now, |last| last.since)
        });
        Ok(since)
    }

    /// Waits until no lease lives on the binding or its branch; takes what is left.
    async fn drain(
        &self,
        retire: &Retire,
        branch: &BranchId,
        since: Timestamp,
    ) -> Result<(), Error> {
        let time = retire.drain_timeout.unwrap_or_default();
        let deadline = since.checked_add(time).unwrap_or(Timestamp::MAX);
        let mut told = self.state.moves();
        loop {
            let now = self.leases.now();
            let live = self
                .state
                .read(|data| live_on(data.leases.values(), &retire.binding, branch, now));
            if live.is_empty() {
                return Ok(());
            }
            if now >= deadline {
                break;
            }
            // The state lives as long as we do.
            let _ = tokio::time::timeout(Duration::from_millis(LOOK_MS), told.changed()).await;
        }
        let now = self.leases.now();
        let left = self
            .state
            .read(|data| live_on(data.leases.values(), &retire.binding, branch, now));
        // One may be on a branch that the binding was switched from.
        let each = left.into_iter().map(Which::Lease);
        for which in std::iter::once(Which::Branch(branch.clone())).chain(each) {
            let request = RevokeRequest {
                which,
                reason: format!("{} is retired, by {}", retire.binding, retire.by),
                request_id: None,
            };
            match Box::pin(self.leasing.revoke(request)).await {
                // It has ended meanwhile.
                Ok(_) | Err(leasing::Error::Lease(leases::Error::NotFound(_))) => {}
                Err(error) => return Err(Error::Leasing(Box::new(error))),
            }
        }
        Ok(())
    }
}

/// Leases that live on a binding, or on its branch.
fn live_on<'a>(
    leases: impl Iterator<Item = &'a Lease> + 'a,
    binding: &BindingName,
    branch: &BranchId,
    now: Timestamp,
) -> Vec<LeaseId> {
    let live = leases.filter(|lease| {
        let is_on =
            lease.grant.branch == *branch || lease.request.target.binding() == Some(binding);
        is_on && lease.lives(now)
    });
    live.map(|lease| lease.id).collect()
}

fn check_leases(retire: &Retire, live: &[LeaseId]) -> Result<(), Error> {
    match live.is_empty() || retire.drain_timeout.is_some() {
        true => Ok(()),
        false => Err(Error::LeasesLive {
            binding: retire.binding.clone(),
            leases: live.to_vec(),
        }),
    }
}
