//! Grants: which caller may do what. They are in broker.toml, and are the whole
//! of it: what no grant allows is refused. Callers that the server does not
//! identify, on this machine, need none.

use std::collections::BTreeSet;
use std::str::FromStr;

use crate::names::{BindingName, BranchName, InvalidName, ServiceName, VersionName};
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
    /// Of what they may have branches of their own.
    pub ephemeral: Vec<EphemeralGrant>,
    /// Whether they may look at every binding, branch and lease.
    pub read: bool,
    /// Whether they may plan and apply, revoke, and look at everything.
    pub admin: bool,
}

/// A right to lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseGrant {
    /// What.
    pub on: Scope,
    /// With which access.
    pub access: BTreeSet<Access>,
}

/// A right to a branch that goes with its lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EphemeralGrant {
    /// Forked from what.
    pub of: Scope,
    /// With which access.
    pub access: BTreeSet<Access>,
    /// How many a caller may have at once.
    pub max: u32,
}

/// A service's tables, where.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope {
    /// On the branches of these bindings.
    pub bindings: Vec<BindingPattern>,
    /// On these branches …
    pub branches: Vec<BranchPattern>,
    /// … of these services.
    pub services: Vec<ServicePattern>,
}

/// A branch that somebody wants something of.
#[derive(Debug, Clone, Copy)]
pub struct BranchOf<'a> {
    /// Its name in Neon.
    pub branch: &'a str,
    /// The service whose tables are wanted.
    pub service: &'a ServiceName,
    /// Bindings of that service that lead there.
    pub bindings: &'a [BindingName],
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
    service: ServicePattern,
    version: Option<VersionName>,
}

/// A service, or, as `*`, any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePattern(Option<ServiceName>);

/// Branches by name: one, or, with `*` at its end, all whose names begin so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BranchPattern {
    /// This name.
    Is(String),
    /// Names that begin so.
    Begins(String),
}

impl Grants {
    /// Those for a caller of that name.
    pub fn of(&self, caller: &str) -> Vec<Grant> {
        let mine = self.0.iter().filter(|grant| grant.caller.matches(caller));
        mine.cloned().collect()
    }
}

impl Grant {
    /// Whether it allows a lease on that binding.
    pub fn may_lease(&self, binding: &BindingName, access: Access) -> bool {
        let mut all = self.lease.iter();
        all.any(|grant| grant.access.contains(&access) && grant.on.has_binding(binding))
    }

    /// Whether it allows a lease on that branch by its own name. That a binding leads
    /// there allows a lease on the binding alone.
    pub fn may_lease_branch(&self, of: BranchOf<'_>, access: Access) -> bool {
        let mut all = self.lease.iter();
        all.any(|grant| grant.access.contains(&access) && grant.on.has_branch(of))
    }

    /// How many branches of their own it allows, forked from that one.
    pub fn ephemeral_max(&self, parent: BranchOf<'_>, access: Access) -> Option<u32> {
        let all = self.ephemeral.iter();
        let fitting = all.filter(|grant| {
            let mut bindings = parent.bindings.iter();
            grant.access.contains(&access)
                && (grant.of.has_branch(parent)
                    || bindings.any(|binding| grant.of.has_binding(binding)))
        });
        fitting.map(|grant| grant.max).max()
    }

    /// Whether it allows anything of branches by their own name.
    pub fn has_branches(&self) -> bool {
        !self.ephemeral.is_empty() || self.lease.iter().any(|grant| !grant.on.branches.is_empty())
    }

    /// Whether it allows such a lease of some branch.
    pub fn may_keep(&self, is_ephemeral: bool, service: &ServiceName, access: Access) -> bool {
        let fits = |scope: &Scope, granted: &BTreeSet<Access>| {
            granted.contains(&access) && scope.has_service(service)
        };
        match is_ephemeral {
            true => self.ephemeral.iter().any(|one| fits(&one.of, &one.access)),
            false => {
                let of_branches = self.lease.iter().filter(|one| !one.on.branches.is_empty());
                of_branches
                    .into_iter()
                    .any(|one| fits(&one.on, &one.access))
            }
        }
    }

    /// Whether it allows a look at that binding: who may lease it may see it.
    pub fn may_see(&self, binding: &BindingName) -> bool {
        self.may_read() || self.lease.iter().any(|grant| grant.on.has_binding(binding))
    }

