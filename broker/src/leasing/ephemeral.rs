//! Branches that go with their lease: made for it.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use neon_api::BranchId;

use super::{Asked, Connected, Error, Leasing};
use crate::branches;
use crate::leases::{Taken, branch_name};
use crate::logins::Place;
use crate::migrate;
use crate::names::{BranchResource, LeaseId};
use crate::neon::{NewBranch, Point};
use crate::text::one_line;

/// How often who makes a branch says that they do, in seconds: thrice before they
/// are taken for gone.
const MAKING_SECONDS: u64 = 8;

impl Leasing {
    /// Forks a branch and gives a lease on it. What was begun for the same request
    /// before is gone on with.
    pub(super) async fn acquire_ephemeral(
        self: &Arc<Self>,
        asked: Asked,
        parent: BranchId,
    ) -> Result<Connected, Error> {
        let id = match self.taken(&asked, &parent).await? {
            Taken::Given { lease, .. } => return Box::pin(self.connected(*lease)).await,
            Taken::Warm { lease, branch, end } => {
                return Box::pin(self.give_warm(lease, asked, branch, end)).await;
            }
            Taken::Cold(id) => id,
        };
        let making = async {
            let (branch, end) = self.branch_of(id, &asked, parent).await?;
            self.leases.making(id, Some(branch.clone())).await?;
            let place = self.place_on(&branch, &asked.request.service).await?;
            if asked.migrate {
                Box::pin(migrate_to_newest(&place)).await?;
            }
            // With the rights on what the revisions made.
            self.prepare(&place).await?;
            self.give(id, asked, &place, end).await
        };
        self.while_making(id, Box::pin(making)).await
    }

    /// Makes what a lease is given on, and says meanwhile that it is being made.
    pub(super) async fn while_making(
        &self,
        id: LeaseId,
        making: impl Future<Output = Result<Connected, Error>>,
    ) -> Result<Connected, Error> {
        let made = tokio::select! {
            made = making => made,
            error = self.say_making(id) => Err(error),
        };
        if made.is_err()
            && let Err(error) = self.leases.making_over(id).await
        {
            // It goes all the same, when who makes it has not said so for long enough.
            tracing::debug!(lease = %id, error = %one_line(&error), "give up a branch");
        }
        made
    }

    /// The lease's branch, made now unless it was before, and when Neon deletes it.
    async fn branch_of(
        &self,
        id: LeaseId,
        asked: &Asked,
        parent: BranchId,
    ) -> Result<(BranchId, Option<Timestamp>), Error> {
        let end = self.leases.branch_end(self.leases.end_of(asked.ttl));
        let name = branch_name(id);
        let new = NewBranch::for_lease(name.clone(), parent, asked.point.clone(), end, id);
        let ensured = self.keeper.neon().branch_ensure(&new).await;
        let found = ensured
            .map_err(|error| match &asked.point {
                Some(point) if error.is_refusal_of_request() => branches::Error::Point {
                    field: match point {
                        Point::Lsn(_) => "ephemeral.lsn",
                        Point::Time(_) => "ephemeral.time",
                    },
                    source: Box::new(error),
                }
                .into(),
                _ => Error::from(error),
            })?
            .found;
        match found.managed && found.request == new.note() {
            true => Ok((found.branch.id, found.branch.expires_at)),
            // Its name has the lease's in it, which nobody else has.
            false => Err(branches::Error::Exists {
                field: "ephemeral",
                name,
            }
            .into()),
        }
    }

    /// Neon takes no children of a branch that expires.
    pub(super) async fn check_parent(&self, parent: &BranchId) -> Result<(), Error> {
        const FIELD: &str = "ephemeral.parent";
        let found = self.keeper.neon().branch(parent).await?;
        let found = found.ok_or_else(|| branches::Error::NotFound {
            field: FIELD,
            name: BranchResource(parent.clone()),
        })?;
        match found.branch.expires_at {
            None => Ok(()),
            Some(_) => Err(branches::Error::ParentExpires {
                field: FIELD,
                name: found.branch.name,
            }
            .into()),
        }
    }

    /// Says that the branch is being made, until it may not be any more.
    async fn say_making(&self, id: LeaseId) -> Error {
        let mut interval = tokio::time::interval(Duration::from_secs(MAKING_SECONDS));
        interval.tick().await;
        loop {
            interval.tick().await;
            match self.leases.making(id, None).await {
                Ok(()) => {}
                Err(error @ crate::leases::Error::BranchGone) => return error.into(),
                // The database is away for a moment; the next time counts.
                Err(error) => tracing::debug!(%error, lease = %id, "say that a branch is made"),
            }
        }
    }
}

/// Runs the service's revisions that the branch does not have. They take as long as
/// they take; one that fails gives no lease, and the branch goes with what it made.
async fn migrate_to_newest(place: &Place) -> Result<(), Error> {
    let migrating = async {
        let folder = place.service.migrations.clone();
        let listing = tokio::task::spawn_blocking(move || migrate::revisions_in(&folder));
        let newest = listing.await.map_err(migrate::Error::Interrupted)??;
        migrate::run(&place.uris.direct, &place.service, &newest, None).await
    };
    let done = migrating.await.map_err(Error::Migrate)?;
    for revision in done {
        let (branch, revision) = (&place.branch, revision.name);
        tracing::info!(%branch, revision, "migrated the branch of a lease");
    }
    Ok(())
}
