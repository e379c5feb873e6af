//! What is stored, as rows.

mod branches;

use diesel::pg::Pg;
use diesel::pg::data_types::PgTimestamp;
use diesel::{Insertable, Queryable, Selectable};
use jiff::Timestamp;
use uuid::Uuid;

use super::data::{Answered, Generation, RequestKey, Role, RoleKey, RoleStatus};
use super::ledgers::Operation;
use super::moves::Departure;
use super::schema::{audit_events, generations, leases, operations, request_ids, roles};
use crate::audit::Event;
use crate::leases::{End, EndReason, Grant, Lease, Request, Revoked, Target};
use crate::names::{BindingName, LeaseId};
use crate::request_ids::METHODS;
use crate::roles::Access;
pub(super) use branches::BranchRow;

/// From Unix's epoch to Postgres's, in microseconds.
const EPOCH_MICROSECONDS: i64 = 946_684_800_000_000;

/// A row that this broker did not write like that.
#[derive(Debug, thiserror::Error)]
#[error("a row of broker.{table} has {value:?} as its {column}")]
pub struct BadRow {
    table: &'static str,
    column: &'static str,
    value: String,
}

#[derive(Debug, Queryable, Selectable, Insertable)]
#[diesel(table_name = leases, check_for_backend(Pg), treat_none_as_default_value = false)]
pub(super) struct LeaseRow {
    id: Uuid,
    version: i64,
    binding: Option<String>,
    service: String,
    parent: Option<String>,
    access: String,
    pooled: bool,
    holder: String,
    owner: Option<String>,
    branch: String,
    generation: i64,
    role: String,
    key: String,
    create_time: PgTimestamp,
    expire_time: PgTimestamp,
    renewals: i64,
    note_time: PgTimestamp,
    branch_expire_time: Option<PgTimestamp>,
    revoke_time: Option<PgTimestamp>,
    revoke_reason: Option<String>,
    end_reason: Option<String>,
}

#[derive(Debug, Queryable, Selectable, Insertable)]
#[diesel(table_name = generations, check_for_backend(Pg), treat_none_as_default_value = false)]
pub(super) struct GenerationRow {
    binding: String,
    version: i64,
    number: i64,
    branch: String,
    address: String,
    revision: Option<String>,
    reset_at: Option<PgTimestamp>,
    since: PgTimestamp,
    reason: String,
    declared: Option<String>,
    switched_to: Option<String>,
}

#[derive(Debug, Queryable, Selectable, Insertable)]
#[diesel(table_name = roles, check_for_backend(Pg), treat_none_as_default_value = false)]
pub(super) struct RoleRow {
    branch: String,
    role: String,
    version: i64,
    service: String,
    database: String,
    access: String,
    holder: String,
    generation: i64,
    key: String,
    status: String,
    valid_until: Option<PgTimestamp>,
    reserved_until: PgTimestamp,
    failures: i32,
    failure: String,
    update_time: PgTimestamp,
}

#[derive(Debug, Queryable, Selectable, Insertable)]
#[diesel(table_name = operations, check_for_backend(Pg), treat_none_as_default_value = false)]
pub(super) struct OperationRow {
    id: Uuid,
    version: i64,
    caller: String,
    method: String,
    request: Vec<u8>,
    result: Option<Vec<u8>>,
    done: bool,
    create_time: PgTimestamp,
    update_time: PgTimestamp,
    branch: String,
    runner: Option<Uuid>,
    heartbeat_time: Option<PgTimestamp>,
    committed: bool,
    note: Option<String>,
}

#[derive(Debug, Queryable, Selectable, Insertable)]
#[diesel(table_name = request_ids, check_for_backend(Pg), treat_none_as_default_value = false)]
pub(super) struct RequestRow {
    caller: String,
    method: String,
    id: Uuid,
    version: i64,
    body: Vec<u8>,
    resource: String,
    expire_time: PgTimestamp,
}

/// An event to be stored: the database numbers it.
#[derive(Debug, Insertable)]
#[diesel(table_name = audit_events, check_for_backend(Pg), treat_none_as_default_value = false)]
pub(super) struct NewEventRow {
    event_time: PgTimestamp,
    action: String,
    binding: Option<String>,
    branch: Option<String>,
    lease: Option<String>,
    holder: String,
    message: String,
    service: Option<String>,
}

