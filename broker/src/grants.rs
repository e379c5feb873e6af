//! Grants: which caller may do what. They are in broker.toml, and are the whole
//! of it: what no grant allows is refused. Callers that the server does not
//! identify, on this machine, need none.

use std::collections::BTreeSet;
use std::str::FromStr;

use crate::names::{BindingName, InvalidName, ServiceName, VersionName};
use crate::roles::Access;

/// Every declared grant, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grants(pub Vec<Grant>);

/// What one caller, or those that are alike, may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// What broker.toml calls it.
    pub name: String,
    /// Whom it is for.
    pub caller: CallerPattern,
    /// What they may lease.
    pub lease: Vec<LeaseGrant>,
    /// Whether they may look at every binding and branch.
    pub read: bool,
    /// Whether they may plan and apply, and look at everything.
    pub admin: bool,
}

/// A right to lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseGrant {
    /// Bindings.
    pub bindings: Vec<BindingPattern>,
    /// With which access.
    pub access: BTreeSet<Access>,
}

/// Callers: one, or, with `/*` at its end, every SPIFFE id below a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallerPattern {
    /// This name.
    Is(String),
    /// Names that begin so; it ends with `/`.
    Below(String),
}

/// Bindings: `*` stands for any service or version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindingPattern {
    service: Option<ServiceName>,
    version: Option<VersionName>,
}

impl Grants {
    /// Those for a caller of that name.
    pub fn of(&self, caller: &str) -> Vec<Grant> {
        let mine = self.0.iter().filter(|grant| grant.caller.matches(caller));
        mine.cloned().collect()
    }
}

impl Grant {
    /// Whether it allows that lease.
    pub fn may_lease(&self, binding: &BindingName, access: Access) -> bool {
        self.lease
            .iter()
            .any(|grant| grant.access.contains(&access) && grant.covers(binding))
    }

    /// Whether it allows a look at that binding: who may lease it may see it.
    pub fn may_see(&self, binding: &BindingName) -> bool {
        self.may_read() || self.lease.iter().any(|grant| grant.covers(binding))
    }

    /// Whether it allows a look at every binding and branch.
    pub fn may_read(&self) -> bool {
        self.read || self.admin
    }
}

impl LeaseGrant {
    fn covers(&self, binding: &BindingName) -> bool {
        self.bindings.iter().any(|pattern| pattern.matches(binding))
    }
}

impl CallerPattern {
    fn matches(&self, caller: &str) -> bool {
        match self {
            CallerPattern::Is(name) => name == caller,
            CallerPattern::Below(path) => caller.len() > path.len() && caller.starts_with(path),
        }
    }
}

impl FromStr for CallerPattern {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let invalid = || {
            InvalidName::new(
                "caller",
                text,
                "spiffe://domain/path, spiffe://domain/path/*, dns:name or token:name",
            )
        };
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(invalid());
        }
        let (exact, below) = match text.strip_suffix("/*") {
            Some(path) => (path, true),
            None => (text, false),
        };
        let named = |prefix: &str| exact.strip_prefix(prefix).filter(|rest| !rest.is_empty());
        let fits = match (named("spiffe://"), named("dns:"), named("token:"), below) {
            // Below a trust domain is everything that it names.
            (Some(rest), _, _, true) => !rest.starts_with('/') && !rest.contains('*'),
            (Some(rest), _, _, false) => {
                let (domain, path) = rest.split_once('/').ok_or_else(invalid)?;
                !domain.is_empty() && !path.is_empty() && !rest.contains('*')
            }
            (_, Some(name), _, false) => {
                // As certificates' names are compared.
                !name.contains('*') && name == name.to_ascii_lowercase()
            }
            (_, _, Some(name), false) => !name.contains('*'),
            _ => false,
        };
        match (fits, below) {
            (true, true) => Ok(CallerPattern::Below(format!("{exact}/"))),
            (true, false) => Ok(CallerPattern::Is(text.to_owned())),
            (false, _) => Err(invalid()),
        }
    }
}

impl BindingPattern {
    fn matches(&self, binding: &BindingName) -> bool {
        let BindingPattern { service, version } = self;
        service.as_ref().is_none_or(|name| *name == binding.service)
            && version.as_ref().is_none_or(|name| *name == binding.version)
    }
}

