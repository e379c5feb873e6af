//! Schemas compared, and revisions written from the difference; what revisions would lock.

use neon_api::BranchId;
use proto::broker::v1 as pb;
use rpc::status::{FieldViolation, FieldViolations};

use super::place::Place;
use super::wire;
use crate::migrate::autogenerate::{self, Rename, Written};
use crate::migrate::catalog::Schema;
use crate::migrate::folder::Migration;
use crate::migrate::{self, lint, rehearse, wanted};
use crate::names::{BindingName, BranchResource};
use crate::server::{Broker, Error, request};
use crate::trials::Trial;

/// What a comparison is made with.
enum Wanted {
    Sql(String),
    Branch(BranchId),
}

impl Broker {
    /// What leads from what the revisions make to what the branch has.
    pub(super) async fn drift(
        &self,
        name: &BindingName,
        branch: Option<BranchId>,
    ) -> Result<String, Error> {
        let place = Box::pin(self.migrated(name, branch)).await?;
        let service = place.spec.service.clone();
        let there = wanted::there(&place.uris.direct, &service).await?;
        let made = self
            .on_trial("verify", &place, async |trial, folder| {
                let uri = &trial.uris.direct;
                Ok(wanted::of_revisions(uri, &service, folder).await?)
            })
            .await?;
        Ok(Schema::difference(&made, &there))
    }

    /// What leads to the wanted schema, and back.
    pub(super) async fn written(&self, request: pb::AutogenerateRequest) -> Result<Written, Error> {
        use pb::autogenerate_request::Wanted as Asked;
        let mut violations = FieldViolations::new();
        let place = wire::place(&mut violations, &request.binding, &request.branch);
        let wished = match request.wanted {
            Some(Asked::SchemaSql(sql)) => Some(Wanted::Sql(sql)),
            Some(Asked::WantedBranch(branch)) => violations
                .take(request::name::<BranchResource>("wanted_branch", &branch))
                .map(|branch| Wanted::Branch(branch.0)),
            None => {
                let what = "is one of schema_sql and wanted_branch";
                violations.add(FieldViolation::new("wanted", what));
                None
            }
        };
        let renames = request
            .renames
            .iter()
            .enumerate()
            .filter_map(|(index, text)| {
                let parsed = text.parse::<Rename>();
                violations.take(parsed.map_err(|error| {
                    FieldViolation::new(format!("renames[{index}]"), error.to_string())
                }))
            });
        let renames: Vec<Rename> = renames.collect();
        let (Some((name, branch)), Some(wished), true) = (place, wished, violations.is_empty())
        else {
            return Err(violations.into());
        };
        let place = Box::pin(self.migrated(&name, branch)).await?;
        let rows = place.rows().await?.into_iter();
        let pending = rows.filter(|row| row.standing.is_pending());
        let revisions: Vec<String> = pending.map(|row| row.name).collect();
        if !revisions.is_empty() {
            return Err(migrate::Error::Pending { revisions }.into());
        }
        let service = place.spec.service.clone();
        let from = wanted::there(&place.uris.direct, &service).await?;
        let to = match wished {
            Wanted::Sql(sql) => {
                self.on_trial("autogenerate", &place, async |trial, _| {
                    Ok(wanted::of_sql(&trial.uris.direct, &service, &sql).await?)
                })
                .await?
            }
            Wanted::Branch(id) => {
                let found = self.branches.get("wanted_branch", &id).await?;
                let neon = self.keeper.neon();
                let uris = neon.owner_uris(&found.branch.id, &service.database).await?;
                wanted::there(&uris.direct, &service).await?
            }
        };
        autogenerate::write(&from, &to, &renames)
            .map_err(|error| FieldViolation::new("renames", error.to_string()).into())
    }

    /// What linting finds of the revisions that are pending, or of all.
    pub(super) async fn linted(
        &self,
        place: &Place,
        all: bool,
    ) -> Result<Vec<pb::LintFinding>, Error> {
        let rows = place.rows().await?;
        let is_asked = |migration: &&Migration| {
            let row = rows
                .iter()
                .find(|row| row.version == migration.revision.version);
            all || row.is_some_and(|row| row.standing.is_pending())
        };
        let contracts = self.contracts(place).await?;
        let service = &place.spec.service;
        let met = rehearse::met(&place.uris.direct, service, &contracts).await?;
        let mut findings = Vec::new();
        for migration in place.folder.iter().filter(is_asked) {
            let found = lint::lint(&met.subject(migration));
            let name = &migration.revision.name;
            findings.extend(found.iter().map(|one| wire::finding(name, one)));
        }
        Ok(findings)
    }

    /// Works on a throw-away branch of the place, which is deleted whatever comes of it.
    async fn on_trial<T>(
        &self,
        what: &str,
        place: &Place,
        work: impl AsyncFnOnce(&Trial, &[Migration]) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let database = &place.spec.service.database;
        let trial = self.trials.begin(what, &place.branch, database).await?;
        let done = work(&trial, &place.folder).await;
        self.trials.end(trial).await;
        done
    }
}
