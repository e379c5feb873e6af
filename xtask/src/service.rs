//! One service: its process, its lines, its log.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::unistd::Pid;

use crate::process;
use crate::step;

/// How often a process is looked at. No more than a few system calls.
pub(crate) const LOOK_MS: u64 = 50;
/// A service that has not ended this long after SIGTERM is killed. Postgres
/// writes a checkpoint when it stops.
const STOP_SECONDS_MAX: u64 = 20;
/// A log that has grown beyond this is started anew.
const LOG_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// How much of a log's end is looked at, and how much of that is shown.
const TAIL_BYTES: u64 = 16 * 1024;
const TAIL_LINES: usize = 20;

/// A process that runs until it is stopped.
pub(crate) struct Service {
    pub(crate) name: &'static str,
    child: Child,
    /// What it writes to standard output until somebody has read enough.
    lines: Option<Receiver<String>>,
    pub(crate) log: PathBuf,
    /// Where in the log this run begins.
    log_start: u64,
}

impl Service {
    /// Starts it. Its standard error goes to its log.
    ///
    /// To be called on the main thread: the kernel ties a child to the thread
    /// that started it, and that one lives as long as this program.
    pub(crate) fn start(name: &'static str, mut command: Command, logs: &Path) -> Result<Self> {
        let log = logs.join(format!("{name}.log"));
        let (file, log_start) =
            open_log(&log).with_context(|| format!("open the log {}", log.display()))?;
        command.stdout(Stdio::piped()).stderr(file);
        let mut child = spawn(&mut command).with_context(|| format!("start {name}"))?;
        let lines = child.stdout.take().map(read_lines);
        Ok(Self {
            name,
            child,
            lines,
            log,
            log_start,
        })
    }

    /// How it ended; None while it runs.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// A line that it wrote to standard output, if there is one.
    pub(crate) fn try_line(&self) -> Option<String> {
        self.lines.as_ref()?.try_recv().ok()
    }

    /// It has said on standard output what it has to say.
    pub(crate) fn ignore_lines(&mut self) {
        self.lines = None;
    }

    /// Asks it to end and waits; whether it did. A signal makes the wait short,
    /// if it comes after `patient_until`.
    pub(crate) fn stop(&mut self, signals: &Receiver<Signal>, patient_until: Instant) -> bool {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        let deadline = Instant::now() + Duration::from_secs(STOP_SECONDS_MAX);
        let asked = kill(pid, Signal::SIGTERM);
        while asked.is_ok() && Instant::now() < deadline {
            if self.ended().is_some() {
                return true;
            }
            match signals.recv_timeout(Duration::from_millis(LOOK_MS)) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(_) if Instant::now() < patient_until => {}
                Ok(_) | Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        // The whole group: what it started has nobody left to stop it. An error
        // means that there is nothing to kill.
        let _ = killpg(pid, Signal::SIGKILL);
        let _ = self.child.wait();
        false
    }

    /// Its own last words, if it had any for people; else the end of its log.
    pub(crate) fn failed_to_start(&self, status: ExitStatus) -> anyhow::Error {
        let tail = self.tail();
        let said = tail
            .iter()
            .rev()
            .find_map(|line| line.strip_prefix("error: "));
        if let Some(said) = said {
            return anyhow!("{} did not start: {said}", self.name);
        }
        for line in &tail {
            step::complain(&format!("  {line}"));
        }
        anyhow!(
            "{} did not start: {status} (see {})",
            self.name,
            self.log.display()
        )
    }

    pub(crate) fn late(&self, seconds: u64) -> anyhow::Error {
        anyhow!(
            "{} did not get ready within {seconds} s (see {})",
            self.name,
            self.log.display()
        )
    }

    /// The last lines of this run's log. A log that cannot be read is empty.
    pub(crate) fn tail(&self) -> Vec<String> {
        let read = || -> io::Result<Vec<u8>> {
            let mut file = File::open(&self.log)?;
            let end = file.metadata()?.len();
            file.seek(SeekFrom::Start(
                self.log_start.max(end.saturating_sub(TAIL_BYTES)),
            ))?;
            let mut bytes = Vec::new();
            file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        let text = process::plain(&String::from_utf8_lossy(&read().unwrap_or_default()));
        let lines: Vec<&str> = text
            .lines()
            .filter(|line| !line.trim().is_empty())
            .collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..]
            .iter()
            .map(|line| (*line).to_owned())
            .collect()
    }
}

/// Starts a command in a process group of its own, deaf to nothing, and tied to
/// the life of this thread.
#[allow(unsafe_code)]
pub(crate) fn spawn(command: &mut Command) -> io::Result<Child> {
    #[cfg(target_os = "linux")]
    let parent = nix::unistd::getpid();
    let prepare = move || {
        // This program blocks signals, and a child inherits that.
        SigSet::all().thread_unblock()?;
        #[cfg(target_os = "linux")]
        {
            nix::sys::prctl::set_pdeathsig(Signal::SIGTERM)?;
            // Gone already: the kernel will not say so any more.
            if nix::unistd::getppid() != parent {
                return Err(nix::errno::Errno::ESRCH.into());
            }
        }
        Ok(())
    };
    command.process_group(0);
    // SAFETY: between fork and exec it makes system calls that are safe after a
    // fork, and neither allocates nor takes a lock.
    unsafe { command.pre_exec(prepare) };
    command.spawn()
}

/// Hands on the lines that come, until nobody listens; then throws them away,
/// so that the writer never blocks.
fn read_lines(stdout: ChildStdout) -> Receiver<String> {
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            // Nobody listens any more.
            let _ = sender.send(line);
        }
    });
    lines
}

/// Opens a log for appending, private, and says where it ends.
fn open_log(path: &Path) -> io::Result<(File, u64)> {
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)?;
    if file.metadata()?.len() > LOG_BYTES_MAX {
        file.set_len(0)?;
    }
    let end = file.metadata()?.len();
    Ok((file, end))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use anyhow::Result;

    use super::{LOG_BYTES_MAX, open_log};

    #[test]
    fn a_log_is_appended_to_until_it_is_too_long() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("broker.log");
        let (mut file, start) = open_log(&path)?;
        assert_eq!(start, 0);
        file.write_all(b"one\n")?;
        assert_eq!(open_log(&path)?.1, 4);
        file.set_len(LOG_BYTES_MAX + 1)?;
        assert_eq!(open_log(&path)?.1, 0);
        Ok(())
    }
}