impl FromStr for BindingPattern {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let invalid = || {
            InvalidName::new(
                "binding",
                text,
                "services/{service}/versions/{version}, each a name or *",
            )
        };
        let parts: Vec<&str> = text.split('/').collect();
        let ["services", service, "versions", version] = parts.as_slice() else {
            return Err(invalid());
        };
        Ok(BindingPattern {
            service: named(service).map_err(|_| invalid())?,
            version: named(version).map_err(|_| invalid())?,
        })
    }
}

/// `None` for `*`.
fn named<T: FromStr<Err = InvalidName>>(part: &str) -> Result<Option<T>, InvalidName> {
    match part {
        "*" => Ok(None),
        name => name.parse().map(Some),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn callers_are_matched_whole_or_below_a_path() {
        let matches = |pattern: &str, caller: &str| {
            let pattern: CallerPattern = pattern.parse().unwrap();
            pattern.matches(caller)
        };
        assert!(matches("spiffe://a.org/users", "spiffe://a.org/users"));
        assert!(matches("spiffe://a.org/ns/*", "spiffe://a.org/ns/x/y"));
        assert!(matches("spiffe://a.org/*", "spiffe://a.org/x"));
        assert!(matches("dns:users.a.org", "dns:users.a.org"));
        assert!(matches("token:ci", "token:ci"));
        for (pattern, other) in [
            ("spiffe://a.org/users", "spiffe://a.org/users2"),
            ("spiffe://a.org/users", "spiffe://a.org/users/x"),
            ("spiffe://a.org/ns/*", "spiffe://a.org/ns"),
            ("spiffe://a.org/ns/*", "spiffe://a.org/ns/"),
            ("spiffe://a.org/ns/*", "spiffe://a.org/nsx/y"),
            ("spiffe://a.org/*", "spiffe://a.org.evil/x"),
            ("dns:users.a.org", "token:users.a.org"),
        ] {
            assert!(!matches(pattern, other), "{pattern} {other}");
        }
    }

    #[test]
    fn what_names_no_caller_is_refused() {
        for text in [
            "",
            "users",
            "*",
            "spiffe://",
            "spiffe://*",
            "spiffe:///*",
            "spiffe://a.org",
            "spiffe://a.org/",
            "spiffe://a.org/u*",
            "spiffe://a.org/*/x",
            "spiffe://a.org/a b",
            "dns:",
            "dns:*.a.org",
            "dns:A.org",
            "dns:a.org/*",
            "token:",
            "token:*",
            "token:a/*",
            "cn:users",
        ] {
            assert!(text.parse::<CallerPattern>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn bindings_are_matched_by_part() {
        let matches = |pattern: &str, binding: &str| {
            let pattern: BindingPattern = pattern.parse().unwrap();
            pattern.matches(&binding.parse().unwrap())
        };
        let v1 = "services/users/versions/v1";
        assert!(matches(v1, v1));
        assert!(matches("services/users/versions/*", v1));
        assert!(matches("services/*/versions/*", v1));
        assert!(!matches("services/users/versions/v2", v1));
        assert!(!matches("services/orders/versions/*", v1));
        for text in ["", "*", "services/users", "services/u*/versions/v1"] {
            assert!(text.parse::<BindingPattern>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_grant_allows_what_it_says_and_no_more() {
        let binding = |text: &str| text.parse::<BindingName>().unwrap();
        let (v1, other) = (
            binding("services/users/versions/v1"),
            binding("services/orders/versions/v1"),
        );
        let grant = Grant {
            name: "users".to_owned(),
            caller: "token:users".parse().unwrap(),
            lease: vec![LeaseGrant {
                bindings: vec!["services/users/versions/*".parse().unwrap()],
                access: BTreeSet::from([Access::ReadOnly]),
            }],
            read: false,
            admin: false,
        };
        assert!(grant.may_lease(&v1, Access::ReadOnly));
        assert!(!grant.may_lease(&v1, Access::ReadWrite));
        assert!(!grant.may_lease(&other, Access::ReadOnly));
        assert!(grant.may_see(&v1) && !grant.may_see(&other) && !grant.may_read());
        let admin = Grant {
            lease: Vec::new(),
            admin: true,
            ..grant.clone()
        };
        assert!(admin.may_read() && admin.may_see(&other));
        assert!(!admin.may_lease(&v1, Access::ReadOnly), "no lease by that");
        assert_eq!(Grants(vec![grant.clone()]).of("token:users"), [grant]);
    }
}
