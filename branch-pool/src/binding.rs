//! What a pool is for: one version of one service.

use std::fmt;
use std::str::FromStr;

use crate::Error;

/// One version of one service, as broker.toml declares it. Its resource name,
/// which it prints as, is `services/{service}/versions/{version}`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Binding {
    service: String,
    version: String,
}

impl Binding {
    /// The binding of `version` of `service`. Whether both are declared is the
    /// broker's to say, when it is asked for a lease.
    pub fn new(service: impl Into<String>, version: impl Into<String>) -> Self {
        Self {
            service: service.into(),
            version: version.into(),
        }
    }

    /// The service: `users`.
    pub fn service(&self) -> &str {
        &self.service
    }

    /// The version: `v1`.
    pub fn version(&self) -> &str {
        &self.version
    }
}

impl fmt::Display for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "services/{}/versions/{}", self.service, self.version)
    }
}

/// What a pool's lease is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LeaseTarget {
    /// A binding. The pool follows it wherever it leads.
    Binding(Binding),
    /// A branch of its own, forked from where this binding leads, with the service's
    /// newest revisions run on it. It goes with the lease, and is not replaced by
    /// another one, on which nothing would be that was written.
    Ephemeral {
        /// What it is forked from.
        parent: Binding,
    },
}

impl LeaseTarget {
    /// Whether another lease would do as well, when the one there was is lost.
    pub(crate) fn is_replaceable(&self) -> bool {
        matches!(self, Self::Binding(_))
    }
}

impl From<Binding> for LeaseTarget {
    fn from(binding: Binding) -> Self {
        Self::Binding(binding)
    }
}

impl fmt::Display for LeaseTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Binding(binding) => binding.fmt(f),
            Self::Ephemeral { parent } => write!(f, "an ephemeral branch of {parent}"),
        }
    }
}

impl FromStr for Binding {
    type Err = Error;

    /// Reads a resource name.
    ///
    /// Errors: [`Error::InvalidBinding`] for anything but
    /// `services/{service}/versions/{version}`.
    fn from_str(name: &str) -> Result<Self, Error> {
        let parts: Vec<&str> = name.split('/').collect();
        match parts.as_slice() {
            ["services", service, "versions", version]
                if !service.is_empty() && !version.is_empty() =>
            {
                Ok(Self::new(*service, *version))
            }
            _ => Err(Error::InvalidBinding {
                name: name.to_owned(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resource_name_is_read_and_printed() {
        let binding: Binding = "services/users/versions/v1".parse().unwrap();
        assert_eq!(binding, Binding::new("users", "v1"));
        assert_eq!(binding.to_string(), "services/users/versions/v1");
    }

    #[test]
    fn other_names_are_refused() {
        for name in [
            "",
            "users/v1",
            "services/users",
            "services//versions/v1",
            "services/users/versions/",
            "services/users/versions/v1/more",
            "Services/users/versions/v1",
        ] {
            let error = name.parse::<Binding>().unwrap_err();
            assert!(matches!(error, Error::InvalidBinding { .. }), "{name}");
        }
    }
}
