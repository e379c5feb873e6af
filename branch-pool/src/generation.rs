//! One generation of a pool: the sessions of one connection.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use deadpool::managed::PoolError;
use futures_util::future::try_join_all;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use crate::Options;
use crate::error::UriError;
use crate::lease::Destination;
use crate::patience::Patience;
use crate::reach::Reach;
use crate::session::{Connector, Life, Object, Pool};
use crate::target::{ConnectFailure, Target};

/// The pool's size when neither the holder nor the broker names one.
const SIZE_DEFAULT: usize = 10;

/// How long a session of the read-only endpoint is waited for: the primary has the same.
const REPLICA_TIMEOUT: Duration = Duration::from_secs(1);
/// For how long it is passed over then: each read would wait for it otherwise.
const REPLICA_PAUSE: Duration = Duration::from_secs(5);

/// How long the pool's own attempt may take: a branch that wakes up needs less.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);
/// For how long attempts to connect have to fail before it is said that nobody can: a
/// Postgres that is started again takes less.
const UNREACHABLE_AFTER: Duration = Duration::from_secs(3);

/// One generation: its pools open sessions when they are first asked for.
pub(crate) struct Generation {
    pub(crate) number: i64,
    /// Resource name of the branch.
    pub(crate) branch: String,
    primary: Pool,
    /// How it goes with opening sessions of the primary.
    reach: Arc<Reach>,
    /// Where the branch has a read-only endpoint.
    replica: Option<Replica>,
    uri: SecretString,
    replica_uri: Option<SecretString>,
    life: Life,
}

/// The sessions of a read-only endpoint.
struct Replica {
    pool: Pool,
    /// Until then nobody tries it.
    passed_over: Mutex<Option<Instant>>,
}

/// How many sessions there are.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sizes {
    pub(crate) size: usize,
    pub(crate) available: usize,
    pub(crate) waiting: usize,
}

impl Generation {
    /// Makes the pools of a destination. Failures to connect that put the lease in
    /// doubt are reported to `doubts`.
    ///
    /// Errors: a URI that cannot be used.
    pub(crate) fn open(
        destination: &Destination,
        options: &Options,
        doubts: mpsc::Sender<String>,
    ) -> Result<Self, UriError> {
        let life = Life::new();
        let size = size(destination, options);
        let reach = Arc::<Reach>::default();
        let pool = |uri: &SecretString, doubts, reach| {
            let target = Arc::new(Target::parse(uri, options)?);
            let life = life.clone();
            Ok(Connector::pool(target, life, doubts, reach, size, options))
        };
        let replica = destination.replica_uri.as_ref().map(|uri| {
            // Whoever cannot reach it goes to the primary: no reason to doubt the lease.
            pool(uri, mpsc::channel(1).0, Arc::default())
        });
        Ok(Self {
            number: destination.generation,
            branch: destination.branch.clone(),
            primary: pool(&destination.uri, doubts, Arc::clone(&reach))?,
            reach,
            replica: replica.transpose()?.map(Replica::new),
            uri: destination.uri.clone(),
            replica_uri: destination.replica_uri.clone(),
            life,
        })
    }

    /// A session of the primary.
    pub(crate) async fn primary(&self) -> Result<Object, PoolError<ConnectFailure>> {
        self.primary.get().await
    }

    /// A session of the read-only endpoint. `None`: there is no endpoint, or nobody has
    /// answered there for a moment.
    ///
    /// Errors: [`PoolError::Closed`].
    pub(crate) async fn replica(&self) -> Result<Option<Object>, PoolError<ConnectFailure>> {
        let Some(replica) = &self.replica else {
            return Ok(None);
        };
        let now = Instant::now();
        if replica.passed_over_until().is_some_and(|until| now < until) {
            return Ok(None);
        }
        let error = match timeout(REPLICA_TIMEOUT, replica.pool.get()).await {
            Ok(Ok(object)) => return Ok(Some(object)),
            Ok(Err(PoolError::Closed)) => return Err(PoolError::Closed),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {REPLICA_TIMEOUT:?}"),
        };
        tracing::debug!(error, "reading from the primary for a while: no replica");
        replica.pass_over(Instant::now() + REPLICA_PAUSE);
        Ok(None)
    }

    /// Opens sessions until there are as many as `wanted`, one at least and no more
    /// than there may be, so that who comes next finds them.
    ///
    /// Errors: why one cannot be opened, for people.
    pub(crate) async fn warm(&self, wanted: usize, options: &Options) -> Result<(), String> {
        // None at all may be open any more in one that was closed meanwhile.
        let wanted = wanted.min(self.primary.status().max_size).max(1);
        let mut patience = Patience::new(options.connect_timeout);
        loop {
            // All of them at once, or the first is handed out again.
            let Err(error) = try_join_all((0..wanted).map(|_| self.primary())).await else {
                return Ok(());
            };
            match error {
                PoolError::Backend(failure) if patience.again(&failure).await => {}
                PoolError::Backend(failure) => return Err(failure.reason),
                error => return Err(error.to_string()),
            }
        }
    }

