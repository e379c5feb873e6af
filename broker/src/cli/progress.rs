//! That something is waited for, on a terminal's stderr. Elsewhere nothing is said.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// How often the line moves, in milliseconds.
const TICK_MS: u64 = 120;

/// A line that is there for as long as this is.
#[derive(Debug)]
pub(super) struct Waiting(ProgressBar);

impl Waiting {
    /// `what` is waited for.
    pub(super) fn begin(what: impl Into<String>) -> Waiting {
        // It draws to stderr, and only to a terminal.
        let bar = ProgressBar::new_spinner().with_message(what.into());
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(TICK_MS));
        Waiting(bar)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
