//! What is read from the state database.

use diesel::{ExpressionMethods as _, QueryDsl as _, SelectableHelper as _};
use diesel_async::{RunQueryDsl as _, SimpleAsyncConnection as _};

use super::super::draft::Changes;
use super::super::move_rows::{BrokerRow, MoveRow, WatchRow};
use super::super::rows::{
    BranchRow, EventRow, GenerationRow, LeaseRow, OperationRow, RequestRow, RoleRow, time_out,
};
use super::super::schema::{
    audit_events, branches, brokers, generations, leases, moves, operations, request_ids, roles,
    watches,
};
use super::{Attempted as _, Error, Head, Session};
use crate::audit::{Event, Query};

impl Session {
    /// What was written since that version, and the head that it leads to.
    pub(in crate::state) async fn since(&mut self, version: i64) -> Result<(Changes, Head), Error> {
        const WHAT: &str = "read what was written";
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
        self.connection.batch_execute(begin).await.attempted(WHAT)?;
        let (head, _) = self.look().await?;
        let changes = self.changes_since(version).await?;
        self.connection
            .batch_execute("COMMIT")
            .await
            .attempted(WHAT)?;
        Ok((changes, head))
    }

    /// As [`Session::since`], inside a write.
    pub(in crate::state) async fn changes_since(&mut self, version: i64) -> Result<Changes, Error> {
        const WHAT: &str = "read what was written";
        let connection = &mut self.connection;
        let mut changes = Changes::default();
        let rows: Vec<LeaseRow> = leases::table
            .filter(leases::version.gt(version))
            .select(LeaseRow::as_select())
            .load(connection)
            .await
            .attempted(WHAT)?;
        for row in rows {
            let (lease, end) = row.read()?;
            changes.leases.insert(lease.id, (lease, end));
        }
        let rows: Vec<GenerationRow> = generations::table
            .filter(generations::version.gt(version))
            .select(GenerationRow::as_select())
            .load(connection)
            .await
            .attempted(WHAT)?;
        for row in rows {
            let (binding, generation) = row.read()?;
            changes.generations.insert(binding, generation);
        }
        let rows: Vec<RoleRow> = roles::table
            .filter(roles::version.gt(version))
            .select(RoleRow::as_select())
            .load(connection)
            .await
            .attempted(WHAT)?;
        for row in rows {
            let (key, role) = row.read()?;
            changes.roles.insert(key, role);
        }
        let rows: Vec<OperationRow> = operations::table
            .filter(operations::version.gt(version))
            .select(OperationRow::as_select())
            .load(connection)
            .await
            .attempted(WHAT)?;
        for row in rows {
            let (id, operation) = row.read()?;
            changes.operations.insert(id, operation);
        }
        let rows: Vec<BranchRow> = branches::table
            .filter(branches::version.gt(version))
            .select(BranchRow::as_select())
            .load(connection)
            .await
            .attempted(WHAT)?;
        for row in rows {
            let (name, branch) = row.read()?;
            changes.branches.insert(name, branch);
        }
        let rows: Vec<RequestRow> = request_ids::table
            .filter(request_ids::version.gt(version))
            .select(RequestRow::as_select())
            .load(connection)
            .await
            .attempted(WHAT)?;
        for row in rows {
            let (key, answered) = row.read()?;
            changes.requests.insert(key, answered);
        }
        let rows: Vec<MoveRow> = moves::table
            .filter(moves::version.gt(version))
            .select(MoveRow::as_select())
            .load(connection)
            .await
            .attempted(WHAT)?;
        for row in rows {
            let (binding, one) = row.read()?;
            changes.moves.insert(binding, one);
        }
        let rows: Vec<WatchRow> = watches::table
            .filter(watches::version.gt(version))
            .select(WatchRow::as_select())
            .load(connection)
            .await
            .attempted(WHAT)?;
        for row in rows {
            let (lease, watching) = row.read()?;
            changes.watches.insert(lease, watching);
        }
        let rows: Vec<BrokerRow> = brokers::table
            .filter(brokers::version.gt(version))
            .select(BrokerRow::as_select())
            .load(connection)
            .await
            .attempted(WHAT)?;
        for row in rows {
            let (id, seen) = row.read()?;
            changes.brokers.insert(id, seen);
        }
        Ok(changes)
    }

    /// Audit events, newest first.
    pub(in crate::state) async fn events(&mut self, query: &Query) -> Result<Vec<Event>, Error> {
        let mut asked = audit_events::table
            .select(EventRow::as_select())
            .order(audit_events::id.desc())
            .limit(i64::try_from(query.limit).unwrap_or(i64::MAX))
            .into_boxed();
        if let Some(service) = &query.service {
            asked = asked.filter(audit_events::service.eq(service.to_string()));
        }
        if let Some(branch) = &query.branch {
            asked = asked.filter(audit_events::branch.eq(branch.to_string()));
        }
        if let Some(holder) = &query.holder {
            asked = asked.filter(audit_events::holder.eq(holder.clone()));
        }
        if let Some(start) = query.start {
            asked = asked.filter(audit_events::event_time.ge(time_out(start)));
        }
        if let Some(end) = query.end {
            asked = asked.filter(audit_events::event_time.lt(time_out(end)));
        }
        if let Some(before) = query.before {
            asked = asked.filter(audit_events::id.lt(before));
        }
        let rows: Vec<EventRow> = asked
            .load(&mut self.connection)
            .await
            .attempted("read audit events")?;
        let events = rows.into_iter().map(EventRow::read);
        Ok(events.collect::<Result<_, _>>()?)
    }
}