    /// True when the destination is where this generation's sessions lead.
    pub(crate) fn serves(&self, destination: &Destination) -> bool {
        let same =
            |one: &SecretString, other: &SecretString| one.expose_secret() == other.expose_secret();
        let same_replica = match (&self.replica_uri, &destination.replica_uri) {
            (Some(one), Some(other)) => same(one, other),
            (None, None) => true,
            _ => false,
        };
        self.number == destination.generation && same(&self.uri, &destination.uri) && same_replica
    }

    /// Why nobody can connect, where that has been so for a while.
    pub(crate) fn unreachable(&self) -> Option<String> {
        let failing = self.reach.failing()?;
        let is_long = failing.since.elapsed() >= UNREACHABLE_AFTER;
        (is_long && self.primary.status().size == 0).then_some(failing.reason)
    }

    /// Whether nobody has got a connection who wanted one, and none is left.
    pub(crate) fn is_doubtful(&self) -> bool {
        self.reach.is_doubtful() && self.primary.status().size == 0
    }

    /// What has failed so far counts no more: nobody expects a connection.
    pub(crate) fn forget_failures(&self) {
        self.reach.forget();
    }

    /// Tries to get a connection, for so long at most, so that it is known whether
    /// anybody can. It is there for who comes next.
    pub(crate) async fn attempt(&self) {
        let begun = self.reach.attempt();
        match timeout(ATTEMPT_TIMEOUT, self.primary()).await {
            // How it went is noted where it happened.
            Ok(_) => begun.given_up(),
            Err(_) => begun.failed(&format!("no answer within {ATTEMPT_TIMEOUT:?}")),
        }
    }

    /// Follows a limit that changed while the connection did not.
    pub(crate) fn resize(&self, destination: &Destination, options: &Options) {
        let size = size(destination, options);
        for pool in self.pools() {
            if pool.status().max_size != size {
                pool.resize(size);
            }
        }
    }

    /// Closes sessions that nobody has needed for so long, and those that have died.
    pub(crate) fn close_idle(&self, idle_max: Duration) {
        // While there are sessions, that there are no more of them is no news; nor is it
        // when they come to rest.
        if self.primary.status().size > 0 {
            self.reach.forget();
        }
        for pool in self.pools() {
            // Dropped when this one is, which is after the pool's lock.
            let _closed = pool.retain(|session, metrics| {
                metrics.last_used() < idle_max && session.tap.is_quiet()
            });
        }
    }

    /// No more checkouts: idle sessions are closed now, the others when they return.
    pub(crate) fn close(&self) {
        self.life.closed.cancel();
        for pool in self.pools() {
            pool.close();
        }
    }

    /// Closes, waits until the last session has returned, for so long at most, and ends
    /// those that have not.
    pub(crate) async fn drain(&self, bound: Duration) {
        self.close();
        if timeout(bound, self.life.sessions.wait()).await.is_err() {
            tracing::warn!(
                generation = self.number,
                branch = self.branch,
                sessions = self.life.sessions.len(),
                "ending what still runs on an older generation"
            );
            self.life.ended.cancel();
            self.life.sessions.wait().await;
        }
    }

    /// How many sessions there are.
    pub(crate) fn sizes(&self) -> Sizes {
        let mut sizes = Sizes::default();
        for pool in self.pools() {
            let status = pool.status();
            sizes.size += status.size;
            sizes.available += status.available;
            sizes.waiting += status.waiting;
        }
        sizes
    }

    fn pools(&self) -> impl Iterator<Item = &Pool> {
        let replica = self.replica.as_ref().map(|replica| &replica.pool);
        std::iter::once(&self.primary).chain(replica)
    }
}

impl Replica {
    fn new(pool: Pool) -> Self {
        Self {
            pool,
            passed_over: Mutex::default(),
        }
    }

    fn passed_over_until(&self) -> Option<Instant> {
        *self
            .passed_over
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn pass_over(&self, until: Instant) {
        *self
            .passed_over
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(until);
    }
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generation")
            .field("number", &self.number)
            .field("uri", &"[redacted]")
            .finish_non_exhaustive()
    }
}

fn size(destination: &Destination, options: &Options) -> usize {
    let wanted = options.max_size.map(|size| size.max(1));
    match (wanted, destination.connection_limit) {
        (Some(wanted), Some(limit)) => wanted.min(limit),
        (Some(size), None) | (None, Some(size)) => size,
        (None, None) => SIZE_DEFAULT,
    }
}
