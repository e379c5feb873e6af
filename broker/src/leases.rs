//! Leases: who may connect where, and until when.
//!
//! A lease is a value with its expiry in it. One whose time is up is gone from
//! that moment on, whether or not the sweeper has come by: every look compares
//! with the clock. Where they are kept is state.rs's matter.

mod requests;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use neon_api::BranchId;
use rpc::clock::Clock;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::config::LeaseSettings;
use crate::credentials::KeyId;
use crate::names::{BindingName, LeaseId};
use crate::roles::Access;
use crate::state::{self, Data, State};
use requests::{RequestIds, RequestKey};

/// How often leases whose time is up are taken out, in milliseconds.
const SWEEP_MS: u64 = 500;

/// How many leases may be alive. Each is some hundreds of bytes, and all are in
/// every write of the state.
const LEASES_MAX: usize = 10_000;

/// A right to connect, until `expire_time`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lease {
    /// Its name.
    pub id: LeaseId,
    /// What it was asked for.
    pub request: Request,
    /// The caller's id of the request, which makes repeating it safe.
    pub request_id: Option<Uuid>,
    /// What it leads to.
    pub grant: Grant,
    /// When it ends unless it is renewed before.
    pub expire_time: Timestamp,
}

/// What a lease is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
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
    #[serde(default)]
    pub owner: Option<String>,
    /// For how long; the broker's default when not said.
    pub ttl: Option<Duration>,
}

/// What a lease leads to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
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

/// Why a lease is not given or kept.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It was never given, or it has ended.
    #[error("there is no lease {0}: it was never given, was released, or has expired")]
    NotFound(LeaseId),
    /// The id was used for another request.
    #[error("the request id {0} was used with another request")]
    RequestIdReused(Uuid),
    /// There are as many as there may be.
    #[error("there are {LEASES_MAX} leases already; release some, or wait until they expire")]
    TooMany,
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
    /// Cancelled when the lease ends: for those who follow one.
    endings: Mutex<HashMap<LeaseId, CancellationToken>>,
    requests: RequestIds,
    /// Roles whose lease has ended, to be closed unless another has them.
    ended: Mutex<BTreeSet<Ended>>,
}

/// A role that a lease of that binding had.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ended {
    /// The lease's binding.
    pub binding: BindingName,
    /// The branch that the role is on.
    pub branch: BranchId,
    /// The role.
    pub role: String,
}

