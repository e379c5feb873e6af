//! `broker migrate …`.

mod each;
mod files;
mod report;
mod run;
mod trial;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;
use jiff::Timestamp;
use proto::broker::v1 as pb;
use proto::broker::v1::migrate_request::{Down, Redo, Up, Wish};

use super::api::Api;
use super::client::{Arguments, Error, refused};
use super::output::OutputArguments;
use super::table;
use super::times::ttl;
use each::Told;

/// What no single argument says.
pub(super) const HELP: &str = "\
Revisions are named by their version, their folder, or the beginning of either.
status, history, current, up, lint, rehearse and verify take all bindings at once:
  broker migrate status services/-/versions/-
  broker migrate up services/users/versions/-";

#[derive(Debug, clap::Args)]
pub(super) struct MigrateArguments {
    #[command(flatten)]
    broker: Arguments,
    #[command(flatten)]
    output: OutputArguments,
    #[command(subcommand)]
    command: Migrations,
}

#[derive(Debug, Subcommand)]
enum Migrations {
    /// Make the folder of a new revision, with an empty up.sql and down.sql.
    New(NewArguments),
    /// Write a revision from what is different between the branch and a wanted schema.
    Autogenerate(trial::AutogenerateArguments),
    /// Show how each revision stands: applied, pending, missing, changed, out of order,
    /// ahead (applied, and later than the version goes), beyond (not applied, and later).
    Status(PlaceArguments),
    /// Show the revisions that the branch has, newest first.
    History(PlaceArguments),
    /// Show the newest revision that the branch has.
    Current(PlaceArguments),
    /// Run pending revisions, oldest first.
    Up {
        #[command(flatten)]
        place: PlaceArguments,
        #[command(flatten)]
        run: RunArguments,
        #[command(flatten)]
        gate: GateArguments,
        /// At most so many.
        #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(i32).range(1..))]
        count: Option<i32>,
    },
    /// Take revisions back, newest first.
    Down {
        #[command(flatten)]
        place: PlaceArguments,
        #[command(flatten)]
        run: RunArguments,
        /// How many.
        #[arg(default_value_t = 1, value_parser = clap::value_parser!(i32).range(1..))]
        count: i32,
    },
    /// Go up or down to a point. With --sql also FROM:TO, and no branch is asked.
    To {
        #[command(flatten)]
        place: PlaceArguments,
        #[command(flatten)]
        run: RunArguments,
        #[command(flatten)]
        gate: GateArguments,
        /// A revision, `base` (none) or `head` (the last that the version has).
        point: String,
    },
    /// Take the newest revision back, and run it again.
    Redo {
        #[command(flatten)]
        place: PlaceArguments,
        #[command(flatten)]
        run: RunArguments,
        #[command(flatten)]
        gate: GateArguments,
    },
    /// Have the history say that the branch is at a point. Nothing is run.
    Stamp {
        #[command(flatten)]
        place: PlaceArguments,
        /// A revision, `base` (none), `head` (the last that the version has), or `current`
        /// (where it is: changed files are taken for what was applied).
        point: String,
    },
    /// Say what pending revisions would lock or lose; exit code 1 for an error.
    Lint(trial::LintArguments),
    /// Try pending revisions on a throw-away branch: up, down and up again; exit code 1
    /// without the verdict PASS.
    Rehearse(trial::RehearseArguments),
    /// Say whether the branch's schema is what its revisions make; exit code 1 for drift.
    Verify(PlaceArguments),
}

#[derive(Debug, Clone, clap::Args)]
struct PlaceArguments {
    /// Whose revisions, and how far: services/{service}/versions/{version}.
    binding: String,
    /// On another branch than the binding's: its name, or branches/{id}.
    #[arg(long, value_name = "BRANCH")]
    branch: Option<String>,
}

impl PlaceArguments {
    const NOWHERE: PlaceArguments = PlaceArguments {
        binding: String::new(),
        branch: None,
    };
}

/// How revisions are run.
#[derive(Debug, Default, clap::Args)]
struct RunArguments {
    /// The longest that a statement may take: 30s, 5m.
    #[arg(long, value_name = "DURATION", value_parser = ttl)]
    statement_timeout: Option<Duration>,
    /// Print a script for psql instead of running anything.
    #[arg(long)]
    sql: bool,
}

/// What is run in spite of a gate.
#[derive(Debug, Clone, Copy, clap::Args)]
struct GateArguments {
    /// Run what the binding's gate would refuse. Audited.
    #[arg(long)]
    force: bool,
}

#[derive(Debug, clap::Args)]
struct NewArguments {
    /// The service's folder of revisions.
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
    /// What it does, in a few words: add_age_and_city.
    name: String,
    /// It runs outside a transaction, as CREATE INDEX CONCURRENTLY has to.
    #[arg(long)]
    no_transaction: bool,
}

