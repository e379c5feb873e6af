//! Branches, as callers change them.
//!
//! Each change is checked twice: before it is taken on, so that the caller hears
//! at once, and when it has the project's turn, because somebody may have come
//! between. Nothing is deleted, reset, restored or given an end that the broker's
//! annotation does not prove its own.

mod checks;
mod diff;
mod error;

use std::sync::Arc;

use jiff::Timestamp;
use neon_api::BranchId;
use neon_api::types::{Branch, BranchRestoreRequest, BranchUpdateRequest, Change};
use sha2::{Digest as _, Sha256};

use crate::bindings::Bindings;
use crate::keeper::Keeper;
use crate::names::{BranchName, BranchResource};
use crate::neon::{self, Found, Neon, NewBranch, Point, Purpose};
use crate::operations::Work;
use checks::View;

pub use error::Error;

/// Changes branches.
#[derive(Debug, Clone)]
pub struct Branches {
    keeper: Arc<Keeper>,
    bindings: Arc<Bindings>,
}

/// A branch, as it was when the change was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Which {
    /// The branch.
    pub id: BranchId,
    /// What [`etag`] said of it, where the caller wants to know.
    pub etag: Option<String>,
}

/// A change of what is known of a branch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    /// The branch.
    pub which: Which,
    /// Its new name.
    pub name: Option<BranchName>,
    /// Whether it is to be protected.
    pub protected: Option<bool>,
    /// When it is to be deleted.
    pub expires_at: Change<Timestamp>,
}

/// Other data for a branch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restore {
    /// The branch.
    pub which: Which,
    /// Whose data.
    pub source: Source,
    /// When; `None`: now.
    pub point: Option<Point>,
    /// The branch that keeps the old data.
    pub preserve: Option<BranchName>,
}

/// Whose data a branch gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Its parent's.
    Parent,
    /// Its own, of the past.
    Itself,
    /// Another's.
    Branch(BranchId),
}

/// A schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaOf {
    /// The branch; for the base of a comparison `None`: the other's parent.
    pub branch: Option<BranchId>,
    /// When; `None`: now.
    pub point: Option<Point>,
}

