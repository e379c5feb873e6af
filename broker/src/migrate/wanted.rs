//! Schemas that are made anew, to be compared: on a throw-away branch, in the place of the
//! service's own.

use std::path::PathBuf;

use super::catalog::{self, Schema};
use super::engine::{Migrating, Unobserved};
use super::folder::{Migration, Script};
use super::moves::{Move, Moves};
use super::{Error, history};
use crate::config::{Revision, ServiceSpec};
use crate::postgres::{self, Attempted as _, OwnerUri, escape_identifier};

/// The service's schema on a branch, as it is.
pub async fn there(uri: &OwnerUri, service: &ServiceSpec) -> Result<Schema, Error> {
    let client = postgres::session(uri).await?;
    let read = catalog::read(&client, &service.schema).await;
    Ok(read.attempted("read the schema")?)
}

/// What the revisions make that the branch has. `uri` leads to a branch that nobody needs:
/// its own schema of the service goes.
pub async fn of_revisions(
    uri: &OwnerUri,
    service: &ServiceSpec,
    folder: &[Migration],
) -> Result<Schema, Error> {
    let client = postgres::session(uri).await?;
    let applied = history::read(&client, service).await?;
    let mut moves = Vec::new();
    for applied in applied {
        let known = |one: &&Migration| one.revision.version == applied.version;
        let migration = folder.iter().find(known);
        moves.push(Move::Run(migration.ok_or_else(|| {
            Error::RevisionMissing {
                name: applied.record.map(|record| record.name).unwrap_or_default(),
                version: applied.version.clone(),
            }
        })?));
    }
    anew(uri, service, moves).await
}

/// What SQL makes, with names as in revisions. `uri` as for [`of_revisions`].
pub async fn of_sql(uri: &OwnerUri, service: &ServiceSpec, sql: &str) -> Result<Schema, Error> {
    let migration = Migration {
        revision: Revision {
            version: "wanted".to_owned(),
            name: "wanted".to_owned(),
        },
        up: Script {
            path: PathBuf::from("schema.sql"),
            sql: sql.to_owned(),
        },
        down: None,
        in_transaction: true,
    };
    let made = anew(uri, service, vec![Move::Run(&migration)]).await;
    made.map_err(|error| match error {
        Error::FailedRevision(failed) => Error::Wanted(failed),
        error => error,
    })
}

async fn anew(
    uri: &OwnerUri,
    service: &ServiceSpec,
    moves: Vec<Move<'_>>,
) -> Result<Schema, Error> {
    let client = postgres::session(uri).await?;
    let schema = escape_identifier(&service.schema);
    let dropped = client
        .batch_execute(&format!(
            "SET client_min_messages = warning; DROP SCHEMA IF EXISTS {schema} CASCADE"
        ))
        .await;
    dropped.attempted("clear the throw-away branch")?;
    let migrating = Migrating::begin(uri, service).await?;
    let moves = Moves {
        moves,
        forgotten: Vec::new(),
    };
    migrating.perform(&moves, &mut Unobserved).await?;
    let read = catalog::read(&client, &service.schema).await;
    Ok(read.attempted("read the schema")?)
}