/// `broker migrate …`.
pub(super) async fn migrate(arguments: MigrateArguments) -> Result<ExitCode, Error> {
    let mut told = Told::new(arguments.output.output);
    let command = arguments.command;
    if let Migrations::New(wished) = &command {
        files::new(wished)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut api = Api::connect(&arguments.broker).await?;
    let asked = command.place();
    let places = match command.may_be_many() {
        true => each::places(&mut api, asked).await?,
        false => {
            each::refuse_pattern(asked)?;
            vec![asked.clone()]
        }
    };
    for place in places {
        if each::is_pattern(&asked.binding) {
            told.of(&place.binding);
        }
        let ended = Box::pin(command.run(&mut api, place, &mut told)).await;
        told.went(ended)?;
    }
    told.end()
}

impl Migrations {
    /// On what.
    fn place(&self) -> &PlaceArguments {
        match self {
            Self::New(_) => const { &PlaceArguments::NOWHERE },
            Self::Autogenerate(wished) => &wished.place,
            Self::Lint(wished) => &wished.place,
            Self::Rehearse(wished) => &wished.place,
            Self::Status(place)
            | Self::History(place)
            | Self::Current(place)
            | Self::Verify(place)
            | Self::Up { place, .. }
            | Self::Down { place, .. }
            | Self::To { place, .. }
            | Self::Redo { place, .. }
            | Self::Stamp { place, .. } => place,
        }
    }

    /// Whether it makes sense of several bindings at once.
    fn may_be_many(&self) -> bool {
        match self {
            Self::Status(_)
            | Self::History(_)
            | Self::Current(_)
            | Self::Up { .. }
            | Self::Lint(_)
            | Self::Rehearse(_)
            | Self::Verify(_) => true,
            Self::New(_)
            | Self::Autogenerate(_)
            | Self::Down { .. }
            | Self::To { .. }
            | Self::Redo { .. }
            | Self::Stamp { .. } => false,
        }
    }

    /// On one place. `false`: it found what is not as it should be.
    async fn run(
        &self,
        api: &mut Api,
        place: PlaceArguments,
        told: &mut Told,
    ) -> Result<bool, Error> {
        let (run, force, wish) = match self {
            Self::New(_) => return Ok(true),
            Self::Autogenerate(wished) => return trial::autogenerate(api, wished).await,
            Self::Lint(wished) => return trial::lint(api, place, wished.all, told).await,
            Self::Rehearse(wished) => return trial::rehearse(api, place, wished, told).await,
            Self::Verify(_) => return trial::verify(api, place, told).await,
            Self::Status(_) => {
                let status = status(api, place).await?;
                told.one(&status, status_table)?;
                return Ok(true);
            }
            Self::History(_) => {
                let mut status = status(api, place).await?;
                status.revisions.retain(is_applied);
                status.revisions.reverse();
                told.many(&status.revisions, table_of)?;
                return Ok(true);
            }
            Self::Current(_) => {
                let mut status = status(api, place).await?;
                status.revisions.retain(is_applied);
                let current = status.revisions.pop().unwrap_or_default();
                told.one(&current, |current| match current.version.as_str() {
                    "" => "base\n".to_owned(),
                    version => format!("{}\n", called(version, &current.name)),
                })?;
                return Ok(true);
            }
            Self::Up {
                run, gate, count, ..
            } => {
                let count = count.unwrap_or_default();
                (run, gate.force, Wish::Up(Up { count }))
            }
            Self::Down { run, count, .. } => (run, false, Wish::Down(Down { count: *count })),
            Self::To {
                run, gate, point, ..
            } => (run, gate.force, Wish::To(point.clone())),
            Self::Redo { run, gate, .. } => (run, gate.force, Wish::Redo(Redo {})),
            Self::Stamp { point, .. } => {
                (&RunArguments::default(), false, Wish::Stamp(point.clone()))
            }
        };
        run::run(api, place, run, force, wish, told).await
    }
}

async fn status(
    api: &mut Api,
    place: PlaceArguments,
) -> Result<pb::GetMigrationStatusResponse, Error> {
    let (binding, branch) = named(api, place).await?;
    let request = pb::GetMigrationStatusRequest { binding, branch };
    let answer = api.migrations.get_migration_status(request).await;
    Ok(answer.map_err(refused)?.into_inner())
}

async fn named(api: &mut Api, place: PlaceArguments) -> Result<(String, String), Error> {
    let branch = match &place.branch {
        Some(branch) => api.branch_name(branch).await?,
        None => String::new(),
    };
    Ok((place.binding, branch))
}

fn is_applied(revision: &pb::Revision) -> bool {
    use pb::RevisionState as State;
    matches!(
        revision.state(),
        State::Applied | State::Changed | State::Missing | State::Ahead
    )
}

fn status_table(status: &pb::GetMigrationStatusResponse) -> String {
    table_of(&status.revisions)
}

fn table_of(revisions: &[pb::Revision]) -> String {
    let rows = revisions.iter().map(|revision| {
        let state = revision.state().as_str_name();
        let state = state.trim_start_matches("REVISION_STATE_");
        let at = revision.apply_time.map(|time| {
            let time = Timestamp::new(time.seconds, time.nanos).unwrap_or(Timestamp::UNIX_EPOCH);
            format!("{time:.0}")
        });
        let remark = match revision.adopted {
            true => "applied by Diesel: taken for what the folder has",
            false => "",
        };
        vec![
            called(&revision.version, &revision.name).to_owned(),
            state.to_owned(),
            at.unwrap_or_default(),
            remark.to_owned(),
        ]
    });
    table::of(&["REVISION", "STATE", "APPLIED", "REMARK"], rows)
}

/// A revision's folder, where it is known.
fn called<'r>(version: &'r str, name: &'r str) -> &'r str {
    match name {
        "" => version,
        name => name,
    }
}

fn level(finding: &pb::LintFinding) -> &'static str {
    match finding.level() {
        pb::LintLevel::Error => "error",
        pb::LintLevel::Warning | pb::LintLevel::Unspecified => "warning",
    }
}