impl Leases {
    /// Those that the state holds.
    pub fn new(state: Arc<State>, clock: Clock, settings: LeaseSettings) -> Leases {
        let requests = state.read(|data| RequestIds::of(data.leases.values()));
        Leases {
            state,
            clock,
            settings: Mutex::new(settings),
            endings: Mutex::default(),
            requests,
            ended: Mutex::default(),
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

    /// The live lease that this request id was given. Another request under the
    /// same id is an error.
    pub fn repeated(&self, id: Option<Uuid>, request: &Request) -> Result<Option<Lease>, Error> {
        let now = self.now();
        self.state
            .read(|data| repeated(data, &self.requests, now, id, request))
    }

    /// Gives a lease, and returns once it is stored. The same request id gives
    /// the same lease, for as long as that lives.
    pub async fn acquire(
        &self,
        request: Request,
        request_id: Option<Uuid>,
        grant: Grant,
    ) -> Result<Lease, Error> {
        let flight = request_id.map(|id| self.requests.flight(RequestKey::of(id, &request)));
        let _alone = match &flight {
            Some(flight) => Some(flight.lock().await),
            None => None,
        };
        let now = self.now();
        let lease = Lease {
            id: LeaseId::random(),
            expire_time: self.granted(now, request.ttl),
            request,
            request_id,
            grant,
        };
        let id = lease.id;
        let change = |data: &mut Data| {
            let earlier = repeated(data, &self.requests, now, request_id, &lease.request)?;
            if let Some(earlier) = earlier {
                return Ok(earlier);
            }
            if data.leases.len() >= LEASES_MAX {
                return Err(Error::TooMany);
            }
            self.requests.note(&lease);
            data.leases.insert(id, lease.clone());
            Ok(lease)
        };
        match self.state.change(change).await {
            Ok(given) => given,
            Err(error) => {
                // Nobody hears of it, so nobody may hold it.
                let taken = self.state.change_unstored(|data| data.leases.remove(&id));
                if let Some(lease) = &taken {
                    self.requests.forget(lease);
                }
                Err(error.into())
            }
        }
    }

    /// Moves a lease's end to now plus what is granted of `ttl`.
    pub async fn renew(&self, id: LeaseId, ttl: Option<Duration>) -> Result<Lease, Error> {
        let now = self.now();
        let until = self.granted(now, ttl);
        self.state
            .change(|data| {
                let lease = live(data, now, id)?;
                lease.expire_time = until;
                Ok(lease.clone())
            })
            .await?
    }

    /// Ends a lease; false when it had ended already. On an error it lives on,
    /// here as after a restart.
    pub async fn release(&self, id: LeaseId) -> Result<bool, Error> {
        let now = self.now();
        let mut taken = None;
        let stored = self
            .state
            .change(|data| taken = data.leases.remove(&id))
            .await;
        if let Err(error) = stored {
            self.state
                .change_unstored(|data| data.leases.extend(taken.map(|lease| (id, lease))));
            return Err(error.into());
        }
        self.end(id, taken.as_ref());
        Ok(taken.is_some_and(|lease| lease.expire_time > now))
    }

    /// Roles that leases had which have ended since this was last asked.
    pub fn take_ended(&self) -> BTreeSet<Ended> {
        std::mem::take(&mut *self.ended.lock().unwrap_or_else(PoisonError::into_inner))
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

    /// Notes what a live lease leads to from now on. Not waited for: a broker
    /// that starts again tells its watchers again.
    pub fn moved(&self, id: LeaseId, grant: Grant) {
        self.state.change_unstored(|data| {
            if let Some(lease) = data.leases.get_mut(&id) {
                lease.grant = grant;
            }
        });
    }

    /// Resolves when the lease ends. To be asked for before the lease is looked
    /// at, so that no end is missed.
    pub fn ending(&self, id: LeaseId) -> CancellationToken {
        self.endings().entry(id).or_default().clone()
    }

    /// Takes out leases whose time is up, for ever.
    pub async fn sweep(&self) {
        let mut interval = tokio::time::interval(Duration::from_millis(SWEEP_MS));
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            self.sweep_once();
        }
    }

    /// Takes out leases whose time is up now. In memory alone: a broker that
    /// starts again does the same by itself.
    pub fn sweep_once(&self) {
        let now = self.now();
        let ended: Vec<Lease> = self.state.change_unstored(|data| {
            let ended = |_: &LeaseId, lease: &mut Lease| lease.expire_time <= now;
            data.leases
                .extract_if(.., ended)
                .map(|(_, lease)| lease)
                .collect()
        });
        for lease in ended {
            let Request {
                binding, holder, ..
            } = &lease.request;
            tracing::info!(lease = %lease.id, %binding, %holder, "a lease has expired");
            self.end(lease.id, Some(&lease));
        }
        // Asked for by a name that no lease has, or has any more.
        self.endings().retain(|id, ending| {
            let lives = self.state.read(|data| data.leases.contains_key(id));
            if !lives {
                ending.cancel();
            }
            lives
        });
    }

    fn end(&self, id: LeaseId, lease: Option<&Lease>) {
        if let Some(ending) = self.endings().remove(&id) {
            ending.cancel();
        }
        if let Some(lease) = lease {
            self.requests.forget(lease);
            let ended = Ended {
                binding: lease.request.binding.clone(),
                branch: lease.grant.branch.clone(),
                role: lease.grant.role.clone(),
            };
            let mut all = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
            all.insert(ended);
        }
    }

    fn granted(&self, now: Timestamp, ttl: Option<Duration>) -> Timestamp {
        let LeaseSettings {
            default_ttl,
            max_ttl,
        } = *self.settings();
        let ttl = ttl.unwrap_or(default_ttl).min(max_ttl);
        now.checked_add(ttl).unwrap_or(Timestamp::MAX)
    }

    fn now(&self) -> Timestamp {
        // A clock that shows a year beyond 9999 ends every lease.
        Timestamp::try_from(self.clock.now()).unwrap_or(Timestamp::MAX)
    }

    fn settings(&self) -> MutexGuard<'_, LeaseSettings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn endings(&self) -> MutexGuard<'_, HashMap<LeaseId, CancellationToken>> {
        self.endings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn live(data: &mut Data, now: Timestamp, id: LeaseId) -> Result<&mut Lease, Error> {
    data.leases
        .get_mut(&id)
        .filter(|lease| lease.expire_time > now)
        .ok_or(Error::NotFound(id))
}

fn repeated(
    data: &Data,
    requests: &RequestIds,
    now: Timestamp,
    request_id: Option<Uuid>,
    request: &Request,
) -> Result<Option<Lease>, Error> {
    let Some(request_id) = request_id else {
        return Ok(None);
    };
    let found = requests
        .get(&RequestKey::of(request_id, request))
        .and_then(|id| data.leases.get(&id))
        .filter(|lease| lease.expire_time > now);
    match found {
        None => Ok(None),
        Some(lease) if lease.request == *request => Ok(Some(lease.clone())),
        Some(_) => Err(Error::RequestIdReused(request_id)),
    }
}

#[cfg(test)]
mod tests;
