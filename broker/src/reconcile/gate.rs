//! The gate before what an apply would run: rehearsed first, unless it was.

use super::Error;
use super::apply::Run;
use crate::config::Gate;
use crate::gate::{Ground, Rehearsed};
use crate::migrate::moves::{self, Moves, Wish};
use crate::migrate::rehearse::report::Verdict;
use crate::migrate::rehearse::{Rehearsal, contract};
use crate::migrate::{self, history, standing};
use crate::neon::OwnerUris;
use crate::trials::{self, Trials};
use crate::{postgres, state};

/// Why nothing could be rehearsed.
#[derive(Debug, thiserror::Error)]
pub enum NotTried {
    /// The revisions, or the throw-away branch.
    #[error(transparent)]
    Migrate(#[from] migrate::Error),
    /// There is no throw-away branch.
    #[error(transparent)]
    Trial(#[from] trials::Error),
    /// That it passed could not be stored.
    #[error(transparent)]
    State(#[from] state::Error),
}

impl NotTried {
    /// Whether the same may work in a moment.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            NotTried::Migrate(error) => error.is_transient(),
            NotTried::Trial(error) => error.is_transient(),
            NotTried::State(_) => true,
        }
    }
}

impl Run<'_> {
    /// Rehearses what is pending, unless it was, and says what that is. The error: why it
    /// is not to be run.
    pub(super) async fn gated(
        &self,
        gate: Gate,
        ground: &Ground,
        uris: &OwnerUris,
    ) -> Result<Rehearsed, Error> {
        let tried = self.tried(gate, ground, uris).await;
        tried.unwrap_or_else(|source| {
            Err(Error::FailedRehearsal {
                branch: self.spec.branch.clone(),
                source: Box::new(source),
            })
        })
    }

    async fn tried(
        &self,
        gate: Gate,
        ground: &Ground,
        uris: &OwnerUris,
    ) -> Result<Result<Rehearsed, Error>, NotTried> {
        let (state, now) = (self.ledger.state(), self.ledger.now());
        let service = &self.spec.service;
        let folder = migrate::read_folder(service).await?;
        let client = postgres::session(&uris.direct).await;
        let client = client.map_err(migrate::Error::from)?;
        let history = history::read(&client, service).await;
        let history = history.map_err(migrate::Error::from)?;
        // As an apply runs them: up to what broker.toml had when it was read.
        let last = self.spec.head().map(|head| head.version.as_str());
        let rows = standing::rows(&folder, &history, last);
        let wish = Wish::Up(None);
        let moves = moves::moves(&folder, &rows, last, &wish)?;
        let rehearsed = Rehearsed::of(ground, moves.had(&history), moves.runs());
        if rehearsed.may_run(state, gate, now) {
            return Ok(Ok(rehearsed));
        }
        let contracts = contract::of_service(self.config, &service.name, |name| {
            let mut on_branch = self.config.bindings_on(&self.spec.branch);
            *name == self.spec.name || on_branch.any(|spec| spec.name == *name)
        });
        let contracts = contracts.await?;
        let rehearsal = Rehearsal {
            service,
            folder: &folder,
            last,
            wish,
            contracts: &contracts,
        };
        let trials = Trials::new(self.neon.clone(), self.ledger.clone());
        let trial = trials
            .begin("rehearse", &ground.branch, &service.database)
            .await?;
        let report = Box::pin(rehearsal.run(&trial.uris.direct)).await;
        trials.end(trial).await;
        let (verdict, reasons) = report?.verdict();
        tracing::info!(binding = %self.spec.name, verdict = verdict.as_str(), "rehearsed");
        match verdict {
            Verdict::Pass => {
                rehearsed.passed(state, now).await?;
                Ok(Ok(rehearsed))
            }
            Verdict::Fail | Verdict::Unproven => Ok(Err(self.not_rehearsed(&moves, reasons))),
        }
    }

    fn not_rehearsed(&self, moves: &Moves<'_>, reasons: Vec<String>) -> Error {
        Error::NotRehearsed {
            branch: self.spec.branch.clone(),
            revisions: moves.runs().map(|one| one.revision.name.clone()).collect(),
            reasons,
        }
    }
}
