//! WatchBinding: a binding's state at once, and again whenever it changes.
//!
//! Nothing is queued: the stream looks at the newest state when its reader is
//! ready for one, so a slow reader misses what lay between and nothing more.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, stream};
use proto::broker::v1 as pb;
use rpc::caller::Caller;
use rpc::status::FieldViolation;
use tokio::sync::watch::Receiver;
use tokio::time::{Interval, MissedTickBehavior};
use tonic::{Status, Streaming};

use super::leases::connection;
use super::request::{Watched, watched};
use super::rights::Rights;
use super::{Broker, Error};
use crate::bindings::Binding;
use crate::leases;
use crate::leasing;
use crate::metrics::Watching;
use crate::names::{BindingName, BranchResource, LeaseId};
use crate::state::Turn;

/// How long a watch may be open without saying what it watches, in
/// milliseconds.
const FIRST_REQUEST_MS_MAX: u64 = 5_000;
/// How often to look whether a watch may go on, in milliseconds.
const RIGHTS_LOOK_MS: u64 = 2_000;

/// Reads the first request and opens the watch that it asks for.
pub(super) async fn open(
    broker: Broker,
    rights: Rights,
    mut requests: Streaming<pb::WatchBindingRequest>,
) -> Result<impl Stream<Item = Result<pb::WatchBindingResponse, Status>>, Status> {
    let limit = Duration::from_millis(FIRST_REQUEST_MS_MAX);
    let first = tokio::time::timeout(limit, requests.message())
        .await
        .map_err(|_| Error::WatchSilent)??
        .unwrap_or_default();
    let (binding, lease) = match watched(&first)? {
        Watched::Binding(name) => {
            rights.may_see(&name)?;
            (Some(name), None)
        }
        Watched::Lease(id) => {
            let mut turns = broker.leases.follow(id);
            let lease = broker.lease_of(rights.caller(), id).await?;
            rights.may_keep(&lease)?;
            turns.mark_unchanged();
            (lease.request.target.binding().cloned(), Some((id, turns)))
        }
    };
    let state = match &binding {
        None => None,
        Some(name) => Some(
            broker
                .bindings
                .watch(name)
                .ok_or_else(|| not_declared(name))?,
        ),
    };
    let mut look = tokio::time::interval(Duration::from_millis(RIGHTS_LOOK_MS));
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut watch = Watch {
        _counted: broker.metrics.watching(),
        broker,
        caller: rights.caller().clone(),
        look,
        binding,
        lease,
        state,
        first,
        requests: Some(requests),
        is_due: true,
    };
    if let Some(state) = &mut watch.state {
        state.mark_unchanged();
    }
    Ok(stream::unfold(Some(watch), |watch| async {
        let mut watch = watch?;
        match watch.next().await {
            Ok(answer) => Some((Ok(answer), Some(watch))),
            Err(status) => Some((Err(status), None)),
        }
    }))
}

struct Watch {
    _counted: Watching,
    broker: Broker,
    caller: Caller,
    /// When to look whether the caller still may.
    look: Interval,
    /// None for a lease on a branch.
    binding: Option<BindingName>,
    lease: Option<(LeaseId, Receiver<Option<Turn>>)>,
    /// Of the binding.
    state: Option<Receiver<Arc<Binding>>>,
    first: pb::WatchBindingRequest,
    /// None once the caller has said all it will say.
    requests: Option<Streaming<pb::WatchBindingRequest>>,
    /// Whether there is something to tell.
    is_due: bool,
}

impl Watch {
    /// The next answer, or how the watch ends.
    async fn next(&mut self) -> Result<pb::WatchBindingResponse, Status> {
        loop {
            if std::mem::take(&mut self.is_due) {
                return self.answer().await;
            }
            tokio::select! {
                biased;
                (id, turn) = turned(&mut self.lease) => match turn {
                    Turn::Moved => self.is_due = true,
                    Turn::Ended => return Err(Error::from(leases::Error::NotFound(id)).into()),
                },
                request = heard(&mut self.requests) => self.hear(request?)?,
                _ = self.look.tick() => self.check()?,
                lives = changed(&mut self.state) => match (lives, &self.binding) {
                    (false, Some(binding)) => return Err(not_declared(binding).into()),
                    _ => self.is_due = true,
                },
            }
        }
    }

