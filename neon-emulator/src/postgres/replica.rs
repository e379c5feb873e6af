//! Hot standbys: what a data directory needs to be one, whom it follows, and the
//! log lines by which one says that it cannot go on.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use postgres_protocol::escape::escape_literal;
use tokio::time::sleep;
use tokio_postgres::Client;

use super::admin::AdminError;
use super::{SUPERUSER, ServerUser};

/// A standby refuses to be one, or stops replaying, where it has less of these
/// than its primary ("Hot Standby", chapter 27.4 of the manual).
const AT_LEAST_THE_PRIMARYS: [&str; 5] = [
    "max_connections",
    "max_locks_per_transaction",
    "max_prepared_transactions",
    "max_wal_senders",
    "max_worker_processes",
];
/// How soon a standby looks again for a primary that it has lost.
const RETRY_MS: u64 = 100;
/// How soon it looks whether there is more WAL when it has no primary: there is
/// none until it is told of one, which wakes it, and its log has a line each
/// time.
const RETRY_ALONE_MS: u64 = 3_600_000;
/// A standby tells nobody how far it is.
const REPLAY_POLL_MS: u64 = 10;

/// Makes the data directory a standby's.
pub(crate) fn make_standby(data: &Path, user: &ServerUser) -> io::Result<()> {
    let path = data.join("standby.signal");
    fs::OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(&path)?;
    user.own(&path)
}

/// The settings of a standby: those of its endpoint, though no less than the
/// primary has, and whom it follows.
pub(crate) fn settings(
    own: &BTreeMap<String, String>,
    primary: &BTreeMap<String, u64>,
    slot: &str,
    following: Following,
) -> BTreeMap<String, String> {
    // Postgres does not tell capitals apart.
    let mut settings: BTreeMap<String, String> = own
        .iter()
        .map(|(name, value)| (name.to_lowercase(), value.clone()))
        .collect();
    for (name, least) in primary {
        let is_enough = settings
            .get(name)
            .and_then(|value| value.trim().parse::<u64>().ok())
            .is_some_and(|value| value >= *least);
        if !is_enough {
            settings.insert(name.clone(), least.to_string());
        }
    }
    settings.insert("primary_slot_name".to_owned(), slot.to_owned());
    let following = following.0.into_iter();
    settings.extend(following.map(|(name, value)| (name.to_owned(), value)));
    settings
}

