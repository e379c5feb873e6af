//! WatchBinding: a binding's state at once, and again whenever it changes, and what its
//! consumers say of it.
//!
//! Nothing is queued: the stream looks at the newest state when its reader is
//! ready for one, so a slow reader misses what lay between and nothing more. When a
//! binding changes, its watches look after a short while each of their own: they do not
//! all want a role, and write that they have it, in the same moment.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, stream};
use jiff::SignedDuration;
use proto::broker::v1 as pb;
use rpc::caller::Caller;
use rpc::status::FieldViolation;
use tokio::sync::watch::Receiver;
use tokio::time::Instant;
use tonic::{Status, Streaming};
use uuid::Uuid;

use super::branches::time;
use super::leases::connection;
use super::request::{Watched, watched};
use super::rights::Rights;
use super::{Broker, Error};
use crate::bindings::{self, Binding, Pause, Target};
use crate::leases::{self, Leases};
use crate::leasing;
use crate::names::{BindingName, BranchResource, LeaseId};
use crate::state::{Data, Turn};
use crate::text::one_line;
use crate::watches::{Open, Report};

/// How long a watch may be open without saying what it watches, in
/// milliseconds.
const FIRST_REQUEST_MS_MAX: u64 = 5_000;
/// How far the looks at a change of a binding are spread, in microseconds for each
/// watch that is open, and in all.
const JITTER_US: u64 = 25;
const JITTER_US_MAX: u64 = 1_000_000;
/// When to look again for what comes soon, in milliseconds.
const LATER_MS: u64 = 100;
/// When to try again to make a lease's next role, in milliseconds.
const AGAIN_MS: u64 = 1_000;
/// How long that role stays after the lease could have got it.
const ROLE_OUTLASTS: SignedDuration = SignedDuration::from_secs(60);

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
    let caller = rights.caller().clone();
    let refused = {
        let caller = caller.clone();
        Box::pin(async move { caller.until_refused().await })
    };
    let mut watch = Watch {
        _open: broker.watches.open(),
        rights: broker.watches.rights(),
        broker,
        caller,
        refused,
        binding,
        lease,
        state,
        stream: Uuid::new_v4(),
        has_say: false,
        names: (first.binding.clone(), first.lease.clone()),
        requests: Some(requests),
        due: Some(Instant::now()),
    };
    if let Some(state) = &mut watch.state {
        state.mark_unchanged();
    }
    if watch.knows(&first) {
        // Otherwise the answer looks.
        watch.check()?;
        watch.due = None;
    }
    if first.report != 0 {
        let message = "comes with a later request: the first one opens the watch";
        return Err(Error::from(FieldViolation::new("report", message)).into());
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
    broker: Broker,
    caller: Caller,
    /// Resolves when what the caller showed is good no more.
    refused: Pin<Box<dyn Future<Output = Status> + Send>>,
    /// Told when to look whether the caller still may.
    rights: Receiver<()>,
    /// None for a lease on a branch.
    binding: Option<BindingName>,
    lease: Option<(LeaseId, Receiver<Option<Turn>>)>,
    /// Of the binding.
    state: Option<Receiver<Arc<Binding>>>,
    /// This stream, among those of the lease.
    stream: Uuid,
    /// Whether the lease has a say by it.
    has_say: bool,
    /// The binding and the lease that the first request named.
    names: (String, String),
    /// None once the caller has said all it will say.
    requests: Option<Streaming<pb::WatchBindingRequest>>,
    /// When there is something to tell.
    due: Option<Instant>,
    _open: Open,
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let (true, Some((lease, _))) = (self.has_say, &self.lease) {
            let (watches, lease) = (Arc::clone(&self.broker.watches), *lease);
            let stream = self.stream;
            tokio::spawn(async move { watches.away(lease, stream, false).await });
        }
    }
}

impl Watch {
    /// The next answer, or how the watch ends.
    async fn next(&mut self) -> Result<pb::WatchBindingResponse, Status> {
        loop {
            tokio::select! {
                biased;
                refused = &mut self.refused => return Err(refused),
                // Its sender is the broker's.
                _ = self.rights.changed() => self.check()?,
                (id, turn) = turned(&mut self.lease) => match turn {
                    Turn::Moved => self.due = Some(Instant::now()),
                    Turn::Ended => return Err(Error::from(leases::Error::NotFound(id)).into()),
                },
                request = heard(&mut self.requests) => self.hear(request?).await?,
                () = is_due(self.due) => {
                    self.due = None;
                    match Box::pin(self.answer()).await? {
                        Some(answer) => return Ok(answer),
                        None => self.due = Some(Instant::now() + Duration::from_millis(LATER_MS)),
                    }
                }
                lives = changed(&mut self.state) => match (lives, &self.binding) {
                    (false, Some(binding)) => return Err(not_declared(binding).into()),
                    _ => {
                        let at = Instant::now() + self.jitter();
                        self.due = Some(self.due.map_or(at, |due| due.min(at)));
                    }
                },
            }
        }
    }

