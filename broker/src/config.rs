//! broker.toml: what the broker makes true.
//!
//! | key | what | default |
//! |---|---|---|
//! | `leases.default_ttl` | what a lease gets when its holder names no ttl, like `"10m"` | 10 minutes |
//! | `leases.max_ttl` | the most a lease gets | 1 hour |
//! | `leases.ack_grace` | how long an acknowledging watch may be away before it has no say any more | 10s |
//! | `leases.roles_per_branch_max` | how many login roles a branch has at most; Neon takes 500 roles in all | 400 |
//! | `leases.ephemeral_branches_max` | how many ephemeral branches there are at most, those of warm pools included | no limit |
//! | `services.S.database` | the database that holds the service's schema | required |
//! | `services.S.schema` | the service's own Postgres schema: tables and migration history | required |
//! | `services.S.migrations` | folder of revisions, as Diesel lays them out | required |
//! | `services.S.statement_timeout` | how long one statement of a lease that reads or writes may take, like `"30s"` | 30 seconds |
//! | `services.S.versions.V.branch` | the branch, by its name in Neon | required |
//! | `services.S.versions.V.parent` | what the branch is forked from, by name | the project's default branch |
//! | `services.S.versions.V.revision` | how far the branch is migrated | the newest |
//! | `services.S.versions.V.seed` | SQL file that runs once, in one transaction (it must not end it) | none |
//! | `services.S.versions.V.contract` | SQL file with the queries that the version runs, which rehearsals try (docs/MIGRATIONS.md) | none |
//! | `services.S.versions.V.gate` | `"rehearsed"`: revisions are run on the branch after a rehearsal of exactly them with the verdict PASS | none |
//! | `services.S.versions.V.gate_max_age` | how old that rehearsal may be | 24 hours |
//! | `services.S.versions.V.auto_migrate` | whether an apply, and each start, runs revisions; otherwise new leases on a branch that is behind are refused until somebody has run them | yes |
//! | `services.S.versions.V.read_only_endpoint` | whether the branch has a read-only endpoint, which leases are told beside the other; an apply makes one that is missing, and removes none | no |
//! | `services.S.versions.V.connections` | the most connections that one holder opens, by leases that write and as many by leases that read | required |
//! | `warm.P.parent` | what the branches of pool P are forked from: the branch of a binding, like `"services/users/versions/v1"` | required |
//! | `warm.P.size` | how many are kept ready | required |
//! | `warm.P.max_age` | how old one may get before another takes its place, like `"30m"`; at most 14 days | 1 hour |
//! | `warm.P.migrate` | whether the service's newest revisions are run on each | no |
//! | `warm.P.access` | the access whose login role waits on each: `"read_only"`, `"read_write"` or `"ddl"` | `"read_write"` |
//! | `grants.G.caller` | whom grant G is for: `"spiffe://domain/path"`, all below a path `"spiffe://domain/path/*"`, `"dns:name"` or `"token:name"` | required |
//! | `grants.G.lease` | what they may lease: a list of `{ bindings = […], access = […] }`, with `*` for any service or version, and `"read_only"`, `"read_write"`; or `{ branches = […], services = […], access = […] }` for branches by name, with `*` at its end for all that begin so | nothing |
//! | `grants.G.ephemeral` | of what they may have branches that go with their lease: as `lease`, with `"ddl"` as well, and `max`, how many one caller has at once | nothing |
//! | `grants.G.read` | whether they may look at every binding, branch and lease | no |
//! | `grants.G.admin` | whether they may plan and apply, change branches, revoke, and look at everything | no |
//!
//! Grants are read again when the file changes, the rest at each apply.
//! Paths are relative to the folder that broker.toml is in. Unknown keys are
//! refused.

mod check;
mod file;
mod grants;
mod order;
mod warm;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::grants::Grants;
use crate::names::{BindingName, BranchName, PoolName, ServiceName};
use crate::neon::EndpointKind;
use crate::roles::Access;

