//! How a pool is to be.

use std::env;
use std::path::Path;
use std::time::Duration;

use rpc::client::Credentials;

/// What the pool's connections may do on the branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Access {
    /// SELECT, INSERT, UPDATE and DELETE on the service's tables.
    #[default]
    ReadWrite,
    /// SELECT on the service's tables.
    ReadOnly,
    /// All that the schema's owner may, so that migrations can run: on an ephemeral
    /// branch alone.
    Ddl,
}

/// How a pool is to be. Start from [`Options::default`] and set what differs.
///
/// ```
/// use std::time::Duration;
/// use branch_pool::{Access, Options};
///
/// let options = Options::default()
///     .holder("billing@worker-3")
///     .access(Access::ReadOnly)
///     .wait_timeout(Duration::from_secs(2));
/// assert_eq!(options.max_size, None);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// What the connections may do. Default: read and write.
    pub access: Access,
    /// How long a lease to ask for; the broker may grant less. Default: `None`,
    /// the broker's own default.
    pub ttl: Option<Duration>,
    /// True to connect through the branch's pooler. Default: false.
    pub pooled: bool,
    /// The most connections to keep open. The lease's own limit holds as well:
    /// the smaller of the two counts. Default: `None`, the lease's limit.
    pub max_size: Option<usize>,
    /// How this holder is called in Postgres's `application_name`, and in the
    /// broker's list of leases if the broker does not know who calls. Default: the program's name and process
    /// id, `user-service/4711`.
    pub holder: String,
    /// How long opening one connection to Postgres may take, from the name's
    /// look-up to the end of authentication; and for how long a checkout goes on trying
    /// where nobody answers. Default: 10 s, which a branch that has to wake up first
    /// stays under.
    pub connect_timeout: Duration,
    /// How long one attempt at the work of [`run`](crate::BranchPool::run) may take,
    /// once it has its connection. Default: 15 s.
    pub work_timeout: Duration,
    /// How long what runs may take to finish after new checkouts were turned over to
    /// another generation; then it is ended. Longer than the longest deadline of the
    /// service's calls, and shorter than the broker keeps a role that was left (60 s).
    /// Default: 45 s.
    pub drain_timeout: Duration,
    /// How long a connection rests that nobody needs before it is closed: shorter than
    /// a branch goes without queries before it is suspended, or a firewall forgets it
    /// (Neon: 5 minutes). Default: 2 minutes.
    pub idle_timeout: Duration,
    /// How old a connection gets, less up to a fifth. What it has prepared goes with
    /// it: Diesel keeps every statement that it has once prepared, of which a program
    /// has a fixed set, unless it makes SQL at run time. Default: 30 minutes.
    pub max_age: Duration,
    /// How long [`replica_at`](crate::BranchPool::replica_at) waits for a read-only
    /// endpoint to catch up. Default: 200 ms.
    pub replica_wait: Duration,
    /// How long a checkout waits for a connection to come free when all are in
    /// use. Zero: not at all. Default: 5 s.
    pub wait_timeout: Duration,
    /// How long [`BranchPool::connect`](crate::BranchPool::connect) goes on
    /// trying for its first lease; it begins no attempt after that. Default:
    /// 30 s.
    pub acquire_timeout: Duration,
    /// The deadline of one call to the broker. Default: 10 s.
    pub call_timeout: Duration,
    /// What is shown to the broker, and what its certificate has to be: files,
    /// read again at each new connection. Default: nothing, which does for a
    /// broker on this machine.
    pub credentials: Credentials,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            access: Access::default(),
            ttl: None,
            pooled: false,
            max_size: None,
            holder: default_holder(),
            connect_timeout: Duration::from_secs(10),
            work_timeout: Duration::from_secs(15),
            drain_timeout: Duration::from_secs(45),
            idle_timeout: Duration::from_secs(120),
            max_age: Duration::from_secs(30 * 60),
            replica_wait: Duration::from_millis(200),
            wait_timeout: Duration::from_secs(5),
            acquire_timeout: Duration::from_secs(30),
            call_timeout: Duration::from_secs(10),
            credentials: Credentials::default(),
        }
    }
}

impl Options {
    /// Sets [`access`](Self::access).
    #[must_use]
    pub fn access(mut self, access: Access) -> Self {
        self.access = access;
        self
    }

    /// Sets [`ttl`](Self::ttl).
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Sets [`pooled`](Self::pooled).
    #[must_use]
    pub fn pooled(mut self, pooled: bool) -> Self {
        self.pooled = pooled;
        self
    }

    /// Sets [`max_size`](Self::max_size), 1 at least.
    #[must_use]
    pub fn max_size(mut self, max_size: usize) -> Self {
        self.max_size = Some(max_size.max(1));
        self
    }

    /// Sets [`holder`](Self::holder).
    #[must_use]
    pub fn holder(mut self, holder: impl Into<String>) -> Self {
        self.holder = holder.into();
        self
    }

    /// Sets [`connect_timeout`](Self::connect_timeout).
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets [`work_timeout`](Self::work_timeout).
    #[must_use]
    pub fn work_timeout(mut self, timeout: Duration) -> Self {
        self.work_timeout = timeout;
        self
    }

    /// Sets [`drain_timeout`](Self::drain_timeout).
    #[must_use]
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.drain_timeout = timeout;
        self
    }

    /// Sets [`idle_timeout`](Self::idle_timeout).
    #[must_use]
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle_timeout = timeout;
        self
    }

    /// Sets [`max_age`](Self::max_age).
    #[must_use]
    pub fn max_age(mut self, max_age: Duration) -> Self {
        self.max_age = max_age;
        self
    }

    /// Sets [`replica_wait`](Self::replica_wait).
    #[must_use]
    pub fn replica_wait(mut self, replica_wait: Duration) -> Self {
        self.replica_wait = replica_wait;
        self
    }

    /// Sets [`wait_timeout`](Self::wait_timeout).
    #[must_use]
    pub fn wait_timeout(mut self, timeout: Duration) -> Self {
        self.wait_timeout = timeout;
        self
    }

    /// Sets [`acquire_timeout`](Self::acquire_timeout).
    #[must_use]
    pub fn acquire_timeout(mut self, timeout: Duration) -> Self {
        self.acquire_timeout = timeout;
        self
    }

    /// Sets [`call_timeout`](Self::call_timeout).
    #[must_use]
    pub fn call_timeout(mut self, timeout: Duration) -> Self {
        self.call_timeout = timeout;
        self
    }

    /// Sets [`credentials`](Self::credentials).
    #[must_use]
    pub fn credentials(mut self, credentials: Credentials) -> Self {
        self.credentials = credentials;
        self
    }
}

fn default_holder() -> String {
    let program = env::args_os().next().unwrap_or_default();
    let name = Path::new(&program)
        .file_name()
        .map_or_else(|| "unnamed".into(), |name| name.to_string_lossy());
    format!("{name}/{}", std::process::id())
}
