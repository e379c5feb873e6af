//! Other roles for all holders of a binding's leases.

use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;

use super::{Error, Leasing};
use crate::bindings::{Rotated, Target};
use crate::leases::{Made, RequestId, RoleFor};
use crate::logins::Wanted;
use crate::names::BindingName;
use crate::text::one_line;

/// How many roles are made at a time.
const MADE_AT_ONCE: usize = 4;
/// How long is waited for them. Who has none by then gets one later.
const MAKING_MAX: Duration = Duration::from_secs(10);

impl Leasing {
    /// Gives the holders of a binding other roles: its generation goes up, and at that
    /// moment the leases that are watched have them. They are made before that; a holder
    /// whose role cannot be is moved later, as is one whom nobody tells. The same request
    /// does so once.
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
        let (branch, database) = (&target.branch, &target.spec.service.database);
        let key = self.logins.key_id();
        let holders = self.leases.holders_on(name, branch, database, key);
        let mut left = holders.into_iter().map(|of| self.next_role(of, target));
        let mut making = FuturesUnordered::new();
        making.extend(left.by_ref().take(MADE_AT_ONCE));
        let (mut next, mut limit) = (Vec::new(), pin!(tokio::time::sleep(MAKING_MAX)));
        loop {
            let made = tokio::select! {
                made = making.next() => made,
                () = &mut limit => None,
            };
            match made {
                Some(Ok(made)) => next.push(made),
                Some(Err(error)) => {
                    let (binding, error) = (name, one_line(&error));
                    tracing::warn!(%binding, error, "make the next role of a holder");
                }
                None => return next,
            }
            making.extend(left.next());
        }
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
        self.close_unusable(&place, &role).await?;
        Ok(Made {
            role,
            key,
            valid_until: Some(valid_until),
        })
    }
}
