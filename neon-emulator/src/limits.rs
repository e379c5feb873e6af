//! How much of everything there may be.

use clap::Args;

/// Neon's default history window: a day.
const HISTORY_SECONDS: i64 = 86_400;

/// Neon's default in all plans.
const ACTIVE_COMPUTES: u32 = 20;
/// A day of a branch that writes 50 KB a second.
const HISTORY_WAL_MEGABYTES: u64 = 4_096;
/// An image makes a branch write some itself.
const HISTORY_WAL_MEGABYTES_MIN: u64 = 16;

/// As Neon says it, to who asks by the API and to who connects.
pub(crate) const TOO_MANY_ACTIVE: &str = "You have exceeded the limit of concurrently active endpoints. \
     Please suspend some endpoints and try again.";

/// Limits as a Neon plan has them. The defaults are those of Scale.
#[derive(Debug, Clone, Args)]
pub struct Limits {
    /// Projects.
    #[arg(
        id = "projects_max",
        long = "projects-max",
        value_name = "COUNT",
        default_value_t = 1_000
    )]
    pub projects: u32,
    /// Branches in a project.
    #[arg(
        id = "branches_max",
        long = "branches-max",
        value_name = "COUNT",
        default_value_t = 5_000
    )]
    pub branches: u32,
    /// Branches without a parent in a project.
    #[arg(
        id = "root_branches_max",
        long = "root-branches-max",
        value_name = "COUNT",
        default_value_t = 25
    )]
    pub root_branches: u32,
    /// Protected branches in a project.
    #[arg(
        id = "protected_branches_max",
        long = "protected-branches-max",
        value_name = "COUNT",
        default_value_t = 5
    )]
    pub protected_branches: u32,
    /// Endpoints of a branch: one that writes, and replicas.
    #[arg(
        id = "endpoints_max",
        long = "endpoints-max",
        value_name = "COUNT",
        default_value_t = 20
    )]
    pub endpoints: u32,
    /// Endpoints of a project that may be active at once, those of the default
    /// branch not among them.
    #[arg(
        id = "active_computes_max",
        long = "active-computes-max",
        value_name = "COUNT",
        default_value_t = ACTIVE_COMPUTES
    )]
    pub active_computes: u32,
    /// Roles that a branch may have, those made by SQL not among them.
    #[arg(
        id = "roles_max",
        long = "roles-max",
        value_name = "COUNT",
        default_value_t = 500
    )]
    pub roles: u32,
    /// Databases that a branch may have, in the same way.
    #[arg(
        id = "databases_max",
        long = "databases-max",
        value_name = "COUNT",
        default_value_t = 500
    )]
    pub databases: u32,
    /// Snapshots that a project keeps.
    #[arg(
        id = "snapshots_max",
        long = "snapshots-max",
        value_name = "COUNT",
        default_value_t = 10
    )]
    pub snapshots: u32,
    /// After how many idle seconds an endpoint is suspended that has no time of
    /// its own; 0 or -1 is never.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 300,
        allow_negative_numbers = true,
        value_parser = clap::value_parser!(i64).range(-1..=604_800)
    )]
    pub suspend_seconds_default: i64,
    /// For tests only: let endpoints be suspended after so few idle seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, hide = true)]
    pub unsafe_suspend_seconds_min: i64,
    /// How many seconds of history a new project keeps, unless its creation says
    /// otherwise; 0: none.
    #[arg(
        id = "history_retention_seconds",
        long = "history-retention-seconds",
        value_name = "SECONDS",
        default_value_t = HISTORY_SECONDS,
        value_parser = clap::value_parser!(i64).range(0..=2_592_000)
    )]
    pub history_retention_seconds: i64,
    /// How many megabytes of WAL the history of a branch may have. Beyond it the
    /// history begins later than the project asks for, and the log says so.
    #[arg(
        long,
        value_name = "MB",
        default_value_t = HISTORY_WAL_MEGABYTES,
        value_parser = clap::value_parser!(u64).range(HISTORY_WAL_MEGABYTES_MIN..=1 << 30)
    )]
    pub history_wal_megabytes_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            projects: 1_000,
            branches: 5_000,
            root_branches: 25,
            protected_branches: 5,
            endpoints: 20,
            active_computes: ACTIVE_COMPUTES,
            roles: 500,
            databases: 500,
            snapshots: 10,
            suspend_seconds_default: 300,
            unsafe_suspend_seconds_min: 60,
            history_retention_seconds: HISTORY_SECONDS,
            history_wal_megabytes_max: HISTORY_WAL_MEGABYTES,
        }
    }
}
