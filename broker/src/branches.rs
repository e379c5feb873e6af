//! Branches, as callers change them.
//!
//! Each change is checked twice: before it is taken on, so that the caller hears
//! at once, and when it has the project's turn, because somebody may have come
//! between. Nothing is deleted, reset, restored or given an end that neither the
//! broker's annotation nor its ledger proves its own. What is about to be done is
//! written down first, so that whoever takes it up looks before doing it again.

mod checks;
mod diff;
mod error;
mod made;
mod prune;
mod restore;
mod retire;
mod schemas;
mod settle;
mod unused;

use std::sync::Arc;

use jiff::Timestamp;
use neon_api::BranchId;
use neon_api::types::{Branch, BranchUpdateRequest, Change};
use sha2::{Digest as _, Sha256};

use crate::keeper::Keeper;
use crate::ledger::{self, Ledger};
use crate::names::{BranchName, BranchResource};
use crate::neon::{self, Found, Neon, NewBranch, Point, Purpose, Turn};
use crate::operations::Work;
use crate::state::{self, Data, Draft, OwnBranch};
use crate::text::one_line;
use checks::View;

pub use checks::Users;
pub use error::Error;
pub use retire::End;

/// Changes branches.
#[derive(Debug, Clone)]
pub struct Branches {
    keeper: Arc<Keeper>,
    ledger: Ledger,
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
    pub fn new(keeper: Arc<Keeper>, ledger: Ledger) -> Branches {
        Branches { keeper, ledger }
    }

    /// All branches of the project, by name, and which of them are ours.
    pub async fn all(&self) -> Result<Vec<Found>, neon::Error> {
        self.all_by(self.neon()).await
    }

    async fn all_in_background(&self) -> Result<Vec<Found>, neon::Error> {
        self.all_by(&self.neon().background()).await
    }

    async fn all_by(&self, neon: &Neon) -> Result<Vec<Found>, neon::Error> {
        let mut all = neon.branches().await?;
        let own = self.ledger.own();
        for found in &mut all {
            found.managed |= own.contains(&found.branch.id);
        }
        Ok(all)
    }

