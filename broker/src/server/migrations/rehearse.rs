//! Rehearsals, on throw-away branches.

use std::time::{Duration, Instant};

use proto::broker::v1 as pb;

use super::place::Place;
use super::wire::{self, duration, line};
use crate::gate;
use crate::migrate;
use crate::migrate::folder::Migration;
use crate::migrate::moves::Wish;
use crate::migrate::rehearse::Rehearsal;
use crate::migrate::rehearse::contract::Outcome;
use crate::migrate::rehearse::report::{
    Contracted, Lock, Rehearsed, Report, Script, Statement, Verdict,
};
use crate::names::BranchResource;
use crate::server::branches::time;
use crate::server::{Broker, Error};

impl Broker {
    /// Rehearses what is pending on a branch. In a task of its own: a caller who goes away
    /// leaves no branch behind.
    pub(super) async fn rehearsed(
        &self,
        place: Place,
        wish: Wish,
    ) -> Result<pb::RehearseResponse, Error> {
        let broker = self.clone();
        let rehearsing =
            tokio::spawn(async move { Box::pin(broker.rehearse_on(place, wish)).await });
        let rehearsed = rehearsing.await.map_err(migrate::Error::Interrupted);
        rehearsed?
    }

    async fn rehearse_on(&self, place: Place, wish: Wish) -> Result<pb::RehearseResponse, Error> {
        let begun = Instant::now();
        let now = self.leases.now();
        let contracts = self.contracts(&place).await?;
        let database = &place.spec.service.database;
        let trial = self
            .trials
            .begin("rehearse", &place.branch, database)
            .await?;
        let rehearsal = Rehearsal {
            service: &place.spec.service,
            folder: &place.folder,
            last: place.last(),
            wish,
            contracts: &contracts,
        };
        let report = Box::pin(rehearsal.run(&trial.uris.direct)).await;
        self.trials.end(trial).await;
        let report = report?;
        let (verdict, reasons) = report.verdict();
        if verdict == Verdict::Pass {
            let is_of = |one: &&Migration| {
                let mut revisions = report.revisions.iter();
                revisions.any(|of| of.revision.version == one.revision.version)
            };
            let rehearsed = gate::Rehearsed::of(
                &place.ground(),
                report.had.iter().map(String::as_str),
                place.folder.iter().filter(is_of),
            );
            let noted = rehearsed.passed(&self.state, now).await;
            noted.map_err(Error::State)?;
        }
        tracing::info!(branch = %place.branch, verdict = verdict.as_str(), "rehearsed");
        Ok(pb::RehearseResponse {
            verdict: verdict_wire(verdict).into(),
            reasons,
            branch: BranchResource(place.branch).to_string(),
            rehearse_time: Some(time(now)),
            sql_duration: duration(sql_took(&report)),
            duration: duration(begun.elapsed()),
            revisions: report.revisions.into_iter().map(revision).collect(),
            contracts: report.contracts.into_iter().map(contract).collect(),
            second_difference: report.second,
        })
    }
}

/// How long the statements themselves took.
fn sql_took(report: &Report) -> Duration {
    let scripts = report.revisions.iter().flat_map(|one| {
        let others = [one.down.as_ref(), one.again.as_ref()];
        others.into_iter().flatten().chain([&one.up])
    });
    let statements = scripts.flat_map(|script| &script.statements);
    statements.map(|statement| statement.took).sum()
}

fn verdict_wire(verdict: Verdict) -> pb::RehearsalVerdict {
    match verdict {
        Verdict::Pass => pb::RehearsalVerdict::Pass,
        Verdict::Unproven => pb::RehearsalVerdict::Unproven,
        Verdict::Fail => pb::RehearsalVerdict::Fail,
    }
}

fn revision(rehearsed: Rehearsed) -> pb::RevisionRehearsal {
    let name = rehearsed.revision.name;
    let restored = rehearsed.restored.unwrap_or_default();
    pb::RevisionRehearsal {
        version: rehearsed.revision.version,
        checksum: rehearsed.checksum.to_string(),
        up: Some(script(rehearsed.up)),
        down: rehearsed.down.map(script),
        again: rehearsed.again.map(script),
        difference: rehearsed.difference,
        unrestored_schema: restored.schema,
        unrestored_rows: restored.rows,
        findings: rehearsed
            .findings
            .iter()
            .map(|finding| wire::finding(&name, finding))
            .collect(),
        name,
    }
}

fn script(script: Script) -> pb::ScriptRehearsal {
    pb::ScriptRehearsal {
        duration: duration(script.took),
        statements: script.statements.into_iter().map(statement).collect(),
        error: script.error.unwrap_or_default(),
    }
}

fn statement(statement: Statement) -> pb::StatementRehearsal {
    let rewrites = statement.rewrites.into_iter();
    pb::StatementRehearsal {
        statement: statement.sql,
        line: line(statement.line),
        duration: duration(statement.took),
        locks: statement.locks.into_iter().map(lock).collect(),
        rewrites: rewrites
            .map(|rewrite| pb::TableRewrite {
                table: rewrite.table,
                rows: rewrite.rows,
            })
            .collect(),
        blocked: statement.blocked,
    }
}

fn lock(lock: Lock) -> pb::TableLock {
    pb::TableLock {
        table: lock.relation,
        mode: lock.mode,
        rows: lock.rows,
        bytes: lock.bytes,
        held: duration(lock.held),
    }
}

fn contract(contracted: Contracted) -> pb::ContractRehearsal {
    let error = |outcome: &Outcome| match outcome {
        Outcome::Works { .. } => String::new(),
        Outcome::Fails { reason } => reason.clone(),
    };
    pb::ContractRehearsal {
        live: contracted.is_live,
        line: line(contracted.line),
        error_before: error(&contracted.before),
        error_after: error(&contracted.after),
        broken: contracted.is_broken(),
        binding: contracted.by,
        query: contracted.query,
    }
}
