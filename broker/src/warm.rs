//! Keeps the warm pools of broker.toml filled: branches that are forked, migrated and
//! have their login role before anybody asks.
//!
//! What holds: a branch is written down before it is made, and one that nobody makes and
//! that is not ready goes, whoever began it. One that is ready is handed out by any
//! broker (leases.rs); only who works in the background makes them, has them deleted
//! when they are stale, too many or declared no more, and tells Neon the name of those
//! that were handed out. Callers go first: nothing is made while one waits for a place.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::{StreamExt as _, future};
use neon_api::BranchId;
use neon_api::types::BranchUpdateRequest;
use tokio::time::{Instant, MissedTickBehavior};

use crate::config::PoolSpec;
use crate::keeper::Keeper;
use crate::leases::{self, Leases, RoleFor, WarmMaking, branch_name};
use crate::leasing::{self, Leasing};
use crate::logins::{Logins, Wanted};
use crate::migrate;
use crate::names::{BranchName, LeaseId, PoolName};
use crate::neon::{self, Neon, NewBranch};
use crate::roles;
use crate::state;
use crate::text::one_line;
use crate::tries::Tries;

/// How often to look what there is to do, in milliseconds: time goes on.
const LOOK_MS: u64 = 250;
/// How often who makes a branch says that they do, in seconds: thrice before they are
/// taken for gone.
const MAKING_SECONDS: u64 = 8;
/// How often to look whether branches that wait are still there, in seconds: it costs
/// Neon a list.
const LOOK_FOR_GONE_SECONDS: u64 = 60;

/// Fills pools.
#[derive(Debug)]
pub struct Pools {
    keeper: Arc<Keeper>,
    leases: Arc<Leases>,
    leasing: Arc<Leasing>,
    logins: Arc<Logins>,
    neon: Neon,
}

