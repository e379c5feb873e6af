//! This machine's clock against the database's. Leases end by this one's; brokers
//! that share a database have to agree on when that is.

use jiff::Timestamp;
use rpc::clock::Clock;

use super::{Shared, milliseconds};

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
