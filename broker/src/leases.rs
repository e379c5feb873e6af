//! Leases: who may connect where, and until when.
//!
//! A lease is a value with its expiry in it. One whose time is up is gone from
//! that moment on, whether or not the sweeper has come by: every look compares
//! with the clock. Where they are kept is state.rs's matter.

mod requests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{Timestamp, TimestampRound, Unit};
use neon_api::BranchId;
use rpc::clock::Clock;
use tokio_util::sync::CancellationToken;

use crate::audit::{Action, Event};
use crate::config::LeaseSettings;
use crate::credentials::KeyId;
use crate::names::{BindingName, LeaseId};
use crate::roles::Access;
use crate::state::{self, Draft, Role, RoleKey, RoleStatus, State};
pub use requests::RequestId;

/// How often leases whose time is up are taken out, in milliseconds.
const SWEEP_MS: u64 = 500;

/// How many leases may be alive. Each is some hundreds of bytes, in memory and in
/// a row.
const LEASES_MAX: usize = 10_000;

/// How many leases end in one transaction at most.
const SWEPT_MAX: usize = 1_000;

/// How long a lease may be renewed before another audit event says that it is, in
/// seconds.
const RENEWALS_UNTOLD_SECONDS_MAX: i64 = 3_600;

/// A right to connect, until `expire_time`.
#[derive(Debug, Clone, PartialEq)]
pub struct Lease {
    /// Its name.
    pub id: LeaseId,
    /// What it was asked for.
    pub request: Request,
    /// What it leads to.
    pub grant: Grant,
    /// When it was given.
    pub create_time: Timestamp,
    /// When it ends unless it is renewed before.
    pub expire_time: Timestamp,
    /// How often it was renewed.
    pub renewals: i64,
    /// When an audit event last told that it lives.
    pub note_time: Timestamp,
}

/// What a lease is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The binding.
    pub binding: BindingName,
    /// What its connection may do.
    pub access: Access,
    /// Whether its connection leads through the pooler.
    pub pooled: bool,
    /// Who asks: the caller's identity, or, without one, as they name
    /// themselves.
    pub holder: String,
    /// Whose the lease is: the caller's identity. Nobody else who has one can do
    /// anything with it.
    pub owner: Option<String>,
}

/// What a lease leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The branch.
    pub branch: BranchId,
    /// The binding's generation.
    pub generation: i64,
    /// The role to connect as.
    pub role: String,
    /// The key that the role's password is derived from.
    pub key: KeyId,
}

/// A lease as it is given.
#[derive(Debug, Clone, PartialEq)]
pub struct Given {
    /// The lease.
    pub lease: Lease,
    /// Whether its role was being closed, or was closed, since it was made: it has
    /// to be made again.
    pub was_closed: bool,
}

impl Lease {
    /// Whether its connection is by that role.
    pub(crate) fn has_role(&self, key: &RoleKey) -> bool {
        self.grant.branch == key.branch && self.grant.role == key.role
    }
}

impl Grant {
    /// Its role, as the state names it.
    pub fn role_key(&self) -> RoleKey {
        RoleKey {
            branch: self.branch.clone(),
            role: self.role.clone(),
        }
    }
}

/// How a lease ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// When.
    pub time: Timestamp,
    /// Why.
    pub reason: EndReason,
}

/// Why a lease ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndReason {
    /// Its holder gave it back.
    Released,
    /// Its time was up.
    Expired,
}

impl EndReason {
    /// As it is stored.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            EndReason::Released => "released",
            EndReason::Expired => "expired",
        }
    }

    pub(crate) fn of_stored(text: &str) -> Option<EndReason> {
        let mut all = [EndReason::Released, EndReason::Expired].into_iter();
        all.find(|reason| reason.as_str() == text)
    }
}

