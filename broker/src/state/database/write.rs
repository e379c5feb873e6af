//! What is written to the state database.

use diesel::ExpressionMethods as _;
use diesel::sql_types::{BigInt, Timestamptz};
use diesel::upsert::excluded;
use diesel_async::RunQueryDsl as _;
use futures_util::{future, try_join};
use jiff::Timestamp;

use super::super::draft::Changes;
use super::super::move_rows::{BrokerRow, MoveRow, WatchRow};
use super::super::rows::{
    BranchRow, GenerationRow, LeaseRow, NewEventRow, OperationRow, RequestRow, RoleRow, time_out,
};
use super::super::schema::{
    audit_events, branches, brokers, generations, leases, moves, operations, request_ids, roles,
    watches,
};
use super::prepared::Prepared;
use super::{Attempted as _, Error, Session};

/// How many rows go into one statement, where there are so many. It has 65,535 parameters
/// at most, and with more rows it is not faster.
const ROWS: [usize; 3] = [64, 8, 1];
/// How many rows of one table are removed at a time.
const PURGED_MAX: usize = 1_000;

impl Session {
    /// Writes changes, as that version. A row is a statement of its own, or one of
    /// as many as [`ROWS`] has: those are prepared once in a session, any other number
    /// would be anew each time. All but the audit events' are on their way before the first
    /// is answered: that costs the time of one.
    pub(in crate::state) async fn write(
        &self,
        changes: &Changes,
        version: i64,
    ) -> Result<(), Error> {
        let rows = changes.leases.values();
        let rows: Vec<LeaseRow> = rows
            .map(|(lease, end)| LeaseRow::new(lease, end.as_ref(), version))
            .collect();
        let leases = self.write_leases(rows);
        let rows = changes.generations.iter();
        let rows: Vec<GenerationRow> = rows
            .map(|(binding, generation)| GenerationRow::new(binding, generation, version))
            .collect();
        let generations = self.write_generations(rows);
        let rows = changes.roles.iter();
        let rows: Vec<RoleRow> = rows
            .map(|(key, role)| RoleRow::new(key, role, version))
            .collect();
        let roles = self.write_roles(rows);
        let rows = changes.operations.iter();
        let rows: Vec<OperationRow> = rows
            .map(|(id, operation)| OperationRow::new(id, operation, version))
            .collect();
        let operations = self.write_operations(rows);
        let rows = changes.branches.iter();
        let rows: Vec<BranchRow> = rows
            .map(|(name, branch)| BranchRow::new(name, branch, version))
            .collect();
        let branches = self.write_branches(rows);
        let rows = changes.requests.iter();
        let rows: Vec<RequestRow> = rows
            .map(|(key, answered)| RequestRow::new(key, answered, version))
            .collect();
        let requests = self.write_requests(rows);
        let rows = changes.moves.iter();
        let rows: Vec<MoveRow> = rows
            .map(|(binding, one)| MoveRow::new(binding, one, version))
            .collect();
        let moves = self.write_moves(rows);
        let rows = changes.watches.iter();
        let rows: Vec<WatchRow> = rows
            .map(|(lease, watching)| WatchRow::new(*lease, watching, version))
            .collect();
        let watches = self.write_watches(rows);
        let rows = changes.brokers.iter();
        let rows: Vec<BrokerRow> = rows
            .map(|(id, seen)| BrokerRow::new(*id, *seen, version))
            .collect();
        let brokers = self.write_brokers(rows);
        let rows = changes.events.iter().map(NewEventRow::new).collect();
        let events = self.write_events(rows);
        try_join!(
            leases,
            generations,
            roles,
            operations,
            branches,
            requests,
            moves,
            watches,
            brokers,
            events
        )?;
        Ok(())
    }

