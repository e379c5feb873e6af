//! A service on a branch: whose revisions, and where.

use jiff::Timestamp;
use neon_api::BranchId;

use crate::config::{BindingSpec, Gate};
use crate::gate::Ground;
use crate::leasing;
use crate::migrate::rehearse::contract::{self, Contract};
use crate::migrate::standing::{self, Row};
use crate::migrate::{self, folder::Migration, history};
use crate::names::BindingName;
use crate::neon::OwnerUris;
use crate::postgres;
use crate::reconcile::LOOK_LIMIT;
use crate::server::{Broker, Error};

/// A service on a branch.
pub(super) struct Place {
    pub(super) branch: BranchId,
    /// When that was last reset or restored.
    pub(super) reset_at: Option<Timestamp>,
    pub(super) uris: OwnerUris,
    /// Whether it is the binding's own.
    pub(super) is_own: bool,
    /// The strictest gate of the service's versions that live there.
    pub(super) gate: Option<Gate>,
    /// Whose revisions, and how far.
    pub(super) spec: BindingSpec,
    pub(super) folder: Vec<Migration>,
}

impl Place {
    pub(super) fn ground(&self) -> Ground {
        Ground {
            branch: self.branch.clone(),
            reset_at: self.reset_at,
        }
    }

    /// The version of the last revision that the service's version has. `None`: it has all
    /// that there are.
    pub(super) fn last(&self) -> Option<&str> {
        self.spec.last()
    }

    /// How each revision stands there. Reads only.
    pub(super) async fn rows(&self) -> Result<Vec<Row>, Error> {
        let looking = async {
            let client = postgres::session(&self.uris.direct).await?;
            history::read(&client, &self.spec.service).await
        };
        let looked = postgres::bounded(LOOK_LIMIT, "look", looking).await;
        let history = looked.map_err(|error| Error::Migrate(error.into()))?;
        Ok(standing::rows(&self.folder, &history, self.last()))
    }

    /// The folder's name of that one.
    pub(super) fn head(&self) -> String {
        let head = match self.last() {
            Some(last) => self.folder.iter().find(|one| one.revision.version == last),
            None => self.folder.last(),
        };
        head.map(|head| head.revision.name.clone())
            .unwrap_or_default()
    }
}

impl Broker {
    /// What a binding says of a branch: the one it leads to, or another.
    pub(super) async fn migrated(
        &self,
        name: &BindingName,
        branch: Option<BranchId>,
    ) -> Result<Place, Error> {
        let (spec, folder) = self.declared(name).await?;
        let is_asked = branch.is_none();
        let (branch, uris) = match branch {
            Some(id) => {
                let id = self.branches.get("branch", &id).await?.branch.id;
                let neon = self.keeper.neon();
                let uris = neon.owner_uris(&id, &spec.service.database).await?;
                (id, uris)
            }
            None => self.own_branch(name, &spec).await?,
        };
        let found = self.branches.get("branch", &branch).await?.branch;
        let there = self.keeper.bindings_on(&found);
        let is_own = is_asked || there.contains(name);
        let config = self.keeper.config();
        let of_service = config.bindings.iter().filter(|other| {
            other.service.name == spec.service.name
                && (there.contains(&other.name) || (is_own && other.name == *name))
        });
        let gate = of_service.filter_map(|other| other.gate);
        let gate = gate.min_by_key(|gate| gate.max_age);
        if self.leases.is_held(&branch) {
            return Err(leasing::Error::BindingNotReady {
                name: name.clone(),
                message: "its branch is being reset or restored".to_owned(),
            }
            .into());
        }
        Ok(Place {
            branch,
            reset_at: found.last_reset_at,
            uris,
            is_own,
            gate,
            spec,
            folder,
        })
    }

    /// A binding as it is declared, and its service's revisions.
    pub(super) async fn declared(
        &self,
        name: &BindingName,
    ) -> Result<(BindingSpec, Vec<Migration>), Error> {
        let config = self.keeper.config();
        let spec = config.bindings.iter().find(|spec| spec.name == *name);
        let spec = spec.cloned().ok_or_else(|| {
            Error::from(leasing::Error::BindingNotFound {
                field: "binding",
                name: name.clone(),
            })
        })?;
        let folder = migrate::read_folder(&spec.service).await;
        Ok((spec, folder.map_err(Error::Migrate)?))
    }
}

impl Broker {
    /// The branch that a binding leads to; or is to lead to, where its revisions are what
    /// keeps it from being ready.
    async fn own_branch(
        &self,
        name: &BindingName,
        spec: &BindingSpec,
    ) -> Result<(BranchId, OwnerUris), Error> {
        let binding = self.bindings.get(name);
        if let Some(target) = binding.and_then(|binding| binding.target.clone()) {
            return Ok((target.branch.clone(), target.uris.clone()));
        }
        let neon = self.keeper.neon();
        let switched_to = self.state.read(|data| {
            let last = data.generations.get(name)?;
            let departure = last.departs(&spec.branch)?;
            departure.switched_to.as_ref()?;
            Some(last.branch.clone())
        });
        let mut found = neon.branches().await?.into_iter();
        let found = found.find(|found| match &switched_to {
            Some(id) => found.branch.id == *id,
            None => found.branch.name == spec.branch.as_str(),
        });
        let id = found.map(|found| found.branch.id).ok_or_else(|| {
            Error::from(leasing::Error::BindingNotReady {
                name: name.clone(),
                message: "its branch is not there yet".to_owned(),
            })
        })?;
        let uris = neon.owner_uris(&id, &spec.service.database).await?;
        Ok((id, uris))
    }
}

impl Broker {
    /// What each version of the service asks of its schema, as files say.
    pub(super) async fn contracts(&self, place: &Place) -> Result<Vec<Contract>, Error> {
        let config = self.keeper.config();
        let found = self.branches.get("branch", &place.branch).await?;
        let on_branch = self.keeper.bindings_on(&found.branch);
        let service = &place.spec.service.name;
        let read = contract::of_service(&config, service, |name| on_branch.contains(name));
        Ok(read.await?)
    }
}
