//! PgBouncer's files.

use std::fs;
use std::io;
use std::path::Path;

use super::program::Program;
use crate::postgres::{SUPERUSER, ServerUser};

/// As Neon has them.
const CLIENTS_MAX: u64 = 10_000;
const PREPARED_STATEMENTS_MAX: u32 = 1_000;
const QUERY_WAIT_SECONDS_MAX: u32 = 120;
/// Nine tenths of Postgres's connections for each role and database.
const POOL_SIZE: u32 = crate::postgres::MAX_CONNECTIONS * 9 / 10;
/// Connections to Postgres that nobody has used for so long are closed.
const SERVER_IDLE_SECONDS_MAX: u32 = 60;
/// File descriptors that are not clients'.
const DESCRIPTORS_KEPT: u64 = 300;

/// Versions from which PgBouncer has what the names say.
const PREPARED_STATEMENTS_SINCE: (u32, u32) = (1, 21);
const AUTH_DBNAME_SINCE: (u32, u32) = (1, 19);

/// What varies from start to start.
#[derive(Debug)]
pub(crate) struct Settings<'a> {
    /// Where PgBouncer listens, on 127.0.0.1.
    pub(crate) port: u16,
    /// Postgres's socket.
    pub(crate) sockets: &'a Path,
    pub(crate) server_port: u16,
    pub(crate) certificate: &'a Path,
    pub(crate) key: &'a Path,
    /// Its own folder.
    pub(crate) folder: &'a Path,
    pub(crate) log: &'a Path,
}

/// What a login needs, for roles that may log in now. Superusers are nobody's to
/// be, and names are of pg_catalog, whatever lies in the database.
const LOGIN_QUERY: &str = "SELECT rolname, rolpassword FROM pg_catalog.pg_authid \
    WHERE rolname OPERATOR(pg_catalog.=) $1 AND rolcanlogin AND NOT rolsuper \
    AND (rolvaliduntil IS NULL OR rolvaliduntil OPERATOR(pg_catalog.>) pg_catalog.now())";

/// TLS and SCRAM for everybody; nobody is the superuser, or gets to PgBouncer's
/// own console. (Old versions ignore a line with the address `all`.)
fn hba() -> String {
    format!(
        "# Written by neon-emulator at each start.\n\
         host    pgbouncer  all          127.0.0.1/32  reject\n\
         host    all        {SUPERUSER}  127.0.0.1/32  reject\n\
         hostssl all        all          127.0.0.1/32  scram-sha-256\n"
    )
}

impl Settings<'_> {
    /// Makes the folder with its files anew, for the user who runs PgBouncer.
    pub(super) fn write(&self, program: &Program, user: &ServerUser) -> io::Result<()> {
        match fs::remove_dir_all(self.folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::create_dir_all(self.folder)?;
        for (name, content) in [
            ("hba.conf", hba()),
            ("pgbouncer.ini", self.configuration(program)),
        ] {
            let path = self.folder.join(name);
            fs::write(&path, content)?;
            user.own(&path)?;
        }
        user.own(self.folder)
    }

    fn configuration(&self, program: &Program) -> String {
        let mut lines = vec![
            "; Written by neon-emulator at each start. No secret is in it.".to_owned(),
            "[databases]".to_owned(),
            format!(
                "* = host='{}' port={}",
                quoted(self.sockets),
                self.server_port
            ),
            "[pgbouncer]".to_owned(),
        ];
        let mut set = |name: &str, value: &str| lines.push(format!("{name} = {value}"));
        set("listen_addr", "127.0.0.1");
        set("listen_port", &self.port.to_string());
        set("unix_socket_dir", "");
        set("pool_mode", "transaction");
        set("max_client_conn", &clients_max().to_string());
        set("default_pool_size", &POOL_SIZE.to_string());
        set("query_wait_timeout", &QUERY_WAIT_SECONDS_MAX.to_string());
        set("server_idle_timeout", &SERVER_IDLE_SECONDS_MAX.to_string());
        if program.is_at_least(PREPARED_STATEMENTS_SINCE) {
            let max = PREPARED_STATEMENTS_MAX.to_string();
            set("max_prepared_statements", &max);
        }
        set("auth_type", "hba");
        let hba = self.folder.join("hba.conf");
        set("auth_hba_file", &hba.display().to_string());
        set("auth_user", SUPERUSER);
        set("auth_query", LOGIN_QUERY);
        if program.is_at_least(AUTH_DBNAME_SINCE) {
            // The one database that no role of the API owns.
            set("auth_dbname", "postgres");
        }
        set("admin_users", "");
        set("stats_users", "");
        set("client_tls_sslmode", "require");
        set(
            "client_tls_cert_file",
            &self.certificate.display().to_string(),
        );
        set("client_tls_key_file", &self.key.display().to_string());
        // Postgres has no TLS on its socket.
        set("server_tls_sslmode", "disable");
        set("log_connections", "0");
        set("log_disconnections", "0");
        set("log_stats", "0");
        lines.join("\n") + "\n"
    }
}

/// As many as Neon's, or as the system lets a process have.
fn clients_max() -> u64 {
    use nix::sys::resource::{Resource, getrlimit};
    let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
    let left = descriptors.saturating_sub(u64::from(POOL_SIZE) + DESCRIPTORS_KEPT);
    CLIENTS_MAX.min(left).max(1)
}

fn quoted(path: &Path) -> String {
    path.display().to_string().replace('\'', "''")
}
