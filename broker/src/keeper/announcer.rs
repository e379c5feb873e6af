//! Telling of an apply as it goes on.

use neon_api::BranchId;

use super::{Error, Keeper};
use crate::bindings::Target;
use crate::config::BindingSpec;
use crate::reconcile::{self, Outcome, Report};
use crate::text::one_line;

/// Tells the bindings' watchers of an apply as it goes on.
pub(super) struct Announcer<'a> {
    pub(super) keeper: &'a Keeper,
    /// Whether nobody asked for it.
    pub(super) in_background: bool,
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
            let target = Target::unannounced(spec, &outcome);
            let is_used = |role: &str| keeper.leases.is_used(&outcome.branch, role);
            let max_ttl = keeper.leases.max_ttl();
            keeper
                .logins
                .put_right(&target, max_ttl, is_used)
                .await
                .map_err(|source| Error::Roles {
                    binding: spec.name.clone(),
                    source,
                })?;
        }
        Ok(keeper
            .bindings
            .ready(spec, outcome, renewed, self.in_background)
            .await?)
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