/// Whom a standby follows, as settings.
#[derive(Debug, Clone)]
pub(crate) struct Following([(&'static str, String); 2]);

impl Following {
    /// The primary at this port, over the Unix socket, as pg_hba.conf lets it.
    /// Without a port: nobody.
    pub(crate) fn new(sockets: &Path, port: Option<u16>, slot: &str) -> Self {
        let (conninfo, retry_ms) = match port {
            Some(port) => {
                let sockets = sockets.display().to_string();
                let sockets = sockets.replace('\\', "\\\\").replace('\'', "\\'");
                let conninfo = format!(
                    "host='{sockets}' port={port} user={SUPERUSER} application_name={slot}"
                );
                (conninfo, RETRY_MS)
            }
            None => (String::new(), RETRY_ALONE_MS),
        };
        Self([
            ("primary_conninfo", conninfo),
            ("wal_retrieve_retry_interval", format!("{retry_ms}ms")),
        ])
    }
}

/// Tells a running standby whom to follow.
pub(crate) async fn follow(standby: &Client, following: &Following) -> Result<(), AdminError> {
    let set = following
        .0
        .iter()
        .map(|(name, value)| format!("ALTER SYSTEM SET {name} = {}", escape_literal(value)));
    // Each by itself: no transaction may be around the first ones.
    for statement in set.chain(["SELECT pg_reload_conf()".to_owned()]) {
        standby
            .batch_execute(&statement)
            .await
            .map_err(AdminError::at("tell a replica whom to follow"))?;
    }
    Ok(())
}

/// Waits until a standby has replayed all that its primary has written so far.
/// The caller bounds the time.
pub(crate) async fn catch_up(primary: &Client, standby: &Client) -> Result<(), AdminError> {
    let attempt = || AdminError::at("wait for a replica");
    let end: String = primary
        .query_one("SELECT pg_current_wal_flush_lsn()::text", &[])
        .await
        .and_then(|row| row.try_get(0))
        .map_err(attempt())?;
    loop {
        let is_there: bool = standby
            .query_one(
                "SELECT coalesce(pg_last_wal_replay_lsn() >= $1::text::pg_lsn, false)",
                &[&end],
            )
            .await
            .and_then(|row| row.try_get(0))
            .map_err(attempt())?;
        if is_there {
            return Ok(());
        }
        sleep(Duration::from_millis(REPLAY_POLL_MS)).await;
    }
}

/// What a standby of this server needs at least.
pub(crate) async fn least_settings(primary: &Client) -> Result<BTreeMap<String, u64>, AdminError> {
    let attempt = || AdminError::at("read the settings that a replica needs");
    let rows = primary
        .query(
            "SELECT name, setting::bigint FROM pg_settings WHERE name = ANY($1)",
            &[&AT_LEAST_THE_PRIMARYS.as_slice()],
        )
        .await
        .map_err(attempt())?;
    rows.iter()
        .map(|row| {
            let value: i64 = row.try_get(1).map_err(attempt())?;
            let name = row.try_get(0).map_err(attempt())?;
            Ok((name, u64::try_from(value).unwrap_or_default()))
        })
        .collect()
}

/// True for the log line of a standby that will never get further: the WAL that
/// it needs is gone, its slot is, the primary's history is another than its
/// own, or the primary has more of something than it has itself.
pub(crate) fn cannot_go_on(line: &str) -> bool {
    // The walsender of an earlier connection, which is about to end.
    if line.contains(" is active for PID ") {
        return false;
    }
    [
        "FATAL:  could not start WAL streaming: ERROR:",
        "FATAL:  could not receive data from WAL stream: ERROR:",
        "FATAL:  database system identifier differs",
        "FATAL:  highest timeline",
        "WARNING:  hot standby is not possible because of insufficient parameter settings",
    ]
    .iter()
    .any(|sign| line.contains(sign))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standby_has_no_less_than_its_primary() {
        let text = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            let pairs = pairs.iter();
            pairs
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect()
        };
        let primary = BTreeMap::from([
            ("max_connections".to_owned(), 112),
            ("max_locks_per_transaction".to_owned(), 64),
            ("max_prepared_transactions".to_owned(), 20),
        ]);
        let own = text(&[
            ("Max_Prepared_Transactions", "5"),
            ("max_locks_per_transaction", "128"),
            ("work_mem", "8MB"),
        ]);
        let settings = settings(
            &own,
            &primary,
            "ep_a",
            Following::new(Path::new("/s"), None, "ep_a"),
        );
        assert_eq!(settings["primary_conninfo"], "");
        assert_eq!(settings["max_connections"], "112");
        assert_eq!(settings["max_locks_per_transaction"], "128");
        assert_eq!(settings["max_prepared_transactions"], "20");
        assert_eq!(settings["work_mem"], "8MB");
        assert_eq!(settings["primary_slot_name"], "ep_a");
        assert!(!settings.contains_key("Max_Prepared_Transactions"));
    }

    #[test]
    fn what_passes_is_told_from_what_does_not() {
        let at = |text: &str| cannot_go_on(&format!("2026-01-01 00:00:00.000 UTC [7] {text}"));
        for text in [
            "FATAL:  could not receive data from WAL stream: ERROR:  requested WAL segment 000000010000000000000003 has already been removed",
            "FATAL:  could not start WAL streaming: ERROR:  replication slot \"ep_a\" does not exist",
            "WARNING:  hot standby is not possible because of insufficient parameter settings",
        ] {
            assert!(at(text), "{text}");
        }
        for text in [
            "FATAL:  could not start WAL streaming: ERROR:  replication slot \"ep_a\" is active for PID 7",
            "FATAL:  could not receive data from WAL stream: server closed the connection unexpectedly",
            "FATAL:  could not connect to the primary server: connection to server on socket \"/s/.s.PGSQL.1\" failed",
            "LOG:  started streaming WAL from primary at 0/3000000 on timeline 1",
        ] {
            assert!(!at(text), "{text}");
        }
    }

    #[test]
    fn a_folder_with_a_quote_is_one_word() {
        let Following([(_, conninfo), _]) = Following::new(Path::new("/it's"), Some(7), "ep_a");
        assert!(conninfo.starts_with("host='/it\\'s' port=7 "), "{conninfo}");
    }
}
