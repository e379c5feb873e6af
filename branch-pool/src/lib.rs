//! A connection pool that follows its branch: a binding in, a
//! [diesel-async](diesel_async) pool out.
//!
//! A service names the version it is (`users` `v1`) and the broker's address.
//! The pool asks the broker for a lease, connects as its connection URI says,
//! and in the background renews the lease and watches where it leads, for as
//! long as it lives. The service never sees a connection string and needs no
//! restart when it changes.
//!
//! ```no_run
//! use branch_pool::{Binding, BranchPool, Options};
//! use diesel_async::RunQueryDsl;
//!
//! diesel::table! {
//!     users (id) {
//!         id -> BigInt,
//!         name -> Text,
//!     }
//! }
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let pool = BranchPool::connect(
//!     "http://127.0.0.1:7431",
//!     Binding::new("users", "v1"),
//!     Options::default().holder("user-service@worker-3"),
//! )
//! .await?;
//!
//! let mut connection = pool.get().await?;
//! let everybody: Vec<(i64, String)> = users::table.load(&mut connection).await?;
//! # Ok(())
//! # }
//! ```
//!
//! What to count on:
//! - **The broker away**: the pool goes on working until the lease ends, and
//!   keeps trying with a back-off. [`BranchPool::state`] says so.
//! - **A switch** to another branch: the next one's connections are opened and
//!   acknowledged before anybody moves; when the broker says so, new checkouts use
//!   them, running ones finish on the old branch within
//!   [`Options::drain_timeout`], and what is beyond is ended. A next branch that
//!   cannot be used is refused, for all consumers.
//! - **Other credentials**, or a move during an outage of the broker: as soon as it is
//!   heard of, new checkouts use the new connection.
//! - **A pause**, while the branch is reset or restored in place, or a fence is put up:
//!   checkouts wait, until it is over, or its deadline, whatever became of the broker.
//! - **A connection that died** while it was idle is not handed out: it is dropped at
//!   checkout, without a query to find out. One that dies under its work: see
//!   [`BranchPool::run`], which does again what is safe to.
//! - **A branch that sleeps** is not woken but by checkouts, which wait for it. Idle
//!   connections are closed by and by ([`Options::idle_timeout`]).
//! - **Work that was given up** half-way: [`Connection::begin`] sees to it that
//!   Postgres stops, and that the connection is not handed out before it has.
//! - **TLS** as the URI asks, with libpq's meaning of `sslmode`, `sslrootcert`
//!   and `channel_binding`, on rustls.
//! - **Who calls**: with an `https://` address, TLS, and a client certificate or
//!   a token as [`Options::credentials`] says.
//! - **Secrets**: the connection URI is in no error, log line, state or Debug.

mod announcement;
mod backoff;
mod binding;
mod channels;
mod checkout;
mod clock;
mod connection;
mod dial;
mod error;
mod follower;
mod generation;
mod holding;
mod lease;
mod options;
mod patience;
mod reach;
mod session;
mod socket;
mod state;
mod target;
pub mod testing;
mod tls;
mod turns;
mod upkeep;
mod uri;
mod usage;
mod voice;
mod work;

use std::fmt;
use std::sync::Arc;

use tokio::sync::watch;

use crate::channels::{Channels, Current};
use crate::lease::Broker;
use crate::upkeep::Upkeep;
use crate::usage::Usage;

pub use crate::binding::{Binding, LeaseTarget};
pub use crate::checkout::Position;
pub use crate::connection::{Connection, Work};
pub use crate::error::{Error, LeaseError, UriError};
pub use crate::options::{Access, Options};
pub use crate::state::{Phase, PoolState};
pub use crate::work::{Effect, WorkError, Working};
pub use rpc::client::{Credentials, TargetError};

/// A pool of connections to the branch that a binding points at. Cloning is
/// cheap; all clones are one pool. Dropping the last one closes it as
/// [`close`](Self::close) does, without waiting.
#[derive(Clone)]
pub struct BranchPool {
    shared: Arc<Shared>,
}

struct Shared {
    target: LeaseTarget,
    options: Options,
    usage: Usage,
    current: watch::Receiver<Current>,
    state: watch::Receiver<PoolState>,
    closing: watch::Sender<bool>,
}

impl BranchPool {
    /// Gets a lease and makes a pool of it. Tries for as long as
    /// [`Options::acquire_timeout`] says; a refusal that waiting does not change
    /// (an unknown binding) ends it at once. Connections are opened when they
    /// are first asked for.
    ///
    /// Errors: [`Error::InvalidBrokerUrl`], [`Error::InvalidCredentials`],
    /// [`Error::FailedAcquire`].
    ///
    /// Panics outside a Tokio runtime.
    pub async fn connect(
        broker_url: &str,
        target: impl Into<LeaseTarget>,
        options: Options,
    ) -> Result<Self, Error> {
        let (pool, mut upkeep) = Self::assemble(broker_url, target.into(), options)?;
        upkeep.first_lease().await?;
        tokio::spawn(upkeep.run());
        Ok(pool)
    }

    /// Makes a pool at once and gets its lease in the background, however long
    /// that takes. Until then [`get`](Self::get) fails with [`Error::NotReady`].
    ///
    /// Errors: [`Error::InvalidBrokerUrl`], [`Error::InvalidCredentials`].
    ///
    /// Panics outside a Tokio runtime.
    pub fn spawn(
        broker_url: &str,
        target: impl Into<LeaseTarget>,
        options: Options,
    ) -> Result<Self, Error> {
        let (pool, upkeep) = Self::assemble(broker_url, target.into(), options)?;
        tokio::spawn(upkeep.run());
        Ok(pool)
    }

    /// Where the pool stands, now and whenever it changes.
    pub fn state(&self) -> watch::Receiver<PoolState> {
        self.shared.state.clone()
    }

    /// What its lease is for.
    pub fn target(&self) -> &LeaseTarget {
        &self.shared.target
    }

    /// Closes the pool for all its clones: no more checkouts, idle connections
    /// closed, the lease released (two seconds at most). Connections that are
    /// checked out go on until they are dropped, unless the broker takes their
    /// role away with the lease. Closing twice is no error.
    pub async fn close(&self) {
        self.shared.closing.send_replace(true);
        let mut state = self.state();
        // An error says that the upkeep is gone: as closed as can be.
        let _ = state
            .wait_for(|state| state.phase == Phase::Closed)
            .await
            .is_ok();
    }

    fn assemble(
        broker_url: &str,
        target: LeaseTarget,
        options: Options,
    ) -> Result<(Self, Upkeep), Error> {
        let broker = Broker::new(broker_url, target.clone(), options.clone())?;
        let (current, current_receiver) = watch::channel(Current::Waiting);
        let (state, state_receiver) = watch::channel(PoolState::default());
        let (closing, closing_receiver) = watch::channel(false);
        let channels = Channels {
            current,
            state,
            closing: closing_receiver,
        };
        let usage = Usage::new();
        let upkeep = Upkeep::new(
            broker,
            target.clone(),
            options.clone(),
            usage.clone(),
            channels,
        );
        let shared = Arc::new(Shared {
            target,
            options,
            usage,
            current: current_receiver,
            state: state_receiver,
            closing,
        });
        Ok((Self { shared }, upkeep))
    }
}

impl fmt::Debug for BranchPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BranchPool")
            .field("target", &self.shared.target)
            .field("state", &*self.shared.state.borrow())
            .finish_non_exhaustive()
    }
}