    async fn write_leases(&self, rows: Vec<LeaseRow>) -> Result<(), Error> {
        let writes = chunks(rows).map(async |rows| {
            let upsert = diesel::insert_into(leases::table)
                .values(rows)
                .on_conflict(leases::id)
                .do_update()
                .set((
                    leases::version.eq(excluded(leases::version)),
                    leases::branch.eq(excluded(leases::branch)),
                    leases::generation.eq(excluded(leases::generation)),
                    leases::role.eq(excluded(leases::role)),
                    leases::key.eq(excluded(leases::key)),
                    leases::expire_time.eq(excluded(leases::expire_time)),
                    leases::renewals.eq(excluded(leases::renewals)),
                    leases::note_time.eq(excluded(leases::note_time)),
                    leases::branch_expire_time.eq(excluded(leases::branch_expire_time)),
                    leases::revoke_time.eq(excluded(leases::revoke_time)),
                    leases::revoke_reason.eq(excluded(leases::revoke_reason)),
                    leases::end_reason.eq(excluded(leases::end_reason)),
                ));
            Prepared(upsert).execute(&mut &self.connection).await
        });
        let written = future::try_join_all(writes).await;
        written.map(drop).attempted("write leases")
    }

    async fn write_generations(&self, rows: Vec<GenerationRow>) -> Result<(), Error> {
        let writes = rows.into_iter().map(async |row| {
            let upsert = diesel::insert_into(generations::table)
                .values(row)
                .on_conflict(generations::binding)
                .do_update()
                .set((
                    generations::version.eq(excluded(generations::version)),
                    generations::number.eq(excluded(generations::number)),
                    generations::branch.eq(excluded(generations::branch)),
                    generations::address.eq(excluded(generations::address)),
                    generations::revision.eq(excluded(generations::revision)),
                    generations::reset_at.eq(excluded(generations::reset_at)),
                    generations::since.eq(excluded(generations::since)),
                    generations::reason.eq(excluded(generations::reason)),
                    generations::declared.eq(excluded(generations::declared)),
                    generations::switched_to.eq(excluded(generations::switched_to)),
                ));
            Prepared(upsert).execute(&mut &self.connection).await
        });
        let written = future::try_join_all(writes).await;
        written.map(drop).attempted("write generations")
    }

    async fn write_roles(&self, rows: Vec<RoleRow>) -> Result<(), Error> {
        let writes = chunks(rows).map(async |rows| {
            let upsert = diesel::insert_into(roles::table)
                .values(rows)
                .on_conflict((roles::branch, roles::role))
                .do_update()
                .set((
                    roles::version.eq(excluded(roles::version)),
                    roles::holder.eq(excluded(roles::holder)),
                    roles::status.eq(excluded(roles::status)),
                    roles::valid_until.eq(excluded(roles::valid_until)),
                    roles::reserved_until.eq(excluded(roles::reserved_until)),
                    roles::failures.eq(excluded(roles::failures)),
                    roles::failure.eq(excluded(roles::failure)),
                    roles::update_time.eq(excluded(roles::update_time)),
                ));
            Prepared(upsert).execute(&mut &self.connection).await
        });
        let written = future::try_join_all(writes).await;
        written.map(drop).attempted("write roles")
    }

    async fn write_operations(&self, rows: Vec<OperationRow>) -> Result<(), Error> {
        let writes = rows.into_iter().map(async |row| {
            let upsert = diesel::insert_into(operations::table)
                .values(row)
                .on_conflict(operations::id)
                .do_update()
                .set((
                    operations::version.eq(excluded(operations::version)),
                    operations::branch.eq(excluded(operations::branch)),
                    operations::runner.eq(excluded(operations::runner)),
                    operations::heartbeat_time.eq(excluded(operations::heartbeat_time)),
                    operations::committed.eq(excluded(operations::committed)),
                    operations::note.eq(excluded(operations::note)),
                    operations::result.eq(excluded(operations::result)),
                    operations::done.eq(excluded(operations::done)),
                    operations::update_time.eq(excluded(operations::update_time)),
                ));
            Prepared(upsert).execute(&mut &self.connection).await
        });
        let written = future::try_join_all(writes).await;
        written.map(drop).attempted("write operations")
    }

