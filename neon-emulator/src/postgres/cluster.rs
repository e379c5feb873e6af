//! One data directory: made by initdb once, configured anew at each start.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use thiserror::Error;

use super::{Archive, Installation, Recovery, SUPERUSER, ServerUser};
use crate::storage::Durability;

/// Small segments: they are copied whole with each clone of a busy parent.
const WAL_SEGMENT_MB: u32 = 1;
/// What Neon gives its smallest compute.
pub(crate) const MAX_CONNECTIONS: u32 = 112;

/// For clones, and for replicas that come back before the primary has noticed
/// that they were away.
const SENDERS_SPARE: u32 = 6;
/// How much WAL is kept for a replica that does not take it. A clone keeps its
/// own in the same way, and must never need more.
const SLOT_WAL_MAX: &str = "16GB";

/// The file with what becomes of the WAL.
const ARCHIVING: &str = "archiving.conf";

/// A data directory and what is needed to run a server on it.
#[derive(Debug, Clone)]
pub(crate) struct Cluster {
    /// PGDATA.
    pub(crate) data: PathBuf,
    /// The programs.
    pub(crate) installation: Installation,
    /// Who runs them.
    pub(crate) user: ServerUser,
    /// Where Unix sockets are made.
    pub(crate) sockets: PathBuf,
    /// What its data are to survive.
    pub(crate) durability: Durability,
    /// Where its WAL is kept.
    pub(crate) archive: Option<Archive>,
    /// Up to where it is recovered at its next start.
    pub(crate) recovery: Option<Recovery>,
}

/// Where a server listens. The port also names the Unix socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Listen {
    /// 127.0.0.1 and the Unix socket.
    Loopback(u16),
    /// The Unix socket alone: for the emulator's own errands on a branch that
    /// has no endpoint.
    SocketOnly(u16),
}

impl Listen {
    /// The port, which also names the Unix socket.
    pub(crate) fn port(self) -> u16 {
        match self {
            Self::Loopback(port) | Self::SocketOnly(port) => port,
        }
    }
}

/// What varies from start to start.
#[derive(Debug)]
pub(crate) struct Settings<'a> {
    pub(crate) listen: Listen,
    /// Server certificate, and its key, readable by the user who runs Postgres.
    pub(crate) certificate: &'a Path,
    pub(crate) key: &'a Path,
    /// How many servers may replicate from this one.
    pub(crate) replicas_max: u32,
    /// Settings that the API's callers asked for; the emulator's own win.
    pub(crate) extra: &'a std::collections::BTreeMap<String, String>,
    /// A pooler may log in over the socket.
    pub(crate) has_pooler: bool,
}

/// Why a data directory could not be made or configured.
#[derive(Debug, Error)]
pub(crate) enum ClusterError {
    #[error("could not run initdb for {}", data.display())]
    Initdb {
        data: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("initdb failed for {}: {message}", data.display())]
    InitdbFailed { data: PathBuf, message: String },
    #[error("could not write {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is of Postgres {found}, and the programs at {} are of {}; give the matching ones with --postgres-bin", data.display(), bin.display(), wanted)]
    OtherVersion {
        data: PathBuf,
        found: String,
        bin: PathBuf,
        wanted: u32,
    },
}

impl Cluster {
    /// Makes the data directory with initdb, in an empty folder. Nothing is
    /// forced to the disk: see `Storage::settle`.
    pub(crate) fn create(&self) -> Result<(), ClusterError> {
        let output = self
            .user
            .command(&self.installation.program("initdb"))
            .arg("--pgdata")
            .arg(&self.data)
            .args(["--username", SUPERUSER, "--auth", "reject"])
            .args(["--encoding", "UTF8", "--locale", "C.UTF-8", "--no-sync"])
            .arg(format!("--wal-segsize={WAL_SEGMENT_MB}"))
            .current_dir("/")
            .stdin(Stdio::null())
            .output()
            .map_err(|source| ClusterError::Initdb {
                data: self.data.clone(),
                source,
            })?;
        if output.status.success() {
            return Ok(());
        }
        let stderr = String::from_utf8_lossy(&output.stderr);
        Err(ClusterError::InitdbFailed {
            data: self.data.clone(),
            message: last_line(&stderr).to_owned(),
        })
    }