/// Stands for what a caller may want to know unchanged of a branch.
pub fn etag(branch: &Branch) -> String {
    let known = (
        branch.id.as_str(),
        &branch.name,
        branch.parent_id.as_ref().map(BranchId::as_str),
        (branch.default, branch.protected),
        branch.expires_at,
        branch.last_reset_at,
    );
    const ETAG_BYTES: usize = 12;
    let hash = Sha256::digest(format!("{known:?}"));
    hash.iter()
        .take(ETAG_BYTES)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

impl Branches {
    /// Of the keeper's project, with its bindings.
    pub fn new(keeper: Arc<Keeper>, bindings: Arc<Bindings>) -> Branches {
        Branches { keeper, bindings }
    }

    /// Whether the branch can be made; it, where the same request made it before.
    pub async fn check_create(&self, new: &NewBranch) -> Result<Option<Found>, Error> {
        let view = self.view().await?;
        if let Some(found) = view.named(&new.name) {
            return Ok(Some(checks::same(new, found.clone())?));
        }
        view.may_have_child(new)?;
        Ok(None)
    }

    /// Makes a branch, or finds the one that the same request made.
    pub async fn create(&self, new: &NewBranch, work: &Work) -> Result<Found, Error> {
        work.commit()?;
        let ensured = self.neon().branch_ensure(new).await;
        let ensured = ensured.map_err(|error| match &new.point {
            Some(point) if error.is_refusal_of_request() => Error::point(point, error),
            _ => error.into(),
        })?;
        match ensured.created {
            true => Ok(ensured.found),
            // Somebody was faster: it is the same, or it is not.
            false => checks::same(new, ensured.found),
        }
    }

    /// Changes what is known of a branch. It as it is then.
    pub async fn update(&self, update: &Update) -> Result<Found, Error> {
        let id = &update.which.id;
        let turn = self.neon().turn().await?;
        let view = self.view().await?;
        let found = view.find_as("branch.name", &update.which)?;
        view.may_update(update, found, &self.bindings.on_branch(&found.branch))?;
        let mut change = BranchUpdateRequest::default();
        if let Some(name) = &update.name
            // Neon refuses a name that is the branch's already.
            && name.as_str() != found.branch.name
        {
            change = change.rename(name.as_str());
        }
        if let Some(protected) = update.protected {
            change = change.protected(protected);
        }
        change.branch.expires_at = update.expires_at;
        if change != BranchUpdateRequest::default() {
            self.neon().branch_update(id, &change, &turn).await?;
        }
        self.found("branch.name", id).await
    }

    /// Whether the branch can be deleted.
    pub async fn check_delete(&self, which: &Which) -> Result<(), Error> {
        let view = self.view().await?;
        let found = view.find_as("name", which)?;
        view.may_delete(found, &self.bindings.on_branch(&found.branch))
    }

    /// Deletes a branch.
    pub async fn delete(&self, which: &Which, work: &Work) -> Result<(), Error> {
        let turn = self.neon().turn().await?;
        self.check_delete(which).await?;
        work.commit()?;
        self.neon().branch_delete(&which.id, &turn).await?;
        tracing::info!(branch = %which.id, "deleted a branch");
        Ok(())
    }

    /// Whether the branch can get the data.
    pub async fn check_restore(&self, restore: &Restore) -> Result<(), Error> {
        let view = self.view().await?;
        view.may_restore(restore).map(|_| ())
    }

    /// Gives a branch other data. It as it is then.
    pub async fn restore(&self, restore: &Restore, work: &Work) -> Result<Found, Error> {
        let id = &restore.which.id;
        let branch = self.found("name", id).await?.branch;
        let what = match restore.source {
            Source::Parent => "reset to its parent",
            Source::Itself | Source::Branch(_) => "restored",
        };
        let change = Box::pin(async {
            let turn = self.neon().turn().await?;
            let view = self.view().await?;
            let (found, source) = view.may_restore(restore)?;
            let mut request = BranchRestoreRequest::from_branch(source.clone());
            request = match &restore.point {
                None => request,
                Some(Point::Lsn(lsn)) => request.at_lsn(lsn.to_string()),
                Some(Point::Time(time)) => request.at_timestamp(*time),
            };
            if let Some(name) = &restore.preserve {
                request = request.preserve_under_name(name.as_str());
            }
            work.commit()?;
            let neon = self.neon();
            let restored = neon.branch_restore(&found.branch, &request, &turn).await;
            restored.map_err(|error| match &restore.point {
                Some(point) if error.is_refusal_of_request() => Error::point(point, error),
                _ => error.into(),
            })?;
            tracing::info!(branch = %id, what, "gave a branch other data");
            Ok::<(), Error>(())
        });
        Box::pin(self.keeper.renew(&branch, what, change)).await?;
        self.found("name", id).await
    }

    /// Makes a branch the default one. It as it is then.
    pub async fn set_default(&self, id: &BranchId) -> Result<Found, Error> {
        let turn = self.neon().turn().await?;
        let found = self.found("name", id).await?;
        if found.branch.expires_at.is_some() {
            return Err(Error::Expires {
                name: found.branch.name,
            });
        }
        if !found.branch.default {
            self.neon().branch_set_default(id, &turn).await?;
        }
        self.found("name", id).await
    }

    /// The schema of a database.
    pub async fn schema(
        &self,
        id: &BranchId,
        point: Option<&Point>,
        database: &str,
    ) -> Result<String, Error> {
        self.found("name", id).await?;
        self.schema_of(id, point, database, "database").await
    }

    /// How the schema of a database differs from that of a base, as a unified diff.
    pub async fn compare(
        &self,
        id: &BranchId,
        point: Option<&Point>,
        base: &SchemaOf,
        database: &str,
    ) -> Result<String, Error> {
        let found = self.found("name", id).await?;
        let base_id = match &base.branch {
            Some(base) => self.found("base", base).await?.branch.id,
            None => found.branch.parent_id.ok_or(Error::NoBase {
                name: found.branch.name,
            })?,
        };
        let from = self.schema_of(&base_id, base.point.as_ref(), database, "database");
        let from = from.await.map_err(Error::of_base)?;
        let to = self.schema_of(id, point, database, "database").await?;
        Ok(diff::unified(&from, &to, database))
    }

    async fn schema_of(
        &self,
        id: &BranchId,
        point: Option<&Point>,
        database: &str,
        field: &'static str,
    ) -> Result<String, Error> {
        match self.neon().schema(id, database, point).await {
            Ok(Some(schema)) => Ok(schema),
            Ok(None) => Err(Error::NoDatabase {
                field,
                name: BranchResource(id.clone()),
                database: database.to_owned(),
            }),
            Err(error) => Err(match point {
                Some(point) if error.is_refusal_of_request() => Error::point(point, error),
                _ => error.into(),
            }),
        }
    }

    async fn found(&self, field: &'static str, id: &BranchId) -> Result<Found, Error> {
        let found = self.neon().branch(id).await?;
        found.ok_or_else(|| Error::NotFound {
            field,
            name: BranchResource(id.clone()),
        })
    }

    async fn view(&self) -> Result<View, neon::Error> {
        Ok(View(self.neon().branches().await?))
    }

    fn neon(&self) -> &Neon {
        self.keeper.neon()
    }
}

/// What stands for a request, so that it is known again.
pub fn fingerprint(request: &[u8]) -> String {
    const FINGERPRINT_BYTES: usize = 16;
    Sha256::digest(request)
        .iter()
        .take(FINGERPRINT_BYTES)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

impl Purpose {
    /// A request, for which these bytes stand.
    pub fn request(request: &[u8]) -> Purpose {
        Purpose::Request(fingerprint(request))
    }
}
