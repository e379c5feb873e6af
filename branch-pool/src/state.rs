//! What a pool says about itself. No secrets.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::turns::Turns;

/// Where a pool stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Phase {
    /// No lease yet: checkouts fail with [`Error::NotReady`](crate::Error::NotReady).
    #[default]
    Connecting,
    /// A lease is held: checkouts work, whether or not the broker can be
    /// reached at the moment.
    Ready,
    /// A lease is held, and nobody has got a connection to its branch for some seconds:
    /// checkouts go on trying, and so does the pool by itself.
    Unreachable,
    /// The lease ended without another in its place: checkouts fail with
    /// [`Error::LeaseExpired`](crate::Error::LeaseExpired) until there is one. Of an
    /// ephemeral branch there is none any more.
    Expired,
    /// Closed for good.
    Closed,
}

/// What a pool says about itself, for health and metrics.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PoolState {
    /// Where it stands.
    pub phase: Phase,
    /// Resource name of the lease: `leases/…`. `None` before the first.
    pub lease: Option<String>,
    /// The binding's generation that its connections belong to. `None` before
    /// the first lease.
    pub generation: Option<i64>,
    /// When its connections began to be used.
    pub generation_began: Option<Instant>,
    /// The generation that is being made ready, or is, to be turned over to together
    /// with all other consumers.
    pub pending: Option<i64>,
    /// Until when checkouts are held back at most, all or those that may write.
    pub paused_until: Option<Instant>,
    /// How often new checkouts were turned over to another generation.
    pub turnovers: u64,
    /// Resource name of the branch: `branches/br-quiet-frost-a1b2c3d4`. `None`
    /// before the first lease.
    pub branch: Option<String>,
    /// When the lease ends unless it is renewed, by the broker's clock. `None`
    /// before the first lease.
    pub expire_time: Option<SystemTime>,
    /// The last thing that went wrong with the lease or with opening a
    /// connection. `None` once a call to the broker has succeeded after it, unless the
    /// branch is [unreachable](Phase::Unreachable).
    pub last_error: Option<String>,
    /// Connections open. This one and the next two are looked at once a second.
    pub size: usize,
    /// Connections open and not in use.
    pub available: usize,
    /// Checkouts waiting.
    pub waiting: usize,
}

impl PoolState {
    /// How long its generation has been in use.
    pub fn generation_age(&self) -> Option<Duration> {
        self.generation_began.map(|began| began.elapsed())
    }

    /// As of now.
    pub(crate) fn of(turns: &Turns, last_error: Option<String>) -> Self {
        let (lease, generation) = (turns.lease(), turns.generation());
        let unreachable = generation.and_then(|generation| generation.unreachable());
        let unreachable = unreachable.filter(|_| !turns.is_held_back());
        let phase = match lease {
            None => Phase::Connecting,
            Some(lease) if Instant::now() >= lease.expires_at => Phase::Expired,
            Some(_) if unreachable.is_some() => Phase::Unreachable,
            Some(_) => Phase::Ready,
        };
        let sizes = generation.map(|generation| generation.sizes());
        let sizes = sizes.unwrap_or_default();
        Self {
            phase,
            lease: lease.map(|lease| lease.name.clone()),
            generation: generation.map(|generation| generation.number),
            generation_began: turns.began(),
            pending: turns.pending(),
            paused_until: turns.hold().map(|hold| hold.until),
            turnovers: turns.turnovers(),
            branch: generation.map(|generation| generation.branch.clone()),
            expire_time: lease.map(|lease| lease.expire_time),
            last_error: last_error.or(unreachable),
            size: sizes.size,
            available: sizes.available,
            waiting: sizes.waiting,
        }
    }
}
