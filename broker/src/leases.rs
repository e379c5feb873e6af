//! Leases: who may connect where, and until when.
//!
//! A lease is a value with its expiry in it. One whose time is up is gone from
//! that moment on, whether or not the sweeper has come by: every look compares
//! with the clock. Where they are kept is state.rs's matter.
//!
//! What holds of a lease and its role: the role is written down before it is made,
//! and a lease is given only on a role that is open at that moment; the lease never
//! outlives the role's password; a role that is closed is never opened again.

mod ephemeral;
mod error;
mod hand_out;
mod lease;
mod requests;
mod revoke;
mod roles;
mod sweep;
mod turns;
mod warm;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{Timestamp, TimestampRound, Unit};
use neon_api::BranchId;
use rpc::clock::Clock;
use tokio::sync::watch;

use crate::audit::{Action, Event};
use crate::config::LeaseSettings;
use crate::ledger;
use crate::names::{BindingName, LeaseId, ServiceName};
use crate::request_ids;
use crate::roles::Access;
use crate::state::{self, Draft, State, Turn};
pub(crate) use ephemeral::branch_name;
pub use ephemeral::{Making, Taken};
pub use error::Error;
pub use hand_out::Take;
pub use lease::{End, EndReason, Grant, Lease, Request, Revoked, Target};
pub use requests::{RequestId, is_answered, is_repeated};
pub use revoke::{RevokeRequest, Which};
pub use roles::{Made, RoleFor};
pub use turns::{drained, retire_roles, turn_over};
pub use warm::{PoolCount, WarmMaking};

/// How many leases may be alive. Each is some hundreds of bytes, in memory and in
/// a row.
const LEASES_MAX: usize = 10_000;

/// How long a lease may be renewed before another audit event says that it is, in
/// seconds.
const RENEWALS_UNTOLD_SECONDS_MAX: i64 = 3_600;

/// A lease to be given.
#[derive(Debug, Clone)]
pub struct NewLease {
    /// Its name.
    pub id: LeaseId,
    /// What is asked for.
    pub request: Request,
    /// For how long.
    pub ttl: Option<Duration>,
    /// The id of the request that asks.
    pub request_id: Option<RequestId>,
    /// The binding's generation; 0 for one on a branch.
    pub generation: i64,
    /// Its role, by now made.
    pub role: Made,
    /// When Neon deletes its branch, where that goes with it.
    pub branch_expire_time: Option<Timestamp>,
}

/// All leases.
#[derive(Debug)]
pub struct Leases {
    state: Arc<State>,
    clock: Clock,
    settings: Mutex<LeaseSettings>,
}

impl Leases {
    /// Those that the state holds.
    pub fn new(state: Arc<State>, clock: Clock, settings: LeaseSettings) -> Leases {
        Leases {
            state,
            clock,
            settings: Mutex::new(settings),
        }
    }

    /// The most that a lease gets.
    pub fn max_ttl(&self) -> Duration {
        self.settings().max_ttl
    }

    /// How long an acknowledging watch may be away and still have a say.
    pub fn ack_grace(&self) -> Duration {
        self.settings().ack_grace
    }

    /// Takes new settings, for what is asked from now on.
    pub fn configure(&self, settings: LeaseSettings) {
        *self.settings() = settings;
    }

    /// The lease that this request was about before, and it if it lives. Another
    /// request under the same id is an error.
    pub fn repeated(
        &self,
        id: Option<&RequestId>,
    ) -> Result<Option<(LeaseId, Option<Lease>)>, Error> {
        let now = self.now();
        self.state.read(|data| {
            let answered = id.and_then(|id| Some((id, data.requests.get(&id.key)?)));
            let Some(id) = requests::repeated(answered, now)? else {
                return Ok(None);
            };
            let lease = data.leases.get(&id).filter(|lease| lease.lives(now));
            Ok(Some((id, lease.cloned())))
        })
    }

    /// Whether this request was answered before. Another under the same id is an error.
    pub fn is_known(&self, id: Option<&RequestId>) -> Result<bool, Error> {
        let now = self.now();
        self.state.read(|data| {
            let answered = id.and_then(|id| Some((id, data.requests.get(&id.key)?)));
            Ok(request_ids::repeated(answered, now)?.is_some())
        })
    }

