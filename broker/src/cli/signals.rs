//! Signals that are meant for the command that runs here.

use std::fs::File;
use std::io;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpgrp, tcgetpgrp};
use tokio::process::Child;
use tokio::signal::unix::{self, SignalKind, signal};

/// Those that end a program, and that it may want to see.
pub(super) struct Signals {
    interrupt: unix::Signal,
    terminate: unix::Signal,
    hangup: unix::Signal,
    quit: unix::Signal,
}

impl Signals {
    /// From now on they end this process no more.
    pub(super) fn listen() -> io::Result<Signals> {
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            quit: signal(SignalKind::quit())?,
        })
    }

    /// The next one. Safe to drop and to call again.
    pub(super) async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.interrupt.recv() => Signal::SIGINT,
            _ = self.terminate.recv() => Signal::SIGTERM,
            _ = self.hangup.recv() => Signal::SIGHUP,
            _ = self.quit.recv() => Signal::SIGQUIT,
        }
    }
}

/// Hands a signal on, unless the child has it already: what is typed at a terminal
/// goes to all of its foreground group, and many programs take a second Ctrl-C for an
/// order to leave everything as it is. There, a SIGINT that somebody sends to this
/// process alone is not handed on; SIGTERM always is.
pub(super) fn forward(signal: Signal, child: &Child) {
    let is_typed = matches!(signal, Signal::SIGINT | Signal::SIGQUIT);
    if is_typed && is_in_foreground() {
        return;
    }
    // None: it has ended, and its id may be another's.
    let id = child.id().and_then(|id| i32::try_from(id).ok());
    if let Some(id) = id {
        // It may be a zombie by now.
        let _ = kill(Pid::from_raw(id), signal);
    }
}

/// Whether what is typed at the terminal comes here.
fn is_in_foreground() -> bool {
    let group = File::open("/dev/tty").map(tcgetpgrp);
    matches!(group, Ok(Ok(group)) if group == getpgrp())
}
