//! How much a server does at once, at most. What comes beyond that is refused at once:
//! a queue would make everybody wait, and grow, when it is needed most.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tonic::Status;

use crate::status;

/// What a caller waits that was refused, in milliseconds: calls take less, and a
/// place comes free with each that ends.
const RETRY_AFTER_SHED_MS: u64 = 250;

/// The most that runs at once. Health and reflection are beside it: whoever asks
/// whether a busy server lives is to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Calls with one request and one answer.
    pub calls_max: u32,
    /// Calls with a stream of requests or of answers.
    pub streams_max: u32,
}

/// What runs of one kind, and how much of it may.
#[derive(Debug)]
pub(crate) struct Gate {
    running: AtomicU32,
    max: u32,
    reason: &'static str,
    what: &'static str,
}

/// The gates of a server: none, or one of calls and one of streams.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gates {
    pub(crate) calls: Option<Arc<Gate>>,
    pub(crate) streams: Option<Arc<Gate>>,
}

impl Gates {
    pub(crate) fn new(limits: Limits) -> Self {
        let gate = |max, reason, what| {
            Some(Arc::new(Gate {
                running: AtomicU32::new(0),
                max,
                reason,
                what,
            }))
        };
        Self {
            calls: gate(limits.calls_max, "TOO_MANY_CALLS", "calls"),
            streams: gate(limits.streams_max, "TOO_MANY_STREAMS", "streams"),
        }
    }
}

impl Gate {
    /// Takes a place, or says why there is none. A place that was taken is to be
    /// [left](Self::leave).
    pub(crate) fn enter(&self) -> Result<(), Status> {
        // Counted first: two that ask for the last place do not both get it. That a
        // few who are refused are counted for a moment refuses at worst a few more.
        if self.running.fetch_add(1, Ordering::Relaxed) < self.max {
            return Ok(());
        }
        self.leave();
        Err(status::resource_exhausted(
            self.reason,
            format!(
                "this server has {} {} running, as many as it may",
                self.max, self.what
            ),
            Some(Duration::from_millis(RETRY_AFTER_SHED_MS)),
        ))
    }

    /// Gives a place back.
    pub(crate) fn leave(&self) {
        self.running.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;
    use tonic_types::StatusExt;

    #[test]
    fn a_gate_has_so_many_places_and_each_comes_free_again() {
        let gates = Gates::new(Limits {
            calls_max: 2,
            streams_max: 1,
        });
        let (calls, streams) = (gates.calls.unwrap(), gates.streams.unwrap());
        for _ in 0..3 {
            assert!(calls.enter().is_ok() && calls.enter().is_ok());
            for _ in 0..10 {
                let status = calls.enter().unwrap_err();
                assert_eq!(status.code(), Code::ResourceExhausted);
                assert!(status.get_details_retry_info().is_some());
                let info = status.get_details_error_info().unwrap();
                assert_eq!(info.reason, "TOO_MANY_CALLS");
            }
            // The other kind has places of its own.
            assert!(streams.enter().is_ok());
            let status = streams.enter().unwrap_err();
            let info = status.get_details_error_info().unwrap();
            assert_eq!(info.reason, "TOO_MANY_STREAMS");
            calls.leave();
            assert!(calls.enter().is_ok(), "one has left");
            assert!(calls.enter().is_err());
            calls.leave();
            calls.leave();
            streams.leave();
        }
    }
}
