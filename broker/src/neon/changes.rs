//! Changes of branches that are there. Each is sent once its effect could be
//! told from what was before, so that one whose answer is lost is looked for.

use jiff::Timestamp;
use neon_api::BranchId;
use neon_api::types::{
    Branch, BranchRestoreRequest, BranchState, BranchUpdateRequest, Change, Operation,
};
use serde::{Deserialize, Serialize};

use super::branches::LOST_MAX;
use super::retry::Asked;
use super::{Error, Found, Neon, Turn};
use crate::names::BranchName;

/// What is known of a branch before it is restored: by it a restore is told that
/// was begun and not heard of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BeforeRestore {
    /// The branch.
    pub id: BranchId,
    /// Its name.
    pub name: String,
    /// Its parent.
    pub parent_id: Option<BranchId>,
    /// When it was last reset or restored.
    pub last_reset_at: Option<Timestamp>,
}

impl From<&Branch> for BeforeRestore {
    fn from(branch: &Branch) -> Self {
        BeforeRestore {
            id: branch.id.clone(),
            name: branch.name.clone(),
            parent_id: branch.parent_id.clone(),
            last_reset_at: branch.last_reset_at,
        }
    }
}

/// What a mutation left: operations to follow, where its answer came.
type Begun = Vec<Operation>;

impl Neon {
    /// Changes a branch's name, protection or end.
    pub async fn branch_update(
        &self,
        id: &BranchId,
        change: &BranchUpdateRequest,
        _turn: &Turn,
    ) -> Result<(), Error> {
        let what = format!("change the branch {id}");
        let asked = Asked {
            route: "PATCH /projects/{project_id}/branches/{branch_id}",
            what: &what,
        };
        let (client, project) = self.place();
        let send = || async {
            let sent = client.update_branch(project, id, change).await;
            sent.map(|answer| answer.operations)
        };
        let done = || async {
            let found = self.branch(id).await?;
            Ok(found
                .filter(|found| is_as_wished(&found.branch, change))
                .map(|_| Begun::new()))
        };
        let begun = self.send_or_see(asked, send, done).await?;
        self.operations_follow(id, &begun).await
    }

    /// Makes a branch the default one.
    pub async fn branch_set_default(&self, id: &BranchId, _turn: &Turn) -> Result<(), Error> {
        let what = format!("make the branch {id} the default one");
        let asked = Asked {
            route: "POST /projects/{project_id}/branches/{branch_id}/set_as_default",
            what: &what,
        };
        let (client, project) = self.place();
        let send = || async {
            let sent = client.set_default_branch(project, id).await;
            sent.map(|answer| answer.operations)
        };
        let done = || async {
            let found = self.branch(id).await?;
            Ok(found
                .filter(|found| found.branch.default)
                .map(|_| Begun::new()))
        };
        let begun = self.send_or_see(asked, send, done).await?;
        self.operations_follow(id, &begun).await
    }

    /// Deletes a branch, or finds that it is gone.
    pub async fn branch_delete(&self, id: &BranchId, _turn: &Turn) -> Result<(), Error> {
        let what = format!("delete the branch {id}");
        let asked = Asked {
            route: "DELETE /projects/{project_id}/branches/{branch_id}",
            what: &what,
        };
        let (client, project) = self.place();
        let send = || async {
            let sent = client.delete_branch(project, id).await;
            sent.map(|answer| answer.map(|answer| answer.operations).unwrap_or_default())
        };
        let done = || async {
            let gone = self.branch(id).await?.is_none();
            Ok(gone.then(Begun::new))
        };
        let begun = self.send_or_see(asked, send, done).await?;
        self.operations_follow(id, &begun).await
    }

    /// Puts a branch, which was as in `before`, to another state, and waits until it
    /// can be queried. `may_be_sent`: somebody may have sent the request already.
    pub async fn branch_restore(
        &self,
        before: &BeforeRestore,
        request: &BranchRestoreRequest,
        may_be_sent: bool,
        _turn: &Turn,
    ) -> Result<(), Error> {
        let id = &before.id;
        let what = format!("restore the branch {}", before.name);
        let asked = Asked {
            route: "POST /projects/{project_id}/branches/{branch_id}/restore",
            what: &what,
        };
        let (client, project) = self.place();
        let send = || async {
            let sent = client.restore_branch(project, id, request).await;
            sent.map(|answer| answer.operations)
        };
        let done = || async {
            let begun = self.is_restored(before, request).await?;
            Ok(begun.then(Begun::new))
        };
        let sent = match may_be_sent {
            true => self.look_for_lost(done).await?,
            false => None,
        };
        let begun = match sent {
            Some(begun) => begun,
            None => self.send_or_see(asked, send, done).await?,
        };
        self.operations_follow(id, &begun).await?;
        self.shared.mutated();
        if let Some(found) = self.branch(id).await? {
            self.ready(found, false).await?;
        }
        // What was answered while it was under way is of before.
        self.shared.mutated();
        Ok(())
    }

    /// Whether a restore was begun whose answer was lost.
    async fn is_restored(
        &self,
        before: &BeforeRestore,
        request: &BranchRestoreRequest,
    ) -> Result<bool, Error> {
        if let Some(name) = &request.preserve_under_name
            && let Ok(name) = name.parse::<BranchName>()
        {
            // It was not there before, and this alone makes it.
            return Ok(self.branch_named(&name).await?.is_some());
        }
        let now = self.branch(&before.id).await?;
        Ok(now.is_some_and(|Found { branch, .. }| {
            branch.last_reset_at != before.last_reset_at
                || branch.parent_id != before.parent_id
                || branch.current_state == BranchState::Resetting
        }))
    }

    /// Sends a mutation; when its answer is lost, looks whether it was done before
    /// it is sent again.
    async fn send_or_see<S, D>(
        &self,
        asked: Asked<'_>,
        mut send: impl FnMut() -> S,
        mut done: impl FnMut() -> D,
    ) -> Result<Begun, Error>
    where
        S: Future<Output = Result<Begun, neon_api::Error>>,
        D: Future<Output = Result<Option<Begun>, Error>>,
    {
        let mut lost = 0;
        loop {
            let error = match self.mutate(asked, &mut send).await {
                Ok(begun) => return Ok(begun),
                Err(error) => error,
            };
            if !error.outcome_is_unknown() {
                return Err(error);
            }
            if let Some(begun) = self.look_for_lost(&mut done).await? {
                tracing::info!(what = asked.what, "done, although its answer was lost");
                return Ok(begun);
            }
            lost += 1;
            if lost == LOST_MAX {
                return Err(error);
            }
            tracing::warn!(what = asked.what, "lost, and not done: repeating it");
        }
    }
}

/// Whether a branch is as a change would have it.
pub fn is_as_wished(branch: &Branch, change: &BranchUpdateRequest) -> bool {
    let wished = &change.branch;
    let end = match wished.expires_at {
        Change::Keep => true,
        Change::Clear => branch.expires_at.is_none(),
        // Neon keeps whole seconds.
        Change::Set(time) => branch
            .expires_at
            .is_some_and(|end| end.as_second() == time.as_second()),
    };
    end && wished.name.as_ref().is_none_or(|name| *name == branch.name)
        && wished
            .protected
            .is_none_or(|protected| protected == branch.protected)
}
