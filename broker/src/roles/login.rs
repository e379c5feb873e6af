//! Login roles: made, closed, and, where a branch inherited them, retired.
//!
//! Who holds a lease may change the password and the settings of its role, and
//! may leave things behind that keep the role from being dropped. So nothing of
//! a role is believed but its comment, which its holder cannot write: making it
//! sets everything anew, and a role that is not to be used any more is made
//! harmless first, its sessions are ended, and it is dropped if that is possible.

use futures_util::future;
use jiff::Timestamp;
use neon_api::BranchId;
use tokio_postgres::{Client, GenericClient, Transaction};

use super::{Access, Error, Found, comment_of, ddl, group_name};
use crate::config::ServiceSpec;
use crate::credentials::Key;
use crate::postgres::{self, Attempted as _, escape_identifier, escape_literal};
use crate::text::one_line;

/// How the comment of a login role begins.
const LOGIN_COMMENT: &str = "branch-broker lease ";
/// The comment of one that was made harmless, and could not be dropped yet.
const RETIRED_COMMENT: &str = "branch-broker lease retired";

/// Takes the lock of the branch's login roles, and of what services in one database have
/// in common, inside a transaction. What comes then waits less long: whoever has a role may hold a lock on it, and everybody else who
/// wants a role on the branch waits behind us. Both are less than a broker waits.
pub(super) const LOCK: &str = "SET LOCAL lock_timeout = '15s';
    SET LOCAL client_min_messages = warning;
    SELECT pg_advisory_xact_lock(hashtextextended('branch-broker logins', 0));
    SET LOCAL lock_timeout = '4s';";

/// A login role as it is to be.
#[derive(Debug, Clone, Copy)]
pub struct Login<'a> {
    /// Its name.
    pub role: &'a str,
    /// The service whose tables it is for.
    pub service: &'a ServiceSpec,
    /// What it may do.
    pub access: Access,
    /// The branch it is on.
    pub branch: &'a BranchId,
    /// How many connections it may have open.
    pub connections: u32,
    /// When its password ends, by itself.
    pub valid_until: Timestamp,
}

/// Makes a login role, or makes it right: its holder may have changed its password
/// and settings, so both are set each time. Two times to and fro: what can be on its
/// way before the first is answered is. After an error the session is not to be used
/// again: a transaction is open in it.
pub async fn login_ensure(client: &Client, login: Login<'_>, key: &Key) -> Result<(), Error> {
    let Login { role, branch, .. } = login;
    let making = || format!("make the role {role}");
    // A broker from before there were migration roles may have prepared the branch.
    if login.access == Access::Ddl && !ddl::is_right(client, login.service).await? {
        ddl::ensure(client, login.service).await?;
    }
    let begin = format!("BEGIN; {LOCK}");
    let locking = client.batch_execute(&begin);
    let (locked, found) = future::join(locking, comment_of(client, role)).await;
    locked.attempted(making())?;
    let create = match found? {
        // One that was retired is never made again: its name is given once.
        Found::Commented(found) if found.starts_with(LOGIN_COMMENT) && found != RETIRED_COMMENT => {
            None
        }
        Found::Commented(_) | Found::Bare => {
            return Err(Error::NotOurs {
                role: role.to_owned(),
            });
        }
        Found::Nothing => Some(format!("CREATE ROLE {};", escape_identifier(role))),
    };
    // Altered first: the role's row is then ours when the password is set. After an
    // error what follows fails too, and a commit is none.
    let sql = statements(&login, &login_comment(key, branch));
    let sql = format!("{} {sql}", create.as_deref().unwrap_or_default());
    let password = key.password(branch, role);
    let altering = client.batch_execute(&sql);
    let setting = super::password_set(client, role, &password);
    let committing = client.batch_execute("COMMIT");
    let (altered, set, committed) = future::join3(altering, setting, committing).await;
    altered.and(set).and(committed).attempted(making())?;
    if create.is_some() {
        tracing::info!(%role, %branch, "made a lease role");
    }
    Ok(())
}

/// A login role of ours that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundLogin {
    /// Its name.
    pub role: String,
    /// Whether its password is still good at that time.
    pub is_valid: bool,
}

