//! A checked-out connection, and what becomes of it when its work is given up.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use diesel_async::AsyncPgConnection;
use diesel_async::pooled_connection::PoolableConnection;
use tokio::runtime::Handle;

use crate::generation::Generation;
use crate::session::{Object, Session, Urgency};
use crate::usage::User;

/// A connection of the pool, an [`AsyncPgConnection`] to use with diesel-async
/// by `&mut`. Goes back to the pool when it is dropped; while Postgres is busy with what
/// it was asked, it is [recovered](Self::recover). A future that reads many rows and may
/// be dropped half-way should go through [`begin`](Self::begin).
pub struct Connection {
    /// `None` only while this is being dropped.
    lent: Option<Lent>,
    generation: Arc<Generation>,
    /// What had been sent when it was checked out.
    written: u64,
    /// What had been sent when it was last handed out to ask something of.
    asked_at: Option<u64>,
    /// Whether its work is to be stopped when it is dropped.
    is_begun: bool,
}

/// What a connection gives back.
struct Lent {
    object: Object,
    /// Counted for as long as this is there.
    _user: User,
}

const LENT_UNTIL_DROP: &str = "a connection is lent until it is dropped";

impl Connection {
    pub(crate) fn new(object: Object, generation: Arc<Generation>, user: User) -> Self {
        Self {
            written: object.tap.written(),
            lent: Some(Lent {
                object,
                _user: user,
            }),
            generation,
            asked_at: None,
            is_begun: false,
        }
    }

    /// The binding's generation that this connection belongs to.
    pub fn generation(&self) -> i64 {
        self.generation.number
    }

    /// Whether nothing was sent since it was checked out: what has failed on it was not
    /// done, for certain. What is under way still may be sent in a moment.
    pub fn is_unused(&self) -> bool {
        self.session().tap.written() == self.written
    }

    /// Whether it is of no more use: closed, or left within a transaction.
    pub fn is_broken(&mut self) -> bool {
        self.session_mut().connection.is_broken()
    }

    /// Closes it, which has died: who comes next gets one that was opened after that.
    pub fn died(mut self) {
        self.session().died();
        if let Some(lent) = self.lent.take() {
            lent.close();
        }
    }

    /// Begins work that may be given up: a connection whose [`Work`] is dropped
    /// before it is [finished](Work::finish) is [recovered](Self::recover).
    pub fn begin(mut self) -> Work {
        self.is_begun = true;
        Work(self)
    }

    /// Gives a connection back that may be busy. Postgres is asked to stop, in the
    /// background; when it has answered, the pool has the connection again, and not
    /// before. Where Postgres does not stop for some seconds, cannot be asked, or stops
    /// within a transaction, the connection is closed and leaves the pool.
    ///
    /// Outside a Tokio runtime nobody asks, and it leaves the pool at once.
    pub fn recover(self) {
        drop(self.begin());
    }

    fn session(&self) -> &Session {
        &self.lent.as_ref().expect(LENT_UNTIL_DROP).object
    }

    fn session_mut(&mut self) -> &mut Session {
        &mut self.lent.as_mut().expect(LENT_UNTIL_DROP).object
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let Some(mut lent) = self.lent.take() else {
            return;
        };
        let tap = &lent.object.tap;
        // What was asked may be on its way to the socket still.
        let is_under_way = self.asked_at == Some(tap.written());
        let is_busy = is_under_way || (tap.is_asked() && tap.written() != self.written);
        if !self.is_begun && !is_busy {
            return;
        }
        // Nobody can be asked about what has ended.
        if lent.object.connection.is_broken() {
            return lent.close();
        }
        let Ok(runtime) = Handle::try_current() else {
            return lent.close();
        };
        let urgency = match self.is_begun {
            true => Urgency::Now,
            false => Urgency::Grace,
        };
        let branch = self.generation.branch.clone();
        runtime.spawn(async move {
            if !lent.object.stop(urgency).await {
                tracing::warn!(branch, "a connection whose work was given up is closed");
                lent.close();
            }
        });
    }
}

impl Lent {
    /// Closes it: the pool has it no more.
    fn close(self) {
        self.object.end();
        drop(Object::take(self.object));
    }
}

impl Deref for Connection {
    type Target = AsyncPgConnection;

    fn deref(&self) -> &AsyncPgConnection {
        &self.session().connection
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut AsyncPgConnection {
        self.asked_at = Some(self.session().tap.written());
        &mut self.session_mut().connection
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
/// [finished](Self::finish), it is [recovered](Connection::recover).
#[derive(Debug)]
#[must_use = "dropped at once, it costs Postgres a cancel request"]
pub struct Work(Connection);

impl Work {
    /// Nothing is under way any more: the connection is as good as before.
    pub fn finish(mut self) -> Connection {
        self.0.is_begun = false;
        self.0
    }
}

impl Deref for Work {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.0
    }
}

impl DerefMut for Work {
    fn deref_mut(&mut self) -> &mut Connection {
        &mut self.0
    }
}
