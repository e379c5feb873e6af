//! MigrationService.

mod compare;
mod place;
mod rehearse;
mod wire;

use std::future::ready;
use std::pin::Pin;
use std::time::{Duration, Instant};

use futures_util::{Stream, StreamExt as _, stream};
use neon_api::BranchId;
use proto::broker::v1 as pb;
use proto::broker::v1::migration_service_server::MigrationService;
use rpc::status::FieldViolations;
use tokio::sync::mpsc;
use tonic::{Request, Response};

use super::rights::Rights;
use super::{Broker, Error};
use crate::audit::{Action, Event};
use crate::bindings::{Binding, Status};
use crate::gate::{Ground, Rehearsed};
use crate::keeper;
use crate::migrate::engine::{Migrating, Observer, Progress};
use crate::migrate::history::Applied;
use crate::migrate::moves::{self, Move, Moves, Point, Wish};
use crate::migrate::standing;
use crate::migrate::{self, folder::Migration, offline};
use crate::names::{BindingName, BranchResource};
use crate::state::Draft;
use crate::text::one_line;
use place::Place;

/// What becomes of each revision, as it does.
type Steps = Pin<Box<dyn Stream<Item = Result<pb::MigrateResponse, tonic::Status>> + Send>>;

#[tonic::async_trait]
impl MigrationService for Broker {
    type MigrateStream = Steps;

    async fn get_migration_status(
        &self,
        request: Request<pb::GetMigrationStatusRequest>,
    ) -> Result<Response<pb::GetMigrationStatusResponse>, tonic::Status> {
        let rights = self.rights(&request)?;
        let pb::GetMigrationStatusRequest { binding, branch } = request.into_inner();
        let mut violations = FieldViolations::new();
        let Some((name, branch)) = wire::place(&mut violations, &binding, &branch) else {
            return Err(Error::from(violations).into());
        };
        may_look(&rights, &name, branch.as_ref())?;
        let place = Box::pin(self.migrated(&name, branch)).await?;
        let rows = place.rows().await?;
        let current = rows.iter().rev().find(|row| row.standing.is_applied());
        let current = current.map(|row| row.name.clone());
        let head = place.head();
        Ok(Response::new(pb::GetMigrationStatusResponse {
            branch: BranchResource(place.branch).to_string(),
            revisions: rows.iter().map(wire::revision).collect(),
            current: current.unwrap_or_default(),
            head,
        }))
    }

    async fn migrate(
        &self,
        request: Request<pb::MigrateRequest>,
    ) -> Result<Response<Steps>, tonic::Status> {
        let rights = self.rights(&request)?;
        rights.may_administer()?;
        let request = request.into_inner();
        let mut violations = FieldViolations::new();
        let place = wire::place(&mut violations, &request.binding, &request.branch);
        let wish = violations.take(wire::wish(request.wish));
        let limit = violations.take(wire::statement_timeout(request.statement_timeout));
        let (Some((name, branch)), Some(wish), Some(limit)) = (place, wish, limit) else {
            return Err(Error::from(violations).into());
        };
        let place = Box::pin(self.migrated(&name, branch)).await?;
        tracing::info!(by = %rights.caller(), binding = %name, branch = %place.branch, ?wish, "migrating");
        let (told, progress) = mpsc::unbounded_channel();
        // In a task of its own: a caller who goes away stops nothing half-way.
        let asked = Asked {
            broker: self.clone(),
            by: rights.caller().to_string(),
            wish,
            statement_timeout: limit,
            force: request.force,
        };
        let running = tokio::spawn(async move { asked.perform(&place, &name, told).await });
        let steps = stream::unfold(progress, |mut progress| async {
            Some((Ok(progress.recv().await?), progress))
        });
        let end = stream::once(async {
            let ended = running.await;
            ended
                .unwrap_or_else(|error| Err(migrate::Error::Interrupted(error).into()))
                .err()
        });
        let end = end.filter_map(ready);
        let end = end.map(|error| Err(error.into()));
        Ok(Response::new(Box::pin(steps.chain(end))))
    }

    async fn get_migration_script(
        &self,
        request: Request<pb::GetMigrationScriptRequest>,
    ) -> Result<Response<pb::GetMigrationScriptResponse>, tonic::Status> {
        let rights = self.rights(&request)?;
        let request = request.into_inner();
        let mut violations = FieldViolations::new();
        let place = wire::place(&mut violations, &request.binding, &request.branch);
        let wish = violations.take(wire::offline_wish(request.wish));
        let (Some((name, branch)), Some(wish)) = (place, wish) else {
            return Err(Error::from(violations).into());
        };
        may_look(&rights, &name, branch.as_ref())?;
        let sql = Box::pin(self.script(&name, branch, &request.from, &wish)).await?;
        Ok(Response::new(pb::GetMigrationScriptResponse { sql }))
    }

