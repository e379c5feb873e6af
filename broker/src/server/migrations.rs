//! MigrationService.

use std::future::ready;
use std::pin::Pin;
use std::time::{Duration, Instant};

use futures_util::{Stream, StreamExt as _, stream};
use neon_api::BranchId;
use proto::broker::v1 as pb;
use proto::broker::v1::migration_service_server::MigrationService;
use rpc::status::{FieldViolation, FieldViolations};
use tokio::sync::mpsc;
use tonic::{Request, Response, Status};

use super::branches::time;
use super::request;
use super::{Broker, Error};
use crate::config::BindingSpec;
use crate::leasing;
use crate::migrate::engine::Migrating;
use crate::migrate::moves::{self, Move, Moves, Point, Wish};
use crate::migrate::standing::{self, Row, Standing};
use crate::migrate::{self, folder::Migration, history};
use crate::names::{BindingName, BranchResource};
use crate::neon::OwnerUris;
use crate::postgres;
use crate::reconcile::LOOK_LIMIT;

/// What becomes of each revision, as it does.
type Progress = Pin<Box<dyn Stream<Item = Result<pb::MigrateResponse, Status>> + Send>>;

#[tonic::async_trait]
impl MigrationService for Broker {
    type MigrateStream = Progress;

    async fn get_migration_status(
        &self,
        request: Request<pb::GetMigrationStatusRequest>,
    ) -> Result<Response<pb::GetMigrationStatusResponse>, Status> {
        let rights = self.rights(&request)?;
        let pb::GetMigrationStatusRequest { binding, branch } = request.into_inner();
        let mut violations = FieldViolations::new();
        let Some((name, branch)) = decode(&mut violations, &binding, &branch) else {
            return Err(Error::from(violations).into());
        };
        match &branch {
            Some(_) => rights.may_read()?,
            None => rights.may_see(&name)?,
        }
        let place = Box::pin(self.migrated(&name, branch)).await?;
        let looking = async {
            let client = postgres::session(&place.uris.direct).await?;
            history::read(&client, &place.spec.service).await
        };
        let looked = postgres::bounded(LOOK_LIMIT, "look", looking).await;
        let history = looked.map_err(|error| Error::Migrate(error.into()))?;
        let rows = standing::rows(&place.folder, &history, place.last());
        let current = rows.iter().rev().find(|row| row.standing.is_applied());
        let current = current.map(|row| row.name.clone());
        let head = place.head();
        Ok(Response::new(pb::GetMigrationStatusResponse {
            branch: BranchResource(place.branch).to_string(),
            revisions: rows.iter().map(wire).collect(),
            current: current.unwrap_or_default(),
            head,
        }))
    }

    async fn migrate(
        &self,
        request: Request<pb::MigrateRequest>,
    ) -> Result<Response<Progress>, Status> {
        let rights = self.rights(&request)?;
        rights.may_administer()?;
        let request = request.into_inner();
        let mut violations = FieldViolations::new();
        let place = decode(&mut violations, &request.binding, &request.branch);
        let wish = violations.take(wish(request.wish));
        let (Some((name, branch)), Some(wish)) = (place, wish) else {
            return Err(Error::from(violations).into());
        };
        let place = Box::pin(self.migrated(&name, branch)).await?;
        tracing::info!(by = %rights.caller(), binding = %name, branch = %place.branch, ?wish, "migrating");
        let (told, progress) = mpsc::unbounded_channel();
        // In a task of its own: a caller who goes away stops nothing half-way.
        let running = tokio::spawn(async move { perform(&place, &wish, &told).await });
        let steps = stream::unfold(progress, |mut progress| async {
            Some((Ok(progress.recv().await?), progress))
        });
        let end = stream::once(async {
            let ended = running.await.map_err(migrate::Error::Interrupted);
            ended.and_then(|ended| ended).err()
        });
        let end = end.filter_map(ready);
        let end = end.map(|error| Err(Error::Migrate(error).into()));
        Ok(Response::new(Box::pin(steps.chain(end))))
    }
}