    /// A later request may repeat the name and nothing else; the end of them is
    /// no end of the watch.
    fn hear(&mut self, request: Option<pb::WatchBindingRequest>) -> Result<(), Status> {
        match request {
            None => {
                self.requests = None;
                Ok(())
            }
            Some(request) if request == pb::WatchBindingRequest::default() => Ok(()),
            Some(request) if request == self.first => Ok(()),
            Some(request) => {
                let field = match request.lease == self.first.lease {
                    true => "binding",
                    false => "lease",
                };
                let message = "must stay what the first request named; open another watch";
                Err(Error::from(FieldViolation::new(field, message)).into())
            }
        }
    }

    /// What the caller showed, and what it is granted, may have been taken back
    /// since the watch was opened.
    fn check(&self) -> Result<(), Status> {
        self.caller.check()?;
        self.broker.state.check().map_err(Error::State)?;
        let rights = self.broker.rights_of(self.caller.clone())?;
        match (&self.lease, &self.binding) {
            (Some((id, _)), _) => {
                let lease = self.broker.lease_known(&self.caller, *id)?;
                rights.may_keep(&lease)?;
            }
            (None, Some(binding)) => rights.may_see(binding)?,
            (None, None) => {}
        }
        Ok(())
    }

    async fn answer(&mut self) -> Result<pb::WatchBindingResponse, Status> {
        self.check()?;
        let state = self.state.as_mut();
        let binding = state.map(|state| Arc::clone(&state.borrow_and_update()));
        let target = binding.as_ref().map(|binding| binding.target.clone());
        let mut current = match target {
            // Nothing to lead to yet.
            Some(None) => return Ok(self.wire(None)),
            Some(Some(target)) => pb::BindingTarget {
                generation: target.generation,
                branch: BranchResource(target.branch.clone()).to_string(),
                connection: None,
                reason: target.reason.clone(),
            },
            None => pb::BindingTarget::default(),
        };
        if let Some((id, turns)) = &mut self.lease {
            let lease = self.broker.leases.known(*id).map_err(Error::from)?;
            let connecting = Box::pin(self.broker.leasing.connected(lease));
            let connected = connecting.await.map_err(Error::from)?;
            // That this very answer moved it is told by it.
            if *turns.borrow_and_update() == Some(Turn::Ended) {
                return Err(Error::from(leases::Error::NotFound(*id)).into());
            }
            current.generation = connected.place.generation;
            current.branch = BranchResource(connected.place.branch.clone()).to_string();
            current.connection = Some(connection(&connected));
        }
        Ok(self.wire(Some(current)))
    }

    fn wire(&self, current: Option<pb::BindingTarget>) -> pb::WatchBindingResponse {
        let binding = self.binding.as_ref().map(ToString::to_string);
        pb::WatchBindingResponse {
            binding: binding.unwrap_or_default(),
            current,
        }
    }
}

fn not_declared(name: &BindingName) -> Error {
    Error::Leasing(leasing::Error::BindingNotFound {
        field: "binding",
        name: name.clone(),
    })
}

/// What becomes of the lease that is watched.
async fn turned(lease: &mut Option<(LeaseId, Receiver<Option<Turn>>)>) -> (LeaseId, Turn) {
    match lease {
        Some((id, turns)) => {
            loop {
                // Who tells goes when the lease does.
                if turns.changed().await.is_err() {
                    return (*id, Turn::Ended);
                }
                if let Some(turn) = *turns.borrow_and_update() {
                    return (*id, turn);
                }
            }
        }
        None => std::future::pending().await,
    }
}

/// That the binding has changed; false: it is declared no more.
async fn changed(state: &mut Option<Receiver<Arc<Binding>>>) -> bool {
    match state {
        Some(state) => state.changed().await.is_ok(),
        None => std::future::pending().await,
    }
}

async fn heard(
    requests: &mut Option<Streaming<pb::WatchBindingRequest>>,
) -> Result<Option<pb::WatchBindingRequest>, Status> {
    match requests {
        Some(requests) => requests.message().await,
        None => std::future::pending().await,
    }
}