    async fn lint_revisions(
        &self,
        request: Request<pb::LintRevisionsRequest>,
    ) -> Result<Response<pb::LintRevisionsResponse>, tonic::Status> {
        let rights = self.rights(&request)?;
        let pb::LintRevisionsRequest {
            binding,
            branch,
            all,
        } = request.into_inner();
        let mut violations = FieldViolations::new();
        let Some((name, branch)) = wire::place(&mut violations, &binding, &branch) else {
            return Err(Error::from(violations).into());
        };
        may_look(&rights, &name, branch.as_ref())?;
        let place = Box::pin(self.migrated(&name, branch)).await?;
        let findings = Box::pin(self.linted(&place, all)).await?;
        Ok(Response::new(pb::LintRevisionsResponse { findings }))
    }

    async fn verify_schema(
        &self,
        request: Request<pb::VerifySchemaRequest>,
    ) -> Result<Response<pb::VerifySchemaResponse>, tonic::Status> {
        self.rights(&request)?.may_administer()?;
        let pb::VerifySchemaRequest { binding, branch } = request.into_inner();
        let mut violations = FieldViolations::new();
        let Some((name, branch)) = wire::place(&mut violations, &binding, &branch) else {
            return Err(Error::from(violations).into());
        };
        let drift = Box::pin(self.drift(&name, branch)).await?;
        Ok(Response::new(pb::VerifySchemaResponse { drift }))
    }

    async fn autogenerate(
        &self,
        request: Request<pb::AutogenerateRequest>,
    ) -> Result<Response<pb::AutogenerateResponse>, tonic::Status> {
        self.rights(&request)?.may_administer()?;
        let written = Box::pin(self.written(request.into_inner())).await?;
        Ok(Response::new(pb::AutogenerateResponse {
            up_sql: written.up,
            down_sql: written.down,
        }))
    }

    async fn rehearse(
        &self,
        request: Request<pb::RehearseRequest>,
    ) -> Result<Response<pb::RehearseResponse>, tonic::Status> {
        let rights = self.rights(&request)?;
        rights.may_administer()?;
        let pb::RehearseRequest {
            binding,
            branch,
            to,
        } = request.into_inner();
        let mut violations = FieldViolations::new();
        let Some((name, branch)) = wire::place(&mut violations, &binding, &branch) else {
            return Err(Error::from(violations).into());
        };
        let wish = match to.trim() {
            "" => Wish::Up(None),
            to => Wish::To(Point::from(to)),
        };
        let place = Box::pin(self.migrated(&name, branch)).await?;
        tracing::info!(by = %rights.caller(), binding = %name, branch = %place.branch, "rehearsing");
        let answer = Box::pin(self.rehearsed(place, wish)).await?;
        Ok(Response::new(answer))
    }
}

/// On the binding's own branch who may see the binding, on another who may see all.
fn may_look(
    rights: &Rights,
    binding: &BindingName,
    branch: Option<&BranchId>,
) -> Result<(), Error> {
    match branch {
        Some(_) => rights.may_read(),
        None => rights.may_see(binding),
    }
}

impl Broker {
    async fn script(
        &self,
        name: &BindingName,
        branch: Option<BranchId>,
        from: &str,
        wish: &Wish,
    ) -> Result<String, Error> {
        let (spec, folder) = self.declared(name).await?;
        let last = spec.last().map(str::to_owned);
        let rows = match from.trim() {
            "" => Box::pin(self.migrated(name, branch)).await?.rows().await?,
            from => {
                let history = offline::history_at(&folder, &Point::from(from))?;
                standing::rows(&folder, &history, last.as_deref())
            }
        };
        let moves = moves::moves(&folder, &rows, last.as_deref(), wish)?;
        Ok(offline::script(&spec.service, &moves)?)
    }
}

/// What a caller wants done.
struct Asked {
    broker: Broker,
    by: String,
    wish: Wish,
    statement_timeout: Duration,
    force: bool,
}

impl Asked {
    async fn perform(
        &self,
        place: &Place,
        name: &BindingName,
        told: mpsc::UnboundedSender<pb::MigrateResponse>,
    ) -> Result<(), Error> {
        let ran = self.run(place, name, told).await;
        // One that waited for its revisions is ready now; one whose revisions are run by
        // hand is told of it, however far that came.
        let lives_there = |binding: &Binding| {
            let target = binding.target.as_deref();
            let is_named = place.is_own && binding.spec.name == *name;
            is_named || target.is_some_and(|target| target.branch == place.branch)
        };
        let waits = |binding: &Binding| {
            binding.status != Status::Ready
                || binding.trouble.is_some()
                || !binding.spec.auto_migrate
        };
        let mut bindings = self.broker.bindings.list().into_iter();
        if bindings.any(|binding| lives_there(&binding) && waits(&binding)) {
            self.announce(name).await;
        }
        ran
    }