    /// Writes the configuration files: what the emulator's version wants, not
    /// what the branch was made with.
    pub(crate) fn configure(&self, settings: &Settings<'_>) -> Result<(), ClusterError> {
        self.check_version()?;
        self.write("postgresql.conf", &self.configuration(settings))?;
        self.configure_archiving()?;
        if self.recovery.is_some() {
            self.write("recovery.signal", "")?;
        }
        self.write("pg_hba.conf", &hba(settings.has_pooler))?;
        let server_user = self.user.name();
        let mut lines = vec![
            format!("emulator \"{}\" {SUPERUSER}\n", self.user.emulator_name()),
            format!("replica \"{server_user}\" {SUPERUSER}\n"),
        ];
        // The pooler runs as who runs Postgres, to whom all data belong anyway.
        if settings.has_pooler && server_user != self.user.emulator_name() {
            lines.push(format!("emulator \"{server_user}\" {SUPERUSER}\n"));
        }
        self.write("pg_ident.conf", &lines.concat())
    }

    /// Writes what becomes of the WAL: in a file of its own, which is written anew
    /// while the server runs.
    pub(crate) fn configure_archiving(&self) -> Result<(), ClusterError> {
        let mut text = String::from("# Written by neon-emulator.\n");
        if let Some(archive) = &self.archive {
            archive.make_folder(&self.user)?;
            for (name, value) in archive.settings() {
                push_setting(&mut text, name, &value);
            }
        }
        self.write(ARCHIVING, &text)
    }

    /// True where its WAL is kept.
    pub(crate) fn keeps_wal(&self) -> bool {
        self.archive.as_ref().is_some_and(|archive| archive.is_kept)
    }

    fn check_version(&self) -> Result<(), ClusterError> {
        let path = self.data.join("PG_VERSION");
        let found = fs::read_to_string(&path)
            .map_err(|source| ClusterError::Write { path, source })?
            .trim()
            .to_owned();
        if found == self.installation.major().to_string() {
            return Ok(());
        }
        Err(ClusterError::OtherVersion {
            data: self.data.clone(),
            found,
            bin: self.installation.bin().to_owned(),
            wanted: self.installation.major(),
        })
    }

