//! Branches: finding them, and making one when it is missing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use neon_api::BranchId;
use neon_api::types::{Branch, BranchCreateRequest, BranchState, BranchesResponse};

use super::{BINDING, Error, Found, MANAGED_BY, Neon, is_managed, retry};
use crate::names::{BindingName, BranchName};

/// How often a lost creation is looked for before it is repeated. Behind a
/// gateway that gave up, Neon may be at work still.
const LOOKS_FOR_LOST_MAX: u32 = 4;
/// The pause between such looks, in milliseconds.
const LOOK_FOR_LOST_MS: u64 = 500;
/// How often a creation is sent after it was lost and not found.
const LOST_CREATES_MAX: u32 = 3;
/// How long a branch may take to get ready, in seconds.
const READY_SECONDS_MAX: u64 = 120;
/// Pauses between looks at a branch that is not ready, in milliseconds.
const READY_POLL_MS_MIN: u64 = 25;
const READY_POLL_MS_MAX: u64 = 1_000;

/// A branch that is there now.
#[derive(Debug, Clone, PartialEq)]
pub struct Ensured {
    /// The branch.
    pub branch: Branch,
    /// Whether it was made just now.
    pub created: bool,
}

/// Creations that are under way, by name: who asks for the same branch waits
/// for the first, and finds it.
#[derive(Debug, Default)]
pub(super) struct Flights(Mutex<HashMap<BranchName, Arc<tokio::sync::Mutex<()>>>>);

impl Flights {
    fn of(&self, name: &BranchName) -> Arc<tokio::sync::Mutex<()>> {
        let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody else has those that only this map holds.
        flights.retain(|_, flight| Arc::strong_count(flight) > 1);
        Arc::clone(flights.entry(name.clone()).or_default())
    }
}

impl Neon {
    /// All branches of the project, by name.
    pub async fn branches(&self) -> Result<Vec<Found>, Error> {
        let page = retry::reads(|| self.client.list_all_branches(&self.project, None))
            .await
            .map_err(|error| Error::api("list the branches", error))?;
        let mut found = found_in(page);
        found.sort_by(|a, b| a.branch.name.cmp(&b.branch.name));
        Ok(found)
    }

    /// The branch of that id.
    pub async fn branch(&self, id: &BranchId) -> Result<Option<Found>, Error> {
        match retry::reads(|| self.client.get_branch(&self.project, id)).await {
            Ok(answer) => Ok(Some(Found {
                managed: is_managed(answer.annotation.as_ref()),
                branch: answer.branch,
            })),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(Error::api(format!("get the branch {id}"), error)),
        }
    }

    /// The branch of that name.
    pub async fn branch_named(&self, name: &BranchName) -> Result<Option<Found>, Error> {
        let search = || {
            self.client
                .list_all_branches(&self.project, Some(name.as_str()))
        };
        let page = retry::reads(search)
            .await
            .map_err(|error| Error::api(format!("look for the branch {name}"), error))?;
        // The search takes parts of names, and ids.
        Ok(found_in(page)
            .into_iter()
            .find(|found| found.branch.name == name.as_str()))
    }

    /// The branch of that name, ready for queries; made from its parent, with a
    /// read-write endpoint and our annotation, when it is not there. `parent`:
    /// `None` for the project's default branch.
    pub async fn branch_ensure(
        &self,
        name: &BranchName,
        parent: Option<&BranchId>,
        binding: &BindingName,
    ) -> Result<Ensured, Error> {
        let flight = self.flights.of(name);
        let _alone = flight.lock().await;
        if let Some(found) = self.branch_named(name).await? {
            if !found.managed {
                tracing::info!(branch = %name, id = %found.branch.id, "using a branch that the broker did not make");
            }
            return self.ready(name, found.branch, false).await;
        }
        let (branch, created) = self.branch_create(name, parent, binding).await?;
        self.ready(name, branch, created).await
    }

    /// Creates the branch, or finds the one that somebody, most often an earlier
    /// request of ours whose answer was lost, has created meanwhile.
    async fn branch_create(
        &self,
        name: &BranchName,
        parent: Option<&BranchId>,
        binding: &BindingName,
    ) -> Result<(Branch, bool), Error> {
        let binding = binding.to_string();
        let mut request = BranchCreateRequest::named(name.as_str())
            .read_write_endpoint()
            .annotation([MANAGED_BY, (BINDING, &binding)]);
        if let Some(parent) = parent {
            request = request.parent(parent.clone());
        }
        let mut lost = 0;
        loop {
            let error =
                match retry::mutations(|| self.client.create_branch(&self.project, &request)).await
                {
                    Ok(created) => {
                        let id = &created.branch.id;
                        self.operations_follow(id, &created.operations).await?;
                        tracing::debug!(branch = %name, %id, "created a branch");
                        return Ok((created.branch, true));
                    }
                    Err(error) => error,
                };
            if !error.is_conflict() && !error.outcome_is_unknown() {
                return Err(Error::api(format!("create the branch {name}"), error));
            }
            if let Some(found) = self.branch_look_for_lost(name).await? {
                let id = &found.branch.id;
                tracing::info!(branch = %name, %id, "found the branch after a lost or refused creation");
                return Ok((found.branch, found.managed));
            }
            lost += 1;
            if error.is_conflict() || lost == LOST_CREATES_MAX {
                return Err(Error::api(format!("create the branch {name}"), error));
            }
            tracing::warn!(branch = %name, "a creation was lost and left nothing: repeating it");
        }
    }

    async fn branch_look_for_lost(&self, name: &BranchName) -> Result<Option<Found>, Error> {
        for _ in 0..LOOKS_FOR_LOST_MAX {
            if let Some(found) = self.branch_named(name).await? {
                return Ok(Some(found));
            }
            tokio::time::sleep(Duration::from_millis(LOOK_FOR_LOST_MS)).await;
        }
        Ok(None)
    }

    /// Waits until the branch can be queried.
    async fn ready(
        &self,
        name: &BranchName,
        mut branch: Branch,
        created: bool,
    ) -> Result<Ensured, Error> {
        let waited = Duration::from_secs(READY_SECONDS_MAX);
        let deadline = tokio::time::Instant::now() + waited;
        let mut pause = Duration::from_millis(READY_POLL_MS_MIN);
        loop {
            // A state that this broker does not know yet is left to Postgres.
            if !matches!(
                branch.current_state,
                BranchState::Init | BranchState::Resetting
            ) {
                return Ok(Ensured { branch, created });
            }
            if tokio::time::Instant::now() >= deadline {
                return Err(Error::BranchSlow {
                    branch: name.clone(),
                    state: branch.current_state.to_string(),
                    waited,
                });
            }
            let id = branch.id.clone();
            branch = retry::reads_of_new(|| self.client.get_branch(&self.project, &id))
                .await
                .map_err(|error| Error::api(format!("look at the branch {name}"), error))?
                .branch;
            if matches!(
                branch.current_state,
                BranchState::Init | BranchState::Resetting
            ) {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_millis(READY_POLL_MS_MAX));
            }
        }
    }
}

fn found_in(page: BranchesResponse) -> Vec<Found> {
    let annotations = page.annotations;
    page.branches
        .into_iter()
        .map(|branch| Found {
            managed: is_managed(annotations.get(&branch.id)),
            branch,
        })
        .collect()
}
