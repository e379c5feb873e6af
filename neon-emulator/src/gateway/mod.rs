//! The endpoints' addresses.
//!
//! Each endpoint's port is held here from the emulator's start, or the
//! endpoint's creation, until the endpoint is deleted: a suspended endpoint
//! takes connections, and is started by them. What a client sends is forwarded
//! to the endpoint's server byte by byte, so that TLS and SCRAM with its channel
//! binding are Postgres's own. The gateway itself speaks to those alone whom it
//! has to turn away.
//!
//! It has a thread of its own with a runtime of one thread: a message costs one
//! wait, one read and one write, and never moves between threads.

mod forward;
mod holder;
mod listener;
mod opening;
mod refusal;
mod session;

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use jiff::Timestamp;
use neon_api::{EndpointId, ProjectId};
use rustls::ServerConfig;
use thiserror::Error;
use tokio::runtime::{Builder, Handle};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use tracing::error;

use crate::engine::Engine;
use crate::time::now;

pub(crate) use refusal::Refusal;

/// How long sessions may take to end once their servers have stopped.
const DRAIN_MS_MAX: u64 = 1_000;

/// An endpoint, as its clients reach it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Address {
    pub(crate) project: ProjectId,
    pub(crate) endpoint: EndpointId,
    /// Through the pooler.
    pub(crate) pooled: bool,
}

/// Why an address cannot be listened on.
#[derive(Debug, Error)]
pub(crate) enum AddressError {
    #[error("port {port} of the endpoint is taken by {holder}; end that, then start the endpoint")]
    Taken { port: u16, holder: String },
    #[error("could not listen on port {port} of the endpoint")]
    Listen {
        port: u16,
        #[source]
        source: io::Error,
    },
}

/// The listeners, and the thread that serves them.
#[derive(Debug)]
pub(crate) struct Gateway {
    runtime: Handle,
    tls: Arc<ServerConfig>,
    doors: Mutex<HashMap<Address, Door>>,
    traffic: Arc<Traffic>,
    sessions: TaskTracker,
    stopped: watch::Sender<bool>,
}

/// When an endpoint last gained or lost a client.
#[derive(Debug, Default)]
pub(crate) struct Traffic(Mutex<HashMap<EndpointId, Timestamp>>);

#[derive(Debug)]
enum Door {
    Open {
        port: u16,
        listener: JoinHandle<()>,
    },
    /// The port was not to be had; it is tried again at each change.
    Closed {
        port: u16,
        kind: io::ErrorKind,
    },
}