    async fn write_branches(&self, rows: Vec<BranchRow>) -> Result<(), Error> {
        let writes = rows.into_iter().map(async |row| {
            let upsert = diesel::insert_into(branches::table)
                .values(row)
                .on_conflict(branches::name)
                .do_update()
                .set((
                    branches::version.eq(excluded(branches::version)),
                    branches::branch.eq(excluded(branches::branch)),
                    branches::intent.eq(excluded(branches::intent)),
                    branches::update_time.eq(excluded(branches::update_time)),
                    branches::lease.eq(excluded(branches::lease)),
                    branches::holder.eq(excluded(branches::holder)),
                    branches::making_until.eq(excluded(branches::making_until)),
                    branches::pool.eq(excluded(branches::pool)),
                    branches::warm.eq(excluded(branches::warm)),
                    branches::made_as.eq(excluded(branches::made_as)),
                    branches::fork_time.eq(excluded(branches::fork_time)),
                    branches::branch_expire_time.eq(excluded(branches::branch_expire_time)),
                    branches::role.eq(excluded(branches::role)),
                ));
            Prepared(upsert).execute(&mut &self.connection).await
        });
        let written = future::try_join_all(writes).await;
        written.map(drop).attempted("write branches")
    }

    async fn write_requests(&self, rows: Vec<RequestRow>) -> Result<(), Error> {
        let writes = rows.into_iter().map(async |row| {
            let upsert = diesel::insert_into(request_ids::table)
                .values(row)
                .on_conflict((request_ids::caller, request_ids::method, request_ids::id))
                .do_update()
                .set((
                    request_ids::version.eq(excluded(request_ids::version)),
                    request_ids::body.eq(excluded(request_ids::body)),
                    request_ids::resource.eq(excluded(request_ids::resource)),
                    request_ids::expire_time.eq(excluded(request_ids::expire_time)),
                ));
            Prepared(upsert).execute(&mut &self.connection).await
        });
        let written = future::try_join_all(writes).await;
        written.map(drop).attempted("write request ids")
    }

    async fn write_moves(&self, rows: Vec<MoveRow>) -> Result<(), Error> {
        let writes = rows.into_iter().map(async |row| {
            let upsert = diesel::insert_into(moves::table)
                .values(row)
                .on_conflict(moves::binding)
                .do_update()
                .set((
                    moves::version.eq(excluded(moves::version)),
                    moves::operation.eq(excluded(moves::operation)),
                    moves::generation.eq(excluded(moves::generation)),
                    moves::source.eq(excluded(moves::source)),
                    moves::target.eq(excluded(moves::target)),
                    moves::phase.eq(excluded(moves::phase)),
                    moves::fence.eq(excluded(moves::fence)),
                    moves::voters.eq(excluded(moves::voters)),
                    moves::deadline.eq(excluded(moves::deadline)),
                    moves::message.eq(excluded(moves::message)),
                    moves::create_time.eq(excluded(moves::create_time)),
                    moves::update_time.eq(excluded(moves::update_time)),
                ));
            Prepared(upsert).execute(&mut &self.connection).await
        });
        let written = future::try_join_all(writes).await;
        written.map(drop).attempted("write moves")
    }

    async fn write_watches(&self, rows: Vec<WatchRow>) -> Result<(), Error> {
        let writes = chunks(rows).map(async |rows| {
            let upsert = diesel::insert_into(watches::table)
                .values(rows)
                .on_conflict(watches::lease)
                .do_update()
                .set((
                    watches::version.eq(excluded(watches::version)),
                    watches::streams.eq(excluded(watches::streams)),
                    watches::stream_brokers.eq(excluded(watches::stream_brokers)),
                    watches::acked.eq(excluded(watches::acked)),
                    watches::refused.eq(excluded(watches::refused)),
                    watches::refusal.eq(excluded(watches::refusal)),
                    watches::drained.eq(excluded(watches::drained)),
                    watches::gone_time.eq(excluded(watches::gone_time)),
                ));
            Prepared(upsert).execute(&mut &self.connection).await
        });
        let written = future::try_join_all(writes).await;
        written.map(drop).attempted("write watches")
    }

