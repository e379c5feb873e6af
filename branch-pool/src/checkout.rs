//! Checking connections out.

use std::sync::Arc;
use std::time::Duration;

use deadpool::managed::{PoolError, TimeoutType};
use diesel::sql_types::{Bool, Text};
use diesel::{QueryResult, QueryableByName};
use diesel_async::RunQueryDsl;
use tokio::time::{Instant, sleep, timeout};

use crate::channels::Current;
use crate::generation::Generation;
use crate::patience::Patience;
use crate::session::Object;
use crate::target::{ConnectFailure, FailureKind};
use crate::usage::{Hold, Purpose};
use crate::{BranchPool, Connection, Error};

/// How many generations a checkout that waits may see go by.
const TURNOVERS_MAX: usize = 8;

/// The first wait for a replica to catch up, in microseconds; each next one is twice
/// as long.
const CATCH_UP_US_MIN: u64 = 500;

/// How far a primary had come: what is committed before is there for who reads at or
/// after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    generation: i64,
    /// A place in Postgres's log, as `pg_lsn` prints it.
    lsn: String,
}

impl BranchPool {
    /// Checks a connection out, for anything: an idle one if there is any, else a new
    /// one, else the first to come free. It goes back when it is dropped.
    ///
    /// While the binding is paused (its branch is being reset, say) it waits for the
    /// end of the pause, and while nobody answers at the branch, which may be waking
    /// up, for [`connect_timeout`](crate::Options::connect_timeout). Callers with less
    /// time drop the future.
    ///
    /// Errors: [`Error::NotReady`], [`Error::LeaseExpired`], [`Error::Closed`]
    /// at once; [`Error::CheckoutTimeout`], [`Error::ConnectTimeout`],
    /// [`Error::FailedConnect`].
    pub async fn get(&self) -> Result<Connection, Error> {
        self.primary().await
    }

    /// The same as [`get`](Self::get): a connection to the branch's read-write
    /// endpoint.
    pub async fn primary(&self) -> Result<Connection, Error> {
        self.checkout(Purpose::Any).await
    }

    /// Checks a connection out to read with: to the branch's read-only endpoint, if
    /// it has one that can be reached, else to the primary. A read-only endpoint may
    /// be behind by a moment: see [`replica_at`](Self::replica_at). A pause that is
    /// only for writers does not hold it up.
    ///
    /// Errors: as [`get`](Self::get).
    pub async fn replica(&self) -> Result<Connection, Error> {
        self.checkout(Purpose::Read).await
    }

    /// Checks a connection out that sees what was committed at a
    /// [`position`](Connection::position), to read one's own writes with: one to the
    /// read-only endpoint that has come as far within
    /// [`replica_wait`](crate::Options::replica_wait), else to the primary.
    ///
    /// Errors: as [`get`](Self::get).
    pub async fn replica_at(&self, position: &Position) -> Result<Connection, Error> {
        let mut connection = self.replica().await?;
        let limit = self.shared.options.replica_wait;
        match timeout(limit, connection.catch_up(position)).await {
            Ok(Ok(true)) => return Ok(connection),
            Ok(_) => drop(connection),
            Err(_) => connection.recover(),
        }
        self.checkout(Purpose::Fresh).await
    }

    pub(crate) async fn checkout(&self, purpose: Purpose) -> Result<Connection, Error> {
        let shared = &self.shared;
        let mut patience = Patience::new(shared.options.connect_timeout);
        let mut turnovers = 0;
        loop {
            // Counted before it is looked whether there is a pause, so that who
            // announces one either sees this or is seen.
            let user = shared.usage.enter(purpose);
            let (generation, hold) = self.generation()?;
            if let Some((hold, left)) = hold.and_then(|hold| Some((hold, hold.left(purpose)?))) {
                drop(user);
                self.held(hold, left).await;
                // That was no wait for the branch to wake up.
                patience = Patience::new(shared.options.connect_timeout);
                continue;
            }
            match session(&generation, purpose).await {
                Ok(object) => return Ok(Connection::new(object, generation, user)),
                // Turned over while this checkout waited: the next one.
                Err(PoolError::Closed) if turnovers < TURNOVERS_MAX => turnovers += 1,
                Err(PoolError::Backend(failure))
                    if failure.kind == FailureKind::Closed && turnovers < TURNOVERS_MAX =>
                {
                    turnovers += 1;
                }
                Err(PoolError::Backend(failure)) if failure.kind == FailureKind::Silent => {
                    return Err(Error::ConnectTimeout {
                        target: shared.target.clone(),
                        waited: shared.options.connect_timeout,
                    });
                }
                Err(PoolError::Backend(failure)) => {
                    drop(user);
                    if !patience.again(&failure).await {
                        return Err(Error::FailedConnect {
                            target: shared.target.clone(),
                            reason: failure.reason,
                        });
                    }
                }
                Err(error) => return Err(self.refused(error)),
            }
        }
    }

