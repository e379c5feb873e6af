//! What can go wrong with a request, told so that the caller can decide.
//!
//! Nothing in here prints the API key, a password or a connection URI: what the
//! server wrote is scrubbed before it is kept.

use std::fmt;
use std::time::Duration;

/// A [`NeonClient`](crate::NeonClient) that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ClientSetupError {
    /// The base URL is not one that a path can be added to.
    #[error("Neon API URL {url}: {problem}")]
    BaseUrl {
        /// The URL, without any user and password in it.
        url: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The key is empty or holds a character that no HTTP header can carry.
    #[error("the Neon API key {problem}")]
    Key {
        /// What is wrong with it.
        problem: &'static str,
    },
    /// TLS could not be set up; most often the machine has no root certificates.
    #[error("set up TLS for the Neon API")]
    Tls(#[source] rustls::Error),
    /// The HTTP client could not be set up.
    #[error("set up the HTTP client for the Neon API")]
    Http(#[source] reqwest::Error),
}

/// A method and a path below the base URL, identifiers included:
/// `POST /projects/late-frost-12345678/branches`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route(Box<RouteParts>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct RouteParts {
    method: &'static str,
    path: String,
}

impl Route {
    pub(crate) fn new(method: &'static str, path: String) -> Route {
        Route(Box::new(RouteParts { method, path }))
    }

    /// The HTTP method.
    #[must_use]
    pub fn method(&self) -> &str {
        self.0.method
    }

    /// The path below the base URL, percent-encoded, without the query.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.0.path
    }

    /// Whether the route only reads.
    #[must_use]
    pub fn is_read(&self) -> bool {
        self.0.method == "GET"
    }
}

impl fmt::Display for Route {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.0.method, self.0.path)
    }
}

/// How far a request came that got no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// No connection: the request was certainly not sent.
    Connect,
    /// The request may have been sent, in part or whole, and carried out.
    Exchange,
}