/// Why a lease is not given or kept.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It was never given, or it has ended.
    #[error("there is no lease {0}: it was never given, was released, or has expired")]
    NotFound(LeaseId),
    /// The id was used for another request.
    #[error("the request id {0} was used with another request")]
    RequestIdReused(uuid::Uuid),
    /// There are as many as there may be.
    #[error("there are {LEASES_MAX} leases already; release some, or wait until they expire")]
    TooMany,
    /// As many requests are remembered as there may be.
    #[error(
        "{} requests with ids are remembered already; leave the id out, or wait",
        requests::REMEMBERED_MAX
    )]
    TooManyRequests,
    /// It could not be stored, and was not given.
    #[error(transparent)]
    State(#[from] state::Error),
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

    /// Takes new settings, for what is asked from now on.
    pub fn configure(&self, settings: LeaseSettings) {
        *self.settings() = settings;
    }

    /// The live lease that this request was given before. Another request under
    /// the same id is an error.
    pub fn repeated(&self, id: Option<&RequestId>) -> Result<Option<Lease>, Error> {
        let now = self.now();
        self.state.read(|data| {
            let answered = id.and_then(|id| Some((id, data.requests.get(&id.key)?)));
            let Some(id) = requests::repeated(answered, now)? else {
                return Ok(None);
            };
            let lease = data.leases.get(&id);
            Ok(lease.filter(|lease| lease.expire_time > now).cloned())
        })
    }

    /// Gives a lease, and returns once it is stored. The same request gives the
    /// same lease, for as long as that lives. `closings`: how often its role had
    /// been closed when it was made.
    pub async fn acquire(
        &self,
        request: Request,
        ttl: Option<Duration>,
        id: Option<RequestId>,
        grant: Grant,
        closings: i64,
    ) -> Result<Given, Error> {
        let now = self.now();
        let lease = Lease {
            id: LeaseId::random(),
            request,
            grant,
            create_time: now,
            expire_time: self.granted(now, ttl),
            renewals: 0,
            note_time: now,
        };
        let change = move |draft: &mut Draft<'_>| {
            if let Some(before) = requests::repeated_in(draft, id.as_ref(), now)?
                && let Some(lease) = draft.lease(before).filter(|one| one.expire_time > now)
            {
                let lease = lease.clone();
                let was_closed = role_open(draft, &lease, closings);
                return Ok(Given { lease, was_closed });
            }
            if draft.leases_count() >= LEASES_MAX {
                return Err(Error::TooMany);
            }
            requests::remember(draft, id.as_ref(), lease.id, now)?;
            draft.lease_put(lease.clone());
            let message = format!("until {}, as {}", lease.expire_time, lease.grant.role);
            draft.audit(Event::of_lease(&lease, Action::Acquired, now, message));
            Ok(Given {
                was_closed: role_open(draft, &lease, closings),
                lease: lease.clone(),
            })
        };
        self.state.change(change).await?
    }

    /// Moves a lease's end to now plus what is granted of `ttl`. The same request
    /// does so once.
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
            lease.expire_time = until;
            lease.renewals += 1;
            let untold = now.duration_since(lease.note_time).as_secs();
            if untold >= RENEWALS_UNTOLD_SECONDS_MAX {
                lease.note_time = now;
                let message = format!("until {until}, for the {}. time", lease.renewals);
                draft.audit(Event::of_lease(&lease, Action::Renewed, now, message));
            }
            draft.lease_put(lease.clone());
            Ok(lease)
        };
        self.state.change(change).await?
    }

    /// Ends a lease; false when it had ended already. On an error it lives on,
    /// here as after a restart.
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

    /// How often a role has been closed.
    pub fn closings(&self, key: &RoleKey) -> i64 {
        let closings = |role: &Role| role.closings;
        self.state
            .read(|data| data.roles.get(key).map_or(0, closings))
    }

    /// Whether a live lease has that role on that branch.
    pub fn is_used(&self, branch: &BranchId, role: &str) -> bool {
        let now = self.now();
        self.state.read(|data| {
            let mut leases = data.leases.values();
            leases.any(|lease| {
                lease.expire_time > now && lease.grant.branch == *branch && lease.grant.role == role
            })
        })
    }

    /// A live lease.
    pub fn get(&self, id: LeaseId) -> Result<Lease, Error> {
        let now = self.now();
        let found = self.state.read(|data| data.leases.get(&id).cloned());
        found
            .filter(|lease| lease.expire_time > now)
            .ok_or(Error::NotFound(id))
    }

    /// Notes what a live lease leads to from now on, and says how it is then.
    pub async fn moved(&self, id: LeaseId, grant: Grant, closings: i64) -> Result<Given, Error> {
        let now = self.now();
        let change = move |draft: &mut Draft<'_>| {
            let mut lease = live(draft, now, id)?;
            if lease.grant != grant {
                lease.grant = grant.clone();
                let message = format!("to generation {} of its binding", grant.generation);
                draft.audit(Event::of_lease(&lease, Action::Moved, now, message));
                draft.lease_put(lease.clone());
            }
            let was_closed = role_open(draft, &lease, closings);
            Ok(Given { lease, was_closed })
        };
        self.state.change(change).await?
    }

    /// Resolves when the lease ends. To be asked for before the lease is looked
    /// at, so that no end is missed.
    pub fn ending(&self, id: LeaseId) -> CancellationToken {
        self.state.endings().of(id)
    }

    /// Takes out leases whose time is up, for ever.
    pub async fn sweep(&self) {
        let mut interval = tokio::time::interval(Duration::from_millis(SWEEP_MS));
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            if let Err(error) = self.sweep_once().await {
                // They have ended all the same; the next sweep writes it down.
                tracing::debug!(%error, "leases that have expired cannot be taken out yet");
            }
        }
    }

    /// Takes out leases whose time is up now. Of brokers that share a database one
    /// writes it down; each tells those who watch.
    pub async fn sweep_once(&self) -> Result<(), state::Error> {
        let now = self.now();
        let endings = self.state.endings();
        let ids: Vec<LeaseId> = self.state.read(|data| {
            endings.forget_unknown(data);
            let leases = data.leases.values();
            let ended = leases.filter(|lease| lease.expire_time <= now);
            ended.map(|lease| lease.id).collect()
        });
        // Who watches hears of it now, whether or not it can be stored.
        ids.iter().for_each(|id| endings.end(*id));
        self.state.forget_old(now);
        if self.state.leader().borrow().is_none() {
            return Ok(());
        }
        for some in ids.chunks(SWEPT_MAX) {
            let some = some.to_vec();
            let change = move |draft: &mut Draft<'_>| {
                let mut ended = Vec::new();
                for id in &some {
                    let lease = draft.lease(*id).filter(|lease| lease.expire_time <= now);
                    if let Some(lease) = lease.cloned() {
                        end(draft, lease.clone(), EndReason::Expired, now);
                        ended.push(lease);
                    }
                }
                ended
            };
            for lease in self.state.change_in_background(change).await? {
                let Request {
                    binding, holder, ..
                } = &lease.request;
                tracing::info!(lease = %lease.id, %binding, %holder, "a lease has expired");
            }
        }
        Ok(())
    }

    fn granted(&self, now: Timestamp, ttl: Option<Duration>) -> Timestamp {
        let LeaseSettings {
            default_ttl,
            max_ttl,
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

fn live(draft: &Draft<'_>, now: Timestamp, id: LeaseId) -> Result<Lease, Error> {
    let lease = draft.lease(id).filter(|lease| lease.expire_time > now);
    lease.cloned().ok_or(Error::NotFound(id))
}

/// Notes that a lease has its role. Says whether the role was closed since it was
/// made for that lease.
fn role_open(draft: &mut Draft<'_>, lease: &Lease, closings: i64) -> bool {
    let key = lease.grant.role_key();
    let found = draft.role(&key).cloned();
    let (status, by_now) =
        found.map_or((RoleStatus::Closed, 0), |role| (role.status, role.closings));
    if status != RoleStatus::Open {
        let role = Role {
            binding: lease.request.binding.clone(),
            status: RoleStatus::Open,
            closings: by_now,
        };
        draft.role_put(key, role);
    }
    status == RoleStatus::Closing || by_now != closings
}

fn end(draft: &mut Draft<'_>, lease: Lease, reason: EndReason, time: Timestamp) {
    let action = match reason {
        EndReason::Released => Action::Released,
        EndReason::Expired => Action::Expired,
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
