//! A service's migration role, `users_ddl`: who owns the service's schema and all that is
//! in it, on every branch.
//!
//! Revisions are run as it, and who may change an ephemeral branch is a member of it. It
//! may make schemas, trusted extensions and temporary tables, is a member of nothing, and
//! has no say in what is another service's. The owner of the database is a member of it,
//! so what the owner does by itself (grants, seeds, Diesel's command line) goes on; what
//! the owner makes is the role's the next time that somebody looks.

use tokio_postgres::{Client, GenericClient};

use super::{Access, Error, GROUP_COMMENT, group_ensure, group_name, login, rights};
use crate::config::ServiceSpec;
use crate::postgres::{self, Attempted as _, escape_identifier, escape_literal};

/// How long the turn of who makes the role right is waited for, in milliseconds. Whoever
/// has it logs in meanwhile, on a branch that may be slow to answer.
const TURN_MS_MAX: u64 = 30_000;
/// How long each thing that is handed over may wait for its lock, in milliseconds:
/// everybody who uses it waits behind us.
const LOCK_TIMEOUT_MS: u64 = 4_000;

/// What the service's schema has that is not the role's, and that the connection's role
/// may give away. Not those that go with something else: a column's own sequence, an
/// extension's parts. Tables before what reads them by its owner's rights, views and
/// routines, and those in the order in which they were made: none of them is for a moment
/// without a right that it needs.
const NOT_OWNED: &str = "
    SELECT CASE WHEN thing.type IN ('function', 'procedure', 'aggregate') THEN 'routine'
                WHEN thing.type = 'statistics object' THEN 'statistics'
                ELSE thing.type END AS kind,
           thing.identity
    FROM pg_shdepend held
    JOIN pg_depend place ON place.classid = held.classid AND place.objid = held.objid
                        AND place.objsubid = 0 AND place.deptype = 'n'
                        AND place.refclassid = 'pg_namespace'::regclass
                        AND place.refobjid = (SELECT oid FROM pg_namespace WHERE nspname = $2)
    CROSS JOIN LATERAL pg_identify_object(held.classid, held.objid, 0) thing
    WHERE held.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND held.refclassid = 'pg_authid'::regclass AND held.deptype = 'o'
      AND held.refobjid <> (SELECT oid FROM pg_roles WHERE rolname = $1)
      AND pg_has_role(held.refobjid, 'USAGE')
      AND NOT EXISTS (
          SELECT FROM pg_depend whole
          WHERE whole.classid = held.classid AND whole.objid = held.objid
            AND (whole.deptype = 'e' OR thing.type = 'sequence'
                 AND whole.deptype IN ('a', 'i') AND whole.refobjsubid > 0))
    ORDER BY thing.type IN ('view', 'materialized view', 'function', 'procedure', 'aggregate'),
             held.objid";

/// Whether [`ensure`] would change nothing. Reads only.
pub(super) async fn is_right(
    client: &Client,
    service: &ServiceSpec,
) -> Result<bool, postgres::Error> {
    // 'SET' is what PostgreSQL 16 tells apart from being a member.
    const ASK: &str = "
        SELECT shobj_description(r.oid, 'pg_authid') = $3
           AND pg_has_role(r.oid, 'USAGE')
           AND pg_has_role(r.oid, CASE WHEN current_setting('server_version_num')::int >= 160000
                                  THEN 'SET' ELSE 'MEMBER' END)
           AND EXISTS (SELECT FROM pg_namespace WHERE nspname = $2 AND nspowner = r.oid)
           AND EXISTS (SELECT FROM pg_database d
                       WHERE d.datname = current_database()
                         AND (NOT pg_has_role(d.datdba, 'USAGE')
                              OR (SELECT count(DISTINCT acl.privilege_type)
                                  FROM aclexplode(d.datacl) acl
                                  WHERE acl.grantee = r.oid) = 3))
        FROM pg_roles r WHERE r.rolname = $1";
    const WHAT: &str = "look at the migration role";
    let role = group_name(&service.name, Access::Ddl);
    let found = client
        .query_opt(ASK, &[&role, &service.schema, &GROUP_COMMENT])
        .await
        .attempted(WHAT)?;
    let is_there = found.and_then(|row| row.get::<_, Option<bool>>(0));
    Ok(is_there == Some(true) && not_owned(client, service).await?.is_empty())
}

/// Makes the role, and makes it right: doing it again changes nothing. After an error the
/// session is not to be used again.
pub(super) async fn ensure(client: &Client, service: &ServiceSpec) -> Result<(), Error> {
    turn_take(client, service).await?;
    make_right(client, service).await?;
    turn_leave(client, service).await?;
    Ok(())
}