    /// Has what the branch has now announced, when whoever applies at the moment is done.
    async fn announce(&self, name: &BindingName) {
        let keeper = &self.broker.keeper;
        let nothing = |_| std::future::ready(Ok::<_, keeper::Error>(Vec::new()));
        loop {
            match keeper.apply(nothing).await {
                Ok(_) => return,
                Err(keeper::Error::Running) => drop(keeper.alone().await),
                Err(error) => {
                    let reason = one_line(&error);
                    tracing::info!(binding = %name, error = reason, "migrated, and not ready");
                    if error.is_transient() {
                        keeper.look_again();
                    }
                    return;
                }
            }
        }
    }

    /// The gate of the binding's own branch, for what is to be run there.
    async fn pass_gate(
        &self,
        place: &Place,
        history: &[Applied],
        moves: &Moves<'_>,
    ) -> Result<(), Error> {
        let Some(gate) = place.gate else {
            return Ok(());
        };
        let revisions: Vec<String> = moves.runs().map(|one| one.revision.name.clone()).collect();
        // It may have been reset while others held the lock.
        let found = self.broker.branches.get("branch", &place.branch).await?;
        let ground = Ground {
            branch: found.branch.id,
            reset_at: found.branch.last_reset_at,
        };
        let (state, now) = (&self.broker.state, self.broker.leases.now());
        let rehearsed = Rehearsed::of(&ground, moves.had(history), moves.runs());
        if revisions.is_empty() || rehearsed.may_run(state, gate, now) {
            return Ok(());
        }
        if !self.force {
            return Err(migrate::Error::NotRehearsed { revisions }.into());
        }
        let event = Event {
            id: 0,
            time: now,
            action: Action::Applied,
            service: Some(place.spec.service.name.clone()),
            binding: Some(place.spec.name.clone()),
            branch: Some(place.branch.clone()),
            lease: None,
            holder: self.by.clone(),
            message: format!(
                "runs {} by force, without a rehearsal that passed",
                revisions.join(", ")
            ),
        };
        let change = move |draft: &mut Draft<'_>| draft.audit(event.clone());
        state.change(change).await.map_err(Error::State)
    }

    async fn run(
        &self,
        place: &Place,
        name: &BindingName,
        told: mpsc::UnboundedSender<pb::MigrateResponse>,
    ) -> Result<(), Error> {
        let migrating = Migrating::begin(&place.uris.direct, &place.spec.service).await?;
        let migrating = migrating.with_statement_timeout(self.statement_timeout);
        let history = migrating.history().await?;
        let rows = standing::rows(&place.folder, &history, place.last());
        let moves = moves::moves(&place.folder, &rows, place.last(), &self.wish)?;
        if place.is_own {
            refuse_beyond(&moves, place.last())?;
        }
        self.pass_gate(place, &history, &moves).await?;
        tracing::debug!(binding = %name, moves = moves.moves.len(), "runs");
        migrating.adopt(&place.folder, &history).await?;
        if self.wish == Wish::Stamp(Point::Current) {
            migrating.forget_changed(&place.folder).await?;
        }
        let mut teller = Teller {
            branch: &place.branch,
            begun: Instant::now(),
            told,
        };
        migrating.perform(&moves, &mut teller).await?;
        for version in &moves.forgotten {
            let name = rows.iter().find(|row| row.version == *version);
            let name = name.map(|row| row.name.as_str()).unwrap_or_default();
            teller.tell(wire::step(version, name, pb::MigrationStep::Forgotten));
        }
        Ok(())
    }
}

/// Tells the caller how it goes on.
struct Teller<'p> {
    branch: &'p BranchId,
    /// When the move that is under way was begun.
    begun: Instant,
    told: mpsc::UnboundedSender<pb::MigrateResponse>,
}

impl Teller<'_> {
    fn tell(&self, step: pb::MigrateResponse) {
        // An error: the caller is gone.
        let _ = self.told.send(step).is_ok();
    }
}

impl Observer for Teller<'_> {
    fn batch(&mut self, migration: &Migration, progress: Progress) {
        let revision = &migration.revision;
        self.tell(pb::MigrateResponse {
            rows: progress.rows,
            of_rows: progress.of_rows,
            ..wire::step(&revision.version, &revision.name, pb::MigrationStep::Batch)
        });
    }

    fn done(&mut self, one: &Move<'_>) {
        let (step, migration) = match one {
            Move::Run(migration) => (pb::MigrationStep::Run, migration),
            Move::Revert(migration) => (pb::MigrationStep::Reverted, migration),
            Move::Record(migration) => (pb::MigrationStep::Recorded, migration),
        };
        let revision = &migration.revision;
        tracing::info!(branch = %self.branch, revision = revision.name, ?step, "migrated");
        let took = std::mem::replace(&mut self.begun, Instant::now()).elapsed();
        self.tell(pb::MigrateResponse {
            duration: wire::duration(took),
            ..wire::step(&revision.version, &revision.name, step)
        });
    }
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
