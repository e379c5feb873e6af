//! Leases: who may connect where, and until when.
//!
//! A lease is a value with its expiry in it. One whose time is up is gone from
//! that moment on, whether or not the sweeper has come by: every look compares
//! with the clock. Where they are kept is state.rs's matter.

use std::collections::HashMap;
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

/// How often leases whose time is up are taken out, in milliseconds.
const SWEEP_MS: u64 = 500;

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
    /// Who asks, as they name themselves.
    pub holder: String,
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
}

impl Leases {
    /// Those that the state holds.
    pub fn new(state: Arc<State>, clock: Clock, settings: LeaseSettings) -> Leases {
        Leases {
            state,
            clock,
            settings: Mutex::new(settings),
            endings: Mutex::default(),
        }
    }

    /// Takes new settings, for what is asked from now on.
    pub fn configure(&self, settings: LeaseSettings) {
        *self.settings() = settings;
    }

    /// The live lease that this request id was given. Another request under the
    /// same id is an error.
    pub fn repeated(&self, id: Option<Uuid>, request: &Request) -> Result<Option<Lease>, Error> {
        let now = self.now();
        self.state.read(|data| repeated(data, now, id, request))
    }

    /// Gives a lease, and returns once it is stored. The same request id gives
    /// the same lease, for as long as that lives.
    pub async fn acquire(
        &self,
        request: Request,
        request_id: Option<Uuid>,
        grant: Grant,
    ) -> Result<Lease, Error> {
        let now = self.now();
        let lease = Lease {
            id: LeaseId::random(),
            expire_time: self.granted(now, request.ttl),
            request,
            request_id,
            grant,
        };
        let id = lease.id;
        let change = |data: &mut Data| match repeated(data, now, request_id, &lease.request)? {
            // Two that came at once: the first stands.
            Some(earlier) => Ok(earlier),
            None => {
                data.leases.insert(id, lease.clone());
                Ok(lease)
            }
        };
        match self.state.change(change).await {
            Ok(given) => given,
            Err(error) => {
                // Nobody hears of it, so nobody may hold it.
                self.state.change_unstored(|data| data.leases.remove(&id));
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

    /// Ends a lease; false when it had ended already.
    pub async fn release(&self, id: LeaseId) -> Result<bool, Error> {
        let now = self.now();
        let ended = self.state.change(|data| data.leases.remove(&id)).await?;
        self.end(id);
        Ok(ended.is_some_and(|lease| lease.expire_time > now))
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
            self.end(lease.id);
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

    /// How many there are, those that the sweeper has yet to take out included.
    pub fn count(&self) -> usize {
        self.state.read(|data| data.leases.len())
    }

    fn end(&self, id: LeaseId) {
        if let Some(ending) = self.endings().remove(&id) {
            ending.cancel();
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
    now: Timestamp,
    request_id: Option<Uuid>,
    request: &Request,
) -> Result<Option<Lease>, Error> {
    let Some(request_id) = request_id else {
        return Ok(None);
    };
    let found = data
        .leases
        .values()
        .find(|lease| lease.request_id == Some(request_id) && lease.expire_time > now);
    match found {
        None => Ok(None),
        Some(lease) if lease.request == *request => Ok(Some(lease.clone())),
        Some(_) => Err(Error::RequestIdReused(request_id)),
    }
}

#[cfg(test)]
mod tests;
