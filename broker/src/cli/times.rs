//! Times and durations between command line, people and wire.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// A time as people read it, to the second.
pub(super) fn shown(time: prost_types::Timestamp) -> String {
    let time = Timestamp::new(time.seconds, 0);
    time.map(|time| time.to_string()).unwrap_or_default()
}

pub(super) fn wire(time: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: time.as_second(),
        nanos: time.subsec_nanosecond(),
    }
}

/// From one time to a later one.
pub(super) fn between(from: prost_types::Timestamp, to: prost_types::Timestamp) -> Duration {
    let nanos = |time: prost_types::Timestamp| {
        i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos)
    };
    let nanos = (nanos(to) - nanos(from)).max(0);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// Reads a duration like 720h.
pub(super) fn ttl(text: &str) -> Result<Duration, String> {
    let parsed: Option<SignedDuration> = text.parse().ok();
    parsed
        .and_then(|ttl| Duration::try_from(ttl).ok())
        .filter(|ttl| *ttl >= Duration::from_secs(1))
        .ok_or_else(|| "it is no duration of a second or more, as 720h and 1h 30m are".to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn times_come_back_as_they_were_given() {
        let time: Timestamp = "2026-03-01T09:00:00.5Z".parse().unwrap();
        assert_eq!(shown(wire(time)), "2026-03-01T09:00:00Z");
        let later = wire(time + SignedDuration::from_millis(700));
        assert_eq!(between(wire(time), later), Duration::from_millis(700));
        assert_eq!(between(later, wire(time)), Duration::ZERO);
    }

    #[test]
    fn a_ttl_is_a_second_or_more() {
        assert_eq!(ttl("1h 30m").unwrap(), Duration::from_secs(5_400));
        for bad in ["0s", "-5m", "5", "soon"] {
            assert!(ttl(bad).is_err(), "{bad}");
        }
    }
}
