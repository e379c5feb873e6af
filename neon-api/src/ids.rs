//! Identifiers, each its own type, checked when parsed.
//!
//! A role's and a database's name are not here: they are Postgres identifiers,
//! which may be any text.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The longest identifier that the API has, in characters.
const ID_LENGTH_MAX: usize = 60;

/// How much of a refused identifier its error repeats, in characters.
const SHOWN_LENGTH_MAX: usize = 80;

/// A text that is not an identifier of the kind asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdError {
    /// The kind of identifier, in words: `project id`.
    pub kind: &'static str,
    /// The text as given, shortened.
    pub text: String,
    /// What is wrong with it.
    pub problem: IdProblem,
}

/// What is wrong with a text that should be an identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdProblem {
    /// There is no text.
    Empty,
    /// Longer than 60 characters; this many.
    TooLong(usize),
    /// A character other than a-z, 0-9 and `-`; the first one.
    BadCharacter(char),
    /// Not a UUID.
    NotUuid,
}

impl fmt::Display for IdError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let IdError { kind, text, .. } = self;
        match self.problem {
            IdProblem::Empty => write!(formatter, "{kind} is empty"),
            IdProblem::TooLong(length) => write!(
                formatter,
                "{kind} {text:?} has {length} characters, at most {ID_LENGTH_MAX} are allowed"
            ),
            IdProblem::BadCharacter(character) => write!(
                formatter,
                "{kind} {text:?} has the character {character:?}, only a-z, 0-9 and - are allowed"
            ),
            IdProblem::NotUuid => write!(formatter, "{kind} {text:?} is not a UUID"),
        }
    }
}

impl std::error::Error for IdError {}

impl IdError {
    fn new(kind: &'static str, text: &str, problem: IdProblem) -> IdError {
        let text = text.chars().take(SHOWN_LENGTH_MAX).collect();
        IdError {
            kind,
            text,
            problem,
        }
    }
}

macro_rules! string_id {
    ($(#[$meta:meta])* $name:ident, $kind:literal) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The identifier as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;

            fn try_from(text: String) -> Result<Self, IdError> {
                match problem_of(&text) {
                    None => Ok($name(text)),
                    Some(problem) => Err(IdError::new($kind, &text, problem)),
                }
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                text.to_owned().try_into()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.pad(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

string_id!(
    /// A project: `late-frost-12345678`.
    ProjectId,
    "project id"
);
string_id!(
    /// A branch: `br-small-term-a1b2c3d4`.
    BranchId,
    "branch id"
);
string_id!(
    /// A compute endpoint: `ep-little-smoke-a1b2c3d4`.
    EndpointId,
    "endpoint id"
);
string_id!(
    /// A snapshot: `snap-calm-sea-a1b2c3d4`.
    SnapshotId,
    "snapshot id"
);
string_id!(
    /// An organization: `org-calm-sea-12345678`.
    OrganizationId,
    "organization id"
);

/// An operation: work that Neon does for a request after answering it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OperationId(Uuid);

impl OperationId {
    /// The identifier as a UUID.
    #[must_use]
    pub fn as_uuid(&self) -> Uuid {
        self.0
    }
}

impl From<Uuid> for OperationId {
    fn from(id: Uuid) -> OperationId {
        OperationId(id)
    }
}

impl TryFrom<String> for OperationId {
    type Error = IdError;

    fn try_from(text: String) -> Result<OperationId, IdError> {
        text.parse()
    }
}

impl FromStr for OperationId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<OperationId, IdError> {
        Uuid::parse_str(text)
            .map(OperationId)
            .map_err(|_| IdError::new("operation id", text, IdProblem::NotUuid))
    }
}

impl fmt::Display for OperationId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// What keeps `text` from matching the API's `^[a-z0-9-]{1,60}$`.
fn problem_of(text: &str) -> Option<IdProblem> {
    let allowed = |c: &char| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '-';
    if text.is_empty() {
        return Some(IdProblem::Empty);
    }
    if let Some(character) = text.chars().find(|c| !allowed(c)) {
        return Some(IdProblem::BadCharacter(character));
    }
    (text.len() > ID_LENGTH_MAX).then_some(IdProblem::TooLong(text.len()))
}
