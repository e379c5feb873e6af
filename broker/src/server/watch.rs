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
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::leases::connection;
use super::request::{Watched, watched};
use super::rights::Rights;
use super::{Broker, Error};
use crate::bindings::Binding;
use crate::leases::{self, Given};
use crate::names::{BindingName, BranchResource, LeaseId};

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
            (name, None)
        }
        Watched::Lease(id) => {
            let ending = broker.leases.ending(id);
            let lease = broker.lease_of(rights.caller(), id)?;
            rights.may_lease(&lease.request.binding, lease.request.access)?;
            (lease.request.binding, Some((id, ending)))
        }
    };
    let state = broker
        .bindings
        .watch(&binding)
        .ok_or_else(|| Error::BindingNotFound {
            field: "binding",
            name: binding.clone(),
        })?;
    let mut look = tokio::time::interval(Duration::from_millis(RIGHTS_LOOK_MS));
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut watch = Watch {
        broker,
        caller: rights.caller().clone(),
        look,
        binding,
        lease,
        state,
        first,
        requests: Some(requests),
    };
    watch.state.mark_changed();
    Ok(stream::unfold(Some(watch), |watch| async {
        let mut watch = watch?;
        match watch.next().await {
            Ok(answer) => Some((Ok(answer), Some(watch))),
            Err(status) => Some((Err(status), None)),
        }
    }))
}

struct Watch {
    broker: Broker,
    caller: Caller,
    /// When to look whether the caller still may.
    look: Interval,
    binding: BindingName,
    lease: Option<(LeaseId, CancellationToken)>,
    state: Receiver<Arc<Binding>>,
    first: pb::WatchBindingRequest,
    /// None once the caller has said all it will say.
    requests: Option<Streaming<pb::WatchBindingRequest>>,
}

impl Watch {
    /// The next answer, or how the watch ends.
    async fn next(&mut self) -> Result<pb::WatchBindingResponse, Status> {
        loop {
            let ended = async {
                match &self.lease {
                    Some((id, ending)) => {
                        ending.cancelled().await;
                        *id
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                id = ended => return Err(Error::from(leases::Error::NotFound(id)).into()),
                request = heard(&mut self.requests) => self.hear(request?)?,
                _ = self.look.tick() => self.check()?,
                changed = self.state.changed() => match changed {
                    Ok(()) => return self.answer().await,
                    Err(_) => {
                        return Err(Error::BindingNotFound {
                            field: "binding",
                            name: self.binding.clone(),
                        }
                        .into());
                    }
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
        match self.lease {
            Some((id, _)) => {
                let lease = self.broker.lease_of(&self.caller, id)?;
                rights.may_lease(&lease.request.binding, lease.request.access)?;
            }
            None => rights.may_see(&self.binding)?,
        }
        Ok(())
    }

    async fn answer(&mut self) -> Result<pb::WatchBindingResponse, Status> {
        self.check()?;
        let binding = Arc::clone(&self.state.borrow_and_update());
        let mut current = None;
        if let Some(target) = &binding.target {
            let mut connected = None;
            if let Some((id, _)) = self.lease {
                let lease = self.broker.leases.get(id).map_err(Error::from)?;
                let login = self.broker.login(target, &lease.request).await?;
                let given = Given {
                    lease,
                    was_closed: false,
                };
                let (lease, login) = self.broker.settled(target, given, login).await?;
                connected = Some(connection(target, &login, lease.request.pooled));
            }
            current = Some(pb::BindingTarget {
                generation: target.generation,
                branch: BranchResource(target.branch.clone()).to_string(),
                connection: connected,
                reason: target.reason.clone(),
            });
        }
        Ok(pb::WatchBindingResponse {
            binding: self.binding.to_string(),
            current,
        })
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
