//! The account's budget: how many requests Neon takes, overall and on a route.
//!
//! What holds: in no minute are more requests sent than `per_minute`, in no
//! second more than `per_second_per_route` on one route. What a limiter lets
//! through at once and what it lets through in the same time together make the
//! limit: a quarter at once, the rest spread out. Callers' requests go before the
//! background's.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use governor::clock::{Clock as _, DefaultClock};
use governor::middleware::StateInformationMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use tokio::time::Instant;

use super::turns::{Crowded, Priority, Turns};

/// What part of a limit may be used at once: one of so many.
const AT_ONCE_PART: u32 = 4;

/// How much may be asked of Neon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Requests in a minute, over all routes.
    pub per_minute: NonZeroU32,
    /// Requests in a second, on each route.
    pub per_second_per_route: NonZeroU32,
}

impl Limits {
    /// What Neon documents.
    pub const NEON: Limits = Limits {
        per_minute: NonZeroU32::MIN.saturating_add(699),
        per_second_per_route: NonZeroU32::MIN.saturating_add(39),
    };
}

/// The budget of one account.
#[derive(Debug)]
pub(super) struct Budget {
    limits: Limits,
    overall: Lane,
    /// By the route's name. There are as many as Neon's API has.
    routes: Mutex<HashMap<&'static str, Arc<Lane>>>,
}

type Limiter = RateLimiter<NotKeyed, InMemoryState, DefaultClock, StateInformationMiddleware>;

/// One limit and who waits for it.
#[derive(Debug)]
struct Lane {
    limiter: Limiter,
    quota: Quota,
    /// What was left when somebody was last let through.
    left: Mutex<(u32, std::time::Instant)>,
    turns: Arc<Turns>,
    /// Neon asked us to wait until then.
    closed_until: Mutex<Option<Instant>>,
}

impl Budget {
    pub(super) fn new(limits: Limits) -> Budget {
        Budget {
            limits,
            overall: Lane::new(limits.per_minute, Duration::from_secs(60)),
            routes: Mutex::default(),
        }
    }

    /// Waits until a request may be sent on that route.
    pub(super) async fn admit(
        &self,
        route: &'static str,
        priority: Priority,
    ) -> Result<(), Crowded> {
        self.lane(route).admit(priority).await?;
        self.overall.admit(priority).await
    }

    /// Sends nothing on that route for so long.
    pub(super) fn close(&self, route: &'static str, time: Duration) {
        let until = Instant::now() + time;
        let lane = self.lane(route);
        let mut closed = lane.closed();
        *closed = Some(closed.map_or(until, |before| before.max(until)));
    }

    /// How many requests would be let through at once now, over all routes.
    pub(super) fn remaining(&self) -> u32 {
        self.overall.remaining()
    }

    /// How many wait, callers and the background.
    pub(super) fn waiting(&self) -> (usize, usize) {
        let routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let all = routes.values().map(|lane| lane.turns.waiting());
        let all = all.chain([self.overall.turns.waiting()]);
        all.fold((0, 0), |sum, lane| (sum.0 + lane.0, sum.1 + lane.1))
    }

    fn lane(&self, route: &'static str) -> Arc<Lane> {
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let lane = routes.entry(route).or_insert_with(|| {
            let second = Duration::from_secs(1);
            Arc::new(Lane::new(self.limits.per_second_per_route, second))
        });
        Arc::clone(lane)
    }
}

impl Lane {
    fn new(limit: NonZeroU32, time: Duration) -> Lane {
        let quota = quota(limit, time);
        Lane {
            limiter: RateLimiter::direct(quota).with_middleware(),
            quota,
            left: Mutex::new((quota.burst_size().get(), std::time::Instant::now())),
            turns: Arc::default(),
            closed_until: Mutex::default(),
        }
    }

    async fn admit(&self, priority: Priority) -> Result<(), Crowded> {
        let _turn = self.turns.take(priority).await?;
        let closed = *self.closed();
        if let Some(until) = closed {
            tokio::time::sleep_until(until).await;
        }
        // Nobody else asks while this is our turn, so the second time it is let
        // through, or the third, if a timer was early.
        let let_through = loop {
            match self.limiter.check() {
                Ok(let_through) => break let_through,
                Err(early) => {
                    let wait = early.wait_time_from(self.limiter.clock().now());
                    tokio::time::sleep(wait).await;
                }
            }
        };
        let left = let_through.remaining_burst_capacity();
        *self.left.lock().unwrap_or_else(PoisonError::into_inner) =
            (left, std::time::Instant::now());
        Ok(())
    }

