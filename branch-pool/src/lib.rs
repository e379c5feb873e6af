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
//! - **A new connection** (the binding moved to another branch, credentials
//!   rotated): as soon as the broker announces it, new checkouts use it and
//!   running ones finish on the old one. A move during an outage of the broker
//!   is heard of when that ends.
//! - **A connection that died** while it was idle is not handed out: it is
//!   dropped at checkout, without a query to find out.
//! - **Work that was given up** half-way: [`Connection::begin`] sees to it that
//!   the connection is not handed out while it is busy, and that Postgres stops.
//! - **TLS** as the URI asks, with libpq's meaning of `sslmode`, `sslrootcert`
//!   and `channel_binding`, on rustls.
//! - **Who calls**: with an `https://` address, TLS, and a client certificate or
//!   a token as [`Options::credentials`] says.
//! - **Secrets**: the connection URI is in no error, log line, state or Debug.

mod backoff;
mod binding;
mod channels;
mod clock;
mod connection;
mod error;
mod follower;
mod generation;
mod holding;
mod lease;
mod options;
mod state;
mod target;
mod tls;
mod upkeep;
mod uri;

use std::fmt;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::channels::{Channels, Current};
use crate::generation::{Generation, checkout_error};
use crate::lease::Broker;
use crate::upkeep::Upkeep;

pub use crate::binding::Binding;
pub use crate::connection::{Connection, Work};
pub use crate::error::{Error, LeaseError, UriError};
pub use crate::options::{Access, Options};
pub use crate::state::{Phase, PoolState};
pub use rpc::client::{Credentials, TargetError};

/// How many generations a checkout that waits may see go by.
const TURNOVERS_MAX: usize = 8;

/// A pool of connections to the branch that a binding points at. Cloning is
/// cheap; all clones are one pool. Dropping the last one closes it as
/// [`close`](Self::close) does, without waiting.
#[derive(Clone)]
pub struct BranchPool {
    shared: Arc<Shared>,
}

struct Shared {
    binding: Binding,
    options: Options,
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
        binding: Binding,
        options: Options,
    ) -> Result<Self, Error> {
        let (pool, mut upkeep) = Self::assemble(broker_url, binding, options)?;
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
    pub fn spawn(broker_url: &str, binding: Binding, options: Options) -> Result<Self, Error> {
        let (pool, upkeep) = Self::assemble(broker_url, binding, options)?;
        tokio::spawn(upkeep.run());
        Ok(pool)
    }

    /// Checks a connection out: an idle one if there is any, else a new one,
    /// else the first to come free. It goes back when it is dropped.
    ///
    /// Errors: [`Error::NotReady`], [`Error::LeaseExpired`], [`Error::Closed`]
    /// at once; [`Error::CheckoutTimeout`], [`Error::ConnectTimeout`],
    /// [`Error::FailedConnect`].
    pub async fn get(&self) -> Result<Connection, Error> {
        for _ in 0..TURNOVERS_MAX {
            let generation = self.generation()?;
            match generation.pool.get().await {
                Ok(object) => {
                    return Ok(Connection::new(object, generation));
                }
                Err(error) => {
                    let shared = &self.shared;
                    if let Some(error) = checkout_error(error, &shared.binding, &shared.options) {
                        return Err(error);
                    }
                    // Turned over while this checkout waited: the next one.
                }
            }
        }
        Err(self.closed())
    }

    /// Where the pool stands, now and whenever it changes.
    pub fn state(&self) -> watch::Receiver<PoolState> {
        self.shared.state.clone()
    }

    /// The binding that this pool is for.
    pub fn binding(&self) -> &Binding {
        &self.shared.binding
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
        binding: Binding,
        options: Options,
    ) -> Result<(Self, Upkeep), Error> {
        let broker = Broker::new(broker_url, binding.clone(), options.clone())?;
        let (current, current_receiver) = watch::channel(Current::Waiting);
        let (state, state_receiver) = watch::channel(PoolState::default());
        let (closing, closing_receiver) = watch::channel(false);
        let channels = Channels {
            current,
            state,
            closing: closing_receiver,
        };
        let upkeep = Upkeep::new(broker, binding.clone(), options.clone(), channels);
        let shared = Arc::new(Shared {
            binding,
            options,
            current: current_receiver,
            state: state_receiver,
            closing,
        });
        Ok((Self { shared }, upkeep))
    }

    fn generation(&self) -> Result<Arc<Generation>, Error> {
        let last_error = || self.shared.state.borrow().last_error.clone();
        match &*self.shared.current.borrow() {
            Current::Leased {
                generation,
                expires_at,
                ..
            } if Instant::now() < *expires_at => Ok(Arc::clone(generation)),
            Current::Leased { expire_time, .. } => Err(Error::LeaseExpired {
                binding: self.shared.binding.clone(),
                expire_time: *expire_time,
                last_error: last_error(),
            }),
            Current::Waiting => Err(Error::NotReady {
                binding: self.shared.binding.clone(),
                last_error: last_error(),
            }),
            Current::Closed => Err(self.closed()),
        }
    }

    fn closed(&self) -> Error {
        Error::Closed {
            binding: self.shared.binding.clone(),
        }
    }
}

impl fmt::Debug for BranchPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BranchPool")
            .field("binding", &self.shared.binding)
            .field("state", &*self.shared.state.borrow())
            .finish_non_exhaustive()
    }
}