    fn configuration(&self, settings: &Settings<'_>) -> String {
        let (addresses, port) = match settings.listen {
            Listen::Loopback(port) => ("127.0.0.1", port),
            Listen::SocketOnly(port) => ("", port),
        };
        let senders = (settings.replicas_max + SENDERS_SPARE).to_string();
        let own: &[(&str, String)] = &[
            ("listen_addresses", addresses.to_owned()),
            ("port", port.to_string()),
            (
                "unix_socket_directories",
                self.sockets.display().to_string(),
            ),
            ("max_connections", MAX_CONNECTIONS.to_string()),
            ("shared_buffers", "16MB".to_owned()),
            ("dynamic_shared_memory_type", "posix".to_owned()),
            ("wal_level", "replica".to_owned()),
            ("max_wal_senders", senders.clone()),
            ("max_replication_slots", senders),
            // A replica that is far behind is made anew rather than let the
            // disk fill up.
            ("max_slot_wal_keep_size", SLOT_WAL_MAX.to_owned()),
            // Bounds what a clone of a busy branch has to replay.
            ("max_wal_size", "64MB".to_owned()),
            ("min_wal_size", "8MB".to_owned()),
            ("max_logical_replication_workers", "0".to_owned()),
            // Without fsync a commit is in the kernel's hands: it survives the
            // death of any process, not of the machine. See docs/ARCHITECTURE.md.
            ("fsync", on_or_off(self.durability == Durability::Machine)),
            // A clone is copied while pages are written.
            ("full_page_writes", "on".to_owned()),
            ("ssl", "on".to_owned()),
            ("ssl_cert_file", settings.certificate.display().to_string()),
            ("ssl_key_file", settings.key.display().to_string()),
            ("password_encryption", "scram-sha-256".to_owned()),
            ("log_destination", "stderr".to_owned()),
            ("logging_collector", "off".to_owned()),
            ("log_line_prefix", "%m [%p] ".to_owned()),
            ("log_timezone", "UTC".to_owned()),
            // Statements may hold passwords: none is ever logged, not even one
            // that failed. A role of the API is no superuser and cannot turn
            // these on.
            ("log_statement", "none".to_owned()),
            ("log_min_error_statement", "panic".to_owned()),
            ("log_min_duration_statement", "-1".to_owned()),
            ("log_duration", "off".to_owned()),
            // The start is told by a log line: see `server`.
            ("lc_messages", "C".to_owned()),
            // A start after a crash syncs the data directory: one call is
            // enough where there is one for a whole file system.
            #[cfg(target_os = "linux")]
            ("recovery_init_sync_method", "syncfs".to_owned()),
        ];
        let recovery = self.recovery.as_ref().map(Recovery::settings);
        let defaults: &[(&str, &str)] = &[
            ("timezone", "UTC"),
            ("default_text_search_config", "pg_catalog.english"),
        ];
        let mut text = String::from("# Written by neon-emulator at each start.\n");
        for (name, value) in defaults {
            push_setting(&mut text, name, value);
        }
        for (name, value) in settings.extra {
            push_setting(&mut text, name, value);
        }
        // Postgres takes the last of several values.
        for (name, value) in own.iter().chain(recovery.iter().flatten()) {
            push_setting(&mut text, name, value);
        }
        text.push_str("include '");
        text.push_str(ARCHIVING);
        text.push_str("'\n");
        text
    }

    fn write(&self, name: &str, content: &str) -> Result<(), ClusterError> {
        let path = self.data.join(name);
        // Renamed into place: the folder is Postgres's, and what lies there
        // under this name, a link perhaps, is not to be written through.
        tempfile::NamedTempFile::new_in(&self.data)
            .and_then(|mut file| {
                file.write_all(content.as_bytes())?;
                self.user.own(file.path())?;
                file.persist(&path).map_err(|error| error.error)
            })
            .map(|_| ())
            .map_err(|source| ClusterError::Write { path, source })
    }
}

/// TLS and SCRAM for everybody on TCP, except the superuser, who is refused
/// there. On the socket the emulator's own user is the superuser, and a pooler,
/// where there is one, brings others, by SCRAM as well.
///
/// Replicas stream over the socket as the superuser, and nothing else: their
/// processes belong to the user who runs Postgres, who has a map of his own that
/// only replication asks for. That gives him nothing: he owns the files that are
/// streamed. Nor does it give callers anything, who make a server connect
/// somewhere by dblink, postgres_fdw or a subscription: they may not create
/// these, all of them refuse a connection of theirs that needs no password, and
/// the last asks for a database, which `replication` does not stand for. Over
/// TCP nobody replicates: any role of the API could take the whole cluster.
fn hba(has_pooler: bool) -> String {
    let others = match has_pooler {
        true => "scram-sha-256",
        false => "reject",
    };
    format!(
        "\
# Written by neon-emulator at each start.
local   all          {SUPERUSER}                 peer map=emulator
local   replication  {SUPERUSER}                 peer map=replica
local   all          all                         {others}
host    all          {SUPERUSER}  all            reject
hostssl all          all          127.0.0.1/32   scram-sha-256
host    all          all          all            reject
"
    )
}

fn on_or_off(on: bool) -> String {
    if on { "on" } else { "off" }.to_owned()
}

fn push_setting(text: &mut String, name: &str, value: &str) {
    text.push_str(name);
    text.push_str(" = '");
    text.push_str(&value.replace('\\', "\\\\").replace('\'', "''"));
    text.push_str("'\n");
}

fn last_line(text: &str) -> &str {
    text.lines()
        .rev()
        .find(|line| !line.trim().is_empty())
        .unwrap_or("it said nothing")
}