    async fn write_brokers(&self, rows: Vec<BrokerRow>) -> Result<(), Error> {
        let writes = rows.into_iter().map(async |row| {
            let upsert = diesel::insert_into(brokers::table)
                .values(row)
                .on_conflict(brokers::id)
                .do_update()
                .set((
                    brokers::version.eq(excluded(brokers::version)),
                    brokers::seen_time.eq(excluded(brokers::seen_time)),
                ));
            Prepared(upsert).execute(&mut &self.connection).await
        });
        let written = future::try_join_all(writes).await;
        written.map(drop).attempted("write brokers")
    }

    /// One statement after another: the database numbers them in their order.
    async fn write_events(&self, rows: Vec<NewEventRow>) -> Result<(), Error> {
        for rows in chunks(rows) {
            let insert = diesel::insert_into(audit_events::table).values(rows);
            let written = Prepared(insert).execute(&mut &self.connection).await;
            written.attempted("write audit events")?;
        }
        Ok(())
    }

    /// Removes some of what nobody asks for any more: leases and operations that
    /// ended and branches that went before `ended`, requests whose time was up at
    /// `now`, events from before `told`. Says whether that was all.
    pub(in crate::state) async fn purge(
        &mut self,
        now: Timestamp,
        ended: Timestamp,
        told: Timestamp,
    ) -> Result<bool, Error> {
        let old = [
            (
                "DELETE FROM leases WHERE id IN (SELECT id FROM leases
                 WHERE end_reason IS NOT NULL AND expire_time < $1 LIMIT $2)",
                ended,
            ),
            (
                "DELETE FROM operations WHERE id IN (SELECT id FROM operations
                 WHERE done AND update_time < $1 LIMIT $2)",
                ended,
            ),
            (
                "DELETE FROM branches WHERE name IN (SELECT name FROM branches
                 WHERE intent = 'gone' AND update_time < $1 LIMIT $2)",
                ended,
            ),
            (
                "DELETE FROM roles WHERE (branch, role) IN (SELECT branch, role FROM roles
                 WHERE status = 'closed' AND update_time < $1 LIMIT $2)",
                ended,
            ),
            (
                "DELETE FROM request_ids WHERE (caller, method, id) IN
                 (SELECT caller, method, id FROM request_ids
                 WHERE expire_time < $1 LIMIT $2)",
                now,
            ),
            (
                "DELETE FROM brokers WHERE id IN (SELECT id FROM brokers
                 WHERE seen_time < $1 LIMIT $2)",
                ended,
            ),
            (
                "DELETE FROM audit_events WHERE id IN (SELECT id FROM audit_events
                 WHERE event_time < $1 LIMIT $2)",
                told,
            ),
        ];
        let mut is_all = true;
        for (delete, before) in old {
            // The writer waits for this: what is left goes the next time.
            let removed = diesel::sql_query(delete)
                .bind::<Timestamptz, _>(time_out(before))
                .bind::<BigInt, _>(i64::try_from(PURGED_MAX).unwrap_or(i64::MAX))
                .execute(&mut self.connection)
                .await
                .attempted("remove what is old")?;
            is_all &= removed < PURGED_MAX;
        }
        Ok(is_all)
    }
}

/// As many rows for a statement as one of those that are prepared has.
fn chunks<T>(rows: Vec<T>) -> impl Iterator<Item = Vec<T>> {
    let mut left = rows.into_iter();
    std::iter::from_fn(move || {
        let count = ROWS.into_iter().find(|count| left.len() >= *count)?;
        let rows: Vec<T> = left.by_ref().take(count).collect();
        (!rows.is_empty()).then_some(rows)
    })
}
