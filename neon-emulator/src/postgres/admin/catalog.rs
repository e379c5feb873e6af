//! Roles and databases: what the API promises of them is made true here.

use std::path::Path;

use postgres_protocol::escape::{escape_identifier, escape_literal};
use tokio_postgres::Client;

use super::{AdminError, connect};

/// Makes `neon_superuser`, which every role of the API is a member of. As on
/// Neon, it is no superuser.
pub(crate) async fn ensure_neon_superuser(client: &Client) -> Result<(), AdminError> {
    client
        .batch_execute(
            "DO $$ BEGIN \
               IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'neon_superuser') THEN \
                 CREATE ROLE neon_superuser NOLOGIN CREATEDB CREATEROLE REPLICATION BYPASSRLS \
                   IN ROLE pg_read_all_data, pg_write_all_data; \
                 GRANT pg_monitor, pg_signal_backend TO neon_superuser WITH ADMIN OPTION; \
               END IF; \
             END $$",
        )
        .await
        .map_err(AdminError::at("make the role neon_superuser"))
}

/// Makes a role of the API, or gives it this password. `None`: a role that
/// cannot log in.
pub(crate) async fn ensure_role(
    client: &Client,
    name: &str,
    password: Option<&str>,
) -> Result<(), AdminError> {
    // Only the verifier travels, so no log and no catalog ever has the password.
    let login = match password {
        Some(password) => {
            let verifier = postgres_protocol::password::scram_sha_256(password.as_bytes());
            format!("LOGIN PASSWORD {}", escape_literal(&verifier))
        }
        None => "NOLOGIN".to_owned(),
    };
    let exists = client
        .query_opt("SELECT FROM pg_roles WHERE rolname = $1", &[&name])
        .await
        .map_err(AdminError::at(format!("look up the role {name}")))?
        .is_some();
    let role = escape_identifier(name);
    let statement = if exists {
        format!("ALTER ROLE {role} {login}; GRANT neon_superuser TO {role}")
    } else {
        format!(
            "CREATE ROLE {role} {login} INHERIT CREATEROLE CREATEDB BYPASSRLS REPLICATION \
             IN ROLE neon_superuser"
        )
    };
    client
        .batch_execute(&statement)
        .await
        .map_err(AdminError::at(format!("make the role {name}")))
}

/// Makes a database, or gives it this owner, and lets roles of the API work in
/// its public schema.
pub(crate) async fn ensure_database(
    client: &Client,
    sockets: &Path,
    port: u16,
    name: &str,
    owner: &str,
) -> Result<(), AdminError> {
    let attempt = || AdminError::at(format!("make the database {name}"));
    let exists = has_database(client, name).await?;
    let (database, role) = (escape_identifier(name), escape_identifier(owner));
    let statement = if exists {
        format!("ALTER DATABASE {database} OWNER TO {role}")
    } else {
        format!("CREATE DATABASE {database} OWNER {role}")
    };
    client.batch_execute(&statement).await.map_err(attempt())?;
    connect(sockets, port, name)
        .await?
        .batch_execute(
            "GRANT CREATE ON SCHEMA public TO neon_superuser; \
             ALTER DEFAULT PRIVILEGES IN SCHEMA public \
               GRANT ALL ON TABLES TO neon_superuser WITH GRANT OPTION; \
             ALTER DEFAULT PRIVILEGES IN SCHEMA public \
               GRANT ALL ON SEQUENCES TO neon_superuser WITH GRANT OPTION",
        )
        .await
        .map_err(AdminError::at(format!(
            "grant the public schema of database {name}"
        )))
}

/// True when there is such a database.
pub(crate) async fn has_database(client: &Client, name: &str) -> Result<bool, AdminError> {
    client
        .query_opt("SELECT FROM pg_database WHERE datname = $1", &[&name])
        .await
        .map(|found| found.is_some())
        .map_err(AdminError::at(format!("look up the database {name}")))
}

/// Renames a database. Its sessions are ended: it could not be renamed under
/// them.
pub(crate) async fn rename_database(
    client: &Client,
    from: &str,
    to: &str,
) -> Result<(), AdminError> {
    let attempt = || AdminError::at(format!("rename the database {from} to {to}"));
    client
        .execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1",
            &[&from],
        )
        .await
        .map_err(attempt())?;
    if !has_database(client, from).await? {
        // It was renamed before the emulator was killed.
        return Ok(());
    }
    client
        .batch_execute(&format!(
            "ALTER DATABASE {} RENAME TO {}",
            escape_identifier(from),
            escape_identifier(to)
        ))
        .await
        .map_err(attempt())
}

/// Drops a database and ends its sessions. One that is gone is no error.
pub(crate) async fn drop_database(client: &Client, name: &str) -> Result<(), AdminError> {
    client
        .batch_execute(&format!(
            "DROP DATABASE IF EXISTS {} WITH (FORCE)",
            escape_identifier(name)
        ))
        .await
        .map_err(AdminError::at(format!("drop the database {name}")))
}

