//! Neon, as the broker uses it: the one module that talks to its API.
//!
//! What neon-api leaves to its caller is decided here. Every request counts
//! against one budget of the account (`budget`), callers' before the
//! background's (`turns`). Equal reads and creations that come together are one
//! (`flights`), and each is told of to metrics and traces (`told`). Mutations of the project go one after the other, each followed to
//! the end of its operations before the next is sent. A refusal that changed
//! nothing (423, 429, 503) is repeated with full jitter, Retry-After being
//! honoured (`retry`); a mutation whose answer was lost is looked for before
//! anything is repeated (`branches`, `changes`); and all of it is bounded.

mod branches;
mod budget;
mod changes;
mod endpoints;
mod new;
mod retry;
mod schemas;
mod told;
mod turns;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use neon_api::types::{AnnotationData, Branch, ConnectionUriQuery};
use neon_api::{BranchId, NeonClient, OperationId, ProjectId};

use self::budget::Budget;
use self::retry::Asked;
use self::told::Counts;
use self::turns::Turns;
use crate::flights::Flights;
use crate::names::BindingName;
use crate::postgres::OwnerUri;

pub use branches::Ensured;
pub use budget::Limits;
pub use changes::{BeforeRestore, is_as_wished};
pub use endpoints::EndpointKind;
pub use new::{Lsn, NewBranch, Point, Purpose};
pub use turns::{Priority, Turn};

/// The annotation's key and value that say that a branch is ours.
const MANAGED_BY: (&str, &str) = ("managed-by", "branch-broker");
/// The annotation's key for the binding that a branch was made for.
const BINDING: &str = "binding";
/// The annotation's key for what was asked for when the branch was made.
const REQUEST: &str = "request";
/// The annotation's key for the lease that a branch goes with.
const LEASE: &str = "lease";

/// One project of a Neon account. Clones share the account's budget.
#[derive(Debug, Clone)]
pub struct Neon {
    shared: Arc<Shared>,
    priority: Priority,
}

#[derive(Debug)]
struct Shared {
    client: NeonClient,
    project: ProjectId,
    budget: Budget,
    counts: Counts,
    /// Whose mutation is under way.
    turns: Arc<Turns>,
    /// How many mutations were made: a read joins an equal one only while this
    /// stays, so that it is never older than what somebody was told.
    mutations: AtomicU64,
    lists: Flights<(Option<String>, u64), Vec<Found>>,
    branches: Flights<(BranchId, u64), Option<Found>>,
    creations: Flights<NewBranch, Ensured>,
}

/// A branch with what its annotation says.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// The branch.
    pub branch: Branch,
    /// Whether the broker made it.
    pub managed: bool,
    /// The binding that it was made for, where it was made for one.
    pub binding: Option<BindingName>,
    /// What it was asked for with, where a request made it; or the lease that it goes
    /// with.
    pub request: Option<String>,
}

/// How the owner of a database connects to it on a branch.
#[derive(Debug, Clone)]
pub struct OwnerUris {
    /// To the endpoint itself.
    pub direct: OwnerUri,
    /// Through the pooler, in transaction mode.
    pub pooled: OwnerUri,
    /// Through the branch's read-only endpoint; none while it has none.
    pub replica: Option<ReplicaUris>,
}

/// How they connect to it on the branch's read-only endpoint. For leases alone: who
/// connects wakes it.
#[derive(Debug, Clone)]
pub struct ReplicaUris {
    /// To the endpoint itself.
    pub direct: OwnerUri,
    /// Through its pooler.
    pub pooled: OwnerUri,
}

/// Why Neon did not do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The API key is not accepted, or not for this.
    #[error("Neon does not accept the API key; check NEON_API_KEY")]
    WrongKey(#[source] Arc<neon_api::Error>),
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
        source: Arc<neon_api::Error>,
    },
    /// More requests wait for the account's budget than may.
    #[error("more requests wait for Neon than the broker keeps")]
    Crowded,
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
        /// The branch's name.
        branch: String,
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
            Error::Crowded | Error::OperationSlow { .. } | Error::BranchSlow { .. } => true,
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

    /// What Neon answered, or why it did not.
    pub fn answer(&self) -> Option<&neon_api::Error> {
        match self {
            Error::WrongKey(error) | Error::Api { source: error, .. } => Some(error),
            _ => None,
        }
    }

    /// Whether Neon refuses the request itself, by no limit that has a name: it
    /// asks for something that cannot be.
    pub fn is_refusal_of_request(&self) -> bool {
        let refused = |error: &neon_api::Error| {
            matches!(error.status(), Some(400 | 422)) && error.code().is_none()
        };
        !self.is_transient() && self.answer().is_some_and(refused)
    }

    fn is_not_found(&self) -> bool {
        self.answer().is_some_and(neon_api::Error::is_not_found)
    }

    fn is_conflict(&self) -> bool {
        self.answer().is_some_and(neon_api::Error::is_conflict)
    }

    pub(crate) fn outcome_is_unknown(&self) -> bool {
        let unknown = neon_api::Error::outcome_is_unknown;
        self.answer().is_some_and(unknown)
    }

    fn may_repeat(&self) -> bool {
        self.answer().is_some_and(neon_api::Error::may_repeat)
    }

    fn api(what: impl Into<String>, source: neon_api::Error) -> Error {
        match source.is_unauthorized() {
            true => Error::WrongKey(Arc::new(source)),
            false => Error::Api {
                what: what.into(),
                source: Arc::new(source),
            },
        }
    }
}

