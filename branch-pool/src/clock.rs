//! The one place that asks what time it is. Only `expire_time` needs it, which
//! the broker gives as a time of day: it is turned into an `Instant` at once,
//! and everything after counts on that.

use std::time::{Duration, SystemTime};

/// What a lease is taken to last when, by this machine's clock, it is over as
/// it arrives: the two clocks then disagree by more than the lease lasts.
const REMAINING_ASSUMED: Duration = Duration::from_secs(60);

/// The holder lets go a twentieth of the lease early, this much at most, so that
/// it never hands out a connection that the broker has ended already.
const SKEW_ALLOWANCE_MAX: Duration = Duration::from_secs(2);

/// How long to count on a lease that ends at `expire_time`, from now. Never more
/// than the `ttl` that was asked for, whatever the clocks say.
pub(crate) fn remaining(expire_time: SystemTime, ttl: Option<Duration>) -> Duration {
    remaining_at(now(), expire_time, ttl)
}

/// How long it is until then, by this machine's clock; zero when it is over.
pub(crate) fn until(time: SystemTime) -> Duration {
    time.duration_since(now()).unwrap_or_default()
}

#[expect(
    clippy::disallowed_methods,
    reason = "compares the broker's clock with this machine's, which no test moves"
)]
fn now() -> SystemTime {
    SystemTime::now()
}

fn remaining_at(now: SystemTime, expire_time: SystemTime, ttl: Option<Duration>) -> Duration {
    let most = ttl.unwrap_or(Duration::MAX);
    let remaining = match expire_time.duration_since(now) {
        Ok(remaining) if !remaining.is_zero() => remaining.min(most),
        _ => REMAINING_ASSUMED.min(most),
    };
    remaining - (remaining / 20).min(SKEW_ALLOWANCE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_lease_lasts() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let second = Duration::from_secs(1);
        let cases = [
            ("as granted", 600, None, 598_000),
            ("less than asked", 10, Some(60 * second), 9_500),
            ("our clock is slow", 3600, Some(60 * second), 58_000),
            ("our clock is fast", -3600, None, 58_000),
            (
                "our clock is fast, ttl known",
                -3600,
                Some(20 * second),
                19_000,
            ),
            ("exactly over", 0, Some(second), 950),
        ];
        for (name, ends_in_s, ttl, expected_ms) in cases {
            let offset = Duration::from_secs(i64::unsigned_abs(ends_in_s));
            let expire_time = if ends_in_s < 0 {
                now - offset
            } else {
                now + offset
            };
            let remaining = remaining_at(now, expire_time, ttl);
            assert_eq!(remaining, Duration::from_millis(expected_ms), "{name}");
        }
    }
}
