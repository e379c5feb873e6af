//! This machine's clock against the database's. Leases end by this one's; brokers
//! that share a database have to agree on when that is.

use jiff::{RoundMode, Timestamp, TimestampRound, Unit};
use rpc::clock::Clock;

use super::{Shared, milliseconds};

/// The time of a clock, as it comes back from where it is stored: in microseconds.
pub fn now(clock: &Clock) -> Timestamp {
    let time = Timestamp::try_from(clock.now()).unwrap_or(Timestamp::MAX);
    let down = TimestampRound::new()
        .smallest(Unit::Microsecond)
        .mode(RoundMode::Trunc);
    time.round(down).unwrap_or(time)
}

impl Shared {
    /// Closes the gate while the clocks are too far apart. It is the machine's
    /// clock that counts, not one that a test has moved.
    pub(super) fn compare_clocks(&self, theirs: Option<Timestamp>) {
        let ours = Timestamp::try_from(Clock::system().now()).ok();
        let apart = ours.zip(theirs).map(|(ours, theirs)| {
            let apart = ours.duration_since(theirs).unsigned_abs();
            milliseconds(apart)
        });
        // A database that knows no time is as far from ours as can be.
        let apart_ms = apart.unwrap_or(u64::MAX);
        let too_far = (apart_ms > milliseconds(self.clock_skew_max)).then_some(apart_ms);
        let changed = self.gate.send_if_modified(|gate| {
            let was = std::mem::replace(&mut gate.apart_ms, too_far);
            was.is_some() != too_far.is_some()
        });
        match (changed, too_far) {
            (true, Some(apart_ms)) => tracing::error!(
                apart_ms,
                "this machine's clock and the state database's are too far apart: not serving"
            ),
            (true, None) => tracing::info!("the clocks agree again"),
            (false, _) => {}
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use jiff::SignedDuration;

    use super::*;
    use crate::state::{Error, State};

    #[tokio::test]
    async fn a_clock_that_is_too_far_off_shuts_the_broker_until_it_is_right() {
        let mut state = State::in_memory();
        let shared = std::sync::Arc::get_mut(&mut state.shared).unwrap();
        shared.clock_skew_max = Duration::from_secs(5);
        let off = |seconds| {
            let now = Timestamp::try_from(Clock::system().now()).unwrap();
            state
                .shared
                .compare_clocks(Some(now + SignedDuration::from_secs(seconds)));
        };
        for seconds in [0, 3, -3] {
            off(seconds);
            state.check().unwrap();
        }
        for seconds in [7, -7] {
            off(seconds);
            let error = state.check().unwrap_err();
            let Error::ClockSkewed { apart_ms, max_ms } = error else {
                panic!("{error}");
            };
            assert!((6_000..=7_100).contains(&apart_ms), "{apart_ms}");
            assert_eq!(max_ms, 5_000);
            state.is_shut().await;
            off(0);
            state.is_open().await;
        }
        state.shared.compare_clocks(None);
        assert!(state.check().is_err(), "no time at all");
    }
}
