//! Neon, as the broker uses it: the one module that talks to its API.
//!
//! What neon-api leaves to its caller is decided here. A refusal that changed
//! nothing (423, 429, 503) is repeated with full jitter, Retry-After being
//! honoured; a mutation whose answer was lost is looked for before anything is
//! repeated; operations are followed to their end; and all of it is bounded.

mod branches;
mod endpoints;
mod retry;

use std::time::Duration;

use neon_api::types::{AnnotationData, Branch, ConnectionUriQuery};
use neon_api::{BranchId, NeonClient, OperationId, ProjectId};

use crate::names::BranchName;
use crate::postgres::OwnerUri;

pub use branches::Ensured;

/// The annotation's key and value that say that a branch is ours.
const MANAGED_BY: (&str, &str) = ("managed-by", "branch-broker");
/// The annotation's key for the binding that a branch was made for.
const BINDING: &str = "binding";

/// One project of a Neon account.
#[derive(Debug)]
pub struct Neon {
    client: NeonClient,
    project: ProjectId,
    flights: branches::Flights,
}

/// A branch with what its annotation says.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// The branch.
    pub branch: Branch,
    /// Whether the broker made it.
    pub managed: bool,
}

/// How the owner of a database connects to it on a branch.
#[derive(Debug, Clone)]
pub struct OwnerUris {
    /// To the endpoint itself.
    pub direct: OwnerUri,
    /// Through the pooler, in transaction mode.
    pub pooled: OwnerUri,
}

/// Why Neon did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API key is not accepted, or not for this.
    #[error("Neon does not accept the API key; check NEON_API_KEY")]
    WrongKey(#[source] Box<neon_api::Error>),
    /// The project is not there.
    #[error("Neon has no project {project} for this API key; check NEON_PROJECT_ID")]
    NoProject {
        /// The project.
        project: ProjectId,
    },
    /// The API refused, failed, or did not answer, for longer than was waited.
    #[error("{what}")]
    Api {
        /// What was attempted: "create the branch api_v1_branch".
        what: String,
        /// What came instead.
        #[source]
        source: Box<neon_api::Error>,
    },
    /// The database is not on the branch.
    #[error(
        "the branch {branch} has no database {database:?}; create it, or correct `database` in broker.toml"
    )]
    NoDatabase {
        /// The branch.
        branch: BranchId,
        /// The database.
        database: String,
    },
    /// Work that Neon took on did not succeed.
    #[error(
        "Neon's operation {operation} ({action}) on the branch {branch} ended as {status}: {message}"
    )]
    OperationFailed {
        /// The operation.
        operation: OperationId,
        /// What it did.
        action: String,
        /// The branch.
        branch: BranchId,
        /// How it ended.
        status: String,
        /// What Neon says about it.
        message: String,
    },
    /// Work that Neon took on goes on and on.
    #[error(
        "Neon's operation {operation} ({action}) on the branch {branch} is still {status} after {} s",
        waited.as_secs()
    )]
    OperationSlow {
        /// The operation.
        operation: OperationId,
        /// What it does.
        action: String,
        /// The branch.
        branch: BranchId,
        /// How far it is.
        status: String,
        /// How long it was followed.
        waited: Duration,
    },
    /// A branch does not get ready.
    #[error("the branch {branch} is still {state} after {} s", waited.as_secs())]
    BranchSlow {
        /// The branch.
        branch: BranchName,
        /// The state it is in.
        state: String,
        /// How long it was waited for.
        waited: Duration,
    },
}

impl Error {
    /// Whether the same may work later.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::WrongKey(_) | Error::NoProject { .. } | Error::NoDatabase { .. } => false,
            // A wrong request stays wrong; everything else may pass.
            Error::Api { source, .. } => {
                source.may_repeat()
                    || source.outcome_is_unknown()
                    || source.status().is_none_or(|status| status >= 500)
            }
            Error::OperationFailed { .. } => false,
            Error::OperationSlow { .. } | Error::BranchSlow { .. } => true,
        }
    }

    /// Whether nothing at all can work with this key and project.
    pub fn is_fatal(&self) -> bool {
        matches!(self, Error::WrongKey(_) | Error::NoProject { .. })
    }

    /// How long Neon asks to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Error::Api { source, .. } => source.retry_after(),
            _ => None,
        }
    }

    fn api(what: impl Into<String>, source: neon_api::Error) -> Error {
        match source.is_unauthorized() {
            true => Error::WrongKey(Box::new(source)),
            false => Error::Api {
                what: what.into(),
                source: Box::new(source),
            },
        }
    }
}

impl Neon {
    /// The project, reached with that client.
    pub fn new(client: NeonClient, project: ProjectId) -> Neon {
        Neon {
            client,
            project,
            flights: branches::Flights::default(),
        }
    }

    /// Whether the key is accepted and the project is there. One request, not
    /// repeated.
    pub async fn check(&self) -> Result<(), Error> {
        match self.client.get_project(&self.project).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_not_found() => Err(Error::NoProject {
                project: self.project.clone(),
            }),
            Err(error) => Err(Error::api("look for the Neon project", error)),
        }
    }

    /// How the owner of a database connects to it.
    pub async fn owner_uris(&self, branch: &BranchId, database: &str) -> Result<OwnerUris, Error> {
        let what = || format!("look for the database {database} on the branch {branch}");
        let databases = retry::reads_of_new(|| self.client.list_databases(&self.project, branch))
            .await
            .map_err(|error| Error::api(what(), error))?
            .databases;
        let owner = databases
            .into_iter()
            .find(|found| found.name == database)
            .ok_or_else(|| Error::NoDatabase {
                branch: branch.clone(),
                database: database.to_owned(),
            })?
            .owner_name;
        Ok(OwnerUris {
            direct: self.owner_uri(branch, database, &owner, false).await?,
            pooled: self.owner_uri(branch, database, &owner, true).await?,
        })
    }

    async fn owner_uri(
        &self,
        branch: &BranchId,
        database: &str,
        owner: &str,
        pooled: bool,
    ) -> Result<OwnerUri, Error> {
        let query = ConnectionUriQuery::new(database, owner)
            .branch(branch.clone())
            .pooled(pooled);
        let answer =
            retry::reads_of_new(|| self.client.get_connection_uri(&self.project, &query)).await;
        match answer {
            Ok(answer) => Ok(OwnerUri::new(answer.uri.expose())),
            Err(error) => {
                let what = format!("ask how to connect to the branch {branch}");
                Err(Error::api(what, error))
            }
        }
    }
}

fn is_managed(annotation: Option<&AnnotationData>) -> bool {
    let (key, value) = MANAGED_BY;
    annotation.is_some_and(|notes| notes.value.get(key).is_some_and(|found| found == value))
}

#[cfg(test)]
mod tests;
