//! RefreshBinding, and what is told of a refresh.

use prost::Message as _;
use prost_types::Any;
use proto::broker::v1 as pb;
use rpc::status::{FieldViolation, FieldViolations};
use tonic::Status;

use super::operations::any;
use super::perform::caller;
use super::request;
use super::rights::Rights;
use super::switch::{ack_timeout, policy, timeout};
use super::telling::Told;
use super::{Broker, Error};
use crate::names::{BindingName, BranchName, BranchResource, OperationName};
use crate::operations::{Record, Work};
use crate::refresh::{Course, NotCompared, Refresh, Refreshed, Report, Rows, Stage, Table};
use crate::state::Data;

/// The type of what a refresh ends with.
const REFRESHED: &str = "broker.v1.RefreshBindingResponse";

/// A refresh as it goes on.
pub(super) type Progress = Told<pb::RefreshBindingResponse>;

impl Broker {
    /// Begins a refresh, or finds it, and tells how it goes on.
    pub(super) async fn refresh(
        &self,
        rights: &Rights,
        request: pb::RefreshBindingRequest,
    ) -> Result<Progress, Status> {
        let refresh = decode(&request, rights.caller().to_string(), self.leases.now())?;
        let asked = Broker::asked(rights, &request, String::new())?;
        let check = self.refreshes.check(&refresh);
        let record = Box::pin(self.begin(asked, check)).await?;
        let (operation, binding) = (record.name, refresh.binding);
        let now = move |broker: &Broker| broker.refresh_now(&binding, operation);
        let done = move |_: &Broker, any: Any| {
            // Written by us.
            pb::RefreshBindingResponse::decode(&*any.value).unwrap_or_default()
        };
        Ok(self.tell(operation, now, done))
    }

    /// The work of RefreshBinding.
    pub(super) async fn perform_refresh(
        &self,
        record: &Record,
        request: &pb::RefreshBindingRequest,
        work: &Work,
    ) -> Result<Any, Error> {
        // Its name is made of when it was asked for, whoever takes it up.
        let refresh = decode(request, caller(record), record.create_time)?;
        let refreshed = Box::pin(self.refreshes.run(&refresh, work)).await?;
        let done = self.done_wire(&refresh.binding, record.name, refreshed);
        Ok(any(REFRESHED, &done))
    }

    /// The refresh as it is, while it goes on.
    fn refresh_now(
        &self,
        binding: &BindingName,
        operation: OperationName,
    ) -> pb::RefreshBindingResponse {
        let noted = |data: &Data| data.operations.get(&operation.uuid())?.note.clone();
        let note = self.state.read(noted);
        let course = note.as_deref().and_then(Course::of_note);
        let Some(course) = course else {
            return pb::RefreshBindingResponse {
                operation: operation.to_string(),
                phase: pb::RefreshPhase::Creating.into(),
                ..Default::default()
            };
        };
        self.course_wire(binding, operation, course)
    }

    fn course_wire(
        &self,
        binding: &BindingName,
        operation: OperationName,
        course: Course,
    ) -> pb::RefreshBindingResponse {
        let phase = match course.stage {
            Stage::Creating => pb::RefreshPhase::Creating,
            Stage::Preparing => pb::RefreshPhase::Preparing,
            Stage::Switching => pb::RefreshPhase::Switching,
            Stage::Comparing => pb::RefreshPhase::Comparing,
        };
        let name = course.branch.is_some().then(|| course.name.to_string());
        let branch = course.branch.map(|id| BranchResource(id).to_string());
        pb::RefreshBindingResponse {
            operation: operation.to_string(),
            phase: phase.into(),
            parent: BranchResource(course.parent).to_string(),
            branch: branch.unwrap_or_default(),
            branch_display_name: name.unwrap_or_default(),
            kept_branch: BranchResource(course.source).to_string(),
            switch: self.switch_of(binding, operation),
            ..Default::default()
        }
    }

    fn done_wire(
        &self,
        binding: &BindingName,
        operation: OperationName,
        refreshed: Refreshed,
    ) -> pb::RefreshBindingResponse {
        pb::RefreshBindingResponse {
            phase: pb::RefreshPhase::Done.into(),
            kept_display_name: refreshed.kept_as.unwrap_or_default(),
            message: refreshed.message.unwrap_or_default(),
            report: Some(report_wire(refreshed.report)),
            ..self.course_wire(binding, operation, refreshed.course)
        }
    }
}

fn report_wire(report: Report) -> pb::RefreshReport {
    pb::RefreshReport {
        compared_with_fork: report.without_fork.is_none() && report.message.is_none(),
        fork_message: report.without_fork.unwrap_or_default(),
        tables: report.tables.into_iter().map(table_wire).collect(),
        not_compared: report
            .not_compared
            .into_iter()
            .map(|NotCompared { name, reason }| pb::UncomparedTable {
                table: name,
                reason,
            })
            .collect(),
        message: report.message.unwrap_or_default(),
    }
}

fn table_wire(table: Table) -> pb::RefreshedTable {
    pb::RefreshedTable {
        table: table.name,
        key_columns: table.key,
        only_in_old: Some(rows_wire(table.only_in_old)),
        differing: Some(rows_wire(table.differing)),
        deleted_in_old: Some(rows_wire(table.deleted_in_old)),
    }
}

fn rows_wire(rows: Rows) -> pb::RefreshedRows {
    let keys = rows.keys.into_iter().map(|values| pb::RowKey { values });
    pb::RefreshedRows {
        count: i64::try_from(rows.count).unwrap_or(i64::MAX),
        keys: keys.collect(),
    }
}

fn decode(
    request: &pb::RefreshBindingRequest,
    by: String,
    asked_at: jiff::Timestamp,
) -> Result<Refresh, Error> {
    let mut violations = FieldViolations::new();
    let binding = violations.take(request::name::<BindingName>("name", &request.name));
    let branch_name = maybe_name("branch_display_name", &request.branch_display_name);
    let branch_name = violations.take(branch_name);
    let keep_as = violations.take(maybe_name("keep_as", &request.keep_as));
    let is_other = keep_as
        .iter()
        .flatten()
        .all(|name| Some(name) != branch_name.iter().flatten().next());
    violations.check(
        is_other,
        "keep_as",
        "must be another name than the new branch's",
    );
    let unwatched = violations.take(policy(request.unwatched));
    let ack_timeout = violations.take(ack_timeout(request.ack_timeout));
    let drain_timeout = violations.take(timeout("drain_timeout", request.drain_timeout, 0));
    match (
        binding,
        branch_name,
        keep_as,
        unwatched,
        ack_timeout,
        drain_timeout,
    ) {
        (
            Some(binding),
            Some(branch_name),
            Some(keep_as),
            Some(unwatched),
            Some(ack_timeout),
            Some(drain_timeout),
        ) if violations.is_empty() => Ok(Refresh {
            binding,
            branch_name,
            keep_as,
            unwatched,
            ack_timeout,
            drain_timeout,
            by,
            asked_at,
        }),
        _ => Err(violations.into()),
    }
}

/// A branch's name, where one is given.
fn maybe_name(field: &'static str, text: &str) -> Result<Option<BranchName>, FieldViolation> {
    match text {
        "" => Ok(None),
        text => request::name(field, text).map(Some),
    }
}
