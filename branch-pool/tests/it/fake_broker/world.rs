//! What the fake broker knows, and what it answers of it.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, SystemTime};

use proto::broker::v1::acquire_lease_request::Target;
use proto::broker::v1::{
    AcquireLeaseRequest, BindingTarget, Connection, Lease, Pause, WatchBindingResponse,
};
use tonic::Status;

use super::Fault;

/// What the next lease is like, and the leases there are.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) uri: String,
    pub(crate) generation: i64,
    pub(crate) ttl: Duration,
    pub(crate) connection_limit: i32,
    pub(crate) acquire_faults: VecDeque<Fault>,
    pub(crate) renew_faults: VecDeque<Fault>,
    /// How the next watches are refused.
    pub(crate) watch_faults: VecDeque<Status>,
    /// False: watches say nothing of where a lease leads.
    pub(crate) ready: bool,
    /// What consumers are to use next.
    pub(crate) pending: Option<(i64, String)>,
    pub(crate) pause: Option<Pause>,
    /// Where its read-only endpoint is, if it has one.
    pub(crate) replica_uri: String,
    pub(crate) leases: HashMap<String, (Lease, Connection)>,
    by_request: HashMap<String, String>,
    given: u32,
}

impl World {
    /// Leases of an hour on `uri`, as generation 1.
    pub(super) fn new(uri: String) -> Self {
        Self {
            uri,
            generation: 1,
            ttl: Duration::from_secs(3600),
            connection_limit: 4,
            acquire_faults: VecDeque::new(),
            renew_faults: VecDeque::new(),
            watch_faults: VecDeque::new(),
            ready: true,
            pending: None,
            pause: None,
            replica_uri: String::new(),
            leases: HashMap::new(),
            by_request: HashMap::new(),
            given: 0,
        }
    }

    pub(super) fn forget_leases(&mut self) {
        self.leases.clear();
        self.by_request.clear();
    }

    pub(super) fn grant(&mut self, request: &AcquireLeaseRequest) -> (Lease, Connection) {
        let known = self.by_request.get(&request.request_id);
        if let Some((lease, _)) = known.and_then(|name| self.leases.get(name)) {
            return (lease.clone(), self.connection());
        }
        self.given += 1;
        let name = format!("leases/{}", self.given);
        let binding = match request.target.clone() {
            Some(Target::Binding(binding)) => binding,
            Some(Target::Ephemeral(branch)) => branch.parent,
            _ => unreachable!("a pool asks for a binding, or a branch of its own"),
        };
        let lease = Lease {
            name: name.clone(),
            binding,
            branch: branch(self.generation),
            access: request.access,
            generation: self.generation,
            expire_time: Some((now() + self.ttl).into()),
            holder: request.holder.clone(),
            pooled: request.pooled,
            ..Lease::default()
        };
        let granted = (lease, self.connection());
        self.by_request
            .insert(request.request_id.clone(), name.clone());
        self.leases.insert(name, granted.clone());
        granted
    }

    /// What the watch of a lease says now. The lease leads there from then on.
    pub(super) fn tell(&mut self, name: &str) -> Result<WatchBindingResponse, Status> {
        let (generation, connection) = (self.generation, self.connection());
        let pending = self.pending.clone().map(|(generation, uri)| {
            let connection = Connection {
                uri,
                ..connection.clone()
            };
            target(generation, connection)
        });
        let pause = self.pause.clone();
        let Some((lease, granted)) = self.leases.get_mut(name) else {
            return Err(Status::not_found("no such lease"));
        };
        let mut answer = WatchBindingResponse {
            binding: lease.binding.clone(),
            pending,
            pause,
            ..WatchBindingResponse::default()
        };
        if self.ready {
            lease.generation = generation;
            lease.branch = branch(generation);
            *granted = connection.clone();
            answer.current = Some(target(generation, connection));
        }
        Ok(answer)
    }

    fn connection(&self) -> Connection {
        Connection {
            uri: self.uri.clone(),
            connection_limit: self.connection_limit,
            replica_uri: self.replica_uri.clone(),
            ..Connection::default()
        }
    }
}

fn target(generation: i64, connection: Connection) -> BindingTarget {
    BindingTarget {
        generation,
        branch: branch(generation),
        connection: Some(connection),
        reason: String::new(),
    }
}

fn branch(generation: i64) -> String {
    format!("branches/br-{generation}")
}

#[expect(
    clippy::disallowed_methods,
    reason = "plays the broker's clock, to a client that reads the machine's"
)]
pub(super) fn now() -> SystemTime {
    SystemTime::now()
}
