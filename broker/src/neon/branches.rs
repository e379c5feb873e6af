//! Branches: finding them, and making one when it is missing.

use std::sync::Arc;
use std::time::Duration;

use neon_api::BranchId;
use neon_api::types::{BranchState, BranchesResponse};

use super::retry::Asked;
use super::{Error, Found, Neon, NewBranch, Purpose, Turn};
use crate::names::BranchName;

/// How often a lost mutation is looked for before it is repeated. Behind a
/// gateway that gave up, Neon may be at work still.
pub(super) const LOOKS_FOR_LOST_MAX: u32 = 4;
/// The pause between such looks, in milliseconds.
pub(super) const LOOK_FOR_LOST_MS: u64 = 500;
/// How often a mutation is sent after it was lost and not found.
pub(super) const LOST_MAX: u32 = 3;
/// How long a branch may take to get ready, in seconds.
const READY_SECONDS_MAX: u64 = 120;
/// Pauses between looks at a branch that is not ready, in milliseconds.
const READY_POLL_MS_MIN: u64 = 25;
const READY_POLL_MS_MAX: u64 = 1_000;

/// A branch that is there now.
#[derive(Debug, Clone, PartialEq)]
pub struct Ensured {
    /// The branch.
    pub found: Found,
    /// Whether it was made just now.
    pub created: bool,
}

impl Neon {
    /// All branches of the project, by name.
    pub async fn branches(&self) -> Result<Vec<Found>, Error> {
        let mut found = self.branches_holding(None, "list the branches").await?;
        found.sort_by(|a, b| a.branch.name.cmp(&b.branch.name));
        Ok(found)
    }

    /// The branch of that id.
    pub async fn branch(&self, id: &BranchId) -> Result<Option<Found>, Error> {
        let what = format!("get the branch {id}");
        let asked = Asked {
            route: "GET /projects/{project_id}/branches/{branch_id}",
            what: &what,
        };
        let (client, project) = self.place();
        let reading = async {
            match self.read(asked, || client.get_branch(project, id)).await {
                Ok(answer) => Ok(Some(Found::new(answer.branch, answer.annotation.as_ref()))),
                Err(error) if error.is_not_found() => Ok(None),
                Err(error) => Err(error),
            }
        };
        let key = (id.clone(), self.shared.age());
        shared(self.shared.branches.share(key, Box::pin(reading)).await)
    }

    /// The branch of that name.
    pub async fn branch_named(&self, name: &BranchName) -> Result<Option<Found>, Error> {
        let what = format!("look for the branch {name}");
        let found = self.branches_holding(Some(name.as_str()), &what).await?;
        // The search takes parts of names, and ids.
        Ok(found
            .into_iter()
            .find(|found| found.branch.name == name.as_str()))
    }

    /// The branch of that name, which somebody may just have asked Neon to make:
    /// looked for some times.
    pub async fn branch_awaited(&self, name: &BranchName) -> Result<Option<Found>, Error> {
        self.look_for_lost(|| self.branch_named(name)).await
    }

    async fn branches_holding(
        &self,
        search: Option<&str>,
        what: &str,
    ) -> Result<Vec<Found>, Error> {
        let asked = Asked {
            route: "GET /projects/{project_id}/branches",
            what,
        };
        let (client, project) = self.place();
        let reading = async {
            let page = self
                .read(asked, || client.list_all_branches(project, search))
                .await?;
            Ok(found_in(page))
        };
        let key = (search.map(str::to_owned), self.shared.age());
        shared(self.shared.lists.share(key, Box::pin(reading)).await)
    }

    /// The branch of that name, ready for queries; made when it is not there.
    /// Many who want the same one at once cause one creation.
    pub async fn branch_ensure(&self, new: &NewBranch) -> Result<Ensured, Error> {
        let mut is_ours = false;
        let making = async {
            is_ours = true;
            self.branch_find_or_create(new).await
        };
        let creations = &self.shared.creations;
        let ensured = shared(creations.share(new.clone(), Box::pin(making)).await)?;
        Ok(Ensured {
            created: ensured.created && is_ours,
            ..ensured
        })
    }

    async fn branch_find_or_create(&self, new: &NewBranch) -> Result<Ensured, Error> {
        let name = &new.name;
        if let Some(found) = self.branch_named(name).await? {
            if !found.managed {
                tracing::info!(branch = %name, id = %found.branch.id, "using a branch that the broker did not make");
            }
            return self.ready(found, false).await;
        }
        let turn = self.turn().await?;
        let (found, created) = match self.branch_named(name).await? {
            Some(found) => (found, false),
            None => self.branch_create(new, &turn).await?,
        };
        self.ready(found, created).await
    }

