//! Where leases lead.

use std::sync::Arc;
use std::time::Duration;

use neon_api::BranchId;

use super::{Error, Leasing};
use crate::bindings::{Status, Target as BindingTarget};
use crate::config::ServiceSpec;
use crate::leases::{Lease, Request, Target};
use crate::logins::Place;
use crate::names::{BindingName, ServiceName};
use crate::neon::OwnerUris;
use crate::roles::{self, Access};

/// How long a binding may take to be followed to where another broker has moved it, in
/// seconds.
const FOLLOW_SECONDS_MAX: u64 = 5;

impl Leasing {
    /// What a declared binding leads to.
    pub fn ready(
        &self,
        field: &'static str,
        name: &BindingName,
    ) -> Result<Arc<BindingTarget>, Error> {
        let name = name.clone();
        let Some(binding) = self.bindings.get(&name) else {
            return Err(Error::BindingNotFound { field, name });
        };
        match (&binding.status, &binding.target) {
            // This broker or another is at work with the branch.
            (Status::Ready, Some(target)) if self.leases.is_held(&target.branch) => {
                Err(Error::BindingNotReady {
                    name,
                    message: "its branch is being reset or restored".to_owned(),
                })
            }
            (Status::Ready, Some(target)) => Ok(Arc::clone(target)),
            (Status::Retired, _) => Err(Error::BindingRetired { name }),
            (Status::Failed(message), _) => Err(Error::BindingFailed {
                name,
                message: message.clone(),
            }),
            (Status::Preparing(message), _) => Err(Error::BindingNotReady {
                name,
                message: message.clone(),
            }),
            (Status::Ready, None) => Err(Error::BindingNotReady {
                name,
                message: "its branch is being prepared".to_owned(),
            }),
        }
    }

    /// Where a lease that is asked for would lead, ready for its role.
    pub(super) async fn place_of(&self, request: &Request) -> Result<Place, Error> {
        match &request.target {
            Target::Binding(name) => {
                let target = self.ready("binding", name)?;
                match self.bindings.get(name).and_then(|one| one.behind()) {
                    Some(behind) => Err(Error::BindingBehind {
                        name: name.clone(),
                        behind: Box::new(behind),
                    }),
                    None => Ok(at(&target)),
                }
            }
            Target::Branch(branch) => {
                let place = self.place_on(branch, &request.service).await?;
                match self.prepare(&place).await {
                    // Who only reads has what they need.
                    Err(Error::Role { source, .. })
                        if request.access == Access::ReadOnly
                            && matches!(*source, roles::Error::Fenced { .. }) => {}
                    prepared => prepared?,
                }
                Ok(place)
            }
            // There is none before it is made.
            Target::Ephemeral { parent } => self.place_on(parent, &request.service).await,
        }
    }

    /// Where a lease leads now.
    pub(super) async fn place_of_lease(&self, lease: &Lease) -> Result<Place, Error> {
        match &lease.request.target {
            Target::Binding(name) => match self.ready("binding", name) {
                Ok(target) => Ok(at(&target)),
                Err(error @ (Error::BindingNotReady { .. } | Error::BindingFailed { .. })) => {
                    self.stored_place(name).await.unwrap_or(Err(error))
                }
                Err(error) => Err(error),
            },
            Target::Branch(_) | Target::Ephemeral { .. } => {
                self.place_on(&lease.grant.branch, &lease.request.service)
                    .await
            }
        }
    }

    /// Where a binding led when it was announced last, by any broker: who has a lease
    /// keeps it while this one has not made the binding ready since it started, or cannot.
    async fn stored_place(&self, name: &BindingName) -> Option<Result<Place, Error>> {
        let binding = self.bindings.get(name)?;
        let last = self.keeper.announced(name)?;
        if binding.target.is_some() || self.leases.is_held(&last.branch) {
            return None;
        }
        let place = self.place_on(&last.branch, &name.service).await;
        Some(place.map(|place| Place {
            connections: binding.spec.connections,
            generation: last.number,
            ..place
        }))
    }

