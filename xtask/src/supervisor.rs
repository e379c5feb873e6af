//! The services that `up` runs: started in order, watched, stopped in the
//! opposite order.
//!
//! They outlive neither Ctrl-C nor a kill of this program: each is in a process
//! group of its own, so that the terminal's Ctrl-C reaches this program alone,
//! and on Linux the kernel sends it SIGTERM when this program is gone.

use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use nix::sys::signal::{SigSet, Signal};

use crate::process;
use crate::service::{LOOK_MS, Service, spawn};
use crate::step::{self, Step};

/// Signals this close to each other are one: `timeout` and shells send theirs to
/// the process and to its group.
const SAME_SIGNAL_MS: u64 = 1_000;

/// Why waiting ended before what it waited for came.
pub(crate) enum End {
    /// Somebody pressed Ctrl-C or sent a signal.
    Asked,
    /// A service ended by itself, or something else failed.
    Failed(anyhow::Error),
}

impl From<anyhow::Error> for End {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

/// Runs services. Dropped, it stops them.
pub(crate) struct Supervisor {
    logs: PathBuf,
    signals: Receiver<Signal>,
    services: Vec<Service>,
}

impl Supervisor {
    /// From here on SIGINT, SIGTERM and SIGHUP no longer end this program: they
    /// end whatever the supervisor waits for. To be called while this program
    /// has one thread: the threads it starts later inherit that.
    pub(crate) fn new(logs: PathBuf) -> Result<Self> {
        let awaited: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]
            .into_iter()
            .collect();
        awaited.thread_block().context("block signals")?;
        let (sender, signals) = mpsc::channel();
        std::thread::spawn(move || {
            while let Ok(signal) = awaited.wait() {
                if sender.send(signal).is_err() {
                    return;
                }
            }
        });
        Ok(Self {
            logs,
            signals,
            services: Vec::new(),
        })
    }

    /// Starts a service, on the main thread.
    pub(crate) fn start(&mut self, name: &'static str, command: Command) -> Result<()> {
        let service = Service::start(name, command, &self.logs)?;
        self.services.push(service);
        Ok(())
    }

    /// Waits for the next line that the service started last writes to standard
    /// output. Meanwhile the step shows what the service logs.
    pub(crate) fn line(&mut self, step: &Step, seconds_max: u64) -> Result<String, End> {
        let deadline = Instant::now() + Duration::from_secs(seconds_max);
        loop {
            if let Some(service) = self.services.last() {
                // One that has ended writes none; `look` tells how it ended.
                if let Some(line) = service.try_line() {
                    return Ok(line);
                }
                if Instant::now() > deadline {
                    return Err(service.late(seconds_max).into());
                }
            }
            self.look(step)?;
        }
    }

    /// Waits until a command has ended well that itself waits for the service
    /// started last.
    pub(crate) fn healthy(&mut self, step: &Step, mut command: Command) -> Result<(), End> {
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut probe = spawn(&mut command).context("start the health check")?;
        let outcome = loop {
            match probe.try_wait().context("wait for the health check") {
                Ok(Some(status)) if status.success() => break Ok(()),
                Ok(Some(_)) => break Err(self.unhealthy(&mut probe).into()),
                Ok(None) => {}
                Err(error) => break Err(error.into()),
            }
            if let Err(end) = self.look(step) {
                // It waits for a service that is gone or about to go.
                let _ = probe.kill();
                break Err(end);
            }
        };
        let _ = probe.wait();
        outcome
    }

    /// Waits for the end: a signal, or a service that ends by itself.
    pub(crate) fn watch(&mut self) -> End {
        self.services.iter_mut().for_each(Service::ignore_lines);
        loop {
            match self.signals.recv_timeout(Duration::from_millis(LOOK_MS)) {
                Ok(_) => return End::Asked,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return End::Failed(anyhow!("no more signals can be received"));
                }
            }
            if let Some((service, status)) = self.ended() {
                step::complain(&format!("the end of {}:", service.log.display()));
                for line in service.tail() {
                    step::complain(&format!("  {line}"));
                }
                return End::Failed(anyhow!("{} ended by itself: {status}", service.name));
            }
        }
    }

    /// Stops what runs, last started first. Another signal makes it short.
    pub(crate) fn stop(&mut self) {
        let patient_until = Instant::now() + Duration::from_millis(SAME_SIGNAL_MS);
        while let Some(mut service) = self.services.pop() {
            if service.ended().is_none() {
                let step = Step::start(&format!("stop {}", service.name));
                if service.stop(&self.signals, patient_until) {
                    step.done();
                } else {
                    step.done_with("killed");
                }
            }
        }
    }

    /// Waits a moment: fails when a signal came or a service has ended.
    fn look(&mut self, step: &Step) -> Result<(), End> {
        let moment = Duration::from_millis(LOOK_MS);
        if self.signals.recv_timeout(moment) != Err(RecvTimeoutError::Timeout) {
            return Err(End::Asked);
        }
        if let Some((service, status)) = self.ended() {
            return Err(service.failed_to_start(status).into());
        }
        if let (true, Some(service)) = (step::is_live(), self.services.last())
            && let Some(line) = service.tail().pop()
        {
            step.note(message(&line));
        }
        Ok(())
    }

    fn ended(&mut self) -> Option<(&Service, ExitStatus)> {
        self.services.iter_mut().find_map(|service| {
            let status = service.ended()?;
            Some((&*service, status))
        })
    }

    fn unhealthy(&self, probe: &mut Child) -> anyhow::Error {
        let mut said = String::new();
        if let Some(stderr) = &mut probe.stderr {
            // Whatever cannot be read is not said.
            let _ = stderr.read_to_string(&mut said);
        }
        let said = process::plain(said.trim());
        let said = said.strip_prefix("error: ").unwrap_or(&said);
        match self.services.last() {
            Some(service) => anyhow!("{said} (see {})", service.log.display()),
            None => anyhow!("{said}"),
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A log line without its time and level.
fn message(line: &str) -> &str {
    ["INFO ", "WARN ", "ERROR "]
        .iter()
        .find_map(|level| line.split_once(level))
        .map_or(line, |(_, message)| message)
}

#[cfg(test)]
mod tests {
    use super::message;

    #[test]
    fn a_note_shows_what_was_logged() {
        let line = "2026-01-10T09:00:00.000000Z  INFO broker: create branch api_v1_branch";
        assert_eq!(message(line), "broker: create branch api_v1_branch");
        assert_eq!(message("error: port taken"), "error: port taken");
    }
}
