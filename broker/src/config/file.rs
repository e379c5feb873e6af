//! broker.toml as it is written. check.rs turns it into what the broker uses.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use toml::Spanned;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ConfigFile {
    #[serde(default)]
    pub(super) leases: LeasesTable,
    #[serde(default)]
    pub(super) services: BTreeMap<Spanned<String>, ServiceTable>,
    #[serde(default)]
    pub(super) warm: BTreeMap<Spanned<String>, WarmTable>,
    #[serde(default)]
    pub(super) grants: BTreeMap<Spanned<String>, GrantTable>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LeasesTable {
    pub(super) default_ttl: Option<Spanned<String>>,
    pub(super) max_ttl: Option<Spanned<String>>,
    pub(super) roles_per_branch_max: Option<Spanned<usize>>,
    pub(super) ack_grace: Option<Spanned<String>>,
    pub(super) ephemeral_branches_max: Option<Spanned<usize>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ServiceTable {
    pub(super) database: Spanned<String>,
    pub(super) schema: Spanned<String>,
    pub(super) migrations: Spanned<PathBuf>,
    pub(super) statement_timeout: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) versions: BTreeMap<Spanned<String>, VersionTable>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct VersionTable {
    pub(super) branch: Spanned<String>,
    pub(super) parent: Option<Spanned<String>>,
    pub(super) revision: Option<Spanned<String>>,
    pub(super) seed: Option<Spanned<String>>,
    pub(super) contract: Option<Spanned<String>>,
    pub(super) gate: Option<Spanned<String>>,
    pub(super) gate_max_age: Option<Spanned<String>>,
    pub(super) auto_migrate: Option<bool>,
    #[serde(default)]
    pub(super) read_only_endpoint: bool,
    pub(super) connections: Spanned<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WarmTable {
    pub(super) parent: Spanned<String>,
    pub(super) size: Spanned<usize>,
    pub(super) max_age: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) migrate: bool,
    pub(super) access: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GrantTable {
    pub(super) caller: Spanned<String>,
    #[serde(default)]
    pub(super) lease: Vec<LeaseGrantTable>,
    #[serde(default)]
    pub(super) ephemeral: Vec<EphemeralGrantTable>,
    #[serde(default)]
    pub(super) read: bool,
    #[serde(default)]
    pub(super) admin: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LeaseGrantTable {
    #[serde(default)]
    pub(super) bindings: Vec<Spanned<String>>,
    #[serde(default)]
    pub(super) branches: Vec<Spanned<String>>,
    #[serde(default)]
    pub(super) services: Vec<Spanned<String>>,
    pub(super) access: Spanned<Vec<Spanned<String>>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EphemeralGrantTable {
    #[serde(default)]
    pub(super) bindings: Vec<Spanned<String>>,
    #[serde(default)]
    pub(super) branches: Vec<Spanned<String>>,
    #[serde(default)]
    pub(super) services: Vec<Spanned<String>>,
    pub(super) access: Spanned<Vec<Spanned<String>>>,
    pub(super) max: Spanned<u32>,
}