    /// A later request may repeat the name, and report; the end of them is no end of
    /// the watch, but of its say.
    async fn hear(&mut self, request: Option<pb::WatchBindingRequest>) -> Result<(), Status> {
        let Some(request) = request else {
            self.requests = None;
            if let (true, Some((lease, _))) = (std::mem::take(&mut self.has_say), &self.lease) {
                self.broker.watches.away(*lease, self.stream, true).await;
            }
            return Ok(());
        };
        let (binding, lease) = &self.names;
        for (field, given, named) in [
            ("binding", &request.binding, binding),
            ("lease", &request.lease, lease),
        ] {
            if !given.is_empty() && given != named {
                let message = "must stay what the first request named; open another watch";
                return Err(Error::from(FieldViolation::new(field, message)).into());
            }
        }
        self.report(&request).await
    }

    /// Notes what a request reports, if anything.
    async fn report(&mut self, request: &pb::WatchBindingRequest) -> Result<(), Status> {
        let Some((generation, report)) = reported(request)? else {
            return Ok(());
        };
        let Some((lease, _)) = &self.lease else {
            let message = "is about a lease, and the watch names none";
            return Err(Error::from(FieldViolation::new("report", message)).into());
        };
        let watches = &self.broker.watches;
        // Before: it may be noted although nobody waits for that any more.
        self.has_say = true;
        let noting = watches.report(*lease, self.stream, generation, report);
        noting.await.map_err(Error::State)?;
        Ok(())
    }

    /// Whether the caller has what it would be told.
    fn knows(&self, first: &pb::WatchBindingRequest) -> bool {
        let Some(state) = &self.state else {
            return false;
        };
        let binding = state.borrow();
        let generation = binding.target.as_ref().map(|target| target.generation);
        let has_lease = |id| {
            let lease = self.broker.leases.known(id);
            lease.is_ok_and(|lease| {
                lease.grant.generation == first.known_generation
                    && lease.grant.role == first.known_role
                    && self.broker.leases.role_is_given(&lease.grant.role_key())
            })
        };
        generation == Some(first.known_generation)
            && binding.status == bindings::Status::Ready
            && binding.pending.is_none()
            && binding.pause.is_none()
            && self.lease.as_ref().is_none_or(|(id, _)| has_lease(*id))
    }

    /// How long to wait before looking at what everybody looks at.
    fn jitter(&self) -> Duration {
        let open = u64::try_from(self.broker.watches.count()).unwrap_or(u64::MAX);
        let most = open.saturating_mul(JITTER_US).min(JITTER_US_MAX);
        Duration::from_micros(rand::random_range(0..=most))
    }

