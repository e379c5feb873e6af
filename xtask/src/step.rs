//! One line a step: what, how long, how it ended. On a terminal the line lives
//! while the step runs; elsewhere it is written once, at the end.
//!
//! Nothing here panics when the terminal is gone: the services still have to be
//! stopped then.

use std::io::{IsTerminal, Write, stderr, stdout};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const REDRAW_MS: u64 = 100;
/// Narrower than any terminal that people use: a live line must not wrap.
const LINE_CHARS_MAX: usize = 78;
const LABEL_CHARS: usize = 44;

/// A step that runs. Dropped without [`Step::done`], it has failed.
pub(crate) struct Step {
    label: String,
    started: Instant,
    live: Option<Live>,
    finished: bool,
}

struct Live {
    note: Arc<Mutex<String>>,
    stop: Sender<()>,
    painter: JoinHandle<()>,
}

impl Step {
    /// Starts the clock, and the live line if there is a terminal.
    pub(crate) fn start(label: &str) -> Self {
        let started = Instant::now();
        Self {
            label: label.to_owned(),
            started,
            live: is_live().then(|| Live::start(label.to_owned(), started)),
            finished: false,
        }
    }

    /// Shows what the step is at. Only on the live line.
    pub(crate) fn note(&self, text: &str) {
        if let Some(live) = &self.live {
            let mut note = live.note.lock().unwrap_or_else(PoisonError::into_inner);
            text.trim().clone_into(&mut note);
        }
    }

    /// The step has ended well.
    pub(crate) fn done(self) {
        self.done_with("");
    }

    /// The step has ended well, with a remark at the line's end.
    pub(crate) fn done_with(mut self, remark: &str) {
        self.finish(&mark("✓", "32"), remark);
    }

    /// The step could not run; the remark says why.
    pub(crate) fn skipped(mut self, remark: &str) {
        self.finish(&mark("-", "33"), remark);
    }

    fn finish(&mut self, mark: &str, remark: &str) {
        if std::mem::replace(&mut self.finished, true) {
            return;
        }
        if let Some(live) = self.live.take() {
            live.stop();
        }
        let seconds = self.started.elapsed().as_secs_f64();
        let line = format!(
            "{mark} {:<LABEL_CHARS$} {seconds:>6.1} s  {remark}",
            self.label
        );
        complain(line.trim_end());
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        self.finish(&mark("✗", "31"), "");
    }
}

impl Live {
    fn start(label: String, started: Instant) -> Self {
        let note = Arc::new(Mutex::new(String::new()));
        let (stop, stopped) = mpsc::channel();
        let shared = Arc::clone(&note);
        let painter = std::thread::spawn(move || {
            let redraw = Duration::from_millis(REDRAW_MS);
            while stopped.recv_timeout(redraw) == Err(RecvTimeoutError::Timeout) {
                let note = shared
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .clone();
                let seconds = started.elapsed().as_secs();
                let line = format!("… {label} {seconds} s  {note}");
                let line: String = line.chars().take(LINE_CHARS_MAX).collect();
                // A terminal that is gone is no reason to stop working.
                let _ = write!(stderr(), "\r\x1b[K{line}");
            }
            let _ = write!(stderr(), "\r\x1b[K");
        });
        Self {
            note,
            stop,
            painter,
        }
    }

    fn stop(self) {
        drop(self.stop);
        // It only paints: a panic in it loses a line, not the step.
        let _ = self.painter.join();
    }
}

/// Whether steps show what they are at while they run.
pub(crate) fn is_live() -> bool {
    stderr().is_terminal()
}

/// Writes a line to standard output: results.
pub(crate) fn say(line: &str) {
    let _ = writeln!(stdout(), "{line}");
}

/// Writes a line to standard error: what happens, and what went wrong.
pub(crate) fn complain(line: &str) {
    let _ = writeln!(stderr(), "{line}");
}

fn mark(mark: &str, colour: &str) -> String {
    if is_live() && std::env::var_os("NO_COLOR").is_none() {
        format!("\x1b[{colour}m{mark}\x1b[0m")
    } else {
        mark.to_owned()
    }
}