    /// Gives a lease, and returns once it is stored; none if its role is not open any
    /// more. The same request gives the same lease, for as long as that lives.
    pub async fn give(&self, new: NewLease) -> Result<Option<Lease>, Error> {
        let now = self.now();
        let until = self.granted(now, new.ttl);
        let change = move |draft: &mut Draft<'_>| {
            let request_id = new.request_id.as_ref();
            let before = requests::repeated_in(draft, request_id, now)?;
            if let Some(before) = before
                && let Some(lease) = draft.lease(before).filter(|one| one.lives(now))
            {
                return Ok(Some(lease.clone()));
            }
            if draft.leases_count() >= LEASES_MAX {
                return Err(Error::TooMany);
            }
            let branch = &new.role.role.branch;
            let is_ephemeral = new.request.target.is_ephemeral();
            // An ephemeral one's own is looked at below.
            if draft.is_held(branch) || (!is_ephemeral && ledger::is_going(draft, branch)) {
                return Err(Error::BranchHeld(branch.clone()));
            }
            match new.request.target.binding() {
                Some(binding) => check_binding(draft, binding, new.generation)?,
                None => check_fence(draft, &new.request, branch)?,
            }
            let Some(valid_until) = roles::given(draft, &new.role, now) else {
                return Ok(None);
            };
            let mut lease = Lease {
                id: new.id,
                request: new.request.clone(),
                grant: new.role.grant(new.generation),
                create_time: now,
                expire_time: until.min(valid_until),
                renewals: 0,
                note_time: now,
                branch_expire_time: new.branch_expire_time,
                revoked: None,
            };
            if is_ephemeral {
                ephemeral::given(draft, &mut lease, now)?;
            }
            if before != Some(lease.id) {
                requests::remember(draft, request_id, lease.id, now)?;
            }
            draft.lease_put(lease.clone());
            let message = format!("until {}, as {}", lease.expire_time, lease.grant.role);
            draft.audit(Event::of_lease(&lease, Action::Acquired, now, message));
            Ok(Some(lease))
        };
        self.state.change(change).await?
    }

    /// Moves a lease's end to now plus what is granted of `ttl`, which is never beyond
    /// the end of its role's password or of its branch. The same request does so
    /// once.
    pub async fn renew(
        &self,
        name: LeaseId,
        ttl: Option<Duration>,
        id: Option<RequestId>,
    ) -> Result<Lease, Error> {
        let now = self.now();
        let until = self.granted(now, ttl);
        let change = move |draft: &mut Draft<'_>| {
            let before = requests::repeated_in(draft, id.as_ref(), now)?;
            let mut lease = live(draft, now, name)?;
            if before.is_some() {
                return Ok(lease);
            }
            requests::remember(draft, id.as_ref(), name, now)?;
            let role = draft.role(&lease.grant.role_key());
            let valid_until = role.and_then(|role| role.valid_until).unwrap_or(now);
            lease.expire_time = until.min(valid_until);
            if let Some(last) = ephemeral::last(&lease) {
                lease.expire_time = lease.expire_time.min(last);
            }
            lease.renewals += 1;
            let untold = now.duration_since(lease.note_time).as_secs();
            if untold >= RENEWALS_UNTOLD_SECONDS_MAX {
                lease.note_time = now;
                let message = format!(
                    "until {}, for the {}. time",
                    lease.expire_time, lease.renewals
                );
                draft.audit(Event::of_lease(&lease, Action::Renewed, now, message));
            }
            draft.lease_put(lease.clone());
            Ok(lease)
        };
        self.state.change_with_others(change).await?
    }

    /// Ends a lease; false when it had ended already. On an error it lives on, here
    /// as after a restart.
    pub async fn release(&self, name: LeaseId, id: Option<RequestId>) -> Result<bool, Error> {
        let now = self.now();
        let change = move |draft: &mut Draft<'_>| {
            if requests::repeated_in(draft, id.as_ref(), now)?.is_some() {
                return Ok(false);
            }
            requests::remember(draft, id.as_ref(), name, now)?;
            let Ok(lease) = live(draft, now, name) else {
                return Ok(false);
            };
            end(draft, lease, EndReason::Released, now);
            Ok(true)
        };
        self.state.change(change).await?
    }

    /// A live lease, as far as this broker has heard.
    pub fn known(&self, id: LeaseId) -> Result<Lease, Error> {
        let now = self.now();
        let found = self.state.read(|data| data.leases.get(&id).cloned());
        found
            .filter(|lease| lease.lives(now))
            .ok_or(Error::NotFound(id))
    }

    /// A live lease, or a revoked one whose role is not closed. One that another broker
    /// has just given is found too.
    pub async fn get(&self, id: LeaseId) -> Result<Lease, Error> {
        let find = || self.state.read(|data| data.leases.get(&id).cloned());
        let found = match find() {
            Some(found) => Some(found),
            None => {
                self.state.catch_up().await?;
                find()
            }
        };
        let now = self.now();
        found
            .filter(|lease| lease.lives(now) || lease.revoked.is_some())
            .ok_or(Error::NotFound(id))
    }

    /// Returns when what other brokers have written by now is known here.
    pub async fn catch_up(&self) -> Result<(), state::Error> {
        self.state.catch_up().await
    }

    /// Whether some broker gives that branch other data, or deletes it.
    pub fn is_held(&self, branch: &BranchId) -> bool {
        self.state.read(|data| data.is_held(branch))
    }

    /// Whether a switch has ever closed a branch to a service's writes.
    pub fn was_fenced(&self, branch: &BranchId, service: &ServiceName) -> bool {
        self.state.read(|data| data.was_fenced(branch, service))
    }

    /// Why the role of a revoked lease is not closed yet, if that was tried.
    pub fn failure(&self, lease: &Lease) -> Option<(i32, String)> {
        self.state.read(|data| {
            let role = data.roles.get(&lease.grant.role_key())?;
            (role.failures > 0).then(|| (role.failures, role.failure.clone()))
        })
    }

    /// Leases that live, and revoked ones whose role is not closed, by their names.
    pub fn list(&self) -> Vec<Lease> {
        let now = self.now();
        self.state.read(|data| {
            let all = data.leases.values();
            let shown = all.filter(|lease| lease.lives(now) || lease.revoked.is_some());
            shown.cloned().collect()
        })
    }

    /// Notes what a live lease leads to from now on, and says how it is then; none if
    /// the role is not open any more.
    pub async fn moved(
        &self,
        id: LeaseId,
        generation: i64,
        role: Made,
    ) -> Result<Option<Lease>, Error> {
        let now = self.now();
        let change = move |draft: &mut Draft<'_>| {
            let lease = live(draft, now, id)?;
            if let Some(binding) = lease.request.target.binding() {
                check_binding(draft, binding, generation)?;
            }
            Ok(turns::moved(draft, lease, &role, generation, now))
        };
        self.state.change(change).await?
    }

    /// Told when own branches are made, change hands or go.
    pub fn branches_told(&self) -> watch::Receiver<()> {
        self.state.branches()
    }

    /// Changes when something becomes of the lease. To be asked for before the lease
    /// is looked at, so that nothing is missed.
    pub fn follow(&self, id: LeaseId) -> watch::Receiver<Option<Turn>> {
        self.state.endings().of(id)
    }

    fn granted(&self, now: Timestamp, ttl: Option<Duration>) -> Timestamp {
        let LeaseSettings {
            default_ttl,
            max_ttl,
            ..
        } = *self.settings();
        let ttl = ttl.unwrap_or(default_ttl).min(max_ttl);
        stored(now.checked_add(ttl).unwrap_or(Timestamp::MAX))
    }

    /// The time that leases end by.
    pub(crate) fn now(&self) -> Timestamp {
        // A clock that shows a year beyond 9999 ends every lease.
        stored(Timestamp::try_from(self.clock.now()).unwrap_or(Timestamp::MAX))
    }

    fn settings(&self) -> MutexGuard<'_, LeaseSettings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A time as it comes back from where it is stored: in microseconds.
