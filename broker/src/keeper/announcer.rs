//! Telling of an apply as it goes on.

use std::collections::BTreeMap;
use std::sync::Arc;

use neon_api::BranchId;

use super::{Error, Keeper};
use crate::bindings::Found;
use crate::config::BindingSpec;
use crate::logins::{Place, Wanted};
use crate::names::BindingName;
use crate::neon;
use crate::reconcile::{self, Outcome, Report};
use crate::roles::FoundLogin;
use crate::state::RoleKey;
use crate::text::one_line;

/// Tells the bindings' watchers of an apply as it goes on.
pub(super) struct Announcer<'a> {
    pub(super) keeper: &'a Keeper,
    /// Whether nobody asked for it.
    pub(super) in_background: bool,
    /// The bindings' generations when it began.
    pub(super) seen: BTreeMap<BindingName, i64>,
    /// Branches with other data whose bindings were told of it.
    pub(super) renewed: Vec<BranchId>,
    /// Why a binding that is ready could not be announced.
    pub(super) trouble: Option<Error>,
}

impl Announcer<'_> {
    async fn announce(&mut self, spec: &BindingSpec, outcome: Outcome) -> Result<(), Error> {
        let keeper = self.keeper;
        let renewed = keeper.why_renewed(spec, &outcome);
        if renewed.is_some() {
            self.renewed.push(outcome.branch.clone());
        }
        let place = Place {
            branch: outcome.branch.clone(),
            service: Arc::clone(&spec.service),
            uris: outcome.uris.clone(),
            connections: spec.connections,
            generation: 0,
        };
        keeper.roles_right(&place, renewed.is_some()).await?;
        let found = Found {
            outcome,
            seen: self.seen.get(&spec.name).copied(),
            renewed,
            in_background: self.in_background,
        };
        Ok(keeper.bindings.ready(spec, found).await?)
    }
}

impl Keeper {
    /// Puts the login roles of a branch right: closes those that no lease has, which
    /// a restore may have brought back, or a kill left; and, if it has other data than
    /// before, makes the service's anew that leases have.
    pub async fn roles_right(&self, place: &Place, has_other_data: bool) -> Result<(), Error> {
        let failed = |source| Error::Roles {
            branch: place.branch.clone(),
            source,
        };
        if has_other_data {
            self.logins.forget_sessions();
        }
        let owner = &place.uris.direct;
        let found = self.logins.found(owner, &place.branch).await;
        let found = found.map_err(|source| failed(Arc::new(source)))?;
        // A role is written down before it is made: what is there now is known by now.
        self.state.catch_up().await?;
        let used = self.leases.roles_used(&place.branch);
        for FoundLogin { role, is_valid } in found {
            let is_used = used.iter().any(|(key, _)| key.role == role);
            // Without a database it may be of an earlier process, whose leases go on.
            let is_unknown = is_valid
                && !self.state.is_stored()
                && !self.leases.knows_role(&place.branch, &role);
            if is_used || is_unknown {
                continue;
            }
            let key = RoleKey {
                branch: place.branch.clone(),
                role: role.clone(),
            };
            let is_known = self.leases.knows_role(&place.branch, &role);
            // A lease may have come between.
            if is_known && !self.leases.role_closing_now(key.clone()).await? {
                continue;
            }
            let closed = self.logins.close(owner, &role).await;
            closed.map_err(|source| failed(Arc::new(source)))?;
            if is_known {
                self.leases.role_closed(key).await?;
            }
            let branch = &place.branch;
            tracing::info!(%role, %branch, "closed a lease role that no lease has");
        }
        let of_service = used
            .into_iter()
            .filter(|(_, role)| role.service == place.service.name);
        for (key, role) in of_service.filter(|_| has_other_data) {
            let wanted = Wanted {
                access: role.access,
                valid_until: self.leases.password_end(),
            };
            let made = self.logins.make(place, &key, wanted).await;
            let valid_until = made.map_err(failed)?;
            self.leases.role_prolonged(key, valid_until).await?;
        }
        Ok(())
    }
}

impl Keeper {
    /// Puts the login roles right of a branch that is new, or has other data, and that
    /// no binding may live on: nobody who has a lease elsewhere gets in.
    pub async fn roles_right_on(&self, branch: &BranchId) -> Result<(), Error> {
        self.logins.forget_sessions();
        let config = self.config();
        for service in config.services() {
            let uris = match self.neon.owner_uris(branch, &service.database).await {
                Ok(uris) => uris,
                // Nor is anything of the service.
                Err(neon::Error::NoDatabase { .. }) => continue,
                Err(error) => return Err(reconcile::Error::Neon(error).into()),
            };
            let disinheriting = self.logins.disinherit(&uris.direct, branch).await;
            disinheriting.map_err(|source| Error::Roles {
                branch: branch.clone(),
                source: Arc::new(source),
            })?;
            let place = Place {
                branch: branch.clone(),
                service: Arc::clone(service),
                uris,
                connections: config.connections_of(&service.name),
                generation: 0,
            };
            self.roles_right(&place, true).await?;
        }
        Ok(())
    }
}

impl Report for Announcer<'_> {
    async fn done(&mut self, spec: &BindingSpec, outcome: Outcome) {
        if let Err(error) = self.announce(spec, outcome).await {
            let bindings = &self.keeper.bindings;
            bindings.not_ready(&spec.name, one_line(&error), false);
            self.trouble = Some(error);
        }
    }

    fn failed(&mut self, spec: &BindingSpec, error: &reconcile::Error) {
        let (message, for_good) = (
            one_line(error),
            !error.is_transient() && !self.keeper.may_operate_again(error),
        );
        tracing::warn!(binding = %spec.name, error = %message, for_good, "not as declared");
        let bindings = &self.keeper.bindings;
        bindings.not_ready(&spec.name, message, for_good);
    }
}
