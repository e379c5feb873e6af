//! What a pool says about itself. No secrets.

use std::time::SystemTime;

use tokio::time::Instant;

use crate::generation::Generation;
use crate::lease::Lease;

/// Where a pool stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Phase {
    /// No lease yet: checkouts fail with [`Error::NotReady`](crate::Error::NotReady).
    #[default]
    Connecting,
    /// A lease is held: checkouts work, whether or not the broker can be
    /// reached at the moment.
    Ready,
    /// The lease ended without another in its place: checkouts fail with
    /// [`Error::LeaseExpired`](crate::Error::LeaseExpired) until there is one.
    Expired,
    /// Closed for good.
    Closed,
}

/// What a pool says about itself, for health and metrics.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PoolState {
    /// Where it stands.
    pub phase: Phase,
    /// The binding's generation that its connections belong to. `None` before
    /// the first lease.
    pub generation: Option<i64>,
    /// Resource name of the branch: `branches/br-quiet-frost-a1b2c3d4`. `None`
    /// before the first lease.
    pub branch: Option<String>,
    /// When the lease ends unless it is renewed, by the broker's clock. `None`
    /// before the first lease.
    pub expire_time: Option<SystemTime>,
    /// The last thing that went wrong with the lease or with opening a
    /// connection. `None` once a call to the broker has succeeded after it.
    pub last_error: Option<String>,
    /// Connections open. This one and the next two are looked at once a second.
    pub size: usize,
    /// Connections open and not in use.
    pub available: usize,
    /// Checkouts waiting.
    pub waiting: usize,
}

impl PoolState {
    /// The state with this lease and this generation, as of now.
    pub(crate) fn of(
        lease: Option<&Lease>,
        generation: Option<&Generation>,
        last_error: Option<String>,
    ) -> Self {
        let phase = match lease {
            None => Phase::Connecting,
            Some(lease) if Instant::now() < lease.expires_at => Phase::Ready,
            Some(_) => Phase::Expired,
        };
        let status = generation.map(|generation| generation.pool.status());
        Self {
            phase,
            generation: generation.map(|generation| generation.number),
            branch: generation.map(|generation| generation.branch.clone()),
            expire_time: lease.map(|lease| lease.expire_time),
            last_error,
            size: status.map_or(0, |status| status.size),
            available: status.map_or(0, |status| status.available),
            waiting: status.map_or(0, |status| status.waiting),
        }
    }
}