/// A service on a branch.
struct Place {
    branch: BranchId,
    uris: OwnerUris,
    /// Whether it is the binding's own.
    is_own: bool,
    /// Whose revisions, and how far.
    spec: BindingSpec,
    folder: Vec<Migration>,
}

impl Place {
    /// The version of the last revision that the service's version has. `None`: it has all
    /// that there are.
    fn last(&self) -> Option<&str> {
        let head = self.spec.head().filter(|_| self.spec.is_pinned);
        head.map(|head| head.version.as_str())
    }

    /// The folder's name of that one.
    fn head(&self) -> String {
        let head = match self.last() {
            Some(last) => self.folder.iter().find(|one| one.revision.version == last),
            None => self.folder.last(),
        };
        head.map(|head| head.revision.name.clone())
            .unwrap_or_default()
    }
}

impl Broker {
    /// What a binding says of a branch: the one it leads to, or another.
    async fn migrated(&self, name: &BindingName, branch: Option<BranchId>) -> Result<Place, Error> {
        let config = self.keeper.config();
        let spec = config.bindings.iter().find(|spec| spec.name == *name);
        let spec = spec.cloned().ok_or_else(|| {
            Error::from(leasing::Error::BindingNotFound {
                field: "binding",
                name: name.clone(),
            })
        })?;
        let is_own = branch.is_none();
        let (branch, uris) = match branch {
            Some(id) => {
                let found = self.branches.get("branch", &id).await?.branch;
                let neon = self.keeper.neon();
                let uris = neon.owner_uris(&found.id, &spec.service.database).await?;
                (found.id, uris)
            }
            None => self.own_branch(name, &spec).await?,
        };
        if self.leases.is_held(&branch) {
            return Err(leasing::Error::BindingNotReady {
                name: name.clone(),
                message: "its branch is being reset or restored".to_owned(),
            }
            .into());
        }
        let folder = migrate::read_folder(&spec.service).await;
        Ok(Place {
            branch,
            uris,
            is_own,
            spec,
            folder: folder.map_err(Error::Migrate)?,
        })
    }
}

impl Broker {
    /// The branch that a binding leads to; or is to lead to, where its revisions are what
    /// keeps it from being ready.
    async fn own_branch(
        &self,
        name: &BindingName,
        spec: &BindingSpec,
    ) -> Result<(BranchId, OwnerUris), Error> {
        let binding = self.bindings.get(name);
        if let Some(target) = binding.and_then(|binding| binding.target.clone()) {
            return Ok((target.branch.clone(), target.uris.clone()));
        }
        let neon = self.keeper.neon();
        let mut found = neon.branches().await?.into_iter();
        let found = found.find(|found| found.branch.name == spec.branch.as_str());
        let id = found.map(|found| found.branch.id).ok_or_else(|| {
            Error::from(leasing::Error::BindingNotReady {
                name: name.clone(),
                message: "its branch is not there yet".to_owned(),
            })
        })?;
        let uris = neon.owner_uris(&id, &spec.service.database).await?;
        Ok((id, uris))
    }
}

async fn perform(
    place: &Place,
    wish: &Wish,
    told: &mpsc::UnboundedSender<pb::MigrateResponse>,
) -> Result<(), migrate::Error> {
    let migrating = Migrating::begin(&place.uris.direct, &place.spec.service).await?;
    let history = migrating.history().await?;
    let rows = standing::rows(&place.folder, &history, place.last());
    let moves = moves::moves(&place.folder, &rows, place.last(), wish)?;
    if place.is_own {
        refuse_beyond(&moves, place.last())?;
    }
    migrating.adopt(&place.folder, &history).await?;
    let mut begun = Instant::now();
    let forgotten = moves.forgotten.clone();
    let done = migrating.perform(&moves, |one| {
        let (step, migration) = match one {
            Move::Run(migration) => (pb::MigrationStep::Run, migration),
            Move::Revert(migration) => (pb::MigrationStep::Reverted, migration),
            Move::Record(migration) => (pb::MigrationStep::Recorded, migration),
        };
        let revision = &migration.revision;
        tracing::info!(branch = %place.branch, revision = revision.name, ?step, "migrated");
        let took = std::mem::replace(&mut begun, Instant::now()).elapsed();
        // An error: the caller is gone.
        let _ = told
            .send(step_wire(&revision.version, &revision.name, step, took))
            .is_ok();
    });
    done.await?;
    for version in forgotten {
        let name = rows.iter().find(|row| row.version == version);
        let name = name.map(|row| row.name.as_str()).unwrap_or_default();
        let step = pb::MigrationStep::Forgotten;
        let _ = told
            .send(step_wire(&version, name, step, Duration::ZERO))
            .is_ok();
    }
    Ok(())
}