/// A broker.toml that was read and found right.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// How long leases live.
    pub leases: LeaseSettings,
    /// Every declared binding. A binding whose branch is another's parent comes
    /// before it.
    pub bindings: Vec<BindingSpec>,
    /// Ephemeral branches that are kept ready.
    pub warm: Vec<PoolSpec>,
    /// Who may do what.
    pub grants: Grants,
}

/// How long leases live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseSettings {
    /// For a holder that names no ttl.
    pub default_ttl: Duration,
    /// The most that is granted.
    pub max_ttl: Duration,
    /// How many login roles a branch may have.
    pub roles_per_branch_max: usize,
    /// How long an acknowledging watch may be away and still have a say.
    pub ack_grace: Duration,
    /// How many ephemeral branches there may be, those of warm pools included.
    pub ephemeral_branches_max: Option<usize>,
}

/// One declared version of one service.
#[derive(Debug, Clone, PartialEq)]
pub struct BindingSpec {
    /// `services/{service}/versions/{version}`.
    pub name: BindingName,
    /// What all versions of the service share.
    pub service: Arc<ServiceSpec>,
    /// The branch it lives on.
    pub branch: BranchName,
    /// What that branch is forked from. `None`: the project's default branch.
    pub parent: Option<BranchName>,
    /// The revisions its branch has, oldest first. Empty: a folder without any.
    pub revisions: Vec<Revision>,
    /// Whether broker.toml says which is the last of them. Otherwise it is the newest.
    pub is_pinned: bool,
    /// What runs once, after the revisions.
    pub seed: Option<SqlFile>,
    /// The queries that the version runs, for rehearsals.
    pub contract: Option<SqlFile>,
    /// Whether its branch gets no revision that was not rehearsed.
    pub gate: Option<Gate>,
    /// Whether an apply, and each start, runs its revisions. Otherwise a person does.
    pub auto_migrate: bool,
    /// Whether its branch is to have a read-only endpoint.
    pub read_only_endpoint: bool,
    /// Connections that one holder may have open by one access.
    pub connections: u32,
}

impl BindingSpec {
    /// The endpoints that the branch is to have, in the order in which they are made.
    pub fn endpoints(&self) -> impl Iterator<Item = EndpointKind> {
        let read_only = self.read_only_endpoint.then_some(EndpointKind::ReadOnly);
        [EndpointKind::ReadWrite].into_iter().chain(read_only)
    }

    /// The version of the last revision that it has, where broker.toml says. `None`: it
    /// has all that there are.
    pub fn last(&self) -> Option<&str> {
        let last = self.head().filter(|_| self.is_pinned);
        last.map(|last| last.version.as_str())
    }

    /// Those after that one, by its folder's name: what a branch lacks that is at it.
    /// `None`: all. After one that the version does not have there is none.
    pub fn after(&self, revision: Option<&str>) -> &[Revision] {
        let Some(revision) = revision else {
            return &self.revisions;
        };
        let at = self.revisions.iter().position(|one| one.name == revision);
        at.map_or(&[], |at| &self.revisions[at + 1..])
    }

    /// The revision that the branch is to be at.
    pub fn head(&self) -> Option<&Revision> {
        self.revisions.last()
    }
}

/// Ephemeral branches of one kind that are kept ready.
#[derive(Debug, Clone, PartialEq)]
pub struct PoolSpec {
    /// `ci`.
    pub name: PoolName,
    /// They are forked from what this leads to.
    pub parent: BindingName,
    /// Its service, whose tables they are for.
    pub service: Arc<ServiceSpec>,
    /// How many are ready.
    pub size: usize,
    /// How old one gets.
    pub max_age: Duration,
    /// The revisions that are run on each: all that there are, if they are migrated.
    pub migrate: Option<Vec<Revision>>,
    /// The access whose login role waits on each.
    pub access: Access,
}

