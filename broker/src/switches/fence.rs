//! Closing the old branch to writes before the new one takes them, and letting them in
//! again where a switch was given up.
//!
//! That a branch is fenced is written down before its rights are taken, and holds until
//! the switch is done or given up: until then no broker gives them back, neither by an
//! apply nor for a lease on the branch itself.

use std::sync::Arc;
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable as _};
use tokio::time::{Instant, MissedTickBehavior};

use super::checks::{check_fence, still};
use super::votes::Alive;
use super::{Error, Run, Switches, after};
use crate::bindings::end_fence;
use crate::logins::Place;
use crate::names::BindingName;
use crate::state::{Draft, Move, Phase};
use crate::text::one_line;
use crate::tries::Tries;

/// How long those who write hold back at most while the old branch is closed to them,
/// in seconds: longer than that takes.
const FENCING_SECONDS: u64 = 40;
/// How long they have to say that they do, in seconds. The branch is closed to them
/// whether or not they say so.
const HOLD_BACK_SECONDS: u64 = 5;
/// How often the rights to write are tried to be given back before the switch ends.
const LET_IN_TRIES_MAX: usize = 5;
/// How often to look for branches that are closed to writes still, in milliseconds.
const LOOK_MS: u64 = 1_000;

impl Switches {
    /// Lets writes in again where a switch was given up and could not do so itself, for
    /// ever.
    pub async fn let_in_left(&self) {
        let mut interval = tokio::time::interval(Duration::from_millis(LOOK_MS));
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut tries: Tries<BindingName> = Tries::default();
        loop {
            interval.tick().await;
            let left = self.state.read(|data| data.fences_left());
            tries.retain(&left.iter().map(|(binding, _)| binding).collect());
            for (binding, one) in left {
                if !tries.is_due(&binding, Instant::now()) {
                    continue;
                }
                if let Err(error) = self.let_in_once(&binding, &one).await {
                    let (branch, error) = (&one.source, one_line(&error));
                    let failed = tries.failed(binding, Instant::now());
                    tracing::warn!(%branch, failed, error, "a branch takes no writes still");
                }
            }
        }
    }

    /// Lets writes in again, trying for a while: until then nobody writes.
    pub(super) async fn let_in(&self, binding: &BindingName, one: &Move) -> Result<(), Error> {
        let backoff = ExponentialBuilder::default().with_max_times(LET_IN_TRIES_MAX);
        let letting_in = || self.let_in_once(binding, one);
        letting_in.retry(backoff).await
    }

    async fn let_in_once(&self, binding: &BindingName, one: &Move) -> Result<(), Error> {
        match self.source(binding, one).await {
            Ok(place) => self.logins.prepare(&place).await.map_err(Error::Fence)?,
            // Nobody writes there any more, or is declared to.
            Err(Error::BindingNotFound(_)) => {}
            Err(error) => {
                if self.keeper.neon().branch(&one.source).await?.is_some() {
                    return Err(error);
                }
            }
        }
        let (binding, now) = (binding.clone(), self.leases.now());
        let change = move |draft: &mut Draft<'_>| end_fence(draft, &binding, now);
        Ok(self.state.change_by_all_means(change).await?)
    }

    /// Where the binding leads before it is switched.
    async fn source(&self, binding: &BindingName, one: &Move) -> Result<Place, Error> {
        let spec = self.spec(binding)?;
        let (branch, database) = (&one.source, &spec.service.database);
        Ok(Place {
            branch: branch.clone(),
            uris: self.keeper.neon().owner_uris(branch, database).await?,
            service: Arc::clone(&spec.service),
            connections: spec.connections,
            generation: 0,
        })
    }
}

impl Run<'_> {
    /// From here on nobody cancels it: the old branch is closed to writes.
    pub(super) async fn hold_back(&self, one: &Move) -> Result<Move, Error> {
        let now = self.switches.leases.now();
        let fencing = Move {
            phase: Phase::Fencing,
            deadline: after(now, Duration::from_secs(FENCING_SECONDS)),
            update_time: now,
            ..one.clone()
        };
        let (binding, put) = (self.switch.binding.clone(), fencing.clone());
        let (was, switch) = (one.clone(), self.switch.clone());
        let change = move |draft: &mut Draft<'_>| {
            still(draft, &binding, &was)?;
            // Another binding may have moved there meanwhile.
            check_fence(draft, &switch, &was.source)?;
            draft.move_put(binding.clone(), put.clone());
            Ok::<_, Error>(())
        };
        self.work.commit(None, change).await?;
        Ok(fencing)
    }

    /// Waits until all who write hold back, or have had the time to; takes their rights.
    pub(super) async fn fence(&self, one: &Move, alive: &mut Alive) -> Result<(), Error> {
        let until = after(one.update_time, Duration::from_secs(HOLD_BACK_SECONDS));
        let leases = &self.switches.leases;
        let holding_back = self.until(one, alive, |tally| {
            let is_time = leases.now() >= until;
            (tally.holding_back.is_empty() || is_time).then_some(Ok(()))
        });
        holding_back.await?;
        let source = self.switches.source(&self.switch.binding, one).await?;
        let fenced = self.switches.logins.fence(&source).await;
        fenced.map_err(Error::Fence)
    }
}