    /// What the caller showed, and what it is granted, may have been taken back
    /// since the watch was opened.
    fn check(&self) -> Result<(), Status> {
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

    /// None: what there is to tell is not there yet, and comes soon.
    async fn answer(&mut self) -> Result<Option<pb::WatchBindingResponse>, Status> {
        self.check()?;
        let state = self.state.as_mut();
        let binding = state.map(|state| Arc::clone(&state.borrow_and_update()));
        if self.is_ahead(binding.as_deref()) {
            return Ok(None);
        }
        let (pending, pause) = match &binding {
            None => (None, None),
            Some(binding) => (
                self.pending(binding).await,
                binding.pause.as_ref().map(pause),
            ),
        };
        let current = match self.current(binding.as_deref()).await {
            Ok(current) => current,
            Err(Error::Leasing(error)) if error.passes() => return Ok(None),
            Err(Error::Lease(leases::Error::BindingOvertaken(_))) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // The lease may be where it is to go already, before everybody is told.
        let generation = current.as_ref().map_or(0, |current| current.generation);
        let pending = pending.filter(|pending| pending.generation > generation);
        let pause = pause.filter(|pause| match pause.writes_only {
            true => pending.is_some(),
            false => pause.generation > generation,
        });
        Ok(Some(pb::WatchBindingResponse {
            binding: self
                .binding
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            current,
            pending,
            pause,
        }))
    }

    /// Whether the lease was turned over with its binding already, which is followed here
    /// in a moment.
    fn is_ahead(&self, binding: Option<&Binding>) -> bool {
        let target = binding.and_then(|binding| binding.target.as_ref());
        let (Some(target), Some((id, _))) = (target, &self.lease) else {
            return false;
        };
        let lease = self.broker.leases.known(*id);
        lease.is_ok_and(|lease| lease.grant.generation > target.generation)
    }

    /// What consumers are to use now.
    async fn current(
        &mut self,
        binding: Option<&Binding>,
    ) -> Result<Option<pb::BindingTarget>, Error> {
        let target = binding.map(|binding| binding.target.as_deref());
        let mut current = match target {
            // Nothing to lead to yet.
            Some(None) => return Ok(None),
            Some(Some(target)) => wire(target, None),
            None => pb::BindingTarget::default(),
        };
        let Some((id, turns)) = &mut self.lease else {
            return Ok(Some(current));
        };
        let leases = &self.broker.leases;
        let lease = leases.known(*id)?;
        let connected = match (binding, target.flatten()) {
            // No roles are made while its branch gets other data, or on one that is to go.
            (Some(binding), Some(target)) if is_being_changed(leases, binding, target) => {
                match self.broker.leasing.as_it_is(lease, target) {
                    Some(connected) => connected,
                    None => return Ok(None),
                }
            }
            _ => Box::pin(self.broker.leasing.connected(lease)).await?,
        };
        // That this very answer moved it is told by it.
        if *turns.borrow_and_update() == Some(Turn::Ended) {
            return Err(leases::Error::NotFound(*id).into());
        }
        current.generation = connected.place.generation;
        current.branch = BranchResource(connected.place.branch.clone()).to_string();
        current.connection = Some(connection(&connected));
        Ok(Some(current))
    }

    /// What they are to use next. One whose role cannot be made is told of it later, or
    /// not at all: then it does not acknowledge.
    async fn pending(&mut self, binding: &Binding) -> Option<pb::BindingTarget> {
        let target = binding.pending.as_deref()?;
        let Some((id, _)) = &self.lease else {
            return Some(wire(target, None));
        };
        let name = &binding.spec.name;
        let leases = &self.broker.leases;
        let now = leases.now();
        let deadline = |data: &Data| data.move_of(name, now).map(|one| one.deadline);
        let until = self.broker.state.read(deadline)? + ROLE_OUTLASTS;
        let lease = leases.known(*id).ok()?;
        match Box::pin(self.broker.leasing.pending(lease, target, until)).await {
            Ok(connected) => Some(wire(target, Some(connection(&connected)))),
            Err(error) => {
                let error = one_line(&error);
                tracing::warn!(lease = %id, error, "make the next role of a lease");
                self.due = Some(Instant::now() + Duration::from_millis(AGAIN_MS));
                None
            }
        }
    }
}

/// Whether the branch of a binding gets other data: by this broker, or by another, which
/// has its consumers hold back.
fn is_being_changed(leases: &Leases, binding: &Binding, target: &Target) -> bool {
    let by_another = || binding.pause.is_some() && leases.is_held(&target.branch);
    binding.status != bindings::Status::Ready || by_another()
}

fn wire(target: &Target, connection: Option<pb::Connection>) -> pb::BindingTarget {
    pb::BindingTarget {
        generation: target.generation,
        branch: BranchResource(target.branch.clone()).to_string(),
        connection,
        reason: target.reason.clone(),
    }
}

fn pause(pause: &Pause) -> pb::Pause {
    pb::Pause {
        generation: pause.generation,
        deadline: Some(time(pause.deadline)),
        writes_only: pause.writes_only,
        reason: pause.reason.clone(),
    }
}

/// What a request reports, and of which generation.
fn reported(request: &pb::WatchBindingRequest) -> Result<Option<(i64, Report)>, Error> {
    let report = match pb::WatchReport::try_from(request.report) {
        Ok(pb::WatchReport::Unspecified) => return Ok(None),
        Ok(pb::WatchReport::Ack) => Report::Ack,
        Ok(pb::WatchReport::Nack) => Report::Nack(request.message.clone()),
        Ok(pb::WatchReport::Drained) => Report::Drained,
        Err(_) => {
            let message = "must be ACK, NACK or DRAINED";
            return Err(FieldViolation::new("report", message).into());
        }
    };
    match request.generation {
        1.. => Ok(Some((request.generation, report))),
        _ => {
            let message = "must be the generation that is reported on";
            Err(FieldViolation::new("generation", message).into())
        }
    }
}

fn not_declared(name: &BindingName) -> Error {
    Error::Leasing(leasing::Error::BindingNotFound {
        field: "binding",
        name: name.clone(),
    })
}

async fn is_due(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
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