/// What all versions of a service share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceSpec {
    /// `users`.
    pub name: ServiceName,
    /// The database that holds the schema.
    pub database: String,
    /// The service's own Postgres schema.
    pub schema: String,
    /// The folder of its revisions.
    pub migrations: PathBuf,
    /// How long one statement of a lease that reads or writes may take.
    pub statement_timeout: Duration,
}

/// A folder of SQL that takes the schema one step on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Revision {
    /// What Diesel records: the digits of the folder's name before the first
    /// underscore. Orders revisions.
    pub version: String,
    /// The folder's name: `2026-01-10-090000_create_users`.
    pub name: String,
}

/// Revisions are run that were rehearsed, as they are, on the same branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gate {
    /// How old the rehearsal may be.
    pub max_age: Duration,
}

/// A file of SQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqlFile {
    /// As broker.toml names it; the mark that a seed has run keeps this.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
}

/// Why a broker.toml cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It could not be read.
    #[error("read {}; name another with --config", path.display())]
    FailedRead {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// It is not TOML, or says something that cannot be.
    #[error("{0}")]
    Invalid(Problem),
}

/// One thing that is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub path: PathBuf,
    /// Line and column, both from 1, where they are known.
    pub place: Option<(usize, usize)>,
    /// `services.users.versions.v1.revision`; empty for a syntax error.
    pub key: String,
    /// What is wrong, and what to do.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if let Some((line, column)) = self.place {
            write!(f, ":{line}:{column}")?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.message)
    }
}

impl Config {
    /// Reads a broker.toml and checks it, with the folders and files it names.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::FailedRead {
            path: path.to_owned(),
            source,
        })?;
        Config::parse(&text, path).map_err(ConfigError::Invalid)
    }

    /// As [`Config::load`], for a text that was read already.
    pub fn parse(text: &str, path: &Path) -> Result<Config, Problem> {
        let parsed: file::ConfigFile = toml::from_str(text).map_err(|error| Problem {
            path: path.to_owned(),
            place: error.span().map(|span| line_and_column(text, span.start)),
            key: String::new(),
            message: error.message().trim_end().replace('\n', "; "),
        })?;
        check::Check::new(text, path).config(parsed)
    }

    /// The binding of that name.
    pub fn binding(&self, name: &BindingName) -> Option<&BindingSpec> {
        self.bindings.iter().find(|spec| spec.name == *name)
    }

    /// The service of that name.
    pub fn service(&self, name: &ServiceName) -> Option<&Arc<ServiceSpec>> {
        let mut all = self.bindings.iter().map(|spec| &spec.service);
        all.find(|service| service.name == *name)
    }

    /// The services, each once.
    pub fn services(&self) -> impl Iterator<Item = &Arc<ServiceSpec>> {
        let all = self.bindings.iter().map(|spec| &spec.service);
        // Their bindings come in the order of branches.
        let by_name: BTreeMap<_, _> = all.map(|service| (&service.name, service)).collect();
        by_name.into_values()
    }

    /// The most connections that a holder of a service's leases opens on a branch
    /// that no binding lives on: what its binding with the most has.
    pub fn connections_of(&self, service: &ServiceName) -> u32 {
        let all = self.bindings.iter();
        let of_it = all.filter(|spec| spec.service.name == *service);
        of_it.map(|spec| spec.connections).max().unwrap_or(1)
    }

    /// Bindings that live on the branch of that name.
    pub fn bindings_on<'a>(
        &'a self,
        branch: &'a BranchName,
    ) -> impl Iterator<Item = &'a BindingSpec> {
        self.bindings
            .iter()
            .filter(move |spec| spec.branch == *branch)
    }
}

/// Line and column of a byte, both from 1.
fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before
        .chars()
        .rev()
        .take_while(|character| *character != '\n')
        .count()
        + 1;
    (line, column)
}

#[cfg(test)]
mod tests;
