//! Branches that an operation makes for work of its own, and takes away again.

use neon_api::BranchId;

use super::checks::{self, Users};
use super::{Branches, Error, intend_delete, noted};
use crate::ledger;
use crate::names::{BindingName, BranchName};
use crate::neon::NewBranch;
use crate::operations::Work;
use crate::state::{Draft, Intent};

impl Branches {
    /// Whether a branch can be forked from `parent` under a name that no other has.
    pub async fn check_fork(
        &self,
        parent: &BranchId,
        name: (&'static str, &BranchName),
    ) -> Result<(), Error> {
        let view = self.view().await?;
        let found = view.find("name", parent)?;
        if found.branch.expires_at.is_some() {
            return Err(Error::ParentExpires {
                field: "name",
                name: found.branch.name.clone(),
            });
        }
        view.is_free_name(name)
    }

    /// Whether the branch that a binding leaves can be called so when it has.
    pub async fn check_keep_as(
        &self,
        id: &BranchId,
        leaving: &BindingName,
        (field, name): (&'static str, &BranchName),
    ) -> Result<(), Error> {
        let view = self.view().await?;
        let found = view.find("name", id)?;
        if found.branch.name == name.as_str() {
            return Ok(());
        }
        view.is_free_name((field, name))?;
        let mut bindings = self.keeper.bindings_on(&found.branch);
        bindings.retain(|binding| binding != leaving);
        let lease = None;
        checks::is_free(&found.branch, &Users { bindings, lease })
    }

    /// Deletes what an operation has made for `new`, whatever it is called by now, by the
    /// checks that any deletion passes. Fine if there is none.
    pub async fn delete_made(&self, new: &NewBranch, work: &Work) -> Result<(), Error> {
        // Its creation may be on its way still, if nobody has heard of it.
        let row = self.ledger.row(&new.name);
        let is_heard_of = row.is_some_and(|row| row.branch.is_some());
        if !is_heard_of {
            self.neon().branch_awaited(&new.name).await?;
        }
        let turn = self.neon().turn().await?;
        let view = self.view().await?;
        let note = new.note();
        let mut all = view.0.iter();
        let Some(found) = all.find(|found| found.managed && found.request == note) else {
            return self.never_made(&new.name, work).await;
        };
        view.may_delete(found, &self.users(&found.branch))?;
        let (branch, now) = (found.branch.clone(), self.ledger.now());
        let before = self.ledger.row(&ledger::key(&branch));
        let intend = move |draft: &mut Draft<'_>| intend_delete(draft, &branch, now);
        work.step(intend).await?;
        self.delete_intended(&found.branch, before, &turn).await
    }

    /// Notes that a branch that was to be made is not.
    async fn never_made(&self, name: &BranchName, work: &Work) -> Result<(), Error> {
        work.step(|_| Ok::<(), Error>(())).await?;
        // A row that says more is somebody else's, whose branch has the name.
        let row = self.ledger.row(name);
        if row.is_some_and(|row| row.intent == Intent::Create && row.branch.is_none()) {
            noted(self.ledger.gone(name).await);
        }
        Ok(())
    }
}