/// Drops a role, ends its sessions, and hands what it owns in the databases to
/// the superuser's group. One that is gone is no error.
pub(crate) async fn drop_role(
    client: &Client,
    sockets: &Path,
    port: u16,
    name: &str,
) -> Result<(), AdminError> {
    let attempt = || AdminError::at(format!("drop the role {name}"));
    let exists = client
        .query_opt("SELECT FROM pg_roles WHERE rolname = $1", &[&name])
        .await
        .map_err(attempt())?
        .is_some();
    if !exists {
        return Ok(());
    }
    let role = escape_identifier(name);
    // First of all it stops doing anything.
    client
        .batch_execute(&format!("ALTER ROLE {role} NOLOGIN"))
        .await
        .map_err(attempt())?;
    end_sessions(client, name).await?;
    let databases = client
        .query("SELECT datname FROM pg_database WHERE datallowconn", &[])
        .await
        .map_err(attempt())?;
    for row in databases {
        let database: String = row.try_get(0).map_err(attempt())?;
        connect(sockets, port, &database)
            .await?
            .batch_execute(&format!(
                "REASSIGN OWNED BY {role} TO neon_superuser; DROP OWNED BY {role}"
            ))
            .await
            .map_err(attempt())?;
    }
    client
        .batch_execute(&format!("DROP ROLE {role}"))
        .await
        .map_err(attempt())
}

/// Drops a role whose making failed. One that owns something or may do something,
/// or is gone, was there before, or is no more: it is left.
pub(crate) async fn drop_unused_role(client: &Client, name: &str) -> Result<(), AdminError> {
    let attempt = || AdminError::at(format!("take back the role {name}"));
    let unused = client
        .query_opt(
            "SELECT FROM pg_roles AS role WHERE rolname = $1 AND NOT EXISTS \
               (SELECT FROM pg_shdepend WHERE refclassid = 'pg_authid'::regclass \
                  AND refobjid = role.oid)",
            &[&name],
        )
        .await
        .map_err(attempt())?;
    if unused.is_none() {
        return Ok(());
    }
    end_sessions(client, name).await?;
    client
        .batch_execute(&format!("DROP ROLE IF EXISTS {}", escape_identifier(name)))
        .await
        .map_err(attempt())
}

/// Drops a database whose making failed. One that has something in it was there
/// before: it is left.
pub(crate) async fn drop_empty_database(
    client: &Client,
    sockets: &Path,
    port: u16,
    name: &str,
) -> Result<(), AdminError> {
    let attempt = || AdminError::at(format!("take back the database {name}"));
    let exists = client
        .query_opt(
            "SELECT FROM pg_database WHERE datname = $1 AND datallowconn",
            &[&name],
        )
        .await
        .map_err(attempt())?
        .is_some();
    if !exists {
        return Ok(());
    }
    let is_used: bool = connect(sockets, port, name)
        .await?
        .query_one(
            "SELECT EXISTS (SELECT FROM pg_class JOIN pg_namespace AS space ON space.oid = relnamespace \
                             WHERE nspname NOT LIKE 'pg\\_%' AND nspname <> 'information_schema') \
                 OR EXISTS (SELECT FROM pg_namespace \
                             WHERE nspname NOT LIKE 'pg\\_%' \
                               AND nspname NOT IN ('public', 'information_schema')) \
                 OR EXISTS (SELECT FROM pg_proc JOIN pg_namespace AS space ON space.oid = pronamespace \
                             WHERE nspname NOT LIKE 'pg\\_%' AND nspname <> 'information_schema') \
                 OR EXISTS (SELECT FROM pg_largeobject_metadata)",
            &[],
        )
        .await
        .and_then(|row| row.try_get(0))
        .map_err(attempt())?;
    match is_used {
        true => Ok(()),
        false => drop_database(client, name).await,
    }
}

/// Ends the sessions of a role, as Neon does when its password is reset.
pub(crate) async fn end_sessions(client: &Client, role: &str) -> Result<(), AdminError> {
    client
        .execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1",
            &[&role],
        )
        .await
        .map(|_| ())
        .map_err(AdminError::at(format!("end the sessions of role {role}")))
}

/// What of the API's there is in a branch's own catalogs.
#[derive(Debug)]
pub(crate) struct Catalog {
    /// Names, and whether they can log in.
    pub(crate) roles: Vec<(String, bool)>,
    /// Names and owners.
    pub(crate) databases: Vec<(String, String)>,
}

/// Reads the roles and databases that the API has made, or could have.
pub(crate) async fn catalog(client: &Client) -> Result<Catalog, AdminError> {
    let at = || AdminError::at("list the roles and databases");
    let roles = client
        .query(
            "SELECT role.rolname::text, role.rolcanlogin FROM pg_roles AS role \
               JOIN pg_auth_members AS membership ON membership.member = role.oid \
             WHERE membership.roleid = to_regrole('neon_superuser')",
            &[],
        )
        .await
        .map_err(at())?;
    let databases = client
        .query(
            "SELECT datname::text, pg_get_userbyid(datdba)::text FROM pg_database \
             WHERE NOT datistemplate AND datname <> 'postgres'",
            &[],
        )
        .await
        .map_err(at())?;
    let mut catalog = Catalog {
        roles: Vec::new(),
        databases: Vec::new(),
    };
    for row in roles {
        catalog
            .roles
            .push((row.try_get(0).map_err(at())?, row.try_get(1).map_err(at())?));
    }
    for row in databases {
        catalog
            .databases
            .push((row.try_get(0).map_err(at())?, row.try_get(1).map_err(at())?));
    }
    Ok(catalog)
}
