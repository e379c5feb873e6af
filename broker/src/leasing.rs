//! From a lease to its connection: where it leads, by which role.
//!
//! A role is written down, made on the branch, and only then is the lease given; a
//! lease is given without a look at the branch when its role is known to be there.
//! Since its holder may have changed the role, it is made right behind the answer.

mod close;
mod ephemeral;
mod keep;
mod place;
mod rotate;
mod warm;

pub use close::STUCK_FAILURES;
pub use warm::{PoolNumbers, WarmNumbers};

use std::sync::Arc;
use std::time::Duration;

use moka::future::Cache;
use neon_api::BranchId;

use crate::bindings::Bindings;
use crate::branches;
use crate::connection::NotAUri;
use crate::flights::Flights;
use crate::keeper::Keeper;
use crate::leases::{self, Lease, Leases, Made, NewLease, Request, RequestId, RoleFor, Target};
use crate::logins::{LoginUris, Logins, Place, Wanted};
use crate::migrate;
use crate::names::{BindingName, LeaseId, ServiceName};
use crate::neon::{self, OwnerUris, Point};
use crate::reconcile;
use crate::roles;
use crate::state::RoleKey;
use crate::text::one_line;
use warm::{Kept, Line};

/// How often a lease is tried to be given whose role is closed meanwhile each time.
const GIVE_TRIES_MAX: u32 = 4;
/// How long a role that was made right is not looked at again for a lease, in
/// seconds.
const RIGHT_SECONDS: u64 = 10;
/// How long it is remembered how the owner connects to a branch, and that a branch
/// was prepared, in seconds.
const PLACE_SECONDS: u64 = 300;
/// How many of each are remembered.
const REMEMBERED_MAX: u64 = 10_000;

