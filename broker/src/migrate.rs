//! Migrations: a service's revisions, run on its branch over a direct
//! connection.
//!
//! [`folder`] says which revisions there are, [`history`] which of them a branch has,
//! [`standing`] how the two compare, [`moves`] what is to be done for what is asked, and
//! [`engine`] does it.

pub mod autogenerate;
mod batches;
pub mod catalog;
pub mod engine;
mod error;
pub mod folder;
pub mod history;
pub mod lint;
pub mod moves;
pub mod offline;
pub mod rehearse;
pub mod standing;
pub mod statements;
pub mod wanted;

use std::path::Path;

use tokio_postgres::Client;

use crate::config::{Revision, ServiceSpec};
use crate::gate::Rehearsed;
use crate::postgres::{self, OwnerUri, escape_literal};
use engine::{Migrating, Unobserved};
use folder::Migration;
use moves::{Moves, Wish};
use standing::Standing;

pub(crate) use error::is_transient;
pub use error::{Error, FailedRevision, LeftBehind, Place};

/// The revisions in a folder, oldest first. Names that Diesel would not take,
/// and two of the same version, are refused.
pub fn revisions_in(path: &Path) -> Result<Vec<Revision>, Error> {
    let migrations = folder::read(path)?;
    Ok(migrations.into_iter().map(|one| one.revision).collect())
}

/// The versions that a branch has of a service, oldest first. Reads only: a
/// branch that was never migrated has none.
pub async fn applied(
    client: &Client,
    service: &ServiceSpec,
) -> Result<Vec<String>, postgres::Error> {
    let history = history::read(client, service).await?;
    Ok(history.into_iter().map(|applied| applied.version).collect())
}

/// Runs those of `revisions` that the branch does not have, oldest first, and
/// says which they were. Waits for another migration of the service to end. Once begun it
/// goes on, whoever waits for it. With `rehearsed` they have to be exactly those.
pub async fn run(
    uri: &OwnerUri,
    service: &ServiceSpec,
    revisions: &[Revision],
    rehearsed: Option<Rehearsed>,
) -> Result<Vec<Revision>, Error> {
    let (uri, service) = (uri.clone(), service.clone());
    let last = revisions.last().map(|last| last.version.clone());
    let running = tokio::spawn(async move {
        let migrations = read_folder(&service).await?;
        let migrating = Migrating::begin(&uri, &service).await?;
        let Some(last) = last else {
            return Ok(Vec::new());
        };
        let history = migrating.history().await?;
        migrating.adopt(&migrations, &history).await?;
        let mut rows = standing::rows(&migrations, &history, Some(&last));
        // Whether a branch may be ahead is for who asks.
        rows.retain(|row| row.standing != Standing::Missing);
        let moves = moves::moves(&migrations, &rows, Some(&last), &Wish::Up(None))?;
        if rehearsed.is_some_and(|rehearsed| !rehearsed.is_of(moves.had(&history), moves.runs())) {
            let names = moves.runs().map(|one| one.revision.name.clone());
            return Err(Error::NotRehearsed {
                revisions: names.collect(),
            });
        }
        migrating.perform(&moves, &mut Unobserved).await?;
        Ok(run_by(&moves))
    });
    running.await.map_err(Error::Interrupted)?
}

/// A service's folder, read on a thread that may wait for the disk.
pub async fn read_folder(service: &ServiceSpec) -> Result<Vec<Migration>, Error> {
    let path = service.migrations.clone();
    let reading = tokio::task::spawn_blocking(move || folder::read(&path));
    reading.await.map_err(Error::Interrupted)?
}

/// The key of the lock that everything which changes a service's schema holds.
/// Advisory locks are a database's own, as a service's schema is.
pub(crate) fn lock_key(service: &ServiceSpec) -> String {
    let name = format!("branch-broker {}", service.name);
    format!("hashtextextended({}, 0)", escape_literal(&name))
}

fn run_by(moves: &Moves<'_>) -> Vec<Revision> {
    moves.runs().map(|one| one.revision.clone()).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use std::path::PathBuf;

    use jiff::Timestamp;

    use super::folder::{Migration, Script};
    use super::history::{Applied, Record};
    use crate::config::{Revision, ServiceSpec};

    /// The service that they are of.
    #[allow(clippy::unwrap_used)]
    pub(super) fn service() -> ServiceSpec {
        ServiceSpec {
            name: "users".parse().unwrap(),
            database: "neondb".to_owned(),
            schema: "users".to_owned(),
            migrations: PathBuf::from("migrations/users"),
            statement_timeout: std::time::Duration::from_secs(30),
        }
    }

    /// A revision of that version, with a way back.
    pub(crate) fn migration(version: &str) -> Migration {
        let script = |sql: &str| Script {
            path: PathBuf::from(format!("{version}_m/{sql}.sql")),
            sql: sql.to_owned(),
        };
        Migration {
            revision: Revision {
                version: version.to_owned(),
                name: format!("{version}_m"),
            },
            up: script("up"),
            down: Some(script("down")),
            in_transaction: true,
        }
    }

    /// What a branch says that has it, as it is.
    pub(super) fn applied(migration: &Migration) -> Applied {
        Applied {
            version: migration.revision.version.clone(),
            at: Timestamp::UNIX_EPOCH,
            record: Some(Record {
                name: migration.revision.name.clone(),
                checksum: migration.checksum(),
            }),
        }
    }
}