/// Login roles of ours that were made for that branch, and whether their password is
/// good beyond `now`.
pub async fn logins_of(
    client: &Client,
    branch: &BranchId,
    now: Timestamp,
) -> Result<Vec<FoundLogin>, postgres::Error> {
    let rows = client
        .query(
            "SELECT rolname::text, rolcanlogin AND rolvaliduntil > $3::text::timestamptz
             FROM pg_roles
             WHERE starts_with(shobj_description(oid, 'pg_authid'), $1)
               AND shobj_description(oid, 'pg_authid') LIKE '% branch=' || $2
             ORDER BY rolname",
            &[&LOGIN_COMMENT, &branch.as_str(), &now.to_string()],
        )
        .await
        .attempted("list lease roles")?;
    let found = rows.iter().map(|row| FoundLogin {
        role: row.get(0),
        is_valid: row.get::<_, Option<bool>>(1).unwrap_or(false),
    });
    Ok(found.collect())
}

/// Closes a login role that no lease has any more: nobody logs in as it, who has is
/// thrown out, and it is dropped. One that cannot be dropped, because its holder
/// left something in another database, stays without login, password and rights. A
/// role that is not ours, or not there, is left alone.
pub async fn login_close(client: &mut Client, role: &str) -> Result<(), Error> {
    let closing = || format!("close the role {role}");
    let transaction = locked(client, &closing()).await?;
    match comment_of(&transaction, role).await? {
        Found::Commented(found) if found.starts_with(LOGIN_COMMENT) => {}
        _ => return Ok(()),
    }
    // Before, since one that is changing its own role would hold us up for as long as
    // it likes; and after, since until then it could log in again.
    sessions_end(&transaction, role).await?;
    transaction
        .batch_execute(&retirement(role))
        .await
        .attempted(closing())?;
    transaction.commit().await.attempted(closing())?;
    sessions_end(client, role).await?;
    if let Err(error) = drop_retired(client, role).await {
        let error = one_line(&error);
        tracing::warn!(%role, error, "a lease role is closed and cannot be dropped");
    }
    Ok(())
}

/// Makes login roles that the branch inherited harmless, and drops those that
/// can be dropped. One that cannot, because somebody left something of it in
/// this or another database, stays without login, password and rights.
pub async fn retire_inherited(client: &mut Client, branch: &BranchId) -> Result<(), Error> {
    for role in logins_of_other_branches(client, branch).await? {
        let retiring = || format!("retire the inherited role {role}");
        let transaction = locked(client, &retiring()).await?;
        transaction
            .batch_execute(&retirement(&role))
            .await
            .attempted(retiring())?;
        transaction.commit().await.attempted(retiring())?;
        sessions_end(client, &role).await?;
    }
    for role in retired(client).await? {
        match drop_retired(client, &role).await {
            Ok(()) => tracing::info!(%role, %branch, "dropped a lease role that was inherited"),
            Err(error) => tracing::warn!(
                %role, %branch, error = %one_line(&error),
                "an inherited lease role cannot be dropped; it is left without login and rights"
            ),
        }
    }
    Ok(())
}