#[derive(Debug, Queryable, Selectable)]
#[diesel(table_name = audit_events, check_for_backend(Pg))]
pub(super) struct EventRow {
    id: i64,
    event_time: PgTimestamp,
    action: String,
    binding: Option<String>,
    branch: Option<String>,
    lease: Option<String>,
    holder: String,
    message: String,
    service: Option<String>,
}

impl LeaseRow {
    pub(super) fn new(lease: &Lease, end: Option<&End>, version: i64) -> LeaseRow {
        let Lease { request, grant, .. } = lease;
        let (binding, parent) = match &request.target {
            Target::Binding(binding) => (Some(binding.to_string()), None),
            Target::Branch(_) => (None, None),
            Target::Ephemeral { parent } => (None, Some(parent.to_string())),
        };
        let revoked = lease.revoked.as_ref();
        LeaseRow {
            id: lease.id.uuid(),
            version,
            binding,
            service: request.service.to_string(),
            parent,
            access: request.access.as_str().to_owned(),
            pooled: request.pooled,
            holder: request.holder.clone(),
            owner: request.owner.clone(),
            branch: grant.branch.to_string(),
            generation: grant.generation,
            role: grant.role.clone(),
            key: grant.key.to_string(),
            create_time: time_out(lease.create_time),
            expire_time: time_out(end.map_or(lease.expire_time, |end| end.time)),
            renewals: lease.renewals,
            note_time: time_out(lease.note_time),
            branch_expire_time: lease.branch_expire_time.map(time_out),
            revoke_time: revoked.map(|revoked| time_out(revoked.time)),
            revoke_reason: revoked.map(|revoked| revoked.reason.clone()),
            end_reason: end.map(|end| end.reason.as_str().to_owned()),
        }
    }

    pub(super) fn read(self) -> Result<(Lease, Option<End>), BadRow> {
        const TABLE: &str = "leases";
        let bad = |column, value: &str| bad(TABLE, column, value);
        let branch = parsed(TABLE, "branch", &self.branch)?;
        let target = match (&self.binding, &self.parent) {
            (Some(binding), _) => Target::Binding(parsed(TABLE, "binding", binding)?),
            (None, Some(parent)) => Target::Ephemeral {
                parent: parsed(TABLE, "parent", parent)?,
            },
            (None, None) => Target::Branch(branch),
        };
        let revoked = match self.revoke_time {
            None => None,
            Some(at) => Some(Revoked {
                time: time(TABLE, "revoke_time", at)?,
                reason: self.revoke_reason.unwrap_or_default(),
            }),
        };
        let lease = Lease {
            id: LeaseId::of_stored(self.id),
            create_time: time(TABLE, "create_time", self.create_time)?,
            expire_time: time(TABLE, "expire_time", self.expire_time)?,
            renewals: self.renewals,
            note_time: time(TABLE, "note_time", self.note_time)?,
            branch_expire_time: maybe_time(TABLE, "branch_expire_time", self.branch_expire_time)?,
            revoked,
            request: Request {
                target,
                service: parsed(TABLE, "service", &self.service)?,
                access: Access::of_stored(&self.access)
                    .ok_or_else(|| bad("access", &self.access))?,
                pooled: self.pooled,
                holder: self.holder,
                owner: self.owner,
            },
            grant: Grant {
                branch: parsed(TABLE, "branch", &self.branch)?,
                generation: self.generation,
                role: self.role,
                key: self.key.into(),
            },
        };
        let end = match self.end_reason.as_deref() {
            Some(reason) => Some(End {
                time: lease.expire_time,
                reason: EndReason::of_stored(reason).ok_or_else(|| bad("end_reason", reason))?,
            }),
            None => None,
        };
        Ok((lease, end))
    }
}

