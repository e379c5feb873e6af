//! What has to hold of a broker.toml beyond its being TOML.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use toml::Spanned;

use super::file::{ConfigFile, LeasesTable, ServiceTable, VersionTable};
use super::order::{Cycle, parents_first};
use super::{
    BindingSpec, Config, Gate, LeaseSettings, Problem, Revision, ServiceSpec, SqlFile,
    line_and_column,
};
use crate::gate;
use crate::grants::Grants;
use crate::migrate;
use crate::names::{self, BindingName, BranchName, InvalidName, ServiceName, VersionName};
use crate::text::one_line;

const DEFAULT_TTL: Duration = Duration::from_secs(10 * 60);
const MAX_TTL: Duration = Duration::from_secs(60 * 60);
/// How long an acknowledging watch may be away and still have a say.
const ACK_GRACE: Duration = Duration::from_secs(10);
const ROLES_PER_BRANCH: usize = 400;
/// Neon's limit of roles on a branch.
const ROLES_PER_BRANCH_MAX: usize = 500;
/// How old the rehearsal may be that a gate asks for.
const GATE_MAX_AGE: Duration = Duration::from_secs(24 * 60 * 60);
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);
/// Postgres cuts longer identifiers, silently.
const IDENTIFIER_BYTES_MAX: usize = 63;

/// One reading of one file.
pub(super) struct Check<'a> {
    text: &'a str,
    path: &'a Path,
}

impl<'a> Check<'a> {
    pub(super) fn new(text: &'a str, path: &'a Path) -> Self {
        Check { text, path }
    }

    pub(super) fn config(&self, file: ConfigFile) -> Result<Config, Problem> {
        let leases = self.leases(&file.leases)?;
        let mut bindings = Vec::new();
        for (name, table) in &file.services {
            bindings.extend(self.service(name, table)?);
        }
        let bindings = parents_first(bindings).map_err(|Cycle(way)| {
            let way: Vec<&str> = way.iter().map(BranchName::as_str).collect();
            let message = format!(
                "the branches fork from each other: {}; give one of them another parent",
                way.join(" -> ")
            );
            self.problem("services", message)
        })?;
        self.shared_branches(&bindings)?;
        self.revisions_of_forks(&bindings)?;
        let warm = self.warm(&file.warm, &bindings, &leases)?;
        let grants = file.grants.iter();
        let grants: Result<_, Problem> = grants
            .map(|(name, table)| self.grant(name, table))
            .collect();
        Ok(Config {
            leases,
            bindings,
            warm,
            grants: Grants(grants?),
        })
    }

    fn leases(&self, table: &LeasesTable) -> Result<LeaseSettings, Problem> {
        let default_ttl = self.duration("leases.default_ttl", &table.default_ttl, DEFAULT_TTL)?;
        let max_ttl = self.duration("leases.max_ttl", &table.max_ttl, MAX_TTL)?;
        if max_ttl < default_ttl {
            return Err(self.problem(
                "leases.max_ttl",
                format!(
                    "{max_ttl:?} is less than default_ttl, {default_ttl:?}; make it as much or more"
                ),
            ));
        }
        let roles = table.roles_per_branch_max.as_ref();
        if let Some(given) = roles
            && !(1..=ROLES_PER_BRANCH_MAX).contains(given.get_ref())
        {
            let key = "leases.roles_per_branch_max";
            let message = format!("is to be 1 to {ROLES_PER_BRANCH_MAX}: Neon takes no more");
            return Err(self.problem_at(given, key, message));
        }
        let ephemeral = table.ephemeral_branches_max.as_ref();
        if let Some(given) = ephemeral
            && *given.get_ref() == 0
        {
            let key = "leases.ephemeral_branches_max";
            return Err(self.problem_at(given, key, "needs to be 1 or more"));
        }
        Ok(LeaseSettings {
            default_ttl,
            max_ttl,
            roles_per_branch_max: roles.map_or(ROLES_PER_BRANCH, |given| *given.get_ref()),
            ack_grace: self.duration("leases.ack_grace", &table.ack_grace, ACK_GRACE)?,
            ephemeral_branches_max: ephemeral.map(|given| *given.get_ref()),
        })
    }

    pub(super) fn duration(
        &self,
        key: &str,
        given: &Option<Spanned<String>>,
        default: Duration,
    ) -> Result<Duration, Problem> {
        let Some(given) = given else {
            return Ok(default);
        };
        let parsed = given.get_ref().parse::<SignedDuration>().ok();
        parsed
            .and_then(|ttl| Duration::try_from(ttl).ok())
            .filter(|ttl| *ttl >= Duration::from_secs(1))
            .ok_or_else(|| {
                let message = format!(
                    "{:?} is no duration of a second or more, as \"10m\" and \"1h 30m\" are",
                    given.get_ref()
                );
                self.problem_at(given, key, message)
            })
    }