impl Gateway {
    /// Starts the thread.
    ///
    /// # Errors
    /// When there is no thread or no runtime to be had.
    pub(crate) fn start(tls: Arc<ServerConfig>) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stopped, mut stop) = watch::channel(false);
        std::thread::Builder::new()
            .name("gateway".to_owned())
            .spawn(move || {
                runtime.block_on(async move {
                    // An error means that the gateway was dropped.
                    let _ = stop.wait_for(|stop| *stop).await;
                });
            })?;
        Ok(Self {
            runtime: handle,
            tls,
            doors: Mutex::default(),
            traffic: Arc::default(),
            sessions: TaskTracker::new(),
            stopped,
        })
    }

    /// Listens on these addresses and on no others.
    pub(crate) fn hold(&self, wanted: &HashMap<Address, u16>, engine: &Weak<Engine>) {
        self.traffic.forget_others(wanted);
        let mut doors = self.lock();
        doors.retain(|address, door| {
            let keep = wanted.get(address) == Some(&door.port());
            if !keep {
                door.close();
            }
            keep
        });
        for (address, &port) in wanted {
            if doors.get(address).is_some_and(Door::is_open) {
                continue;
            }
            match self.open(address, port, engine) {
                Ok(listener) => {
                    doors.insert(address.clone(), Door::Open { port, listener });
                }
                Err(source) => {
                    let kind = source.kind();
                    let closed = doors.insert(address.clone(), Door::Closed { port, kind });
                    // Once, not at each change.
                    if closed.is_none() {
                        let error = AddressError::of(port, source);
                        error!(
                            endpoint = %address.endpoint,
                            error = crate::engine::chain(&error),
                            "an endpoint has no address: it alone is out of service"
                        );
                    }
                }
            }
        }
    }

    /// Says why an address is not held, when it is not.
    pub(crate) fn check_held(&self, address: &Address) -> Result<(), AddressError> {
        match self.lock().get(address) {
            Some(Door::Closed { port, kind }) => Err(AddressError::of(*port, (*kind).into())),
            Some(Door::Open { .. }) | None => Ok(()),
        }
    }

    /// When the endpoint last gained or lost a client, if it ever did.
    pub(crate) fn last_traffic(&self, endpoint: &EndpointId) -> Option<Timestamp> {
        self.traffic.lock().get(endpoint).copied()
    }

    /// Closes the listeners, gives the sessions a moment to end, and ends the
    /// thread. The servers have stopped.
    pub(crate) async fn stop(&self) {
        for (_, door) in self.lock().drain() {
            door.close();
        }
        self.sessions.close();
        // Those that are left are clients that do not hang up.
        let _ = timeout(Duration::from_millis(DRAIN_MS_MAX), self.sessions.wait()).await;
        self.stopped.send_replace(true);
    }

    fn open(
        &self,
        address: &Address,
        port: u16,
        engine: &Weak<Engine>,
    ) -> io::Result<JoinHandle<()>> {
        let _guard = self.runtime.enter();
        let bound = listener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
        let house = session::House {
            address: address.clone(),
            engine: Weak::clone(engine),
            tls: Arc::clone(&self.tls),
            traffic: Arc::clone(&self.traffic),
        };
        let sessions = self.sessions.clone();
        Ok(self
            .runtime
            .spawn(listener::accept(bound, Arc::new(house), sessions)))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Address, Door>> {
        // A map of handles: no panic leaves it half changed.
        self.doors.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Traffic {
    /// The endpoint gains or loses a client now.
    fn note(&self, endpoint: &EndpointId) {
        self.lock().insert(endpoint.clone(), now());
    }

    /// Endpoints that are gone are none. Their last clients may leave after that:
    /// who is noted then is forgotten the next time.
    fn forget_others(&self, wanted: &HashMap<Address, u16>) {
        let live: HashSet<&EndpointId> = wanted.keys().map(|address| &address.endpoint).collect();
        self.lock().retain(|endpoint, _| live.contains(endpoint));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<EndpointId, Timestamp>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Door {
    fn port(&self) -> u16 {
        match self {
            Self::Open { port, .. } | Self::Closed { port, .. } => *port,
        }
    }

    fn is_open(&self) -> bool {
        matches!(self, Self::Open { .. })
    }

    fn close(&self) {
        if let Self::Open { listener, .. } = self {
            listener.abort();
        }
    }
}

impl AddressError {
    fn of(port: u16, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::AddrInUse => Self::Taken {
                port,
                holder: holder::of(port),
            },
            _ => Self::Listen { port, source },
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn traffic_is_kept_of_endpoints_that_there_are() {
        let [stays, goes] = ["ep-stays-here-00000001", "ep-goes-away-00000002"]
            .map(|id| EndpointId::try_from(id.to_owned()).unwrap());
        let traffic = Traffic::default();
        traffic.note(&stays);
        traffic.note(&goes);
        let address = Address {
            project: ProjectId::try_from("a-project-00000001".to_owned()).unwrap(),
            endpoint: stays.clone(),
            pooled: false,
        };
        traffic.forget_others(&HashMap::from([(address, 1)]));
        let left: Vec<EndpointId> = traffic.lock().keys().cloned().collect();
        assert_eq!(left, [stays]);
    }
}