impl Neon {
    /// The project, reached with that client.
    pub fn new(client: NeonClient, project: ProjectId, limits: Limits) -> Neon {
        Neon {
            shared: Arc::new(Shared {
                client,
                project,
                budget: Budget::new(limits),
                counts: Counts::default(),
                turns: Arc::default(),
                mutations: AtomicU64::new(0),
                lists: Flights::default(),
                branches: Flights::default(),
                creations: Flights::default(),
            }),
            priority: Priority::Caller,
        }
    }

    /// The same for work that nobody waits for: callers' requests go first.
    #[must_use]
    pub fn background(&self) -> Neon {
        Neon {
            shared: Arc::clone(&self.shared),
            priority: Priority::Background,
        }
    }

    /// Waits until no other mutation of the project is under way, and keeps others
    /// back until the turn is dropped. What it is for has to be looked at again:
    /// who had the turn before may have changed it.
    pub async fn turn(&self) -> Result<Turn, Error> {
        let turn = self.shared.turns.take(self.priority).await;
        turn.map_err(|_| Error::Crowded)
    }

    /// Whether the key is accepted and the project is there. One request, not
    /// repeated.
    pub async fn check(&self) -> Result<(), Error> {
        let Shared {
            client, project, ..
        } = &*self.shared;
        let route = "GET /projects/{project_id}";
        let admitted = self.shared.budget.admit(route, self.priority);
        admitted.await.map_err(|_| Error::Crowded)?;
        match self.told(route, client.get_project(project)).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_not_found() => Err(Error::NoProject {
                project: project.clone(),
            }),
            Err(error) => Err(Error::api("look for the Neon project", error)),
        }
    }

    /// How the owner of a database connects to it.
    pub async fn owner_uris(&self, branch: &BranchId, database: &str) -> Result<OwnerUris, Error> {
        let owner = self.owner_of(branch, database);
        let (owner, replica) = futures_util::try_join!(owner, self.replica(branch))?;
        let query = ConnectionUriQuery::new(database, owner).branch(branch.clone());
        let ask = |query: ConnectionUriQuery| self.owner_uri(branch, query);
        let replica = match replica {
            None => None,
            Some(endpoint) => {
                let query = query.clone().endpoint(endpoint);
                let direct = ask(query.clone().pooled(false));
                let asked = futures_util::try_join!(direct, ask(query.pooled(true)));
                match asked {
                    Ok((direct, pooled)) => Some(ReplicaUris { direct, pooled }),
                    // It was deleted meanwhile.
                    Err(error) if error.is_not_found() => None,
                    Err(error) => return Err(error),
                }
            }
        };
        Ok(OwnerUris {
            direct: ask(query.clone().pooled(false)).await?,
            pooled: ask(query.pooled(true)).await?,
            replica,
        })
    }

    /// The role that owns a database.
    async fn owner_of(&self, branch: &BranchId, database: &str) -> Result<String, Error> {
        let what = format!("look for the database {database} on the branch {branch}");
        let asked = Asked {
            route: "GET /projects/{project_id}/branches/{branch_id}/databases",
            what: &what,
        };
        let (client, project) = self.place();
        let list = || client.list_databases(project, branch);
        let databases = self.read_of_new(asked, list).await?.databases;
        let found = databases.into_iter().find(|found| found.name == database);
        let found = found.ok_or_else(|| Error::NoDatabase {
            branch: branch.clone(),
            database: database.to_owned(),
        })?;
        Ok(found.owner_name)
    }

    async fn owner_uri(
        &self,
        branch: &BranchId,
        query: ConnectionUriQuery,
    ) -> Result<OwnerUri, Error> {
        let what = format!("ask how to connect to the branch {branch}");
        let asked = Asked {
            route: "GET /projects/{project_id}/connection_uri",
            what: &what,
        };
        let (client, project) = self.place();
        let answer = self
            .read_of_new(asked, || client.get_connection_uri(project, &query))
            .await?;
        Ok(OwnerUri::new(answer.uri.expose()))
    }

    fn place(&self) -> (&NeonClient, &ProjectId) {
        (&self.shared.client, &self.shared.project)
    }
}

impl Shared {
    /// A mutation was made, or may have been.
    fn mutated(&self) {
        self.mutations.fetch_add(1, Ordering::SeqCst);
    }

    fn age(&self) -> u64 {
        self.mutations.load(Ordering::SeqCst)
    }
}

impl Found {
    fn new(branch: Branch, annotation: Option<&AnnotationData>) -> Found {
        Found {
            branch,
            managed: is_managed(annotation),
            binding: annotation
                .and_then(|notes| notes.value.get(BINDING))
                .and_then(|name| name.parse().ok()),
            request: annotation.and_then(|notes| {
                let note = |key| notes.value.get(key).cloned();
                note(REQUEST).or_else(|| note(LEASE))
            }),
        }
    }
}

fn is_managed(annotation: Option<&AnnotationData>) -> bool {
    let (key, value) = MANAGED_BY;
    annotation.is_some_and(|notes| notes.value.get(key).is_some_and(|found| found == value))
}

#[cfg(test)]
mod tests;
