//! The end of a branch that a version lived on.

use neon_api::BranchId;
use neon_api::types::BranchUpdateRequest;

use super::checks::{self, Users, View};
use super::{Branches, Error, Which, intend_delete, noted};
use crate::names::BranchName;
use crate::neon::Found;
use crate::operations::Work;
use crate::state::Draft;
use crate::text::one_line;

/// What retired branches are called.
const PREFIX: &str = "retired/";

/// What became of a branch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// It is deleted.
    Deleted,
    /// It waits for its children.
    Waits {
        /// Its name by now.
        name: String,
        /// Their ids.
        children: Vec<BranchId>,
    },
}

impl Branches {
    /// Whether a branch may be retired, once `users` do without it. `is_default_no_more`:
    /// another is made the default one before.
    pub async fn check_retire(
        &self,
        id: &BranchId,
        is_default_no_more: bool,
        users: impl FnOnce(&Found) -> Users + Send,
    ) -> Result<(), Error> {
        let view = self.view().await?;
        // One that is gone is as retired as can be.
        let Ok(found) = view.find("name", id) else {
            return Ok(());
        };
        let mut as_it_will_be = found.clone();
        as_it_will_be.branch.default &= !is_default_no_more;
        checks::is_ours(&as_it_will_be, found.branch.protected)?;
        checks::is_free(&found.branch, &users(found))
    }

    /// Deletes a branch that nobody needs any more; one with children loses its
    /// endpoints and its name, and goes with the last of them.
    pub async fn retire(&self, id: &BranchId, work: &Work) -> Result<End, Error> {
        let view = self.view().await?;
        let Ok(found) = view.find("name", id) else {
            return Ok(End::Deleted);
        };
        let children = children(&view, id);
        if children.is_empty() {
            let which = Which {
                id: id.clone(),
                etag: None,
            };
            self.delete(&which, work).await?;
            return Ok(End::Deleted);
        }
        checks::is_ours(found, found.branch.protected)?;
        checks::is_free(&found.branch, &self.users(&found.branch))?;
        let turn = self.neon().turn().await?;
        let name = retired_name(&view, found);
        if name.as_str() != found.branch.name {
            let change = BranchUpdateRequest::default().rename(name.as_str());
            self.neon().branch_update(id, &change, &turn).await?;
            noted(self.ledger.renamed(id, &name).await);
        }
        noted(self.ledger.retired(&name, id).await);
        self.neon().endpoints_delete(id, &turn).await?;
        tracing::info!(branch = %name, children = children.len(), "retired a branch");
        Ok(End::Waits {
            name: name.to_string(),
            children,
        })
    }

    /// Deletes retired branches that have no children any more.
    pub(super) async fn delete_childless(&self) {
        let going = self.ledger.going();
        if going.is_empty() {
            return;
        }
        if let Err(error) = self.try_delete_childless(going).await {
            tracing::debug!(error = %one_line(&error), "retired branches are still there");
        }
    }

    async fn try_delete_childless(&self, going: Vec<(BranchName, BranchId)>) -> Result<(), Error> {
        let neon = self.neon().background();
        for (name, id) in going {
            let turn = neon.turn().await?;
            let view = View(self.all_in_background().await?);
            let Ok(found) = view.find("name", &id) else {
                noted(self.ledger.deleted(&id).await);
                continue;
            };
            if !children(&view, &id).is_empty() {
                continue;
            }
            if let Err(error) = view.may_delete(found, &self.users(&found.branch)) {
                let error = one_line(&error);
                tracing::warn!(branch = %name, error, "a retired branch is not deleted");
                continue;
            }
            let (branch, now) = (found.branch.clone(), self.ledger.now());
            let intend = move |draft: &mut Draft<'_>| intend_delete(draft, &branch, now);
            if let Err(error) = self.ledger.state().change(intend).await? {
                tracing::warn!(branch = %name, error = %one_line(&error), "is not deleted");
                continue;
            }
            if let Err(error) = neon.branch_delete(&id, &turn).await {
                noted(self.ledger.retired(&name, &id).await);
                return Err(error.into());
            }
            noted(self.ledger.deleted(&id).await);
            tracing::info!(branch = %name, "deleted a retired branch");
        }
        Ok(())
    }
}

fn children(view: &View, id: &BranchId) -> Vec<BranchId> {
    let children = view
        .0
        .iter()
        .filter(|found| found.branch.parent_id.as_ref() == Some(id));
    children.map(|found| found.branch.id.clone()).collect()
}

/// `retired/api_v1_branch`, or with its id where that is taken.
fn retired_name(view: &View, found: &Found) -> BranchName {
    let branch = &found.branch;
    let by_id = || BranchName::of_id(&branch.id);
    if branch.name.starts_with(PREFIX) {
        return branch.name.parse().unwrap_or_else(|_| by_id());
    }
    let named = format!("{PREFIX}{}", branch.name).parse().ok();
    let free = named.filter(|name| view.named(name).is_none());
    free.or_else(|| format!("{PREFIX}{}", branch.id).parse().ok())
        .unwrap_or_else(by_id)
}