    /// Whether it allows a look at every binding and branch.
    pub fn may_read(&self) -> bool {
        self.read || self.admin
    }
}

impl Scope {
    fn has_binding(&self, binding: &BindingName) -> bool {
        self.bindings.iter().any(|pattern| pattern.matches(binding))
    }

    fn has_service(&self, service: &ServiceName) -> bool {
        let by_binding = |pattern: &BindingPattern| pattern.service.matches(service);
        self.services.iter().any(|pattern| pattern.matches(service))
            || self.bindings.iter().any(by_binding)
    }

    fn has_branch(&self, of: BranchOf<'_>) -> bool {
        let mut branches = self.branches.iter();
        let mut services = self.services.iter();
        branches.any(|pattern| pattern.matches(of.branch))
            && services.any(|pattern| pattern.matches(of.service))
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
        service.matches(&binding.service)
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
            service: service.parse().map_err(|_| invalid())?,
            version: named(version).map_err(|_| invalid())?,
        })
    }
}

impl ServicePattern {
    fn matches(&self, service: &ServiceName) -> bool {
        self.0.as_ref().is_none_or(|name| name == service)
    }
}

impl FromStr for ServicePattern {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        named(text).map(ServicePattern)
    }
}

impl BranchPattern {
    fn matches(&self, branch: &str) -> bool {
        match self {
            BranchPattern::Is(name) => name == branch,
            BranchPattern::Begins(prefix) => branch.starts_with(prefix.as_str()),
        }
    }
}

impl FromStr for BranchPattern {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let (name, begins) = match text.strip_suffix('*') {
            Some(prefix) => (prefix, true),
            None => (text, false),
        };
        match (name.contains('*'), begins) {
            (true, _) => Err(InvalidName::new(
                "branch",
                text,
                "a branch's name, with * at its end alone",
            )),
            (false, true) => Ok(BranchPattern::Begins(name.to_owned())),
            (false, false) => {
                let name: BranchName = name.parse()?;
                Ok(BranchPattern::Is(name.to_string()))
            }
        }
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
                on: Scope {
                    bindings: vec!["services/users/versions/*".parse().unwrap()],
                    ..Scope::default()
                },
                access: BTreeSet::from([Access::ReadOnly]),
            }],
            ephemeral: Vec::new(),
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

    #[test]
    fn a_branch_is_granted_by_its_name_and_service_or_forked_by_its_binding() {
        let (users, orders): (ServiceName, ServiceName) =
            ("users".parse().unwrap(), "orders".parse().unwrap());
        let v1: BindingName = "services/users/versions/v1".parse().unwrap();
        let grant = Grant {
            name: "ci".to_owned(),
            caller: "token:ci".parse().unwrap(),
            lease: vec![LeaseGrant {
                on: Scope {
                    branches: vec!["feature/*".parse().unwrap()],
                    services: vec!["users".parse().unwrap()],
                    ..Scope::default()
                },
                access: BTreeSet::from([Access::ReadWrite]),
            }],
            ephemeral: vec![EphemeralGrant {
                of: Scope {
                    bindings: vec!["services/*/versions/v1".parse().unwrap()],
                    ..Scope::default()
                },
                access: BTreeSet::from([Access::Ddl]),
                max: 2,
            }],
            read: false,
            admin: false,
        };
        let of = |branch, service, bindings| BranchOf {
            branch,
            service,
            bindings,
        };
        let write = Access::ReadWrite;
        assert!(grant.may_lease_branch(of("feature/x", &users, &[]), write));
        assert!(!grant.may_lease_branch(of("feature/x", &orders, &[]), write));
        assert!(!grant.may_lease_branch(of("main", &users, &[]), write));
        assert!(!grant.may_lease_branch(of("feature/x", &users, &[]), Access::Ddl));
        let on_v1 = std::slice::from_ref(&v1);
        assert_eq!(
            grant.ephemeral_max(of("one", &users, on_v1), Access::Ddl),
            Some(2)
        );
        assert_eq!(
            grant.ephemeral_max(of("one", &users, &[]), Access::Ddl),
            None
        );
        assert_eq!(grant.ephemeral_max(of("one", &users, on_v1), write), None);
        for text in ["", "*x", "a*b"] {
            assert!(text.parse::<BranchPattern>().is_err(), "{text:?}");
        }
    }
}