    /// The branch of that id, and whether it is ours.
    pub async fn get(&self, field: &'static str, id: &BranchId) -> Result<Found, Error> {
        let found = self.neon().branch(id).await?;
        let mut found = found.ok_or_else(|| Error::NotFound {
            field,
            name: BranchResource(id.clone()),
        })?;
        found.managed |= self.ledger.owns(id);
        Ok(found)
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
        let (name, now) = (new.name.clone(), self.ledger.now());
        let intend = move |draft: &mut Draft<'_>| {
            ledger::intend_create_in(draft, &name, now);
            Ok::<(), Error>(())
        };
        work.commit(None, intend).await?;
        if work.is_taken_up() {
            // It may be on its way still.
            self.neon().branch_awaited(&new.name).await?;
        }
        // What fails is settled with what crashes leave.
        let ensured = self.neon().branch_ensure(new).await;
        let ensured = ensured.map_err(|error| match &new.point {
            Some(point) if error.is_refusal_of_request() => Error::point(point, error),
            _ => error.into(),
        })?;
        let found = match ensured.created {
            true => ensured.found,
            // Somebody was faster: it is the same, or it is not.
            false => checks::same(new, ensured.found)?,
        };
        noted(self.ledger.created(&new.name, &found.branch.id).await);
        // It has inherited its parent's lease roles, which are nobody's here.
        Box::pin(self.keeper.roles_right_on(&found.branch.id)).await?;
        Ok(found)
    }

    /// Whether what is known of a branch can be changed.
    pub async fn check_update(&self, update: &Update) -> Result<(), Error> {
        let view = self.view().await?;
        let found = view.find_as("branch.name", &update.which)?;
        view.may_update(update, found, &self.users(&found.branch))
    }

    /// Changes what is known of a branch. It as it is then.
    pub async fn update(&self, update: &Update, work: &Work) -> Result<Found, Error> {
        let id = &update.which.id;
        let turn = self.neon().turn().await?;
        let view = self.view().await?;
        let branch = &view.find("branch.name", id)?.branch;
        let change = update.change(branch);
        // A runner that is gone may have done it: its etag is another one then.
        if !(work.is_taken_up() && neon::is_as_wished(branch, &change)) {
            let found = view.find_as("branch.name", &update.which)?;
            view.may_update(update, found, &self.users(branch))?;
            let ends = matches!(update.expires_at, Change::Set(_));
            let (branch, now) = (branch.clone(), self.ledger.now());
            let check = move |draft: &mut Draft<'_>| match ends {
                true => checks::is_unleased(&branch, draft.lease_on(&branch.id, now)),
                false => Ok(()),
            };
            work.commit(None, check).await?;
            if change != BranchUpdateRequest::default() {
                self.neon().branch_update(id, &change, &turn).await?;
            }
        }
        if let Some(name) = &update.name {
            noted(self.ledger.renamed(id, name).await);
        }
        self.get("branch.name", id).await
    }

    /// Whether the branch can be deleted.
    pub async fn check_delete(&self, which: &Which) -> Result<(), Error> {
        let view = self.view().await?;
        let found = view.find_as("name", which)?;
        view.may_delete(found, &self.users(&found.branch))
    }

    /// Deletes a branch.
    pub async fn delete(&self, which: &Which, work: &Work) -> Result<(), Error> {
        let turn = self.neon().turn().await?;
        let view = self.view().await?;
        if work.is_taken_up() && view.find("name", &which.id).is_err() {
            noted(self.ledger.deleted(&which.id).await);
            return Ok(());
        }
        let found = view.find_as("name", which)?;
        view.may_delete(found, &self.users(&found.branch))?;
        let (branch, now) = (found.branch.clone(), self.ledger.now());
        let before = self.ledger.row(&ledger::key(&branch));
        let intend = move |draft: &mut Draft<'_>| intend_delete(draft, &branch, now);
        work.commit(None, intend).await?;
        self.delete_intended(&found.branch, before, &turn).await
    }

    /// Deletes a branch of which is written down that it is about to be. `before`: what
    /// the ledger said before that.
    async fn delete_intended(
        &self,
        branch: &Branch,
        before: Option<OwnBranch>,
        turn: &Turn,
    ) -> Result<(), Error> {
        let id = &branch.id;
        if let Err(error) = self.neon().branch_delete(id, turn).await {
            // Who asked hears that it is not deleted, and it is not later on either.
            noted(self.ledger.undone(&ledger::key(branch), before).await);
            return Err(error.into());
        }
        noted(self.ledger.deleted(id).await);
        tracing::info!(branch = %id, "deleted a branch");
        Ok(())
    }

    /// Whether a branch can be made the default one.
    pub async fn check_set_default(&self, id: &BranchId) -> Result<(), Error> {
        may_be_default(&self.get("name", id).await?)
    }

    /// Makes a branch the default one. It as it is then.
    pub async fn set_default(&self, id: &BranchId, work: &Work) -> Result<Found, Error> {
        let turn = self.neon().turn().await?;
        let found = self.get("name", id).await?;
        may_be_default(&found)?;
        if !found.branch.default {
            work.commit(None, |_| Ok::<(), Error>(())).await?;
            self.neon().branch_set_default(id, &turn).await?;
        }
        self.get("name", id).await
    }

    async fn view(&self) -> Result<View, neon::Error> {
        Ok(View(self.all().await?))
    }

    /// Who needs the branch, whichever broker told them of it.
    fn users(&self, branch: &Branch) -> Users {
        let now = self.ledger.now();
        let lease = |data: &Data| data.lease_on(&branch.id, now);
        Users {
            bindings: self.keeper.bindings_on(branch),
            lease: self.ledger.state().read(lease),
        }
    }

    fn neon(&self) -> &Neon {
        self.keeper.neon()
    }
}

impl Update {
    /// What Neon is asked to change.
    fn change(&self, branch: &Branch) -> BranchUpdateRequest {
        let mut change = BranchUpdateRequest::default();
        if let Some(name) = &self.name
            // Neon refuses a name that is the branch's already.
            && name.as_str() != branch.name
        {
            change = change.rename(name.as_str());
        }
        if let Some(protected) = self.protected {
            change = change.protected(protected);
        }
        change.branch.expires_at = self.expires_at;
        change
    }
}

/// Writes down that a branch is about to be deleted, unless somebody has a lease on it by
/// now.
fn intend_delete(draft: &mut Draft<'_>, branch: &Branch, now: Timestamp) -> Result<(), Error> {
    checks::is_unleased(branch, draft.lease_on(&branch.id, now))?;
    ledger::intend_delete_in(draft, &ledger::key(branch), &branch.id, now);
    Ok(())
}

fn may_be_default(found: &Found) -> Result<(), Error> {
    match found.branch.expires_at {
        None => Ok(()),
        Some(_) => Err(Error::Expires {
            name: found.branch.name.clone(),
        }),
    }
}

/// What is done is done, whether or not it could be written down: what the ledger
/// says then is settled later.
fn noted(written: Result<(), state::Error>) {
    if let Err(error) = written {
        tracing::warn!(error = %one_line(&error), "the ledger of branches is behind");
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
