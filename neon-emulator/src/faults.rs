//! Faults on request: what a test wants to go wrong, and how often.
//!
//! A fault waits in a queue for the request or the operation that it names.
//! The oldest one that fits is taken, one for each request and operation. What
//! was asked of the API is remembered beside it, so that a test can say "one
//! creation, and a look before the second".

mod broken;
mod handle;
mod queue;
mod requests;

use neon_api::types::OperationAction;
use thiserror::Error;

pub use axum::http::Method;

pub(crate) use broken::{lost, truncated};
pub use handle::Faults;
pub use queue::{FaultId, QueuedFault};
pub(crate) use queue::{FaultQueue, Seen};
pub use requests::{RequestCount, RequestEntry, Requests};

/// The longest delay: a client that has not given up by then never will.
pub(crate) const DELAY_MS_MAX: u64 = 600_000;

/// Something that is to go wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// A request is answered badly.
    Route(RouteFault),
    /// An operation goes badly.
    Operation(OperationFault),
}

/// A request that is to be answered badly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteFault {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) effect: RouteEffect,
    pub(crate) path_contains: Option<String>,
    pub(crate) body_contains: Option<String>,
    pub(crate) count: u32,
}

/// How a request is answered badly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteEffect {
    /// 423: other work is going on. Nothing was done.
    Locked,
    /// 429: too many requests. Nothing was done.
    TooManyRequests {
        /// What Retry-After says.
        retry_after_seconds: u32,
    },
    /// 503. Nothing was done.
    Unavailable,
    /// 524, with a gateway's HTML page.
    GatewayTimeout {
        /// The work was done all the same.
        after: bool,
    },
    /// The work is done, and the connection is closed without a byte.
    LostAnswer,
    /// The work is done; the answer's head comes whole, and half of its body. An
    /// answer without a body is not changed.
    Truncated,
    /// Right, but late. The work is done even if the caller gives up.
    Delay {
        /// How late.
        milliseconds: u64,
        /// The work is done first, and then waited.
        after: bool,
    },
    /// The request is answered well. Before the answer, the Postgres of the
    /// endpoint that its path names, or of the branch's endpoint, is killed
    /// with SIGKILL.
    EndpointDies,
}

/// An operation that is to go badly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperationFault {
    pub(crate) action: OperationAction,
    pub(crate) effect: OperationEffect,
    pub(crate) branch: Option<String>,
    pub(crate) count: u32,
}

/// How an operation goes badly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OperationEffect {
    /// It ends as failed, with these words, instead of doing its work; what was
    /// half made for it goes.
    Fails {
        /// The operation's `error`.
        error: String,
    },
    /// It takes longer.
    Delay {
        /// How much longer.
        milliseconds: u64,
        /// The work is done first, and then waited.
        after: bool,
    },
    /// It is done, and at once the endpoint's Postgres is killed with SIGKILL.
    EndpointDies,
}

/// Why a fault was not queued.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum FaultError {
    /// A field makes no sense.
    #[error("{field}: {problem}")]
    Field {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// Nobody takes them, or takes them away.
    #[error("there are {faults_max} faults already; delete those that are no longer needed")]
    TooMany {
        /// The most there can be.
        faults_max: usize,
    },
}

impl FaultError {
    pub(crate) fn field(field: &'static str, problem: impl Into<String>) -> Self {
        Self::Field {
            field,
            problem: problem.into(),
        }
    }
}

impl RouteFault {
    /// For the next request of a method to a route, which is written as
    /// `/projects/{project_id}/branches`, without `/api/v2`.
    #[must_use]
    pub fn new(method: Method, path: impl Into<String>, effect: RouteEffect) -> Self {
        Self {
            method,
            path: path.into(),
            effect,
            path_contains: None,
            body_contains: None,
            count: 1,
        }
    }

    /// For requests alone whose path, with its query, contains this text.
    #[must_use]
    pub fn path_contains(mut self, text: impl Into<String>) -> Self {
        self.path_contains = Some(text.into());
        self
    }

    /// For requests alone whose body contains this text.
    #[must_use]
    pub fn body_contains(mut self, text: impl Into<String>) -> Self {
        self.body_contains = Some(text.into());
        self
    }

    /// For this many requests rather than for one.
    #[must_use]
    pub fn times(mut self, count: u32) -> Self {
        self.count = count;
        self
    }

    fn check(&self) -> Result<(), FaultError> {
        check_count(self.count)?;
        for (field, text) in [
            ("path_contains", &self.path_contains),
            ("body_contains", &self.body_contains),
        ] {
            if text.as_deref() == Some("") {
                return Err(FaultError::field(field, "is empty"));
            }
        }
        match self.effect {
            RouteEffect::Delay { milliseconds, .. } => check_delay(milliseconds),
            RouteEffect::EndpointDies
                if !["{endpoint_id}", "{branch_id}"]
                    .iter()
                    .any(|name| self.path.contains(name)) =>
            {
                let problem = "it names no endpoint and no branch, so none can die";
                Err(FaultError::field("path", problem))
            }
            _ => Ok(()),
        }
    }
}

impl OperationFault {
    /// For the next operation that does this.
    #[must_use]
    pub fn new(action: OperationAction, effect: OperationEffect) -> Self {
        Self {
            action,
            effect,
            branch: None,
            count: 1,
        }
    }

    /// For operations alone on the branch with this name or id.
    #[must_use]
    pub fn branch(mut self, name_or_id: impl Into<String>) -> Self {
        self.branch = Some(name_or_id.into());
        self
    }

    /// For this many operations rather than for one.
    #[must_use]
    pub fn times(mut self, count: u32) -> Self {
        self.count = count;
        self
    }

    fn check(&self) -> Result<(), FaultError> {
        check_count(self.count)?;
        if let OperationAction::Unknown(text) = &self.action {
            let problem = format!("there is no action {text:?}");
            return Err(FaultError::field("operation", problem));
        }
        match &self.effect {
            OperationEffect::Delay { milliseconds, .. } => check_delay(*milliseconds),
            OperationEffect::Fails { error } if error.is_empty() => {
                Err(FaultError::field("error", "is empty"))
            }
            _ => Ok(()),
        }
    }
}

impl Fault {
    pub(crate) fn check(&self) -> Result<(), FaultError> {
        match self {
            Self::Route(fault) => fault.check(),
            Self::Operation(fault) => fault.check(),
        }
    }

    pub(crate) fn count(&self) -> u32 {
        match self {
            Self::Route(fault) => fault.count,
            Self::Operation(fault) => fault.count,
        }
    }
}

impl From<RouteFault> for Fault {
    fn from(fault: RouteFault) -> Self {
        Self::Route(fault)
    }
}

impl From<OperationFault> for Fault {
    fn from(fault: OperationFault) -> Self {
        Self::Operation(fault)
    }
}

fn check_count(count: u32) -> Result<(), FaultError> {
    match count {
        0 => Err(FaultError::field("count", "must be at least 1")),
        _ => Ok(()),
    }
}

fn check_delay(milliseconds: u64) -> Result<(), FaultError> {
    match milliseconds {
        1..=DELAY_MS_MAX => Ok(()),
        _ => Err(FaultError::field(
            "milliseconds",
            format!("must be 1 to {DELAY_MS_MAX}"),
        )),
    }
}
