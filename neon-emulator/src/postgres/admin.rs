//! The emulator's own sessions: the superuser over the Unix socket. What the
//! API promises of roles and databases is made true here.

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use postgres_protocol::escape::{escape_identifier, escape_literal};
use thiserror::Error;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, NoTls};

use super::SUPERUSER;

const CONNECT_SECONDS_MAX: u64 = 10;

/// What an errand was, and why it failed.
#[derive(Debug, Error)]
#[error("could not {attempt}")]
pub(crate) struct AdminError {
    attempt: String,
    #[source]
    source: tokio_postgres::Error,
}

impl AdminError {
    pub(super) fn at(attempt: impl Into<String>) -> impl FnOnce(tokio_postgres::Error) -> Self {
        let attempt = attempt.into();
        |source| Self { attempt, source }
    }

    /// True when the server was not there, or about to go, or had no room: the
    /// same may go well a moment later.
    pub(crate) fn is_passing(&self) -> bool {
        match self.source.code() {
            // The connection, not what was asked for.
            None => true,
            Some(code) => PASSING_CLASSES
                .iter()
                .any(|class| code.code().starts_with(class)),
        }
    }

    /// True when there is no such database.
    pub(crate) fn is_no_database(&self) -> bool {
        self.source.code() == Some(&SqlState::INVALID_CATALOG_NAME)
    }
}

/// Of SQLSTATE: the connection broke, too much is asked of the server, somebody
/// else holds what is needed, the server stops or starts.
const PASSING_CLASSES: [&str; 4] = ["08", "53", "55", "57"];

/// Roles of the API may own the database, and callers choose settings of the
/// server: nothing of theirs may come between a superuser's statement and
/// Postgres. Who holds a lock is waited for, but not for ever: a project's
/// operations are done one after another.
const OPTIONS: &str = "-c search_path=pg_catalog -c default_transaction_read_only=off \
                       -c statement_timeout=0 -c idle_session_timeout=0 \
                       -c idle_in_transaction_session_timeout=0 -c lock_timeout=30s";

/// Opens a session of the superuser.
pub(crate) async fn connect(
    sockets: &Path,
    port: u16,
    database: &str,
) -> Result<Client, AdminError> {
    let (client, connection) = Config::new()
        .host_path(sockets)
        .port(port)
        .user(SUPERUSER)
        .dbname(database)
        .application_name("neon-emulator")
        .options(OPTIONS)
        .connect_timeout(Duration::from_secs(CONNECT_SECONDS_MAX))
        .connect(NoTls)
        .await
        .map_err(AdminError::at(format!("connect to database {database}")))?;
    // Its end is seen by the client's next query.
    tokio::spawn(connection);
    Ok(client)
}

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

/// What a server's clients do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Activity {
    /// A statement runs, a transaction is open, or a replica is connected.
    Busy,
    /// No client does anything, since this time by the system's clock. `None`:
    /// there is no client.
    Idle { since: Option<Timestamp> },
}

/// What the server's clients do. The sessions of `excepted` are none.
pub(crate) async fn activity(client: &Client, excepted: &str) -> Result<Activity, AdminError> {
    let attempt = || AdminError::at("look at the clients");
    let row = client
        .query_one(
            "SELECT coalesce(bool_or(state IS DISTINCT FROM 'idle'), false) \
                      OR EXISTS (SELECT FROM pg_stat_replication), \
                    (extract(epoch FROM max(state_change)) * 1000000)::bigint \
             FROM pg_stat_activity \
             WHERE backend_type = 'client backend' AND usename <> $1",
            &[&excepted],
        )
        .await
        .map_err(attempt())?;
    if row.try_get(0).map_err(attempt())? {
        return Ok(Activity::Busy);
    }
    let since: Option<i64> = row.try_get(1).map_err(attempt())?;
    let since = since.and_then(|microseconds| Timestamp::from_microsecond(microseconds).ok());
    Ok(Activity::Idle { since })
}

/// Where the server's log ends, as an LSN.
pub(crate) async fn current_lsn(client: &Client) -> Result<String, AdminError> {
    client
        .query_one("SELECT pg_current_wal_lsn()::text", &[])
        .await
        .and_then(|row| row.try_get(0))
        .map_err(AdminError::at("read the current LSN"))
}

/// The size of all databases together, in bytes.
pub(crate) async fn logical_size(client: &Client) -> Result<i64, AdminError> {
    client
        .query_one(
            "SELECT sum(pg_database_size(oid))::bigint FROM pg_database",
            &[],
        )
        .await
        .and_then(|row| row.try_get(0))
        .map_err(AdminError::at("measure the branch"))
}

/// Puts the record of a commit into the log, after all that is there.
pub(crate) async fn commit_something(client: &Client) -> Result<(), AdminError> {
    client
        // Something of its own has to be written: who only has a transaction's
        // number does not wait until its commit is in the file.
        .batch_execute(
            "SET synchronous_commit = on; \
             SELECT pg_logical_emit_message(true, 'neon-emulator', 'a point of the past')",
        )
        .await
        .map_err(AdminError::at("write to the log"))
}

/// Has the server read its settings again. They hold a moment later.
pub(crate) async fn reload(client: &Client) -> Result<(), AdminError> {
    client
        .batch_execute("SELECT pg_reload_conf()")
        .await
        .map_err(AdminError::at("have the settings read again"))
}

/// Ends the segment that is being written, for the archiver, and names it.
pub(crate) async fn end_segment(client: &Client) -> Result<String, AdminError> {
    // One that is empty would not be ended.
    commit_something(client).await?;
    client
        .query_one("SELECT pg_walfile_name(pg_switch_wal())", &[])
        .await
        .and_then(|row| row.try_get(0))
        .map_err(AdminError::at("end a segment of the log"))
}

/// When what was recovered last was committed; `None` where nothing was.
pub(crate) async fn last_replayed_commit(
    client: &Client,
) -> Result<Option<jiff::Timestamp>, AdminError> {
    let at = || AdminError::at("read where the recovery ended");
    let row = client
        .query_one(
            "SELECT (extract(epoch FROM pg_last_xact_replay_timestamp()) * 1000000)::bigint",
            &[],
        )
        .await
        .map_err(at())?;
    let microseconds: Option<i64> = row.try_get(0).map_err(at())?;
    Ok(microseconds.and_then(|at| jiff::Timestamp::from_microsecond(at).ok()))
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