/// Why there is no lease, or no connection for one.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// broker.toml declares no such service or version.
    #[error("broker.toml does not declare {name}")]
    BindingNotFound {
        /// The field that named it.
        field: &'static str,
        /// The name.
        name: BindingName,
    },
    /// broker.toml declares no such service.
    #[error("broker.toml declares no service {name}")]
    ServiceNotFound {
        /// The field that named it.
        field: &'static str,
        /// The name.
        name: ServiceName,
    },
    /// The binding is being prepared.
    #[error("{name} is not ready yet: {message}")]
    BindingNotReady {
        /// The binding.
        name: BindingName,
        /// What keeps it.
        message: String,
    },
    /// The binding could not be prepared.
    #[error("{name} could not be made ready: {message}")]
    BindingFailed {
        /// The binding.
        name: BindingName,
        /// Why.
        message: String,
    },
    /// Somebody has to run revisions first.
    #[error("{name}: {behind}")]
    BindingBehind {
        /// The binding.
        name: BindingName,
        /// What its branch does not have.
        behind: Box<reconcile::Error>,
    },
    /// The binding was retired.
    #[error("{name} is retired; declare another branch for it in broker.toml")]
    BindingRetired {
        /// The binding.
        name: BindingName,
    },
    /// A branch.
    #[error(transparent)]
    Branch(Box<branches::Error>),
    /// Neon.
    #[error(transparent)]
    Neon(#[from] neon::Error),
    /// What is written down.
    #[error(transparent)]
    Lease(#[from] leases::Error),
    /// A role could not be made.
    #[error("make a connection on the branch {branch}")]
    Role {
        /// The branch.
        branch: BranchId,
        /// What came instead.
        #[source]
        source: Arc<roles::Error>,
    },
    /// The service's revisions could not be run on the branch of an ephemeral lease.
    #[error("migrate the branch of the lease")]
    Migrate(#[source] migrate::Error),
    /// Neon's URI takes no role.
    #[error(transparent)]
    Uri(#[from] NotAUri),
    /// A role was closed again and again while a lease was given.
    #[error("the roles of the branch {branch} are being closed; ask again")]
    RoleClosing {
        /// The branch.
        branch: BranchId,
    },
}

impl Error {
    /// Whether it passes by what goes on here already: who follows a binding waits.
    pub fn passes(&self) -> bool {
        matches!(
            self,
            Error::BindingNotReady { .. }
                | Error::RoleClosing { .. }
                | Error::Lease(leases::Error::BindingOvertaken(_))
        )
    }
}

impl From<branches::Error> for Error {
    fn from(error: branches::Error) -> Error {
        Error::Branch(Box::new(error))
    }
}

impl From<crate::state::Error> for Error {
    fn from(error: crate::state::Error) -> Error {
        Error::Lease(error.into())
    }
}

/// A lease that is asked for.
#[derive(Debug, Clone)]
pub struct Asked {
    /// What for.
    pub request: Request,
    /// Where on the parent, for an ephemeral branch; none: its present.
    pub point: Option<Point>,
    /// Whether the service's newest revisions are to be run on an ephemeral branch.
    pub migrate: bool,
    /// For how long.
    pub ttl: Option<Duration>,
    /// The request's id.
    pub request_id: Option<RequestId>,
    /// How many ephemeral branches the holder may have; none: any number.
    pub ephemeral_max: Option<u32>,
}

/// A lease and where it leads.
#[derive(Debug, Clone)]
pub struct Connected {
    /// The lease.
    pub lease: Lease,
    /// Where it leads.
    pub place: Place,
    /// The URIs to connect with.
    pub uris: LoginUris,
}

/// Gives leases their connections.
#[derive(Debug)]
pub struct Leasing {
    keeper: Arc<Keeper>,
    bindings: Arc<Bindings>,
    leases: Arc<Leases>,
    logins: Arc<Logins>,
    /// How the owner of a database connects to a branch that no binding leads to.
    uris: Cache<(BranchId, String), OwnerUris>,
    /// Branches that no binding leads to, prepared for a service.
    prepared: Cache<(BranchId, ServiceName), ()>,
    /// Roles that were made right not long ago.
    right: Cache<RoleKey, ()>,
    /// Leases whose branch is being kept for longer.
    prolonging: Flights<LeaseId, ()>,
    /// How the owner connects to branches that wait for a lease.
    kept: Kept,
    /// Who waits for an ephemeral branch.
    line: Line,
}

impl Leasing {
    /// For these.
    pub fn new(
        keeper: Arc<Keeper>,
        bindings: Arc<Bindings>,
        leases: Arc<Leases>,
        logins: Arc<Logins>,
    ) -> Leasing {
        let places = Duration::from_secs(PLACE_SECONDS);
        Leasing {
            keeper,
            bindings,
            leases,
            logins,
            uris: remembered(places),
            prepared: remembered(places),
            right: remembered(Duration::from_secs(RIGHT_SECONDS)),
            prolonging: Flights::default(),
            kept: Kept::default(),
            line: Line::default(),
        }
    }

    /// Gives a lease, or the one that the same request was given before.
    pub async fn acquire(self: &Arc<Self>, asked: Asked) -> Result<Connected, Error> {
        let before = self.leases.repeated(asked.request_id.as_ref())?;
        if let Some((_, Some(lease))) = before {
            // It may be on what the binding led to then: it goes where its holder is
            // sent now.
            return self.connected(lease).await;
        }
        match &asked.request.target {
            Target::Ephemeral { parent } => {
                let parent = parent.clone();
                Box::pin(self.acquire_ephemeral(asked, parent)).await
            }
            Target::Binding(_) | Target::Branch(_) => {
                let id = LeaseId::random();
                let place = self.place_of(&asked.request).await?;
                let given = Box::pin(self.give(id, asked.clone(), &place, None)).await;
                let Err(Error::Lease(leases::Error::BindingOvertaken(name))) = given else {
                    return given;
                };
                self.followed(&name, place.generation).await;
                let place = self.place_of(&asked.request).await?;
                Box::pin(self.give(id, asked, &place, None)).await
            }
        }
    }

    /// The connection of a lease, which goes where its binding leads now, by a role
    /// that it may have.
    pub async fn connected(self: &Arc<Self>, mut lease: Lease) -> Result<Connected, Error> {
        let mut place = self.place_of_lease(&lease).await?;
        if let Some(name) = lease.request.target.binding()
            && lease.grant.generation > place.generation
        {
            // It was turned over with its binding, which is not followed here yet.
            self.followed(name, place.generation).await;
            place = self.place_of_lease(&lease).await?;
        }
        for _ in 0..GIVE_TRIES_MAX {
            if self.is_settled(&lease, &place) {
                return Ok(self.with_uris(lease, place)?);
            }
            let role = self.role(&place, &lease.request).await?;
            let moved = self
                .leases
                .moved(lease.id, place.generation, role.clone())
                .await;
            if !matches!(moved, Ok(Some(_))) {
                self.close_unusable(&place, &role.role).await?;
            }
            match moved {
                Ok(moved) => lease = moved.unwrap_or(lease),
                Err(leases::Error::BindingOvertaken(name)) => {
                    self.followed(&name, place.generation).await;
                    place = self.place_of_lease(&lease).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::RoleClosing {
            branch: place.branch,
        })
    }

    /// The connection that a lease has by what its binding leads to, without a look at
    /// whether it may have another; none if it is of a generation before.
    pub fn as_it_is(&self, lease: Lease, target: &crate::bindings::Target) -> Option<Connected> {
        let place = place::at(target);
        let is_there = self.is_settled(&lease, &place);
        // Neon's URI took a role before.
        is_there
            .then(|| self.with_uris(lease, place).ok())
            .flatten()
    }

    /// The connection that a lease is to have next, by a role that is there until then
    /// and that the lease gets when its binding leads there.
    pub async fn pending(
        self: &Arc<Self>,
        lease: Lease,
        target: &crate::bindings::Target,
        until: jiff::Timestamp,
    ) -> Result<Connected, Error> {
        let place = place::at(target);
        let made = self.role(&place, &lease.request).await?;
        if !self.leases.role_reserve(made.clone(), until).await? {
            self.close_unusable(&place, &made.role).await?;
            return Err(Error::RoleClosing {
                branch: place.branch,
            });
        }
        let lease = Lease {
            grant: made.grant(place.generation),
            ..lease
        };
        Ok(self.with_uris(lease, place)?)
    }

    /// Gives the lease that is asked for, at that place.
    async fn give(
        self: &Arc<Self>,
        id: LeaseId,
        asked: Asked,
        place: &Place,
        branch_expire_time: Option<jiff::Timestamp>,
    ) -> Result<Connected, Error> {
        for _ in 0..GIVE_TRIES_MAX {
            let role = self.role(place, &asked.request).await?;
            let new = NewLease {
                id,
                request: asked.request.clone(),
                ttl: asked.ttl,
                request_id: asked.request_id.clone(),
                generation: place.generation,
                role: role.clone(),
                branch_expire_time,
            };
            let given = self.leases.give(new).await;
            let has_role = |lease: &Lease| lease.grant.role_key() == role.role;
            if !matches!(&given, Ok(Some(lease)) if has_role(lease)) {
                self.close_unusable(place, &role.role).await?;
            }
            if let Some(lease) = given? {
                return match self.is_settled(&lease, place) {
                    true => Ok(self.with_uris(lease, place.clone())?),
                    // The same request was given another at the same time.
                    false => Box::pin(self.connected(lease)).await,
                };
            }
        }
        Err(Error::RoleClosing {
            branch: place.branch.clone(),
        })
    }

    /// The role that a holder's lease gets at that place.
    async fn role(self: &Arc<Self>, place: &Place, request: &Request) -> Result<Made, Error> {
        let of = RoleFor {
            branch: place.branch.clone(),
            service: request.service.clone(),
            database: place.service.database.clone(),
            access: request.access,
            holder: request.holder.clone(),
            key: self.logins.key_id().clone(),
        };
        if let Some(made) = self.leases.role_ready(&of) {
            self.right_behind(place, request, &made.role);
            return Ok(made);
        }
        let key = self.leases.role_intend(of.clone()).await?;
        let wanted = Wanted {
            access: request.access,
            valid_until: self.leases.password_end(),
        };
        let valid_until = self.make(place, &key, wanted).await?;
        Ok(Made {
            role: key,
            key: of.key,
            valid_until: Some(valid_until),
        })
    }

    async fn make(
        &self,
        place: &Place,
        key: &RoleKey,
        wanted: Wanted,
    ) -> Result<jiff::Timestamp, Error> {
        match self.logins.make(place, key, wanted).await {
            Ok(valid_until) => {
                self.right.insert(key.clone(), ()).await;
                Ok(valid_until)
            }
            Err(source) => {
                // It may be that the owner's password is another by now.
                self.forget_place(&place.branch).await;
                // And that it was made all the same, and nobody heard.
                if let Err(error) = self.close_unusable(place, key).await {
                    let (branch, error) = (&key.branch, one_line(&error));
                    tracing::warn!(%branch, error, "close a lease role that may have been made");
                }
                Err(Error::Role {
                    branch: place.branch.clone(),
                    source,
                })
            }
        }
    }

    /// Closes a role that was made although it is not to be used any more. Who closes
    /// one says so before: it may have been closed before it was made, and be there
    /// again.
    async fn close_unusable(&self, place: &Place, key: &RoleKey) -> Result<(), Error> {
        if self.leases.role_is_usable(key).await? {
            return Ok(());
        }
        let closing = self.logins.close(&place.uris.direct, &key.role).await;
        closing.map_err(|source| Error::Role {
            branch: place.branch.clone(),
            source: Arc::new(source),
        })
    }

    fn is_settled(&self, lease: &Lease, place: &Place) -> bool {
        lease.grant.branch == place.branch
            && lease.grant.generation == place.generation
            && lease.grant.key == *self.logins.key_id()
            && self.leases.role_is_given(&lease.grant.role_key())
    }

    fn with_uris(&self, lease: Lease, place: Place) -> Result<Connected, NotAUri> {
        let uris = self
            .logins
            .uris(&place, &lease.grant.role, lease.request.pooled)?;
        Ok(Connected { lease, place, uris })
    }
}

fn remembered<K, V>(time: Duration) -> Cache<K, V>
where
    K: std::hash::Hash + Eq + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    Cache::builder()
        .max_capacity(REMEMBERED_MAX)
        .time_to_live(time)
        .build()
}