impl GenerationRow {
    pub(super) fn new(binding: &BindingName, generation: &Generation, version: i64) -> Self {
        let departure = generation.departure.as_ref();
        GenerationRow {
            binding: binding.to_string(),
            version,
            number: generation.number,
            branch: generation.branch.to_string(),
            address: generation.address.clone(),
            revision: generation.revision.clone(),
            reset_at: generation.reset_at.map(time_out),
            since: time_out(generation.since),
            reason: generation.reason.clone(),
            declared: departure.map(|departure| departure.declared.to_string()),
            switched_to: departure
                .and_then(|departure| departure.switched_to.as_ref())
                .map(ToString::to_string),
        }
    }

    pub(super) fn read(self) -> Result<(BindingName, Generation), BadRow> {
        let since = time_in(self.since)
            .ok_or_else(|| bad("generations", "since", &format!("{:?}", self.since)))?;
        let reset_at = self.reset_at.map(|time| {
            time_in(time).ok_or_else(|| bad("generations", "reset_at", &format!("{time:?}")))
        });
        let reset_at = reset_at.transpose()?;
        let generation = Generation {
            number: self.number,
            branch: parsed("generations", "branch", &self.branch)?,
            address: self.address,
            revision: self.revision,
            reset_at,
            since,
            reason: self.reason,
            departure: match optional("generations", "declared", self.declared.as_deref())? {
                None => None,
                Some(declared) => Some(Departure {
                    declared,
                    switched_to: optional(
                        "generations",
                        "switched_to",
                        self.switched_to.as_deref(),
                    )?,
                }),
            },
        };
        Ok((parsed("generations", "binding", &self.binding)?, generation))
    }
}

impl RoleRow {
    pub(super) fn new(key: &RoleKey, role: &Role, version: i64) -> RoleRow {
        RoleRow {
            branch: key.branch.to_string(),
            role: key.role.clone(),
            version,
            service: role.service.to_string(),
            database: role.database.clone(),
            access: role.access.as_str().to_owned(),
            holder: role.holder.clone(),
            generation: role.generation,
            key: role.key.to_string(),
            status: role.status.as_str().to_owned(),
            valid_until: role.valid_until.map(time_out),
            reserved_until: time_out(role.reserved_until),
            failures: role.failures,
            failure: role.failure.clone(),
            update_time: time_out(role.update_time),
        }
    }

    pub(super) fn read(self) -> Result<(RoleKey, Role), BadRow> {
        const TABLE: &str = "roles";
        let mut all = RoleStatus::ALL.into_iter();
        let status = all.find(|status| status.as_str() == self.status);
        let role = Role {
            service: parsed(TABLE, "service", &self.service)?,
            database: self.database,
            access: Access::of_stored(&self.access)
                .ok_or_else(|| bad(TABLE, "access", &self.access))?,
            holder: self.holder,
            generation: self.generation,
            key: self.key.into(),
            status: status.ok_or_else(|| bad(TABLE, "status", &self.status))?,
            valid_until: maybe_time(TABLE, "valid_until", self.valid_until)?,
            reserved_until: time(TABLE, "reserved_until", self.reserved_until)?,
            failures: self.failures,
            failure: self.failure,
            update_time: time(TABLE, "update_time", self.update_time)?,
        };
        let key = RoleKey {
            branch: parsed(TABLE, "branch", &self.branch)?,
            role: self.role,
        };
        Ok((key, role))
    }
}

impl OperationRow {
    pub(super) fn new(id: &Uuid, operation: &Operation, version: i64) -> OperationRow {
        let operation = operation.clone();
        OperationRow {
            id: *id,
            version,
            caller: operation.caller,
            method: operation.method,
            request: operation.request,
            result: operation.result,
            done: operation.done,
            create_time: time_out(operation.create_time),
            update_time: time_out(operation.update_time),
            branch: operation.branch,
            runner: operation.runner,
            heartbeat_time: operation.heartbeat_time.map(time_out),
            committed: operation.committed,
            note: operation.note,
        }
    }

    pub(super) fn read(self) -> Result<(Uuid, Operation), BadRow> {
        let time = |column, time: PgTimestamp| {
            time_in(time).ok_or_else(|| bad("operations", column, &format!("{time:?}")))
        };
        let heartbeat_time = self.heartbeat_time;
        let heartbeat_time = heartbeat_time.map(|at| time("heartbeat_time", at));
        let operation = Operation {
            create_time: time("create_time", self.create_time)?,
            update_time: time("update_time", self.update_time)?,
            heartbeat_time: heartbeat_time.transpose()?,
            caller: self.caller,
            method: self.method,
            request: self.request,
            result: self.result,
            done: self.done,
            branch: self.branch,
            runner: self.runner,
            committed: self.committed,
            note: self.note,
        };
        Ok((self.id, operation))
    }
}

