//! Roles closed, and those that had them moved to others.

use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use neon_api::BranchId;

use super::{Error, Leasing};
use crate::leases::{Lease, RevokeRequest};
use crate::state::RoleKey;
use crate::text::one_line;

/// Roles that are closed at once for one call, and leases that are moved.
const AT_ONCE_MAX: usize = 4;
/// From how many failures on a revocation counts as stuck.
pub const STUCK_FAILURES: i32 = 4;

impl Leasing {
    /// Takes leases from their holders: closes their roles now, as far as that can be
    /// done, and moves the holders' other leases. They as they are then.
    pub async fn revoke(self: &Arc<Self>, request: RevokeRequest) -> Result<Vec<Lease>, Error> {
        let revoked = self.leases.revoke(request).await?;
        let keys = self.leases.roles_revoked(&revoked);
        let closing = stream::iter(keys).for_each_concurrent(AT_ONCE_MAX, |key| async move {
            self.close(&key).await;
        });
        Box::pin(closing).await;
        let is_of_them = |lease: &Lease| {
            let mut revoked = revoked.iter();
            revoked.any(|one| one.request.holder == lease.request.holder)
        };
        // The others are the closer's.
        let stranded = self.leases.stranded().into_iter().filter(is_of_them);
        let moving = stream::iter(stranded).for_each_concurrent(AT_ONCE_MAX, |lease| async move {
            self.move_stranded(lease).await;
        });
        Box::pin(moving).await;
        Ok(revoked)
    }

    /// Closes a role, and notes what came of it. True: it is closed.
    pub async fn close(&self, key: &RoleKey) -> bool {
        let RoleKey { branch, role } = key;
        let closed = async {
            match self.close_there(key).await? {
                true => tracing::info!(%role, %branch, "closed a lease role"),
                false => tracing::info!(%role, %branch, "the branch of a lease role is gone"),
            }
            Ok::<_, Error>(self.leases.role_closed(key.clone()).await?)
        };
        let Err(error) = closed.await else {
            return true;
        };
        let error = one_line(&error);
        let noted = self
            .leases
            .role_not_closed(key.clone(), error.clone(), STUCK_FAILURES);
        match noted.await {
            Ok(STUCK_FAILURES) => {
                tracing::warn!(%role, %branch, error, "a lease role cannot be closed");
            }
            _ => tracing::debug!(%role, %branch, error, "a lease role cannot be closed yet"),
        }
        false
    }

    /// Closes a role on its branch; false when that is gone.
    async fn close_there(&self, key: &RoleKey) -> Result<bool, Error> {
        let Some(database) = self.leases.role_database(key) else {
            return Ok(true);
        };
        let uris = match self.owner_uris_there(&key.branch, &database).await? {
            Some(uris) => uris,
            None => return Ok(false),
        };
        let closed = self.logins.close(&uris.direct, &key.role).await;
        if let Err(source) = closed {
            self.forget_place(&key.branch).await;
            // Nobody answers for a branch that was deleted meanwhile.
            return match self.is_there(&key.branch).await? {
                false => Ok(false),
                true => Err(Error::Role {
                    branch: key.branch.clone(),
                    source: Arc::new(source),
                }),
            };
        }
        Ok(true)
    }

    /// How the owner connects to a branch; none if that is gone.
    async fn owner_uris_there(
        &self,
        branch: &BranchId,
        database: &str,
    ) -> Result<Option<crate::neon::OwnerUris>, Error> {
        match self.owner_uris_of(branch, database).await {
            Ok(uris) => Ok(Some(uris)),
            Err(error) => match self.is_there(branch).await? {
                true => Err(error),
                false => Ok(None),
            },
        }
    }

    async fn is_there(&self, branch: &BranchId) -> Result<bool, Error> {
        Ok(self.keeper.neon().branch(branch).await?.is_some())
    }

    /// Moves a lease that lives to a fresh role, where its own is closed: who follows it
    /// is told. False: it is to be tried again.
    pub async fn move_stranded(self: &Arc<Self>, lease: Lease) -> bool {
        let id = lease.id;
        match Box::pin(self.connected(lease)).await {
            Ok(_) => {
                tracing::info!(lease = %id, "moved a lease to a fresh role");
                true
            }
            Err(error) => {
                let error = one_line(&error);
                tracing::debug!(lease = %id, error, "a lease cannot be moved yet");
                false
            }
        }
    }
}
