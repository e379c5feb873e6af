//! What keeps an apply from running revisions: that a person is to, or a gate.

use neon_api::BranchId;

use super::Error;
use super::apply::Run;
use crate::gate::Rehearsed;
use crate::migrate::moves::{self, Wish};
use crate::migrate::rehearse::Rehearsal;
use crate::migrate::rehearse::contract;
use crate::migrate::rehearse::report::Verdict;
use crate::migrate::{self, history, standing};
use crate::neon::OwnerUris;
use crate::postgres;
use crate::text::one_line;
use crate::trials::Trials;

impl Run<'_> {
    /// Rehearses what is pending, unless it was. `Some`: why it is not to be run.
    pub(super) async fn gated(
        &self,
        branch: &BranchId,
        uris: &OwnerUris,
    ) -> Result<Option<Error>, Error> {
        let Some(gate) = self.spec.gate else {
            return Ok(None);
        };
        let state = self.ledger.state();
        let now = self.ledger.now();
        let failed = |source| Error::FailedMigrate {
            branch: self.spec.branch.clone(),
            source,
        };
        let service = &self.spec.service;
        let reading = migrate::read_folder(service);
        let folder = reading.await.map_err(failed)?;
        let looking = async {
            let client = postgres::session(&uris.direct).await?;
            history::read(&client, service).await
        };
        let history = looking.await.map_err(|error| failed(error.into()))?;
        let rows = standing::rows(&folder, &history, self.spec.last());
        let wish = Wish::Up(None);
        let moves = moves::moves(&folder, &rows, self.spec.last(), &wish).map_err(failed)?;
        let rehearsed = Rehearsed::of(branch, moves.runs());
        if rehearsed.may_run(state, gate, now) {
            return Ok(None);
        }
        let not_rehearsed = |reasons| Error::NotRehearsed {
            branch: self.spec.branch.clone(),
            revisions: moves.runs().map(|one| one.revision.name.clone()).collect(),
            reasons,
        };
        let contracts = contract::of_service(self.config, &service.name, |name| {
            let mut on_branch = self.config.bindings_on(&self.spec.branch);
            on_branch.any(|spec| spec.name == *name)
        });
        let contracts = contracts.await.map_err(failed)?;
        let trials = Trials::new(self.neon.clone(), self.ledger.clone());
        let trial = trials.begin("rehearse", branch, &service.database).await;
        let trial = match trial {
            Ok(trial) => trial,
            Err(error) => return Ok(Some(not_rehearsed(vec![one_line(&error)]))),
        };
        let rehearsal = Rehearsal {
            service,
            folder: &folder,
            last: self.spec.last(),
            wish,
            contracts: &contracts,
        };
        let report = Box::pin(rehearsal.run(&trial.uris.direct)).await;
        trials.end(trial).await;
        let (verdict, reasons) = report.map_err(failed)?.verdict();
        tracing::info!(binding = %self.spec.name, verdict = verdict.as_str(), "rehearsed");
        match verdict {
            Verdict::Pass => {
                rehearsed.passed(state, now).await?;
                Ok(None)
            }
            Verdict::Fail | Verdict::Unproven => Ok(Some(not_rehearsed(reasons))),
        }
    }
}