    /// Creates the branch, or finds the one that somebody, most often an earlier
    /// request of ours whose answer was lost, has created meanwhile.
    async fn branch_create(&self, new: &NewBranch, _turn: &Turn) -> Result<(Found, bool), Error> {
        let name = &new.name;
        let request = new.request();
        let what = format!("create the branch {name}");
        let asked = Asked {
            route: "POST /projects/{project_id}/branches",
            what: &what,
        };
        let (client, project) = self.place();
        let mut lost = 0;
        loop {
            let creating = self.mutate(asked, || client.create_branch(project, &request));
            let error = match creating.await {
                Ok(created) => {
                    let id = &created.branch.id;
                    self.operations_follow(id, &created.operations).await?;
                    tracing::debug!(branch = %name, %id, "created a branch");
                    let found = Found {
                        branch: created.branch,
                        managed: true,
                        binding: new.binding().cloned(),
                        request: new.note(),
                    };
                    return Ok((found, true));
                }
                Err(error) => error,
            };
            if !error.is_conflict() && !error.outcome_is_unknown() {
                return Err(error);
            }
            let found = self.look_for_lost(|| self.branch_named(name)).await?;
            if let Some(found) = found {
                let id = &found.branch.id;
                tracing::info!(branch = %name, %id, "found the branch after a lost or refused creation");
                // One for a binding is marked as ours, and nothing more.
                let is_ours = match new.purpose {
                    Purpose::Request(_) | Purpose::Lease(_) => {
                        found.managed && found.request == new.note()
                    }
                    Purpose::Binding(_) => found.managed,
                };
                return Ok((found, is_ours));
            }
            lost += 1;
            if error.is_conflict() || lost == LOST_MAX {
                return Err(error);
            }
            tracing::warn!(branch = %name, "a creation was lost and left nothing: repeating it");
        }
    }

    /// Looks for what a lost mutation should have left, some times.
    pub(super) async fn look_for_lost<T, F>(
        &self,
        mut look: impl FnMut() -> F,
    ) -> Result<Option<T>, Error>
    where
        F: Future<Output = Result<Option<T>, Error>>,
    {
        for _ in 0..LOOKS_FOR_LOST_MAX {
            // What was read before the loss does not count.
            self.shared.mutated();
            if let Some(found) = look().await? {
                return Ok(Some(found));
            }
            tokio::time::sleep(Duration::from_millis(LOOK_FOR_LOST_MS)).await;
        }
        Ok(None)
    }

    /// Waits until the branch can be queried.
    pub(super) async fn ready(&self, mut found: Found, created: bool) -> Result<Ensured, Error> {
        let waited = Duration::from_secs(READY_SECONDS_MAX);
        let deadline = tokio::time::Instant::now() + waited;
        let mut pause = Duration::from_millis(READY_POLL_MS_MIN);
        let what = format!("look at the branch {}", found.branch.name);
        let asked = Asked {
            route: "GET /projects/{project_id}/branches/{branch_id}",
            what: &what,
        };
        let (client, project) = self.place();
        let mut looked = false;
        loop {
            // A state that this broker does not know yet is left to Postgres.
            let is_busy = matches!(
                found.branch.current_state,
                BranchState::Init | BranchState::Resetting
            );
            if !is_busy {
                return Ok(Ensured { found, created });
            }
            if tokio::time::Instant::now() >= deadline {
                return Err(Error::BranchSlow {
                    branch: found.branch.name,
                    state: found.branch.current_state.to_string(),
                    waited,
                });
            }
            if looked {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_millis(READY_POLL_MS_MAX));
            }
            let id = found.branch.id.clone();
            let look = || client.get_branch(project, &id);
            found.branch = self.read_of_new(asked, look).await?.branch;
            looked = true;
        }
    }
}

fn shared<T>(shared: Result<T, Arc<Error>>) -> Result<T, Error> {
    shared.map_err(|error| Error::clone(&error))
}

fn found_in(page: BranchesResponse) -> Vec<Found> {
    let annotations = page.annotations;
    page.branches
        .into_iter()
        .map(|branch| {
            let notes = annotations.get(&branch.id);
            Found::new(branch, notes)
        })
        .collect()
}