/// The next apply would not have a branch that is ahead of what its binding declares.
fn refuse_beyond(moves: &Moves<'_>, last: Option<&str>) -> Result<(), migrate::Error> {
    let beyond = moves.moves.iter().find_map(|one| match one {
        Move::Run(migration) | Move::Record(migration) => {
            let revision = &migration.revision;
            last.is_some_and(|last| revision.version.as_str() > last)
                .then(|| revision.name.clone())
        }
        Move::Revert(_) => None,
    });
    match beyond {
        None => Ok(()),
        Some(revision) => Err(migrate::Error::RevisionBeyond { revision }),
    }
}

fn decode(
    violations: &mut FieldViolations,
    binding: &str,
    branch: &str,
) -> Option<(BindingName, Option<BranchId>)> {
    let binding = violations.take(request::name::<BindingName>("binding", binding));
    let branch = match branch {
        "" => Some(None),
        branch => {
            let branch = violations.take(request::name::<BranchResource>("branch", branch));
            branch.map(|branch| Some(branch.0))
        }
    };
    Some((binding?, branch?))
}

fn wish(wish: Option<pb::migrate_request::Wish>) -> Result<Wish, FieldViolation> {
    use pb::migrate_request::Wish as Asked;
    let point = |field, text: String| match text.trim() {
        "" => Err(FieldViolation::new(field, "is base, head, or a revision")),
        text => Ok(Point::from(text)),
    };
    match wish {
        None => Err(FieldViolation::new(
            "wish",
            "is one of up, down, to, redo and stamp",
        )),
        Some(Asked::Up(up)) => match usize::try_from(up.count) {
            Ok(0) => Ok(Wish::Up(None)),
            Ok(count) => Ok(Wish::Up(Some(count))),
            Err(_) => Err(FieldViolation::new("up.count", "is 0 or more")),
        },
        Some(Asked::Down(down)) => match usize::try_from(down.count) {
            Ok(count) if count > 0 => Ok(Wish::Down(count)),
            _ => Err(FieldViolation::new("down.count", "is 1 or more")),
        },
        Some(Asked::To(text)) => Ok(Wish::To(point("to", text)?)),
        Some(Asked::Redo(_)) => Ok(Wish::Redo),
        Some(Asked::Stamp(text)) => Ok(Wish::Stamp(point("stamp", text)?)),
    }
}

fn wire(row: &Row) -> pb::Revision {
    let state = match row.standing {
        Standing::Applied => pb::RevisionState::Applied,
        Standing::Changed => pb::RevisionState::Changed,
        Standing::Missing => pb::RevisionState::Missing,
        Standing::Ahead => pb::RevisionState::Ahead,
        Standing::Pending => pb::RevisionState::Pending,
        Standing::OutOfOrder => pb::RevisionState::OutOfOrder,
        Standing::Beyond => pb::RevisionState::Beyond,
    };
    pb::Revision {
        version: row.version.clone(),
        name: row.name.clone(),
        state: state.into(),
        apply_time: row.applied_at.map(time),
        adopted: row.is_adopted,
    }
}

fn step_wire(
    version: &str,
    name: &str,
    step: pb::MigrationStep,
    took: Duration,
) -> pb::MigrateResponse {
    pb::MigrateResponse {
        version: version.to_owned(),
        name: name.to_owned(),
        step: step.into(),
        duration: prost_types::Duration::try_from(took).ok(),
    }
}