    /// A service's tables on a branch, whatever leads there.
    pub(crate) async fn place_on(
        &self,
        branch: &BranchId,
        service: &ServiceName,
    ) -> Result<Place, Error> {
        let config = self.keeper.config();
        let spec = config.service(service);
        let spec = spec.ok_or_else(|| Error::ServiceNotFound {
            field: "service",
            name: service.clone(),
        })?;
        Ok(Place {
            branch: branch.clone(),
            uris: self.owner_uris(branch, spec).await?,
            service: Arc::clone(spec),
            connections: config.connections_of(service),
            generation: 0,
        })
    }

    /// How the owner of a database connects to a branch.
    pub(super) async fn owner_uris_of(
        &self,
        branch: &BranchId,
        database: &str,
    ) -> Result<OwnerUris, Error> {
        if let Some(uris) = self.kept.of(branch, database) {
            return Ok(uris);
        }
        let key = (branch.clone(), database.to_owned());
        let asking = Box::pin(self.keeper.neon().owner_uris(branch, database));
        let uris = self.uris.try_get_with(key, asking).await;
        uris.map_err(|error| Error::Neon((*error).clone()))
    }

    async fn owner_uris(&self, branch: &BranchId, spec: &ServiceSpec) -> Result<OwnerUris, Error> {
        let of_it = self.bindings.list().into_iter().find_map(|binding| {
            let target = binding.target.clone()?;
            let is_it = target.branch == *branch && target.spec.service.database == spec.database;
            is_it.then(|| target.uris.clone())
        });
        match of_it {
            Some(uris) => Ok(uris),
            None => self.owner_uris_of(branch, &spec.database).await,
        }
    }

    /// Sees to it that a branch that no binding lives on has the service's groups, and
    /// none of its parent's lease roles.
    pub(crate) async fn prepare(&self, place: &Place) -> Result<(), Error> {
        let key = (place.branch.clone(), place.service.name.clone());
        if self.leases.was_fenced(&key.0, &key.1) {
            // What is remembered may be from before its rights were taken.
            self.prepared.invalidate(&key).await;
        }
        let preparing = Box::pin(self.logins.prepare(place));
        let prepared = self.prepared.try_get_with(key, preparing).await;
        prepared.map_err(|source| Error::Role {
            branch: place.branch.clone(),
            source,
        })
    }

    /// Returns when a binding leads elsewhere than by that generation, or has had the time
    /// to: this broker goes along with what another has announced.
    pub(super) async fn followed(&self, name: &BindingName, generation: i64) {
        let Some(mut told) = self.bindings.watch(name) else {
            return;
        };
        let moved = told.wait_for(|binding| {
            let target = binding.target.as_ref();
            target.is_some_and(|target| target.generation > generation)
        });
        let limit = Duration::from_secs(FOLLOW_SECONDS_MAX);
        // Otherwise the caller is told to ask again.
        let _ = tokio::time::timeout(limit, moved).await;
    }

    /// Forgets how the owner connects to a branch, and that it was prepared.
    pub async fn forget_place(&self, branch: &BranchId) {
        self.kept.forget(branch);
        let uris: Vec<_> = self.uris.iter().map(|(key, _)| key).collect();
        for key in uris.iter().filter(|key| key.0 == *branch) {
            self.uris.invalidate(&**key).await;
        }
        let prepared: Vec<_> = self.prepared.iter().map(|(key, ())| key).collect();
        for key in prepared.iter().filter(|key| key.0 == *branch) {
            self.prepared.invalidate(&**key).await;
        }
    }
}

/// Where a binding leads.
pub(super) fn at(target: &BindingTarget) -> Place {
    Place {
        branch: target.branch.clone(),
        service: Arc::clone(&target.spec.service),
        uris: target.uris.clone(),
        connections: target.spec.connections,
        generation: target.generation,
    }
}