/// A request without the answer wished for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No answer, or not the whole of it.
    #[error("{route}: {}", transport_words(*phase, *timed_out))]
    Transport {
        /// The request.
        route: Route,
        /// How far it came.
        phase: Phase,
        /// Whether time ran out.
        timed_out: bool,
        /// What the network said; its URL is taken out.
        #[source]
        source: reqwest::Error,
    },
    /// Neon refused the request or failed at it, and said so.
    #[error("{route}: {status} {message}{}", api_notes(code, request_id.as_deref()))]
    Api {
        /// The request.
        route: Route,
        /// The HTTP status.
        status: u16,
        /// Neon's name for the error: `BRANCH_ALREADY_EXISTS`; often empty.
        code: String,
        /// Neon's words for it.
        message: String,
        /// Identifies the request to Neon's support.
        request_id: Option<String>,
        /// How long Neon asks to wait before the next request.
        retry_after: Option<Duration>,
    },
    /// A status that is no success, with a body that is not Neon's error: a
    /// gateway's HTML page, for example. Neon may be at work all the same.
    #[error(
        "{route}: {status} without Neon's error body{}",
        excerpt_words(excerpt)
    )]
    NotJson {
        /// The request.
        route: Route,
        /// The HTTP status.
        status: u16,
        /// A page's title or the body's first characters; empty when the body
        /// could not be read.
        excerpt: String,
        /// How long the server asks to wait before the next request.
        retry_after: Option<Duration>,
    },
    /// A success whose body is not the JSON that this route answers with.
    #[error("{route}: {status}, but the answer cannot be read: {problem}")]
    Decode {
        /// The request.
        route: Route,
        /// The HTTP status.
        status: u16,
        /// What is wrong with the body, where, and none of its values.
        problem: String,
    },
    /// A success whose body is larger than this client takes.
    #[error("{route}: {status}, but the answer is larger than {bytes_max} bytes")]
    TooLarge {
        /// The request.
        route: Route,
        /// The HTTP status.
        status: u16,
        /// The most that is taken, in bytes.
        bytes_max: usize,
    },
    /// A list that did not end within the pages that this client reads.
    #[error("{route}: the list does not end within {pages_max} pages")]
    TooManyPages {
        /// The request.
        route: Route,
        /// The most that are read.
        pages_max: usize,
    },
    /// A name that no path can carry. The request was not sent.
    #[error("{route}: the name {name:?} cannot stand in a path")]
    Name {
        /// The request, up to the name.
        route: Route,
        /// The name.
        name: String,
    },
    /// The request cannot be written. It was not sent.
    #[error("{route}: the request cannot be written")]
    Encode {
        /// The request.
        route: Route,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

impl Error {
    /// The request.
    #[must_use]
    pub fn route(&self) -> &Route {
        match self {
            Error::Transport { route, .. }
            | Error::Api { route, .. }
            | Error::NotJson { route, .. }
            | Error::Decode { route, .. }
            | Error::TooLarge { route, .. }
            | Error::TooManyPages { route, .. }
            | Error::Name { route, .. }
            | Error::Encode { route, .. } => route,
        }
    }

    /// The HTTP status, where there was one.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self {
            Error::Api { status, .. }
            | Error::NotJson { status, .. }
            | Error::Decode { status, .. }
            | Error::TooLarge { status, .. } => Some(*status),
            Error::Transport { .. }
            | Error::TooManyPages { .. }
            | Error::Name { .. }
            | Error::Encode { .. } => None,
        }
    }

    /// Neon's name for the error, where it gave one.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        match self {
            Error::Api { code, .. } if !code.is_empty() => Some(code),
            _ => None,
        }
    }

    /// How long the server asks to wait before the next request.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Error::Api { retry_after, .. } | Error::NotJson { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Whether Neon says that what the path names is not there. Shortly after a
    /// branch's creation it may say so of a branch that is. A 404 page that is
    /// not Neon's does not count: that is a wrong base URL.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Error::Api { status: 404, .. })
    }

    /// Whether Neon says that something of the kind or name is there already.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(self, Error::Api { status: 409, .. })
    }

    /// Whether the API key was not accepted, or not for this.
    #[must_use]
    pub fn is_unauthorized(&self) -> bool {
        matches!(self.status(), Some(401 | 403))
    }

    /// Whether no server was there to take the request.
    #[must_use]
    pub fn is_not_sent(&self) -> bool {
        matches!(
            self,
            Error::Transport {
                phase: Phase::Connect,
                ..
            } | Error::Name { .. }
                | Error::Encode { .. }
        )
    }

    /// Whether a mutation may or may not have happened: its answer was lost, cut
    /// or unreadable, or came from a server that failed halfway. Repeating it
    /// blindly may do it twice: look first. A read changes nothing, so this is
    /// never true of one.
    #[must_use]
    pub fn outcome_is_unknown(&self) -> bool {
        if self.route().is_read() {
            return false;
        }
        match self {
            Error::Transport { phase, .. } => *phase == Phase::Exchange,
            Error::Api { status, .. } | Error::NotJson { status, .. } => {
                *status >= 500 && *status != 503
            }
            Error::Decode { .. } | Error::TooLarge { .. } => true,
            Error::TooManyPages { .. } | Error::Name { .. } | Error::Encode { .. } => false,
        }
    }

    /// Whether the same request can be sent again without doing anything twice,
    /// and with hope of another answer. True of what was not carried out: not
    /// sent, 423, 429, 503, and a branch that is not ready yet; and, of reads
    /// alone, of every lost answer and server failure.
    #[must_use]
    pub fn may_repeat(&self) -> bool {
        let read = self.route().is_read();
        match self {
            Error::Transport { phase, .. } => read || *phase == Phase::Connect,
            Error::Api {
                status, message, ..
            } => repeatable_status(*status, read) || is_not_ready_yet(*status, message),
            Error::NotJson { status, .. } => repeatable_status(*status, read),
            Error::Decode { .. } => read,
            Error::TooLarge { .. }
            | Error::TooManyPages { .. }
            | Error::Name { .. }
            | Error::Encode { .. } => false,
        }
    }
}

fn repeatable_status(status: u16, read: bool) -> bool {
    matches!(status, 423 | 429 | 503) || (read && status >= 500)
}

/// The one 422 that passes: a branch asked for something while it is being made.
/// It has no code of its own.
fn is_not_ready_yet(status: u16, message: &str) -> bool {
    status == 422 && message.contains("not ready yet")
}

fn transport_words(phase: Phase, timed_out: bool) -> &'static str {
    match (phase, timed_out) {
        (Phase::Connect, false) => "not sent, no connection",
        (Phase::Connect, true) => "not sent, connecting took too long",
        (Phase::Exchange, false) => "no complete answer came",
        (Phase::Exchange, true) => "no complete answer came in time",
    }
}

fn api_notes(code: &str, request_id: Option<&str>) -> String {
    match (code, request_id) {
        ("", None) => String::new(),
        ("", Some(id)) => format!(" (request id {id})"),
        (code, None) => format!(" ({code})"),
        (code, Some(id)) => format!(" ({code}, request id {id})"),
    }
}

fn excerpt_words(excerpt: &str) -> String {
    match excerpt {
        "" => String::new(),
        excerpt => format!(": {excerpt}"),
    }
}
