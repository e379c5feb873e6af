//! Branches that wait for their lease: taken from there, or waited for in a line.
//!
//! What is known of them in memory here: how their owner connects, kept for as long as
//! they wait, so that a hand-out asks Neon nothing; and who stands in line while there
//! are as many ephemeral branches as there may be.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use neon_api::BranchId;
use tokio::sync::oneshot;
use tokio::time::{Instant, MissedTickBehavior};

use super::{Asked, Connected, Error, Leasing};
use crate::config::PoolSpec;
use crate::leases::{self, Making, PoolCount, Take, Taken};
use crate::names::{LeaseId, PoolName};
use crate::neon::OwnerUris;
use crate::text::one_line;
use crate::tries::Tries;

/// How many callers may stand in line.
const WAITING_MAX: usize = 1_000;
/// How long one waits who gave no deadline, in seconds.
const WAIT_SECONDS_MAX: u64 = 600;
/// How often who is first looks again although nobody told of a change, in
/// milliseconds.
const LOOK_MS: u64 = 1_000;

/// Callers who wait for a place among the ephemeral branches, first come first.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// Has who is first: the others are given it in the order in which they came.
    first: tokio::sync::Mutex<()>,
    waiting: AtomicUsize,
}

/// Somebody in line, for as long as they wait.
struct InLine<'a>(&'a AtomicUsize);

/// How the owner connects to branches that wait.
#[derive(Debug, Default)]
pub(super) struct Kept(Mutex<BTreeMap<BranchId, (String, OwnerUris)>>);

/// A pool, as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolNumbers {
    /// The pool.
    pub pool: PoolName,
    /// How many branches it is to have.
    pub size: usize,
    /// What it has.
    pub count: PoolCount,
}

/// Ephemeral branches, and who waits for one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WarmNumbers {
    /// Each pool.
    pub pools: Vec<PoolNumbers>,
    /// Ephemeral branches of all brokers, those of pools included.
    pub branches: usize,
    /// How many there may be.
    pub branches_max: Option<usize>,
    /// Callers of this broker who wait for a place.
    pub waiting: usize,
}

impl Leasing {
    /// How the pools are.
    pub fn warm_numbers(&self) -> WarmNumbers {
        let config = self.keeper.config();
        let (branches, branches_max) = self.leases.ephemeral_count();
        let pools = config.warm.iter().map(|pool| PoolNumbers {
            pool: pool.name.clone(),
            size: pool.size,
            count: self.leases.warm_count(pool),
        });
        WarmNumbers {
            pools: pools.collect(),
            branches,
            branches_max,
            waiting: self.line.waiting(),
        }
    }

    /// A branch for a lease: one that waits, or the place to make one. While there is
    /// none, the caller stands in line.
    pub(super) async fn taken(
        self: &Arc<Self>,
        asked: &Asked,
        parent: &BranchId,
    ) -> Result<Taken, Error> {
        let take = self.take(asked, parent);
        if !take.pools.is_empty() {
            let taken = self.unless_gone(take.clone(), |leases, take| async move {
                leases.warm_take(take).await
            });
            if let Some(taken) = taken.await? {
                return Ok(taken);
            }
        }
        self.check_parent(parent).await?;
        if self.line.is_empty() {
            match self.take_any(take.clone()).await {
                Err(leases::Error::EphemeralFull { .. }) => {}
                taken => return Ok(taken?),
            }
        }
        self.in_line(take).await
    }

    /// Gives the lease on a branch that waited, by a role that is made now.
    pub(super) async fn give_warm(
        self: &Arc<Self>,
        id: LeaseId,
        asked: Asked,
        branch: BranchId,
        end: Option<Timestamp>,
    ) -> Result<Connected, Error> {
        let giving = async {
            let place = self.place_on(&branch, &asked.request.service).await?;
            self.give(id, asked, &place, end).await
        };
        self.while_making(id, Box::pin(giving)).await
    }

    fn take(&self, asked: &Asked, parent: &BranchId) -> Take {
        let config = self.keeper.config();
        let request = &asked.request;
        let fits = |pool: &&PoolSpec| {
            asked.point.is_none()
                && pool.service.name == request.service
                && pool.migrate.is_some() == asked.migrate
        };
        let mut pools: Vec<PoolSpec> = config.warm.iter().filter(fits).cloned().collect();
        pools.sort_by_key(|pool| pool.access != request.access);
        Take {
            request: request.clone(),
            ttl: asked.ttl,
            making: Making {
                lease: LeaseId::random(),
                holder: request.holder.clone(),
                max: asked.ephemeral_max,
                request_id: asked.request_id.clone(),
            },
            parent: parent.clone(),
            pools,
            key: self.logins.key_id().clone(),
        }
    }

    /// Waits until it is this caller's turn and there is a place. Who is cut off leaves
    /// the line, and what they were given just then is given back.
    async fn in_line(self: &Arc<Self>, take: Take) -> Result<Taken, Error> {
        let Some(max) = self.leases.ephemeral_count().1 else {
            return Ok(self.take_any(take).await?);
        };
        let full = || Error::Lease(leases::Error::EphemeralFull { max });
        let _in_line = self.line.join().ok_or_else(full)?;
        let (holder, waiting) = (&take.request.holder, self.line.waiting());
        tracing::info!(%holder, waiting, max, "a caller waits for an ephemeral branch");
        let waiting = async {
            let _first = self.line.first.lock().await;
            let mut told = self.leases.branches_told();
            loop {
                match self.take_any(take.clone()).await {
                    Err(leases::Error::EphemeralFull { .. }) => {}
                    taken => return Ok(taken?),
                }
                let soon = Duration::from_millis(LOOK_MS);
                // Told or not, it is looked again.
                let _ = tokio::time::timeout(soon, told.changed()).await;
            }
        };
        let limit = Duration::from_secs(WAIT_SECONDS_MAX);
        let waited = tokio::time::timeout(limit, waiting).await;
        waited.unwrap_or_else(|_| Err(full()))
    }

