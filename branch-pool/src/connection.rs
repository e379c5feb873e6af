//! A checked-out connection, and what becomes of it when its work is given up.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use diesel_async::pooled_connection::deadpool::Object;
use diesel_async::{AsyncPgConnection, SimpleAsyncConnection};
use tokio::runtime::Handle;
use tokio::time::timeout;

use crate::error::chain;
use crate::generation::Generation;

/// How often Postgres is asked to stop what nobody waits for any more. More than
/// once: a request that overtakes its statement has no effect.
const CANCELS_MAX: u32 = 3;
/// How long one such request, or the end of the statement after it, may take.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection of the pool, an [`AsyncPgConnection`] to use with diesel-async
/// by `&mut`. Goes back to the pool when it is dropped. A future that uses it and
/// may be dropped half-way should go through [`begin`](Self::begin).
pub struct Connection {
    object: Object<AsyncPgConnection>,
    generation: Arc<Generation>,
}

impl Connection {
    pub(crate) fn new(object: Object<AsyncPgConnection>, generation: Arc<Generation>) -> Self {
        Self { object, generation }
    }

    /// The binding's generation that this connection belongs to.
    pub fn generation(&self) -> i64 {
        self.generation.number
    }

    /// Begins work that may be given up: a connection whose [`Work`] is dropped
    /// before it is [finished](Work::finish) is [discarded](Self::discard).
    pub fn begin(self) -> Work {
        Work {
            connection: Some(self),
        }
    }

    /// Takes the connection out of the pool. Postgres is asked to stop what it
    /// may be busy with, in the background; when it has stopped, the connection
    /// is closed, and only then does the pool open another in its place. Where
    /// Postgres does not stop for some seconds, or cannot be asked, the pool goes
    /// on without waiting, and the session lasts as long as its statement does.
    ///
    /// Outside a Tokio runtime nobody asks, and the last holds.
    pub fn discard(self) {
        let Ok(runtime) = Handle::try_current() else {
            drop(Object::take(self.object));
            return;
        };
        runtime.spawn(async move {
            let Self {
                mut object,
                generation,
            } = self;
            stop(&mut object, &generation).await;
            drop(Object::take(object));
        });
    }
}

impl Deref for Connection {
    type Target = AsyncPgConnection;

    fn deref(&self) -> &AsyncPgConnection {
        &self.object
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut AsyncPgConnection {
        &mut self.object
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("generation", &self.generation.number)
            .finish_non_exhaustive()
    }
}

/// A connection with work under way. Dropped before the work is
/// [finished](Self::finish), it is [discarded](Connection::discard).
#[must_use = "dropped at once, it costs the pool a connection"]
pub struct Work {
    /// `None` only while this is being finished or dropped.
    connection: Option<Connection>,
}

impl Work {
    /// Nothing is under way any more: the connection is as good as before.
    pub fn finish(mut self) -> Connection {
        self.connection.take().expect(TAKEN_ONCE)
    }
}

const TAKEN_ONCE: &str = "the connection is taken by finish and drop alone, which end the work";

impl Deref for Work {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.connection.as_ref().expect(TAKEN_ONCE)
    }
}

impl DerefMut for Work {
    fn deref_mut(&mut self) -> &mut Connection {
        self.connection.as_mut().expect(TAKEN_ONCE)
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.discard();
        }
    }
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Work")
            .field("connection", &self.connection)
            .finish()
    }
}

/// Has Postgres stop what the connection is busy with, and waits until it has.
async fn stop(connection: &mut AsyncPgConnection, generation: &Generation) {
    for _ in 0..CANCELS_MAX {
        match timeout(CANCEL_TIMEOUT, generation.cancel(connection)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::debug!(error = chain(&error), "could not ask Postgres to stop");
            }
            Err(_) => tracing::debug!("could not ask Postgres to stop in time"),
        }
        // Answered, well or not, once everything before it has been.
        if timeout(CANCEL_TIMEOUT, connection.batch_execute(""))
            .await
            .is_ok()
        {
            return;
        }
    }
    tracing::warn!(
        branch = generation.branch,
        "Postgres did not stop a statement that was given up"
    );
}
