//! This machine's clock against the database's. Leases end by this one's; brokers
//! that share a database have to agree on when that is.

use std::time::Duration;

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
    /// Closes the gate while the clocks are too far apart. The database said
    /// `theirs` between `asked`, when it was asked, and now, so an answer that was
    /// long on its way is no skew (Cristian, "Probabilistic clock synchronization",
    /// 1989): of the skews that would explain it, the smallest counts.
    pub(super) fn compare_clocks(&self, asked: Timestamp, theirs: Option<Timestamp>) {
        let apart = theirs.map(|theirs| milliseconds(least_apart(asked, theirs, of_machine())));
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

/// The machine's time. What two clocks are apart is told by it, not by one that a
/// test has moved.
pub(super) fn of_machine() -> Timestamp {
    now(&Clock::system())
}

fn least_apart(asked: Timestamp, theirs: Timestamp, answered: Timestamp) -> Duration {
    // A clock that was set back meanwhile tells nothing of before.
    let asked = asked.min(answered);
    let nearest = theirs.clamp(asked, answered);
    theirs.duration_since(nearest).unsigned_abs()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use jiff::SignedDuration;

    use super::*;
    use crate::state::{Error, State};

    #[tokio::test]
    async fn a_clock_that_is_too_far_off_shuts_the_broker_until_it_is_right() {
        let mut state = State::in_memory();
        let shared = std::sync::Arc::get_mut(&mut state.shared).unwrap();
        shared.clock_skew_max = Duration::from_secs(5);
        let off = |seconds| {
            let now = of_machine();
            state
                .shared
                .compare_clocks(now, Some(now + SignedDuration::from_secs(seconds)));
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
        state.shared.compare_clocks(of_machine(), None);
        assert!(state.check().is_err(), "no time at all");
    }

    #[test]
    fn an_answer_that_was_long_on_its_way_is_no_skew() {
        let at = |seconds: i64| Timestamp::from_second(1_000 + seconds).unwrap();
        let apart =
            |asked, theirs, answered| least_apart(at(asked), at(theirs), at(answered)).as_secs();
        for theirs in [0, 4, 9] {
            assert_eq!(apart(0, theirs, 9), 0, "{theirs}");
        }
        assert_eq!(apart(0, 11, 9), 2, "theirs is ahead");
        assert_eq!(apart(0, -3, 9), 3, "theirs is behind");
        assert_eq!(apart(9, 0, 0), 0, "ours was set back meanwhile");
        assert_eq!(apart(9, 4, 0), 4, "and was wrong before");
    }
}