fn stored(time: Timestamp) -> Timestamp {
    let down = TimestampRound::new()
        .smallest(Unit::Microsecond)
        .mode(jiff::RoundMode::Trunc);
    time.round(down).unwrap_or(time)
}

/// Whether leases are given on a binding, and are to be by that generation. Who has not
/// heard of the newest one would give the branch that came before.
fn check_binding(draft: &Draft<'_>, binding: &BindingName, generation: i64) -> Result<(), Error> {
    match draft.generation(binding) {
        Some(last) if last.is_retired() => Err(Error::BindingRetired(binding.clone())),
        Some(last) if last.number > generation => Err(Error::BindingOvertaken(binding.clone())),
        _ => Ok(()),
    }
}

/// Whether a lease on a branch that asks for writes can have them.
fn check_fence(draft: &Draft<'_>, request: &Request, branch: &BranchId) -> Result<(), Error> {
    let writes = request.access != Access::ReadOnly;
    match writes && draft.is_fenced(branch, &request.service) {
        true => Err(Error::BranchFenced(branch.clone())),
        false => Ok(()),
    }
}

fn live(draft: &Draft<'_>, now: Timestamp, id: LeaseId) -> Result<Lease, Error> {
    let lease = draft.lease(id).filter(|lease| lease.lives(now));
    lease.cloned().ok_or(Error::NotFound(id))
}

fn end(draft: &mut Draft<'_>, lease: Lease, reason: EndReason, time: Timestamp) {
    let action = match reason {
        EndReason::Released => Action::Released,
        EndReason::Expired => Action::Expired,
        EndReason::Revoked => Action::Closed,
    };
    let message = match lease.renewals {
        0 => format!("was never renewed; its time is up at {}", lease.expire_time),
        times => format!(
            "was renewed {times} times; its time is up at {}",
            lease.expire_time
        ),
    };
    draft.audit(Event::of_lease(&lease, action, time, message));
    draft.lease_end(lease, End { time, reason });
}

#[cfg(test)]
mod tests;
