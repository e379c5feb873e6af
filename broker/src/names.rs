//! Identifiers and resource names. Each checks itself when it is parsed, so
//! that inside the broker a name is a name.

use std::fmt;
use std::str::FromStr;

use neon_api::BranchId;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The longest name of a service or a version, in bytes. Role names are built
/// from both and Postgres cuts identifiers at 63 bytes; config.rs checks the
/// whole.
pub const NAME_BYTES_MAX: usize = 48;

/// A text that is no name of the kind that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is no {kind}: {expected}")]
pub struct InvalidName {
    /// What it was to be, for people: "service name".
    pub kind: &'static str,
    /// The text as it came, cut to a readable length.
    pub given: String,
    /// What it should have looked like.
    pub expected: &'static str,
}

impl InvalidName {
    pub(crate) fn new(kind: &'static str, given: &str, expected: &'static str) -> Self {
        const SHOWN_CHARS_MAX: usize = 80;
        let given = given.chars().take(SHOWN_CHARS_MAX).collect();
        InvalidName {
            kind,
            given,
            expected,
        }
    }
}

macro_rules! simple_name {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, InvalidName> {
                match is_simple_name(text) {
                    true => Ok($name(text.to_owned())),
                    false => Err(InvalidName::new($kind, text, SIMPLE_NAME)),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

simple_name!(
    /// A service that broker.toml declares: `users`.
    ServiceName,
    "service name"
);
simple_name!(
    /// A version of a service: `v1`.
    VersionName,
    "version name"
);

simple_name!(
    /// A warm pool that broker.toml declares: `ci`.
    PoolName,
    "pool name"
);

/// What a consumer asks for: `services/{service}/versions/{version}`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BindingName {
    /// The service.
    pub service: ServiceName,
    /// Its version.
    pub version: VersionName,
}

impl FromStr for BindingName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let parts: Vec<&str> = text.split('/').collect();
        let parsed = match parts.as_slice() {
            ["services", service, "versions", version] => {
                service.parse().ok().zip(version.parse().ok())
            }
            _ => None,
        };
        let (service, version) = parsed.ok_or_else(|| {
            InvalidName::new("binding", text, "services/{service}/versions/{version}")
        })?;
        Ok(BindingName { service, version })
    }
}

impl fmt::Display for BindingName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "services/{}/versions/{}", self.service, self.version)
    }
}

/// A lease: `leases/{uuid}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LeaseId(Uuid);

impl LeaseId {
    /// A new one, random.
    pub fn random() -> Self {
        LeaseId(Uuid::new_v4())
    }

    /// As it is stored.
    pub(crate) fn uuid(self) -> Uuid {
        self.0
    }

    pub(crate) fn of_stored(id: Uuid) -> Self {
        LeaseId(id)
    }
}

impl FromStr for LeaseId {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        text.strip_prefix("leases/")
            .and_then(|id| Uuid::try_parse(id).ok())
            .map(LeaseId)
            .ok_or_else(|| InvalidName::new("lease", text, "leases/{uuid}"))
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "leases/{}", self.0)
    }
}

/// An operation: `operations/{uuid}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationName(Uuid);

impl OperationName {
    /// A new one, random.
    pub fn random() -> Self {
        OperationName(Uuid::new_v4())
    }

    /// As it is stored.
    pub(crate) fn uuid(self) -> Uuid {
        self.0
    }

    pub(crate) fn of_stored(id: Uuid) -> Self {
        OperationName(id)
    }
}

impl FromStr for OperationName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        text.strip_prefix("operations/")
            .and_then(|id| Uuid::try_parse(id).ok())
            .map(OperationName)
            .ok_or_else(|| InvalidName::new("operation", text, "operations/{uuid}"))
    }
}

impl fmt::Display for OperationName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "operations/{}", self.0)
    }
}

/// A branch of the project as the API names it: `branches/{Neon's branch id}`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BranchResource(pub BranchId);

impl FromStr for BranchResource {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        text.strip_prefix("branches/")
            .and_then(|id| BranchId::from_str(id).ok())
            .map(BranchResource)
            .ok_or_else(|| InvalidName::new("branch", text, "branches/{branch id}"))
    }
}

impl fmt::Display for BranchResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "branches/{}", self.0)
    }
}

/// The name that a branch has in Neon, for people: `api_v1_branch`. Neon takes
/// nearly anything; this takes what fits in a line.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BranchName(String);

impl BranchName {
    /// A name for a branch whose own is none of ours. Ids are names as well.
    pub(crate) fn of_id(id: &BranchId) -> Self {
        BranchName(id.to_string())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for BranchName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        // Neon's own limit.
        const BRANCH_NAME_CHARS_MAX: usize = 256;
        let fits = !text.is_empty()
            && text.trim() == text
            && text.chars().count() <= BRANCH_NAME_CHARS_MAX
            && !text.chars().any(char::is_control);
        match fits {
            true => Ok(BranchName(text.to_owned())),
            false => Err(InvalidName::new(
                "branch name",
                text,
                "1 to 256 characters, no control characters, no space at either end",
            )),
        }
    }
}

impl fmt::Display for BranchName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

const SIMPLE_NAME: &str =
    "a lower-case letter, then lower-case letters, digits, _ or -, at most 48 characters";

/// `[a-z][a-z0-9_-]*` of at most [`NAME_BYTES_MAX`].
pub(crate) fn is_simple_name(text: &str) -> bool {
    text.len() <= NAME_BYTES_MAX
        && text.starts_with(|first: char| first.is_ascii_lowercase())
        && text
            .bytes()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_as_they_went_in() {
        for text in ["services/users/versions/v1", "services/a-b_9/versions/x2-"] {
            assert_eq!(text.parse::<BindingName>().unwrap().to_string(), text);
        }
        let lease = LeaseId::random();
        assert_eq!(lease.to_string().parse(), Ok(lease));
        let branch: BranchResource = "branches/br-quiet-frost-a1b2c3d4".parse().unwrap();
        assert_eq!(branch.to_string(), "branches/br-quiet-frost-a1b2c3d4");
    }

    #[test]
    fn what_is_no_binding_is_refused() {
        let long = format!("services/{}/versions/v1", "a".repeat(NAME_BYTES_MAX + 1));
        for text in [
            "",
            "users/v1",
            "services//versions/v1",
            "services/users/versions/",
            "services/Users/versions/v1",
            "services/users/versions/v1/",
            "services/users/versions/v1; DROP",
            "/services/users/versions/v1",
            long.as_str(),
        ] {
            let error = text.parse::<BindingName>().unwrap_err();
            assert!(error.to_string().contains("services/{service}"), "{text}");
        }
    }

    #[test]
    fn what_is_no_lease_or_branch_is_refused() {
        for text in ["", "leases/", "leases/1", "lease/6fd3", "6fd3"] {
            assert!(text.parse::<LeaseId>().is_err(), "{text}");
        }
        for text in [
            "",
            "branches/",
            "branches/a b",
            "branches/../projects",
            "main",
        ] {
            assert!(text.parse::<BranchResource>().is_err(), "{text}");
        }
        for text in ["", " main", "a\nb"] {
            assert!(text.parse::<BranchName>().is_err(), "{text:?}");
        }
    }
}
