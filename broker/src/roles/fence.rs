//! Taking a service's writes away from a branch, and seeing them end.

use tokio_postgres::Client;

use super::{Access, Error, group_name, locked};
use crate::config::ServiceSpec;
use crate::postgres::{self, Attempted as _, escape_identifier, escape_literal};

/// How long what writes may take to end by itself, in milliseconds. Then its session is
/// ended.
const ENDS_MS: u64 = 3_000;
/// How often sessions are ended that still write: new ones may have come between.
const TRIES_MAX: u32 = 5;

/// Takes the writing group's rights to write, and returns when nothing writes to the
/// service's tables any more and nothing can, but their owner. What writes has a moment
/// to end; then its session is ended.
///
/// A statement holds a lock on the table that it writes to, from before its rights are
/// looked at until its transaction ends. So who has taken the rights away, and has had
/// each table locked against writes after that, has seen the last of them: who waits
/// for that lock finds the rights gone.
pub async fn fence(client: &mut Client, service: &ServiceSpec) -> Result<(), Error> {
    for _ in 0..TRIES_MAX {
        match taken(client, service).await {
            Ok(()) => return Ok(()),
            Err(error) if error.is_lock_timeout() => end_writers(client, service).await?,
            Err(error) => return Err(error.into()),
        }
    }
    taken(client, service).await?;
    Ok(())
}

async fn taken(client: &mut Client, service: &ServiceSpec) -> Result<(), postgres::Error> {
    const WHAT: &str = "take the rights to write";
    let schema = escape_identifier(&service.schema);
    let group = escape_identifier(&group_name(&service.name, Access::ReadWrite));
    let transaction = locked(client, service, WHAT).await?;
    let statements = format!(
        "SET LOCAL lock_timeout = {ENDS_MS};
         REVOKE INSERT, UPDATE, DELETE, TRUNCATE ON ALL TABLES IN SCHEMA {schema} FROM {group};
         REVOKE EXECUTE ON ALL ROUTINES IN SCHEMA {schema} FROM {group};
         DO $broker$ DECLARE tables text; BEGIN
             SELECT string_agg(format('%I.%I', n.nspname, c.relname), ', ') INTO tables
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE n.nspname = {} AND c.relkind IN ('r', 'p')
               AND pg_has_role(c.relowner, 'USAGE');
             IF tables IS NOT NULL THEN
                 EXECUTE 'LOCK TABLE ' || tables || ' IN SHARE MODE';
             END IF;
         END $broker$;",
        escape_literal(&service.schema)
    );
    transaction
        .batch_execute(&statements)
        .await
        .attempted(WHAT)?;
    transaction.commit().await.attempted(WHAT)
}

/// Ends sessions of the group's members that hold a lock by which one writes.
async fn end_writers(client: &Client, service: &ServiceSpec) -> Result<(), postgres::Error> {
    const END: &str = "
        SELECT pg_terminate_backend(l.pid)
        FROM pg_locks l
        JOIN pg_stat_activity a ON a.pid = l.pid
        JOIN pg_class c ON c.oid = l.relation
        JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE l.locktype = 'relation' AND l.granted AND l.pid <> pg_backend_pid()
          AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
          AND l.mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock',
                         'ShareUpdateExclusiveLock', 'AccessExclusiveLock')
          AND n.nspname = $1 AND pg_has_role(a.usesysid, $2::text::name, 'MEMBER')";
    let group = group_name(&service.name, Access::ReadWrite);
    let ended = client.query(END, &[&service.schema, &group]).await;
    ended.attempted("end the sessions that write")?;
    Ok(())
}