/// The same, for who has the turn.
///
/// What is handed over is, one by one, in transactions of its own: who uses several
/// tables in one would wait for us as we wait for them.
pub(super) async fn make_right(client: &Client, service: &ServiceSpec) -> Result<(), Error> {
    let role = group_name(&service.name, Access::Ddl);
    let making = || format!("make the migration role {role}");
    let begin = format!("BEGIN; {}", login::LOCK);
    client.batch_execute(&begin).await.attempted(making())?;
    group_ensure(client, &role).await?;
    let sql = format!("{} COMMIT;", statements(service, &role));
    client.batch_execute(&sql).await.attempted(making())?;
    for (kind, name) in not_owned(client, service).await? {
        let sql = format!(
            "BEGIN; SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS};
             ALTER {kind} {name} OWNER TO {}; COMMIT;",
            escape_identifier(&role)
        );
        let handed = client.batch_execute(&sql).await;
        handed.attempted(format!("hand the {kind} {name} to the role {role}"))?;
        tracing::info!(kind, name, role, "handed over to the migration role");
    }
    Ok(())
}

/// Waits for the turn of who makes the role right, or logs in as it: the session's, until
/// it ends or [`turn_leave`].
pub(super) async fn turn_take(
    client: &Client,
    service: &ServiceSpec,
) -> Result<(), postgres::Error> {
    let sql = format!(
        "SET lock_timeout = {TURN_MS_MAX};
         SELECT pg_advisory_lock({});
         RESET lock_timeout;",
        turn_key(service)
    );
    let taken = client.batch_execute(&sql).await;
    taken.attempted("wait for the turn of the migration role")
}

/// Leaves the turn to others.
pub(super) async fn turn_leave(
    client: &Client,
    service: &ServiceSpec,
) -> Result<(), postgres::Error> {
    let sql = format!("SELECT pg_advisory_unlock({})", turn_key(service));
    let left = client.batch_execute(&sql).await;
    left.attempted("leave the turn of the migration role")
}

/// The statements that make a login role one that may change the service's schema. What
/// it makes is the service's at once, since it begins as the migration role; where a pool
/// has taken that back (DISCARD ALL), when somebody next looks, and the groups' at once.
pub(super) fn member(service: &ServiceSpec, login: &str) -> String {
    let group = group_name(&service.name, Access::Ddl);
    let rights = by_default(service, &escape_identifier(login));
    format!(
        "GRANT {group} TO {login};
         ALTER ROLE {login} SET role = {setting};
         GRANT {login} TO CURRENT_USER;
         {rights}",
        group = escape_identifier(&group),
        login = escape_identifier(login),
        setting = escape_literal(&group),
    )
}

/// The statements that give the groups their rights on what a role, whose name is escaped
/// already, will add to the service's schema.
fn by_default(service: &ServiceSpec, role: &str) -> String {
    let schema = escape_identifier(&service.schema);
    Access::GROUPS
        .map(|access| {
            let group = escape_identifier(&group_name(&service.name, access));
            rights::by_default(&schema, role, &group, access)
        })
        .concat()
}

/// The statements that make the role what it is to be. CONNECT is nobody's by being
/// somebody (`rights::nothing_for_public`).
fn statements(service: &ServiceSpec, role: &str) -> String {
    format!(
        "DO $broker$ DECLARE holder oid; BEGIN
             -- Before PostgreSQL 16 a member has both by being one.
             EXECUTE format('GRANT %I TO CURRENT_USER', {role})
                 || CASE WHEN current_setting('server_version_num')::int >= 160000
                    THEN ' WITH INHERIT TRUE, SET TRUE' ELSE '' END;
             IF EXISTS (SELECT FROM pg_database d
                        WHERE d.datname = current_database() AND pg_has_role(d.datdba, 'USAGE')
                          AND (SELECT count(DISTINCT acl.privilege_type)
                               FROM aclexplode(d.datacl) acl
                               WHERE acl.grantee = (SELECT oid FROM pg_roles
                                                    WHERE rolname = {role})) <> 3) THEN
                 EXECUTE format('GRANT CONNECT, CREATE, TEMPORARY ON DATABASE %I TO %I',
                                current_database(), {role});
             END IF;
             SELECT nspowner INTO holder FROM pg_namespace WHERE nspname = {schema};
             IF holder IS NULL THEN
                 EXECUTE format('CREATE SCHEMA %I AUTHORIZATION %I', {schema}, {role});
             ELSIF holder <> (SELECT oid FROM pg_roles WHERE rolname = {role}) THEN
                 EXECUTE format('ALTER SCHEMA %I OWNER TO %I', {schema}, {role});
             END IF;
         END $broker$;",
        role = escape_literal(role),
        schema = escape_literal(&service.schema),
    )
}

/// Kind and name, as ALTER takes them, of what is to be handed over.
async fn not_owned(
    client: &impl GenericClient,
    service: &ServiceSpec,
) -> Result<Vec<(String, String)>, postgres::Error> {
    let role = group_name(&service.name, Access::Ddl);
    let rows = client.query(NOT_OWNED, &[&role, &service.schema]).await;
    let rows = rows.attempted("look at who owns what the service has")?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

fn turn_key(service: &ServiceSpec) -> String {
    let name = format!("branch-broker migration role {}", service.name);
    format!("hashtextextended({}, 0)", escape_literal(&name))
}