/// Login roles of ours whose comment names another branch than this one.
pub(super) async fn logins_of_other_branches(
    client: &impl GenericClient,
    branch: &BranchId,
) -> Result<Vec<String>, postgres::Error> {
    let rows = client
        .query(
            "SELECT rolname FROM pg_roles
             WHERE starts_with(shobj_description(oid, 'pg_authid'), $1)
               AND NOT shobj_description(oid, 'pg_authid') LIKE '% branch=' || $2
               AND shobj_description(oid, 'pg_authid') <> $3
             ORDER BY rolname",
            &[&LOGIN_COMMENT, &branch.as_str(), &RETIRED_COMMENT],
        )
        .await
        .attempted("list inherited lease roles")?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

async fn retired(client: &Client) -> Result<Vec<String>, postgres::Error> {
    let rows = client
        .query(
            "SELECT rolname FROM pg_roles
             WHERE shobj_description(oid, 'pg_authid') = $1 ORDER BY rolname",
            &[&RETIRED_COMMENT],
        )
        .await
        .attempted("list retired lease roles")?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

async fn drop_retired(client: &mut Client, role: &str) -> Result<(), postgres::Error> {
    let dropping = || format!("drop the role {role}");
    let transaction = locked(client, &dropping()).await?;
    match comment_of(&transaction, role).await? {
        Found::Commented(found) if found == RETIRED_COMMENT => {}
        // Somebody has made it again.
        _ => return Ok(()),
    }
    // Dropping what a role owns takes being a member of it, which its maker is
    // not by itself. A role for DDL may have made tables as itself, and those stay.
    let name = escape_identifier(role);
    let sql = format!(
        "GRANT {name} TO CURRENT_USER;
         REASSIGN OWNED BY {name} TO CURRENT_USER;
         DROP OWNED BY {name};
         DROP ROLE {name};"
    );
    transaction
        .batch_execute(&sql)
        .await
        .attempted(dropping())?;
    transaction.commit().await.attempted(dropping())
}

async fn sessions_end(client: &impl GenericClient, role: &str) -> Result<(), postgres::Error> {
    client
        .execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1",
            &[&role],
        )
        .await
        .attempted(format!("end the sessions of the role {role}"))?;
    Ok(())
}

/// All of a login role but its password.
fn statements(login: &Login<'_>, comment: &str) -> String {
    let Login {
        role,
        service,
        access,
        ..
    } = *login;
    let name = escape_identifier(role);
    // Postgres takes no more than that, and no branch has as many.
    let connections = i32::try_from(login.connections).unwrap_or(i32::MAX);
    let rights = match access {
        Access::Ddl => ddl::member(service, role),
        Access::ReadOnly | Access::ReadWrite => format!(
            "ALTER ROLE {name} SET statement_timeout = {};
             GRANT {} TO {name};",
            service.statement_timeout.as_millis(),
            escape_identifier(&group_name(&service.name, access)),
        ),
    };
    format!(
        "ALTER ROLE {name} LOGIN INHERIT CONNECTION LIMIT {connections} VALID UNTIL {until};
         {no_settings}
         ALTER ROLE {name} SET search_path = {schema};
         {rights}
         COMMENT ON ROLE {name} IS {comment};",
        until = escape_literal(&login.valid_until.to_string()),
        no_settings = no_settings(role),
        schema = escape_identifier(&service.schema),
        comment = escape_literal(comment),
    )
}

/// No login, no password, no settings, no rights.
fn retirement(role: &str) -> String {
    let name = escape_identifier(role);
    format!(
        "ALTER ROLE {name} NOLOGIN PASSWORD NULL;
         {no_settings}
         DO $broker$ DECLARE held text; BEGIN
             FOR held IN SELECT g.rolname FROM pg_auth_members m
                         JOIN pg_roles g ON g.oid = m.roleid
                         JOIN pg_roles r ON r.oid = m.member
                         WHERE r.rolname = {role}
             LOOP EXECUTE format('REVOKE %I FROM %I', held, {role}); END LOOP;
         END $broker$;
         COMMENT ON ROLE {name} IS {comment};",
        no_settings = no_settings(role),
        role = escape_literal(role),
        comment = escape_literal(RETIRED_COMMENT),
    )
}

/// Takes back every setting that a role has been given, or gave itself, here or
/// in one database.
pub(super) fn no_settings(role: &str) -> String {
    format!(
        "ALTER ROLE {name} RESET ALL;
         DO $broker$ DECLARE place text; BEGIN
             FOR place IN SELECT d.datname FROM pg_db_role_setting s
                          JOIN pg_database d ON d.oid = s.setdatabase
                          JOIN pg_roles r ON r.oid = s.setrole
                          WHERE r.rolname = {role}
             LOOP EXECUTE format('ALTER ROLE %I IN DATABASE %I RESET ALL', {role}, place);
             END LOOP;
         END $broker$;",
        name = escape_identifier(role),
        role = escape_literal(role),
    )
}

fn login_comment(key: &Key, branch: &BranchId) -> String {
    format!("{LOGIN_COMMENT}key={} branch={branch}", key.id())
}

/// A transaction that holds the lock of the branch's login roles: not that of a
/// schema, which a long migration holds.
async fn locked<'a>(
    client: &'a mut Client,
    what: &str,
) -> Result<Transaction<'a>, postgres::Error> {
    let transaction = client.transaction().await.attempted(what)?;
    transaction.batch_execute(LOCK).await.attempted(what)?;
    Ok(transaction)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_tells_the_key_and_the_branch_apart() {
        let (one, other) = (Key::random(), Key::random());
        let (here, there) = ("br-a".parse().unwrap(), "br-b".parse().unwrap());
        assert_eq!(login_comment(&one, &here), login_comment(&one, &here));
        assert_ne!(login_comment(&one, &here), login_comment(&one, &there));
        assert_ne!(login_comment(&one, &here), login_comment(&other, &here));
        assert!(RETIRED_COMMENT.starts_with(LOGIN_COMMENT));
    }
}
