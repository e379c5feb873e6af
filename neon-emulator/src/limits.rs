//! How much of everything there may be.

use clap::Args;

/// Neon's default history window: a day.
const HISTORY_SECONDS: i64 = 86_400;

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
    /// Snapshots that a project keeps.
    #[arg(
        id = "snapshots_max",
        long = "snapshots-max",
        value_name = "COUNT",
        default_value_t = 10
    )]
    pub snapshots: u32,
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
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            projects: 1_000,
            branches: 5_000,
            root_branches: 25,
            protected_branches: 5,
            snapshots: 10,
            history_retention_seconds: HISTORY_SECONDS,
        }
    }
}
