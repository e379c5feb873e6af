//! What an emulator that was killed leaves behind: postmasters without a
//! supervisor, and backends without a postmaster, which hold the branch's
//! shared memory and keep a new server from starting.

use std::fs;
#[cfg(target_os = "linux")]
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use thiserror::Error;
use tracing::{info, warn};

/// How long a leftover may take to end before it is killed.
const FAST_SHUTDOWN_SECONDS_MAX: u64 = 10;
/// How long a killed process may take to be gone.
const KILL_SECONDS_MAX: u64 = 5;
/// These are no children of ours: nothing tells of their end.
const POLL_MS: u64 = 5;

/// A process of an earlier run that does not go away.
#[derive(Debug, Error)]
#[error("process {pid} of an earlier run still uses {} and does not end; end it by hand", data.display())]
pub(crate) struct LeftoverError {
    pid: i32,
    data: PathBuf,
}

/// Ends every process that an earlier run left on this data directory.
///
/// A process counts only when it is a postgres whose working directory is the
/// data directory: a pid file alone proves nothing, since pids are used again.
///
/// # Errors
/// [`LeftoverError`] when one does not end even by SIGKILL.
pub(crate) fn remove_leftovers(data: &Path) -> Result<(), LeftoverError> {
    if let Some(postmaster) = postmaster_of(data) {
        info!(pid = postmaster.as_raw(), data = %data.display(), "ending a Postgres of an earlier run");
        // SIGINT: fast shutdown, with a checkpoint.
        signal(postmaster, Signal::SIGINT);
        wait_gone(&[postmaster], FAST_SHUTDOWN_SECONDS_MAX);
    }
    let rest = processes_in(data);
    for pid in &rest {
        signal(*pid, Signal::SIGKILL);
    }
    match wait_gone(&rest, KILL_SECONDS_MAX) {
        None => {
            // Its pid may be somebody else's by now, whom Postgres would take
            // for a running server.
            let _ = fs::remove_file(data.join("postmaster.pid"));
            Ok(())
        }
        Some(pid) => Err(LeftoverError {
            pid: pid.as_raw(),
            data: data.to_owned(),
        }),
    }
}

/// Kills the servers that an earlier run left below a folder and whose own
/// folders nobody finds any more. Elsewhere than on Linux they are not found.
pub(crate) fn end_servers_below(folder: &Path) {
    let Ok(folder) = fs::canonicalize(folder) else {
        return;
    };
    let left: Vec<Pid> = processes_below(&folder)
        .into_iter()
        .filter(|pid| is_postgres(*pid))
        .collect();
    for pid in &left {
        info!(pid = pid.as_raw(), folder = %folder.display(), "ending a Postgres of an earlier run");
        signal(*pid, Signal::SIGKILL);
    }
    if let Some(pid) = wait_gone(&left, KILL_SECONDS_MAX) {
        warn!(pid = pid.as_raw(), folder = %folder.display(), "a Postgres of an earlier run does not end");
    }
}

/// Processes that work in a folder below this one.
#[cfg(target_os = "linux")]
pub(crate) fn processes_below(folder: &Path) -> Vec<Pid> {
    let works_below = |pid: &Pid| {
        fs::read_link(format!("/proc/{pid}/cwd"))
            .is_ok_and(|cwd| cwd != folder && cwd.starts_with(folder))
    };
    every_process().filter(works_below).collect()
}

/// Elsewhere by what they were started with: a file below the folder.
#[cfg(not(target_os = "linux"))]
pub(crate) fn processes_below(folder: &Path) -> Vec<Pid> {
    let listed = std::process::Command::new("ps")
        .args(["-A", "-o", "pid=,command="])
        .output();
    let text = listed.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let mentions = |line: &str| line.contains(&format!("{}/", folder.display()));
    text.unwrap_or_default()
        .lines()
        .filter(|line| mentions(line))
        .filter_map(|line| line.split_whitespace().next()?.parse().ok())
        .map(Pid::from_raw)
        .collect()
}

#[cfg(target_os = "linux")]
fn every_process() -> impl Iterator<Item = Pid> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok().map(Pid::from_raw))
}

fn postmaster_of(data: &Path) -> Option<Pid> {
    let file = fs::read_to_string(data.join("postmaster.pid")).ok()?;
    let pid = Pid::from_raw(file.lines().next()?.trim().parse().ok()?);
    works_in(pid, data).then_some(pid)
}

#[cfg(target_os = "linux")]
fn processes_in(data: &Path) -> Vec<Pid> {
    every_process().filter(|pid| works_in(*pid, data)).collect()
}

/// Elsewhere backends are left to notice by themselves that their postmaster
/// is gone.
#[cfg(not(target_os = "linux"))]
fn processes_in(data: &Path) -> Vec<Pid> {
    postmaster_of(data).into_iter().collect()
}

/// Every process of a server works in its data directory.
#[cfg(target_os = "linux")]
fn works_in(pid: Pid, data: &Path) -> bool {
    // By what it is, not by its name: the mounts of an earlier run may be others.
    let identity = |path: &Path| {
        fs::metadata(path)
            .ok()
            .map(|found| (found.dev(), found.ino()))
    };
    is_postgres(pid)
        && identity(data)
            .is_some_and(|folder| identity(format!("/proc/{pid}/cwd").as_ref()) == Some(folder))
}

#[cfg(target_os = "linux")]
fn is_postgres(pid: Pid) -> bool {
    fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|program| {
        // An upgrade leaves "postgres (deleted)".
        let name = program.file_name().unwrap_or_default();
        name.to_string_lossy().starts_with("postgres")
    })
}

#[cfg(not(target_os = "linux"))]
fn is_postgres(_pid: Pid) -> bool {
    false
}

#[cfg(not(target_os = "linux"))]
fn works_in(pid: Pid, data: &Path) -> bool {
    std::process::Command::new("ps")
        .args(["-o", "command=", "-p", &pid.to_string()])
        .output()
        .is_ok_and(|output| {
            String::from_utf8_lossy(&output.stdout).contains(&*data.to_string_lossy())
        })
}

fn signal(pid: Pid, signal: Signal) {
    // One that has just ended needs no signal.
    let _ = kill(pid, signal);
}

/// Waits for all of them; names one that is still there at the end. Runs on a
/// thread of its own, never on the runtime's.
#[allow(clippy::disallowed_methods)]
fn wait_gone(pids: &[Pid], seconds_max: u64) -> Option<Pid> {
    let deadline = Instant::now() + Duration::from_secs(seconds_max);
    loop {
        let alive = pids
            .iter()
            .copied()
            .find(|pid| kill(*pid, None) != Err(Errno::ESRCH));
        if alive.is_none() || Instant::now() >= deadline {
            return alive;
        }
        std::thread::sleep(Duration::from_millis(POLL_MS));
    }
}