impl RequestRow {
    pub(super) fn new(key: &RequestKey, answered: &Answered, version: i64) -> RequestRow {
        RequestRow {
            caller: key.caller.clone(),
            method: key.method.to_owned(),
            id: key.id,
            version,
            body: answered.body.clone(),
            resource: answered.resource.clone(),
            expire_time: time_out(answered.expire_time),
        }
    }

    pub(super) fn read(self) -> Result<(RequestKey, Answered), BadRow> {
        let bad = |column, value: &str| bad("request_ids", column, value);
        let method = METHODS.into_iter().find(|known| *known == self.method);
        let key = RequestKey {
            caller: self.caller,
            method: method.ok_or_else(|| bad("method", &self.method))?,
            id: self.id,
        };
        let expire_time = time_in(self.expire_time)
            .ok_or_else(|| bad("expire_time", &format!("{:?}", self.expire_time)))?;
        let answered = Answered {
            body: self.body,
            resource: self.resource,
            expire_time,
        };
        Ok((key, answered))
    }
}

impl NewEventRow {
    pub(super) fn new(event: &Event) -> NewEventRow {
        NewEventRow {
            event_time: time_out(event.time),
            action: event.action.to_string(),
            binding: event.binding.as_ref().map(ToString::to_string),
            branch: event.branch.as_ref().map(ToString::to_string),
            lease: event.lease.as_ref().map(ToString::to_string),
            holder: event.holder.clone(),
            message: event.message.clone(),
            service: event.service.as_ref().map(ToString::to_string),
        }
    }
}

impl EventRow {
    pub(super) fn read(self) -> Result<Event, BadRow> {
        const TABLE: &str = "audit_events";
        let time = time_in(self.event_time)
            .ok_or_else(|| bad(TABLE, "event_time", &format!("{:?}", self.event_time)))?;
        Ok(Event {
            id: self.id,
            time,
            action: parsed(TABLE, "action", &self.action)?,
            binding: optional(TABLE, "binding", self.binding.as_deref())?,
            branch: optional(TABLE, "branch", self.branch.as_deref())?,
            lease: optional(TABLE, "lease", self.lease.as_deref())?,
            holder: self.holder,
            message: self.message,
            service: optional(TABLE, "service", self.service.as_deref())?,
        })
    }
}

/// Postgres keeps microseconds, and so does this broker.
pub(super) fn time_out(time: Timestamp) -> PgTimestamp {
    PgTimestamp(time.as_microsecond() - EPOCH_MICROSECONDS)
}

pub(super) fn time_in(time: PgTimestamp) -> Option<Timestamp> {
    let microseconds = time.0.checked_add(EPOCH_MICROSECONDS)?;
    Timestamp::from_microsecond(microseconds).ok()
}

pub(super) fn time(
    table: &'static str,
    column: &'static str,
    time: PgTimestamp,
) -> Result<Timestamp, BadRow> {
    time_in(time).ok_or_else(|| bad(table, column, &format!("{time:?}")))
}

pub(super) fn maybe_time(
    table: &'static str,
    column: &'static str,
    at: Option<PgTimestamp>,
) -> Result<Option<Timestamp>, BadRow> {
    at.map(|at| time(table, column, at)).transpose()
}

pub(super) fn parsed<T: std::str::FromStr>(
    table: &'static str,
    column: &'static str,
    text: &str,
) -> Result<T, BadRow> {
    text.parse().map_err(|_| bad(table, column, text))
}

fn optional<T: std::str::FromStr>(
    table: &'static str,
    column: &'static str,
    text: Option<&str>,
) -> Result<Option<T>, BadRow> {
    text.map(|text| parsed(table, column, text)).transpose()
}

pub(super) fn bad(table: &'static str, column: &'static str, value: &str) -> BadRow {
    BadRow {
        table,
        column,
        value: value.to_owned(),
    }
}