/// Why a branch is not ready.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Neon(#[from] neon::Error),
    #[error(transparent)]
    State(#[from] state::Error),
    #[error(transparent)]
    Lease(#[from] leases::Error),
    #[error(transparent)]
    Leasing(#[from] leasing::Error),
    #[error("migrate the branch {branch}")]
    FailedMigrate {
        branch: BranchName,
        #[source]
        source: migrate::Error,
    },
    #[error("make the role that waits on the branch {branch}")]
    FailedRole {
        branch: BranchName,
        #[source]
        source: Arc<roles::Error>,
    },
    #[error("the branch {branch} is somebody else's")]
    NotOurs { branch: BranchName },
}

impl Pools {
    /// For the pools that the keeper has read.
    pub fn new(
        keeper: Arc<Keeper>,
        leases: Arc<Leases>,
        leasing: Arc<Leasing>,
        logins: Arc<Logins>,
        neon: Neon,
    ) -> Pools {
        Pools {
            keeper,
            leases,
            leasing,
            logins,
            neon,
        }
    }

    /// Keeps them filled, for ever.
    pub async fn run(&self) {
        future::join3(self.fill_all(), self.name_all(), self.look_for_gone()).await;
    }

    async fn fill_all(&self) {
        let mut told = self.leases.branches_told();
        let mut interval = looks();
        // Whoever made one before works in the background no more.
        while let Err(error) = self.leases.warm_makings_over().await {
            tracing::debug!(error = %one_line(&error), "take over the warm pools");
            interval.tick().await;
        }
        let mut tries: Tries<PoolName> = Tries::default();
        let mut making = FuturesUnordered::new();
        let mut busy: BTreeSet<PoolName> = BTreeSet::new();
        loop {
            tokio::select! {
                Some((pool, made)) = making.next(), if !making.is_empty() => {
                    busy.remove(&pool);
                    if let Err(error) = made {
                        let failed = tries.failed(pool.clone(), Instant::now());
                        let error = one_line(&error);
                        tracing::warn!(%pool, failed, error, "a warm branch is not made");
                    }
                }
                _ = interval.tick() => {}
                // Its sender lives as long as we do.
                _ = told.changed() => {}
            }
            let pools = self.pools();
            self.retire(&pools).await;
            let unfilled = pools
                .iter()
                .filter(|pool| busy.contains(&pool.name) || self.leases.warm_is_short(pool));
            let unfilled: Vec<&PoolSpec> = unfilled.collect();
            tries.retain(&unfilled.iter().map(|pool| &pool.name).collect());
            if self.leasing.waiting() > 0 {
                continue;
            }
            for pool in unfilled {
                let is_due = tries.is_due(&pool.name, Instant::now());
                if is_due && busy.insert(pool.name.clone()) {
                    making.push(self.make_for(pool.clone()));
                }
            }
        }
    }

    fn pools(&self) -> Vec<PoolSpec> {
        self.keeper.config().warm.clone()
    }

    /// Has branches deleted that nobody is to have.
    async fn retire(&self, pools: &[PoolSpec]) {
        for (branch, why) in self.leases.warm_unwanted(pools, self.logins.key_id()) {
            match self.leases.warm_retire(&branch).await {
                Ok(true) => tracing::info!(%branch, why, "a warm branch is to go"),
                Ok(false) => {}
                Err(error) => {
                    tracing::debug!(%branch, error = %one_line(&error), "retire a warm branch");
                }
            }
        }
    }

    async fn make_for(&self, pool: PoolSpec) -> (PoolName, Result<(), Error>) {
        let name = pool.name.clone();
        (name, self.make(pool).await)
    }

    /// Makes another branch of a pool, if one is to be.
    async fn make(&self, pool: PoolSpec) -> Result<(), Error> {
        let key = self.logins.key_id().clone();
        let Some(begun) = self.leases.warm_intend(pool.clone(), key).await? else {
            return Ok(());
        };
        let branch = &begun.name;
        let made = tokio::select! {
            made = Box::pin(self.make_begun(&pool, &begun)) => made,
            error = self.say_making(branch) => Err(error.into()),
        };
        match &made {
            Ok(()) => tracing::info!(%branch, pool = %pool.name, "a warm branch is ready"),
            Err(_) => {
                // It goes all the same, when its maker has not said so for long enough.
                if let Err(error) = self.leases.warm_making_over(branch).await {
                    let error = one_line(&error);
                    tracing::debug!(%branch, error, "give up a warm branch");
                }
            }
        }
        made
    }

    async fn make_begun(&self, pool: &PoolSpec, begun: &WarmMaking) -> Result<(), Error> {
        let WarmMaking {
            name,
            lease,
            parent,
            end,
        } = begun;
        let new = NewBranch::for_lease(name.clone(), parent.clone(), None, *end, *lease);
        let found = self.neon.branch_ensure(&new).await?.found;
        if !found.managed || found.request != new.note() {
            let branch = name.clone();
            return Err(Error::NotOurs { branch });
        }
        let (id, confirmed) = (found.branch.id, found.branch.expires_at);
        self.leases
            .warm_making(name, Some((id.clone(), confirmed)))
            .await?;
        let service = &pool.service.name;
        let place = self.leasing.place_on(&id, service).await?;
        if let Some(revisions) = &pool.migrate {
            let migrated = migrate::run(&place.uris.direct, &place.service, revisions, None).await;
            migrated.map_err(|source| Error::FailedMigrate {
                branch: name.clone(),
                source,
            })?;
        }
        self.leasing.prepare(&place).await?;
        let of = RoleFor {
            branch: id,
            service: service.clone(),
            database: place.service.database.clone(),
            access: pool.access,
            holder: format!("warm {}", pool.name),
            key: self.logins.key_id().clone(),
        };
        let role = self.leases.warm_role(name, of).await?;
        let wanted = Wanted {
            access: pool.access,
            // A lease on it ends before the branch does.
            valid_until: *end,
        };
        let making = self.logins.make(&place, &role, wanted).await;
        let valid_until = making.map_err(|source| Error::FailedRole {
            branch: name.clone(),
            source,
        })?;
        Ok(self.leases.warm_ready(name, role, valid_until).await?)
    }

    /// Says that a branch is being made, until it may not be any more.
    async fn say_making(&self, name: &BranchName) -> leases::Error {
        let mut interval = tokio::time::interval(Duration::from_secs(MAKING_SECONDS));
        interval.tick().await;
        loop {
            interval.tick().await;
            match self.leases.warm_making(name, None).await {
                Ok(()) => {}
                Err(error @ leases::Error::BranchGone) => return error,
                // The database is away for a moment; the next time counts.
                Err(error) => tracing::debug!(%error, branch = %name, "say that a branch is made"),
            }
        }
    }

    /// Gives branches that were handed out the name of a lease's branch, for ever.
    async fn name_all(&self) {
        let mut told = self.leases.branches_told();
        let mut interval = looks();
        let mut tries: Tries<LeaseId> = Tries::default();
        loop {
            tokio::select! {
                _ = interval.tick() => {}
                // Its sender lives as long as we do.
                _ = told.changed() => {}
            }
            let unnamed = self.leases.handed_out();
            tries.retain(&unnamed.iter().map(|(lease, _)| lease).collect());
            for (lease, branch) in unnamed {
                if !tries.is_due(&lease, Instant::now()) {
                    continue;
                }
                if let Err(error) = self.name(lease, &branch).await {
                    tries.failed(lease, Instant::now());
                    let error = one_line(&error);
                    tracing::debug!(%lease, %branch, error, "rename a branch that was handed out");
                }
            }
        }
    }

    async fn name(&self, lease: LeaseId, branch: &BranchId) -> Result<(), Error> {
        let turn = self.neon.turn().await?;
        let change = BranchUpdateRequest::default().rename(branch_name(lease).as_str());
        self.neon.branch_update(branch, &change, &turn).await?;
        Ok(self.leases.handed_out_named(lease).await?)
    }

    /// Has those go that wait and that somebody else has deleted, for ever: nobody is to
    /// be handed one.
    async fn look_for_gone(&self) {
        let mut interval = tokio::time::interval(Duration::from_secs(LOOK_FOR_GONE_SECONDS));
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            // Those that were ready before the list was asked for.
            let ready = self.leases.warm_ready_ones();
            if ready.is_empty() {
                continue;
            }
            let there = match self.neon.branches().await {
                Ok(there) => there,
                Err(error) => {
                    tracing::debug!(error = %one_line(&error), "look for warm branches");
                    continue;
                }
            };
            let there: BTreeSet<BranchId> = there.into_iter().map(|one| one.branch.id).collect();
            let is_gone = |branch: &BranchId| !there.contains(branch);
            for (branch, _) in ready
                .iter()
                .filter(|(_, own)| own.branch.as_ref().is_some_and(is_gone))
            {
                match self.leases.warm_retire(branch).await {
                    Ok(_) => tracing::warn!(%branch, "a warm branch is there no more"),
                    Err(error) => {
                        tracing::debug!(%branch, error = %one_line(&error), "retire a warm branch");
                    }
                }
            }
        }
    }
}

fn looks() -> tokio::time::Interval {
    let mut interval = tokio::time::interval(Duration::from_millis(LOOK_MS));
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}
