//! Throw-away branches: forked from a branch as it is now, worked on, and deleted.
//!
//! What holds: one is in the ledger before it is made, and Neon deletes it by itself an hour
//! later, so a broker that dies in the middle leaves nothing for long. Nobody is told where
//! it is, so lease roles that it has inherited are not looked at.

use std::time::Duration;

use neon_api::BranchId;
use uuid::Uuid;

use crate::ledger::Ledger;
use crate::names::BranchName;
use crate::neon::{self, Neon, NewBranch, OwnerUris, Purpose};
use crate::state;
use crate::text::one_line;

/// When Neon deletes a throw-away branch, whatever became of it, in hours.
const EXPIRY_HOURS: u64 = 1;

/// Makes and deletes throw-away branches.
#[derive(Debug, Clone)]
pub struct Trials {
    neon: Neon,
    ledger: Ledger,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neon did not make it.
    #[error(transparent)]
    Neon(#[from] neon::Error),
    /// It could not be written down.
    #[error(transparent)]
    State(#[from] state::Error),
}

impl Error {
    /// Whether the same may work in a moment.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Neon(error) => error.is_transient(),
            Error::State(_) => true,
        }
    }
}

/// A throw-away branch. One that is dropped is deleted as one that is ended: who worked on
/// it has gone away.
#[derive(Debug)]
pub struct Trial {
    name: BranchName,
    id: BranchId,
    /// Who deletes it; none, when that is done.
    of: Option<Trials>,
    /// How its owner connects to the database that was asked for.
    pub uris: OwnerUris,
}

impl Trials {
    /// Of that project.
    pub fn new(neon: Neon, ledger: Ledger) -> Trials {
        Trials { neon, ledger }
    }

    /// Forks a branch as it is now. `what` it is for becomes part of its name.
    pub async fn begin(
        &self,
        what: &str,
        parent: &BranchId,
        database: &str,
    ) -> Result<Trial, Error> {
        let name: BranchName = format!("{what}/{}", Uuid::new_v4())
            .parse()
            .expect("a word, letters, digits and - are a branch name");
        let neon = &self.neon;
        let expires_at = self.ledger.now() + Duration::from_secs(EXPIRY_HOURS * 3_600);
        self.ledger.intend_create(&name).await?;
        let new = NewBranch {
            name: name.clone(),
            parent: Some(parent.clone()),
            point: None,
            schema_only: false,
            protected: false,
            expires_at: Some(expires_at),
            read_only_endpoint: false,
            purpose: Purpose::Request(name.to_string()),
        };
        let made = Box::pin(neon.branch_ensure(&new)).await;
        let id = match made {
            Ok(ensured) => ensured.found.branch.id,
            Err(error) => {
                if !error.outcome_is_unknown() {
                    self.ledger.gone(&name).await?;
                }
                return Err(error.into());
            }
        };
        self.ledger.created(&name, &id).await?;
        match Box::pin(neon.owner_uris(&id, database)).await {
            Ok(uris) => Ok(Trial {
                name,
                id,
                of: Some(self.clone()),
                uris,
            }),
            Err(error) => {
                self.delete(&name, &id).await;
                Err(error.into())
            }
        }
    }

    /// Deletes it. What does not work is logged: Neon does it later.
    pub async fn end(&self, mut trial: Trial) {
        trial.of = None;
        self.delete(&trial.name, &trial.id).await;
    }

    async fn delete(&self, name: &BranchName, id: &BranchId) {
        let deleting = async {
            let turn = self.neon.turn().await?;
            self.ledger.intend_delete(name, id).await?;
            Box::pin(self.neon.branch_delete(id, &turn)).await?;
            self.ledger.gone(name).await?;
            Ok::<(), Error>(())
        };
        if let Err(error) = deleting.await {
            let error = one_line(&error);
            tracing::warn!(branch = %name, %id, error, "a throw-away branch is still there; it expires");
        }
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        if let Some(trials) = self.of.take() {
            let (name, id) = (self.name.clone(), self.id.clone());
            tokio::spawn(async move { Box::pin(trials.delete(&name, &id)).await });
        }
    }
}
