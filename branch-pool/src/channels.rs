//! What the upkeep tells checkouts and the world, and how it is told to stop.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::PoolState;
use crate::generation::Generation;
use crate::usage::Hold;

/// What checkouts use.
#[derive(Debug, Clone)]
pub(crate) enum Current {
    /// There was no lease yet.
    Waiting,
    /// This generation, until the lease ends.
    Leased {
        generation: Arc<Generation>,
        expires_at: Instant,
        expire_time: SystemTime,
        /// While checkouts are to wait.
        hold: Option<Hold>,
    },
    /// Nothing, for good.
    Closed,
}

/// What the upkeep tells and is told.
pub(crate) struct Channels {
    pub(crate) current: watch::Sender<Current>,
    pub(crate) state: watch::Sender<PoolState>,
    /// True, or its sender dropped: time to stop.
    pub(crate) closing: watch::Receiver<bool>,
}
