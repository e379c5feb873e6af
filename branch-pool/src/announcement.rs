//! What a watch says, decoded on arrival, and what is said back.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use proto::broker::v1 as wire;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::{Status, Streaming};

use crate::clock;
use crate::error::LeaseError;
use crate::lease::{Destination, invalid, required};
use crate::usage::Hold;

/// How LeaseService calls it.
pub(crate) const WATCH: &str = "WatchBinding";

/// How many reports may wait to be sent: more than there are generations to speak of.
pub(crate) const REPORTS_MAX: usize = 16;

/// The longest pause that is believed, whatever the clocks say.
const PAUSE_MAX: Duration = Duration::from_secs(300);

/// The whole state of what is watched.
#[derive(Debug)]
pub(crate) struct Announcement {
    /// What to use. `None`: the binding is not ready, so what was said before stands.
    pub(crate) current: Option<Destination>,
    /// What to use next, if all can.
    pub(crate) pending: Option<Destination>,
    /// While to hold back.
    pub(crate) pause: Option<Hold>,
}

/// An open watch.
pub(crate) struct Announcements(Streaming<wire::WatchBindingResponse>);

/// What is said back on an open watch. All clones are one watch's.
#[derive(Debug, Clone)]
pub(crate) struct Reports(Arc<mpsc::Sender<wire::WatchBindingRequest>>);

/// What is said of a generation. In the order in which to say it: who has not
/// acknowledged anything is not listened to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Report {
    /// It is in use, or could be, or nothing runs any more.
    Ack(i64),
    /// It cannot be used; why, for people.
    Nack(i64, String),
    /// Nothing uses what was before it.
    Drained(i64),
}

impl Announcements {
    pub(crate) fn new(answers: Streaming<wire::WatchBindingResponse>) -> Self {
        Self(answers)
    }

    /// What is said next. The broker hanging up is an error.
    ///
    /// Safe to drop and to call again.
    pub(crate) async fn next(&mut self) -> Result<Announcement, LeaseError> {
        let status = match self.0.message().await {
            Ok(Some(answer)) => return decode(answer),
            Ok(None) => Status::unavailable("the broker ended the watch"),
            Err(status) => status,
        };
        Err(LeaseError::FailedCall {
            method: WATCH,
            status: Box::new(status),
        })
    }
}

impl Reports {
    pub(crate) fn new(sender: mpsc::Sender<wire::WatchBindingRequest>) -> Self {
        Self(Arc::new(sender))
    }

    /// Whether both are the same watch's.
    pub(crate) fn is_of(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Says it: false when it cannot be said now.
    pub(crate) fn say(&self, report: &Report) -> bool {
        let (kind, generation, message) = match report {
            Report::Ack(generation) => (wire::WatchReport::Ack, *generation, ""),
            Report::Nack(generation, why) => (wire::WatchReport::Nack, *generation, why.as_str()),
            Report::Drained(generation) => (wire::WatchReport::Drained, *generation, ""),
        };
        let request = wire::WatchBindingRequest {
            report: kind.into(),
            generation,
            message: message.to_owned(),
            ..Default::default()
        };
        self.0.try_send(request).is_ok()
    }
}

fn decode(answer: wire::WatchBindingResponse) -> Result<Announcement, LeaseError> {
    let destination = |target: wire::BindingTarget| {
        Destination::decode(WATCH, target.generation, target.branch, target.connection)
    };
    Ok(Announcement {
        current: answer.current.map(destination).transpose()?,
        pending: answer.pending.map(destination).transpose()?,
        pause: answer.pause.map(hold).transpose()?,
    })
}

fn hold(pause: wire::Pause) -> Result<Hold, LeaseError> {
    const DEADLINE: &str = "pause.deadline";
    let deadline = required(WATCH, DEADLINE, pause.deadline)?;
    let deadline = SystemTime::try_from(deadline).map_err(|_| invalid(WATCH, DEADLINE))?;
    Ok(Hold {
        generation: pause.generation,
        until: Instant::now() + clock::until(deadline).min(PAUSE_MAX),
        writes_only: pause.writes_only,
    })
}