    /// Waits until a pause is over, or its time.
    async fn held(&self, hold: Hold, left: Duration) {
        let mut current = self.shared.current.clone();
        let gone = current.wait_for(|current| match current {
            Current::Leased { hold: now, .. } => *now != Some(hold),
            Current::Waiting | Current::Closed => true,
        });
        // An error: the upkeep is gone, and what is looked at next says so.
        let _ = timeout(left, gone).await.is_ok();
    }

    fn generation(&self) -> Result<(Arc<Generation>, Option<Hold>), Error> {
        let last_error = || self.shared.state.borrow().last_error.clone();
        let target = || self.shared.target.clone();
        match &*self.shared.current.borrow() {
            Current::Leased {
                generation,
                expires_at,
                hold,
                ..
            } if Instant::now() < *expires_at => Ok((Arc::clone(generation), *hold)),
            Current::Leased { expire_time, .. } => Err(Error::LeaseExpired {
                target: target(),
                expire_time: *expire_time,
                last_error: last_error(),
            }),
            Current::Waiting => Err(Error::NotReady {
                target: target(),
                last_error: last_error(),
            }),
            Current::Closed => Err(Error::Closed { target: target() }),
        }
    }

    fn refused(&self, error: PoolError<ConnectFailure>) -> Error {
        let (target, options) = (self.shared.target.clone(), &self.shared.options);
        match error {
            PoolError::Closed => Error::Closed { target },
            PoolError::Timeout(TimeoutType::Wait) => Error::CheckoutTimeout {
                target,
                waited: options.wait_timeout,
            },
            error @ (PoolError::Timeout(TimeoutType::Create | TimeoutType::Recycle)
            | PoolError::Backend(_)
            | PoolError::NoRuntimeSpecified
            | PoolError::PostCreateHook(_)) => Error::FailedConnect {
                target,
                reason: error.to_string(),
            },
        }
    }
}

impl Connection {
    /// How far the primary has come, for [`BranchPool::replica_at`]. To be asked after
    /// the commit.
    ///
    /// Errors: the query's; on a connection to a read-only endpoint, always.
    pub async fn position(&mut self) -> QueryResult<Position> {
        let row: Lsn = diesel::sql_query("SELECT pg_current_wal_lsn()::text AS lsn")
            .get_result(&mut **self)
            .await?;
        Ok(Position {
            generation: self.generation(),
            lsn: row.lsn,
        })
    }

    /// Waits until this connection's server has come as far: false when it never will,
    /// since it is another branch's by now.
    async fn catch_up(&mut self, position: &Position) -> QueryResult<bool> {
        if self.generation() != position.generation {
            return Ok(false);
        }
        let mut wait = Duration::from_micros(CATCH_UP_US_MIN);
        loop {
            // A primary replays nothing, though it tells where a recovery before has ended.
            let row: Reached = diesel::sql_query(
                "SELECT NOT pg_is_in_recovery() \
                 OR coalesce(pg_last_wal_replay_lsn() >= $1::pg_lsn, false) AS reached",
            )
            .bind::<Text, _>(&position.lsn)
            .get_result(&mut **self)
            .await?;
            if row.reached {
                return Ok(true);
            }
            sleep(wait).await;
            wait *= 2;
        }
    }
}

#[derive(QueryableByName)]
struct Lsn {
    #[diesel(sql_type = Text)]
    lsn: String,
}

#[derive(QueryableByName)]
struct Reached {
    #[diesel(sql_type = Bool)]
    reached: bool,
}

async fn session(
    generation: &Generation,
    purpose: Purpose,
) -> Result<Object, PoolError<ConnectFailure>> {
    if purpose == Purpose::Read
        && let Some(object) = generation.replica().await?
    {
        return Ok(object);
    }
    generation.primary().await
}
