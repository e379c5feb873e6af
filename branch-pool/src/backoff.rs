//! How long to wait before trying again.

use std::time::Duration;

/// The first wait after a failed call to the broker, in milliseconds.
const BACKOFF_MS_MIN: u64 = 100;
/// The longest: a broker that is back is noticed within this.
const BACKOFF_MS_MAX: u64 = 5_000;

/// The first wait between two leases acquired because the connection of the
/// one before was refused, in milliseconds.
const DOUBT_MS_MIN: u64 = 1_000;
/// The longest, while acquiring does not help: each attempt costs the broker a
/// lease.
const DOUBT_MS_MAX: u64 = 60_000;

/// The first wait before a connection is tried again that nobody answered, in
/// milliseconds.
const REFUSED_MS_MIN: u64 = 20;
/// The longest: a branch that is back is noticed within this.
const REFUSED_MS_MAX: u64 = 500;

/// A lease is renewed this often at least, however long it lasts: a holder
/// whose clock is slow, or whose lease ended early, learns of it within this.
const RENEW_MS_MAX: u64 = 60_000;
/// And no more often than this, however short it is.
const RENEW_MS_MIN: u64 = 50;

/// How long to wait after `failures` failed calls in a row (1 or more), given
/// what the broker asked for.
pub(crate) fn after_failures(failures: u32, asked: Option<Duration>) -> Duration {
    let wait = doubled(BACKOFF_MS_MIN, BACKOFF_MS_MAX, failures.saturating_sub(1));
    let most = Duration::from_millis(BACKOFF_MS_MAX);
    jittered(wait, 0.5..=1.0).max(asked.unwrap_or_default().min(most))
}

/// How long to wait after the last lease, when `useless` leases in a row did
/// not help.
pub(crate) fn after_doubts(useless: u32) -> Duration {
    jittered(doubled(DOUBT_MS_MIN, DOUBT_MS_MAX, useless), 0.5..=1.0)
}

/// When to renew a lease that lasts for `remaining`: at about half of it.
pub(crate) fn until_renewal(remaining: Duration) -> Duration {
    jittered(remaining, 0.4..=0.6).clamp(
        Duration::from_millis(RENEW_MS_MIN),
        jittered(Duration::from_millis(RENEW_MS_MAX), 0.8..=1.0),
    )
}

/// How old a session may become: not all of a pool at once.
pub(crate) fn age_max(most: Duration) -> Duration {
    jittered(most, 0.8..=1.0)
}

/// How long to wait before a connection is tried again that nobody answered, after
/// `failures` in a row (1 or more).
pub(crate) fn after_refusals(failures: u32) -> Duration {
    let wait = doubled(REFUSED_MS_MIN, REFUSED_MS_MAX, failures.saturating_sub(1));
    jittered(wait, 0.5..=1.0)
}

fn doubled(min_ms: u64, max_ms: u64, times: u32) -> Duration {
    let factor = 1_u64.checked_shl(times).unwrap_or(u64::MAX);
    Duration::from_millis(min_ms.saturating_mul(factor).min(max_ms))
}

/// Many holders that lost the same broker at once do not come back at once.
fn jittered(duration: Duration, factors: std::ops::RangeInclusive<f64>) -> Duration {
    duration.mul_f64(rand::random_range(factors))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn waits_grow_and_are_bounded() {
        for (failures, most) in [(1, 100), (2, 200), (3, 400), (7, 5_000), (1_000, 5_000)] {
            let wait = after_failures(failures, None);
            assert!(
                wait >= most / 2 * MS && wait <= most * MS,
                "{failures}: {wait:?}"
            );
        }
        for (useless, most) in [(0, 1_000), (1, 2_000), (6, 60_000), (64, 60_000)] {
            let wait = after_doubts(useless);
            assert!(
                wait >= most / 2 * MS && wait <= most * MS,
                "{useless}: {wait:?}"
            );
        }
    }

    #[test]
    fn the_broker_may_ask_for_more_patience_within_the_bound() {
        assert_eq!(after_failures(1, Some(2_000 * MS)), 2_000 * MS);
        assert_eq!(after_failures(1, Some(3_600_000 * MS)), 5_000 * MS);
        assert!(after_failures(30, Some(1 * MS)) >= 2_500 * MS);
    }

    #[test]
    fn renewal_comes_at_about_half() {
        for _ in 0..100 {
            let wait = until_renewal(1_000 * MS);
            assert!(wait >= 400 * MS && wait <= 600 * MS, "{wait:?}");
            let wait = until_renewal(3_600_000 * MS);
            assert!(wait >= 48_000 * MS && wait <= 60_000 * MS, "{wait:?}");
            assert!(until_renewal(1 * MS) >= 50 * MS);
        }
    }
}