    fn service(
        &self,
        name: &Spanned<String>,
        table: &ServiceTable,
    ) -> Result<Vec<BindingSpec>, Problem> {
        let key = format!("services.{}", name.get_ref());
        let service_name: ServiceName = self.parsed(name, &key)?;
        let database = self.identifier(&table.database, &format!("{key}.database"))?;
        let schema = self.schema(&table.schema, &format!("{key}.schema"))?;
        let migrations = self.beside(table.migrations.get_ref());
        let revisions = migrate::revisions_in(&migrations).map_err(|error| {
            let message = format!(
                "{}; name the folder of the service's revisions",
                one_line(&error)
            );
            self.problem_at(&table.migrations, &format!("{key}.migrations"), message)
        })?;
        let statement_timeout = self.duration(
            &format!("{key}.statement_timeout"),
            &table.statement_timeout,
            STATEMENT_TIMEOUT,
        )?;
        let service = Arc::new(ServiceSpec {
            name: service_name,
            database,
            schema,
            migrations,
            statement_timeout,
        });
        table
            .versions
            .iter()
            .map(|(version, table)| self.version(&key, &service, &revisions, version, table))
            .collect()
    }

    fn version(
        &self,
        service_key: &str,
        service: &Arc<ServiceSpec>,
        revisions: &[Revision],
        name: &Spanned<String>,
        table: &VersionTable,
    ) -> Result<BindingSpec, Problem> {
        let key = format!("{service_key}.versions.{}", name.get_ref());
        let version: VersionName = self.parsed(name, &key)?;
        let branch = self.parsed(&table.branch, &format!("{key}.branch"))?;
        let parent = table
            .parent
            .as_ref()
            .map(|parent| self.parsed(parent, &format!("{key}.parent")))
            .transpose()?;
        if *table.connections.get_ref() == 0 {
            let key = format!("{key}.connections");
            return Err(self.problem_at(&table.connections, &key, "needs to be 1 or more"));
        }
        Ok(BindingSpec {
            name: BindingName {
                service: service.name.clone(),
                version,
            },
            service: Arc::clone(service),
            branch,
            parent,
            revisions: self.up_to(&key, revisions, &table.revision)?,
            is_pinned: table.revision.is_some(),
            seed: self.file(&format!("{key}.seed"), &table.seed)?,
            contract: self.file(&format!("{key}.contract"), &table.contract)?,
            gate: self.gate(&key, table)?,
            auto_migrate: table.auto_migrate.unwrap_or(true),
            read_only_endpoint: table.read_only_endpoint,
            connections: *table.connections.get_ref(),
        })
    }

    fn up_to(
        &self,
        key: &str,
        revisions: &[Revision],
        last: &Option<Spanned<String>>,
    ) -> Result<Vec<Revision>, Problem> {
        let Some(last) = last else {
            return Ok(revisions.to_vec());
        };
        let position = revisions
            .iter()
            .position(|revision| revision.name == *last.get_ref())
            .ok_or_else(|| {
                let there: Vec<&str> = revisions.iter().map(|found| found.name.as_str()).collect();
                let message = format!(
                    "no revision {:?} in the service's migrations folder; there: {}",
                    last.get_ref(),
                    there.join(", ")
                );
                self.problem_at(last, &format!("{key}.revision"), message)
            })?;
        Ok(revisions[..=position].to_vec())
    }

    fn gate(&self, key: &str, table: &VersionTable) -> Result<Option<Gate>, Problem> {
        let max_age = &format!("{key}.gate_max_age");
        match &table.gate {
            Some(gate) if gate.get_ref() == "rehearsed" => {
                let age = self.duration(max_age, &table.gate_max_age, GATE_MAX_AGE)?;
                let days = gate::REMEMBERED_DAYS.unsigned_abs();
                match &table.gate_max_age {
                    Some(given) if age > Duration::from_secs(days * 24 * 60 * 60) => {
                        let message =
                            format!("is {days} days at most: rehearsals are forgotten then");
                        Err(self.problem_at(given, max_age, message))
                    }
                    _ => Ok(Some(Gate { max_age: age })),
                }
            }
            Some(gate) => Err(self.problem_at(
                gate,
                &format!("{key}.gate"),
                "is \"rehearsed\", or left out",
            )),
            None => match &table.gate_max_age {
                Some(age) => Err(self.problem_at(age, max_age, "is of no use without gate")),
                None => Ok(None),
            },
        }
    }

