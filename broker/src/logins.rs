//! Connections for leases: the login role made or made right, the URI with its
//! password; and login roles closed again when their last lease has ended.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use neon_api::BranchId;
use rpc::clock::Clock;
use secrecy::SecretString;
use tokio::sync::{OwnedRwLockReadGuard, RwLock};
use tokio::time::Instant;

use crate::bindings::Target;
use crate::config::ServiceSpec;
use crate::connection::{self, NotAUri};
use crate::credentials::Key;
use crate::leases::Grant;
use crate::postgres::{self, OwnerUri};
use crate::roles::{self, Access};
use crate::state::RoleKey;

/// How long making or closing a role may take, in seconds, connecting to a
/// branch that wakes included.
const ROLE_SECONDS_MAX: u64 = 20;
/// A role's password is good for that many times the longest ttl, and is
/// prolonged when less than the longest ttl is left: so it outlives every lease
/// that was given or renewed meanwhile.
const VALID_TTLS: u32 = 2;

/// A connection that a lease may use. While this is held, its role is not
/// closed: a lease is given before it is let go.
#[derive(Debug)]
pub struct Login {
    /// What the lease leads to.
    pub grant: Grant,
    /// The URI to connect with.
    pub uri: SecretString,
    /// How often its role had been closed before it was made.
    pub closings: i64,
    _open: OwnedRwLockReadGuard<()>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The role could not be made.
    #[error(transparent)]
    Role(#[from] roles::Error),
    /// Neon's URI takes no role.
    #[error(transparent)]
    Uri(#[from] NotAUri),
}

/// Makes login roles and closes them. Who asks for the same one at once shares
/// the work.
#[derive(Debug)]
pub struct Logins {
    key: Key,
    clock: Clock,
    places: Mutex<HashMap<(BranchId, String), Arc<Place>>>,
}

/// A role on a branch.
#[derive(Debug, Default)]
struct Place {
    /// Read while it is given out, written while it is closed.
    open: Arc<RwLock<()>>,
    /// What is known of it; held while it is made.
    made: tokio::sync::Mutex<Option<Made>>,
}

/// A role that was made.
#[derive(Debug, Clone, Copy)]
struct Made {
    /// When making it was begun.
    begun: Instant,
    /// Until when its password is good.
    valid_until: Timestamp,
}

impl Logins {
    /// With passwords from that key, and their ends by that clock.
    pub fn new(key: Key, clock: Clock) -> Logins {
        Logins {
            key,
            clock,
            places: Mutex::default(),
        }
    }

    /// The connection that a lease on what `target` leads to gets. The role is
    /// made, or set right, on the branch, whatever became of it since it was
    /// last asked for. `max_ttl`: the longest ttl that a lease gets.
    pub async fn login(
        &self,
        target: &Target,
        access: Access,
        pooled: bool,
        max_ttl: Duration,
        closings: impl Fn(&RoleKey) -> i64,
    ) -> Result<Login, Error> {
        let asked = Instant::now();
        let role = roles::login_name(&target.spec.name, access);
        let place = self.place(&target.branch, &role);
        let open = Arc::clone(&place.open).read_owned().await;
        let closings = closings(&RoleKey {
            branch: target.branch.clone(),
            role: role.clone(),
        });
        let mut made = place.made.lock().await;
        // Begun after we asked: it is for us too.
        if made.is_none_or(|made| made.begun < asked) {
            *made = Some(self.make(target, access, max_ttl).await?);
        }
        drop(made);
        let password = self.key.password(&target.branch, &role);
        let owner = match pooled {
            true => &target.uris.pooled,
            false => &target.uris.direct,
        };
        Ok(Login {
            uri: connection::lease_uri(owner, &role, &password)?,
            closings,
            grant: Grant {
                branch: target.branch.clone(),
                generation: target.generation,
                role,
                key: self.key.id().clone(),
            },
            _open: open,
        })
    }

    /// Sets a role right if less than `max_ttl` is left of its password, or
    /// nothing is known of it.
    pub async fn prolong(
        &self,
        target: &Target,
        access: Access,
        max_ttl: Duration,
    ) -> Result<(), Error> {
        let role = roles::login_name(&target.spec.name, access);
        let place = self.place(&target.branch, &role);
        let _open = place.open.read().await;
        let mut made = place.made.lock().await;
        let needed = self.ahead(max_ttl);
        if made.is_none_or(|made| made.valid_until < needed) {
            *made = Some(self.make(target, access, max_ttl).await?);
        }
        Ok(())
    }

    /// Closes a role on a branch if `may_close` says so, which is asked when
    /// nobody can make the role meanwhile. False: it did not.
    pub async fn close(
        &self,
        owner: &OwnerUri,
        service: &ServiceSpec,
        branch: &BranchId,
        role: &str,
        may_close: impl Future<Output = bool>,
    ) -> Result<bool, roles::Error> {
        let place = self.place(branch, role);
        let _closed = place.open.write().await;
        *place.made.lock().await = None;
        let closing = async {
            let mut client = postgres::session(owner).await?;
            roles::login_close(&mut client, service, role, may_close).await
        };
        let limit = Duration::from_secs(ROLE_SECONDS_MAX);
        postgres::bounded(limit, format!("close the role {role}"), closing).await
    }

    /// After a branch was reset or restored, which takes roles away and brings
    /// old ones back: closes every lease role there that `is_used` does not know,
    /// and makes the binding's anew that it does.
    pub async fn put_right(
        &self,
        target: &Target,
        max_ttl: Duration,
        is_used: impl Fn(&str) -> bool,
    ) -> Result<(), roles::Error> {
        let (owner, service) = (&target.uris.direct, &target.spec.service);
        let limit = Duration::from_secs(ROLE_SECONDS_MAX);
        let listing = async {
            let client = postgres::session(owner).await?;
            roles::logins_open(&client).await
        };
        let open = postgres::bounded(limit, "list the lease roles", listing).await?;
        for role in open {
            let may_close = async { !is_used(&role) };
            let closed = self.close(owner, service, &target.branch, &role, may_close);
            if closed.await? {
                tracing::info!(%role, branch = %target.branch, "closed a lease role that a restore brought back");
            }
        }
        for access in Access::ALL {
            let role = roles::login_name(&target.spec.name, access);
            if is_used(&role) {
                let place = self.place(&target.branch, &role);
                let _open = place.open.read().await;
                let mut made = place.made.lock().await;
                *made = None;
                *made = Some(self.make(target, access, max_ttl).await?);
            }
        }
        Ok(())
    }

    async fn make(
        &self,
        target: &Target,
        access: Access,
        max_ttl: Duration,
    ) -> Result<Made, roles::Error> {
        let begun = Instant::now();
        let valid_until = self.ahead(max_ttl.saturating_mul(VALID_TTLS));
        let login = roles::Login {
            service: &target.spec.service,
            binding: &target.spec.name,
            access,
            branch: &target.branch,
            connections: target.spec.connections,
            valid_until,
        };
        let making = async {
            let mut client = postgres::session(&target.uris.direct).await?;
            roles::login_ensure(&mut client, login, &self.key).await
        };
        let what = format!("make a lease role on the branch {}", target.branch);
        postgres::bounded(Duration::from_secs(ROLE_SECONDS_MAX), what, making).await?;
        Ok(Made { begun, valid_until })
    }

    fn ahead(&self, by: Duration) -> Timestamp {
        let now = Timestamp::try_from(self.clock.now()).unwrap_or(Timestamp::MAX);
        now.checked_add(by).unwrap_or(Timestamp::MAX)
    }

    fn place(&self, branch: &BranchId, role: &str) -> Arc<Place> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let place = (branch.clone(), role.to_owned());
        Arc::clone(places.entry(place).or_default())
    }
}