    async fn take_any(self: &Arc<Self>, take: Take) -> Result<Taken, leases::Error> {
        let taken = self.unless_gone(take, |leases, take| async move {
            leases.ephemeral_take(take).await.map(Some)
        });
        // What it says is always something.
        taken.await?.ok_or(leases::Error::BranchGone)
    }

    /// Takes, and gives back what was taken if the caller is gone by then: what is
    /// stored is stored whether or not somebody waits for it.
    async fn unless_gone<F>(
        self: &Arc<Self>,
        take: Take,
        taking: impl FnOnce(Arc<leases::Leases>, Take) -> F,
    ) -> Result<Option<Taken>, leases::Error>
    where
        F: Future<Output = Result<Option<Taken>, leases::Error>> + Send + 'static,
    {
        let (answer, heard) = oneshot::channel();
        let leases = Arc::clone(&self.leases);
        let taking = taking(Arc::clone(&leases), take);
        tokio::spawn(async move {
            let Err(Ok(Some(taken))) = answer.send(taking.await) else {
                return;
            };
            if let Err(error) = leases.untake(taken).await {
                // It ends by itself, as all that nobody renews.
                tracing::debug!(error = %one_line(&error), "give back what nobody waits for");
            }
        });
        let stopping = leases::Error::State(crate::state::Error::Gone);
        heard.await.unwrap_or(Err(stopping))
    }

    /// Callers who stand in line.
    pub fn waiting(&self) -> usize {
        self.line.waiting()
    }

    /// Knows how the owner connects to each branch that waits, for ever: a hand-out asks
    /// Neon nothing then.
    pub async fn keep_places(&self) {
        let mut told = self.leases.branches_told();
        let mut interval = tokio::time::interval(Duration::from_millis(LOOK_MS));
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut tries: Tries<BranchId> = Tries::default();
        loop {
            let waiting = self.waiting_places();
            tries.retain(&waiting.keys().collect());
            for (branch, uris) in self.kept.retain(&waiting) {
                // It was handed out, or it is gone.
                self.uris.insert(branch, uris).await;
            }
            for (branch, database) in &waiting {
                if self.kept.of(branch, database).is_some() || !tries.is_due(branch, Instant::now())
                {
                    continue;
                }
                match self.place_to_keep(branch, database).await {
                    Ok(uris) => self.kept.insert(branch.clone(), database.clone(), uris),
                    Err(error) => {
                        tries.failed(branch.clone(), Instant::now());
                        let error = one_line(&error);
                        tracing::debug!(%branch, error, "ask how to connect to a warm branch");
                    }
                }
            }
            tokio::select! {
                _ = interval.tick() => {}
                // Its sender lives as long as we do.
                _ = told.changed() => {}
            }
        }
    }

    async fn place_to_keep(
        &self,
        branch: &BranchId,
        database: &str,
    ) -> Result<OwnerUris, crate::neon::Error> {
        match self.uris.get(&(branch.clone(), database.to_owned())).await {
            Some(uris) => Ok(uris),
            None => {
                let neon = self.keeper.neon().background();
                neon.owner_uris(branch, database).await
            }
        }
    }

    /// Branches that wait, and the database of their service.
    fn waiting_places(&self) -> BTreeMap<BranchId, String> {
        let config = self.keeper.config();
        let ready = self.leases.warm_ready_ones().into_iter();
        ready
            .filter_map(|(_, own)| {
                let pool = own.warm?.pool;
                let pool = config.warm.iter().find(|one| one.name == pool)?;
                Some((own.branch?, pool.service.database.clone()))
            })
            .collect()
    }
}

impl Line {
    fn is_empty(&self) -> bool {
        self.waiting() == 0
    }

    fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Stands in line; none if that is too long.
    fn join(&self) -> Option<InLine<'_>> {
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let in_line = InLine(&self.waiting);
        (before < WAITING_MAX).then_some(in_line)
    }
}

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Kept {
    pub(super) fn of(&self, branch: &BranchId, database: &str) -> Option<OwnerUris> {
        let kept = self.kept();
        let (of, uris) = kept.get(branch)?;
        (of == database).then(|| uris.clone())
    }

    pub(super) fn forget(&self, branch: &BranchId) {
        self.kept().remove(branch);
    }

    fn insert(&self, branch: BranchId, database: String, uris: OwnerUris) {
        self.kept().insert(branch, (database, uris));
    }

    /// Keeps those, and says what of the others was known.
    fn retain(&self, waiting: &BTreeMap<BranchId, String>) -> Vec<((BranchId, String), OwnerUris)> {
        let mut kept = self.kept();
        let gone = kept.extract_if(.., |branch, _| !waiting.contains_key(branch));
        gone.map(|(branch, (database, uris))| ((branch, database), uris))
            .collect()
    }

    fn kept(&self) -> MutexGuard<'_, BTreeMap<BranchId, (String, OwnerUris)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