    fn file(&self, key: &str, name: &Option<Spanned<String>>) -> Result<Option<SqlFile>, Problem> {
        let Some(name) = name else { return Ok(None) };
        let path = self.beside(Path::new(name.get_ref()));
        match path.is_file() {
            true => Ok(Some(SqlFile {
                name: name.get_ref().clone(),
                path,
            })),
            false => Err(self.problem_at(
                name,
                key,
                format!("no file {}; write it or take the line out", path.display()),
            )),
        }
    }

    /// Bindings may share a branch, if they agree on what it is.
    fn shared_branches(&self, bindings: &[BindingSpec]) -> Result<(), Problem> {
        let mut first_on: BTreeMap<&BranchName, &BindingSpec> = BTreeMap::new();
        for spec in bindings {
            let first = *first_on.entry(&spec.branch).or_insert(spec);
            if first.parent != spec.parent {
                return Err(self.problem(
                    &key_of(&spec.name, "parent"),
                    format!(
                        "differs from {}'s, which is on the same branch {}; a branch has one parent",
                        first.name, spec.branch
                    ),
                ));
            }
        }
        for (index, spec) in bindings.iter().enumerate() {
            let other = bindings[..index].iter().find(|other| {
                other.branch == spec.branch
                    && other.service.name == spec.service.name
                    && other.head() != spec.head()
            });
            if let Some(other) = other {
                return Err(self.problem(
                    &key_of(&spec.name, "revision"),
                    format!(
                        "differs from {}'s, which is on the same branch {}; give one of them a branch of its own",
                        other.name, spec.branch
                    ),
                ));
            }
        }
        Ok(())
    }

    /// A fork starts with what its parent has, and nothing here runs down.
    fn revisions_of_forks(&self, bindings: &[BindingSpec]) -> Result<(), Problem> {
        for spec in bindings {
            let behind = bindings.iter().find(|parent| {
                spec.parent.as_ref() == Some(&parent.branch)
                    && parent.service.name == spec.service.name
                    && parent.revisions.len() > spec.revisions.len()
            });
            if let Some(parent) = behind {
                return Err(self.problem(
                    &key_of(&spec.name, "revision"),
                    format!(
                        "is older than that of {}, which it forks from; a branch is never migrated down",
                        parent.name
                    ),
                ));
            }
        }
        Ok(())
    }

    fn identifier(&self, given: &Spanned<String>, key: &str) -> Result<String, Problem> {
        let name = given.get_ref();
        let fits = !name.is_empty()
            && name.len() <= IDENTIFIER_BYTES_MAX
            && !name.chars().any(char::is_control);
        match fits {
            true => Ok(name.clone()),
            false => Err(self.problem_at(given, key, "needs 1 to 63 bytes, no control characters")),
        }
    }

    fn schema(&self, given: &Spanned<String>, key: &str) -> Result<String, Problem> {
        let name = given.get_ref();
        if !names::is_simple_name(name) {
            return Err(self.problem_at(
                given,
                key,
                "needs a lower-case letter, then lower-case letters, digits, _ or -",
            ));
        }
        let reserved = name.starts_with("pg_")
            || matches!(
                name.as_str(),
                "information_schema" | "public" | "branch_broker"
            );
        match reserved {
            true => Err(self.problem_at(given, key, "is not the service's own; name another")),
            false => Ok(name.clone()),
        }
    }

    pub(super) fn parsed<T>(&self, given: &Spanned<String>, key: &str) -> Result<T, Problem>
    where
        T: std::str::FromStr<Err = InvalidName>,
    {
        given
            .get_ref()
            .parse()
            .map_err(|error: InvalidName| self.problem_at(given, key, error.to_string()))
    }

    /// Paths are relative to the folder that the file is in.
    fn beside(&self, path: &Path) -> std::path::PathBuf {
        self.path.parent().unwrap_or(Path::new("")).join(path)
    }

    pub(super) fn problem_at<T>(
        &self,
        given: &Spanned<T>,
        key: &str,
        message: impl Into<String>,
    ) -> Problem {
        Problem {
            place: Some(line_and_column(self.text, given.span().start)),
            ..self.problem(key, message)
        }
    }

    pub(super) fn problem(&self, key: &str, message: impl Into<String>) -> Problem {
        Problem {
            path: self.path.to_owned(),
            place: None,
            key: key.to_owned(),
            message: message.into(),
        }
    }
}

fn key_of(binding: &BindingName, field: &str) -> String {
    let BindingName { service, version } = binding;
    let key = format!("services.{service}.versions.{version}");
    match field {
        "" => key,
        field => format!("{key}.{field}"),
    }
}