    /// What was left, and what has come back since.
    fn remaining(&self) -> u32 {
        let (left, since) = *self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let back = since.elapsed().as_nanos() / self.quota.replenish_interval().as_nanos().max(1);
        let back = u32::try_from(back).unwrap_or(u32::MAX);
        left.saturating_add(back).min(self.quota.burst_size().get())
    }

    fn closed(&self) -> MutexGuard<'_, Option<Instant>> {
        let closed = self.closed_until.lock();
        closed.unwrap_or_else(PoisonError::into_inner)
    }
}

/// Never more than `limit` in any `time`.
fn quota(limit: NonZeroU32, time: Duration) -> Quota {
    let at_once = NonZeroU32::new(limit.get() / AT_ONCE_PART).unwrap_or(NonZeroU32::MIN);
    // Of a limit of one, the one is let through at once, and the next after it.
    let spread = (limit.get() - at_once.get()).max(1);
    Quota::with_period(time / spread)
        .unwrap_or(Quota::per_second(NonZeroU32::MIN))
        .allow_burst(at_once)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;

    /// Takes all that is to be had, each millisecond; when each was let through.
    fn let_through(limit: u32, time: Duration, for_ms: u64) -> Vec<u64> {
        let clock = FakeRelativeClock::default();
        let quota = quota(NonZeroU32::new(limit).unwrap(), time);
        let limiter = RateLimiter::direct_with_clock(quota, clock.clone());
        let mut through = Vec::new();
        for ms in 0..for_ms {
            while limiter.check().is_ok() {
                through.push(ms);
            }
            clock.advance(Duration::from_millis(1));
        }
        through
    }

    #[test]
    fn no_time_of_that_length_has_more_than_the_limit() {
        for (limit, time) in [
            (700, Duration::from_secs(60)),
            (40, Duration::from_secs(1)),
            (3, Duration::from_secs(1)),
            (1, Duration::from_secs(1)),
        ] {
            let ms = u64::try_from(time.as_millis()).unwrap();
            let through = let_through(limit, time, ms * 3);
            let worst = through
                .iter()
                .map(|from| {
                    through
                        .iter()
                        .filter(|at| (*from..from + ms).contains(at))
                        .count()
                })
                .max();
            assert!(worst.unwrap() <= limit as usize, "{limit}: {worst:?}");
            // And the limit is made use of.
            assert!(worst.unwrap() + 1 >= limit as usize, "{limit}: {worst:?}");
        }
    }

    #[test]
    fn neons_limits_are_what_neon_documents() {
        assert_eq!(Limits::NEON.per_minute.get(), 700);
        assert_eq!(Limits::NEON.per_second_per_route.get(), 40);
    }

    #[tokio::test]
    async fn what_is_left_goes_down_with_each_request() {
        let budget = Budget::new(Limits::NEON);
        let begun = Instant::now();
        let whole = budget.remaining();
        assert_eq!(whole, 700 / AT_ONCE_PART);
        for _ in 0..10 {
            budget.admit("GET one", Priority::Caller).await.unwrap();
        }
        // Nine a second come back.
        let back = 1 + u32::try_from(begun.elapsed().as_millis() / 100).unwrap();
        let left = budget.remaining();
        assert!((whole - 10..=whole - 10 + back).contains(&left), "{left}");
        assert_eq!(budget.waiting(), (0, 0));
    }

    #[tokio::test]
    async fn a_route_that_is_closed_waits_and_others_do_not() {
        let closed = Duration::from_millis(300);
        let budget = Budget::new(Limits::NEON);
        let begun = Instant::now();
        budget.close("GET one", closed);
        budget.admit("GET other", Priority::Caller).await.unwrap();
        assert!(begun.elapsed() < closed);
        budget.admit("GET one", Priority::Caller).await.unwrap();
        assert!(begun.elapsed() >= closed);
    }
}
