//! Other roles for all holders of a binding's leases.

use std::time::Duration;

use futures_util::{StreamExt as _, stream};

use super::{Error, Leasing};
use crate::bindings::{Rotated, Target};
use crate::leases::{Made, RequestId, RoleFor};
use crate::logins::Wanted;
use crate::names::BindingName;
use crate::text::one_line;

/// How many roles are made at a time.
const MADE_AT_ONCE: usize = 4;
/// How long is waited for them, in seconds. Who has none by then gets one later.
const MAKING_SECONDS_MAX: u64 = 10;

impl Leasing {
    /// Gives the holders of a binding other roles: its generation goes up, and at that
    /// moment their leases have them. They are made before that; a holder whose role
    /// cannot be is moved later. The same request does so once.
    pub async fn rotate(
        &self,
        name: &BindingName,
        target: &Target,
        by: String,
        request_id: Option<RequestId>,
    ) -> Result<(), Error> {
        let next = match self.leases.is_known(request_id.as_ref())? {
            true => Vec::new(),
            false => self.next_roles(name, target).await,
        };
        let rotated = Rotated {
            name: name.clone(),
            next,
            by,
            request_id,
        };
        Ok(self.bindings.rotate(target, rotated).await?)
    }

    async fn next_roles(&self, name: &BindingName, target: &Target) -> Vec<Made> {
        let holders = self.leases.holders_on(name, self.logins.key_id(), target);
        let making = stream::iter(holders)
            .map(async |of| {
                let holder = of.holder.clone();
                let made = self.next_role(of, target).await;
                made.inspect_err(|error| {
                    let (binding, error) = (name, one_line(error));
                    tracing::warn!(%binding, holder, error, "make a holder's next role");
                })
            })
            .buffer_unordered(MADE_AT_ONCE);
        let limit = tokio::time::sleep(Duration::from_secs(MAKING_SECONDS_MAX));
        let made = making.take_until(limit);
        made.filter_map(async |made| made.ok()).collect().await
    }

    async fn next_role(&self, of: RoleFor, target: &Target) -> Result<Made, Error> {
        let place = super::place::at(target);
        let (access, key) = (of.access, of.key.clone());
        let role = self.leases.role_succeed(of).await?;
        let wanted = Wanted {
            access,
            valid_until: self.leases.password_end(),
        };
        let valid_until = self.make(&place, &role, wanted).await?;
        Ok(Made {
            role,
            key,
            valid_until: Some(valid_until),
        })
    }
}
