//! `broker migrate …`.

mod files;
mod report;
mod trial;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;
use jiff::Timestamp;
use proto::broker::v1 as pb;
use proto::broker::v1::get_migration_script_request::Wish as OfflineWish;
use proto::broker::v1::migrate_request::{Down, Redo, Up, Wish};

use super::api::Api;
use super::client::{Arguments, Error, refused};
use super::output::{Output, OutputArguments, put};
use super::table;
use super::times::ttl;
use super::wish::wire;

#[derive(Debug, clap::Args)]
pub(super) struct MigrateArguments {
    #[command(flatten)]
    broker: Arguments,
    #[command(flatten)]
    output: OutputArguments,
    #[command(subcommand)]
    command: Migrations,
}

/// Revisions are named by their version, their folder, or the beginning of either;
/// points by a revision, `base` or `head`.
#[derive(Debug, Subcommand)]
enum Migrations {
    /// Make the folder of a new revision, with an empty up.sql and down.sql.
    New(NewArguments),
    /// Write a revision from what is different between the branch and a wanted schema.
    Autogenerate(trial::AutogenerateArguments),
    /// Show how each revision stands: applied, pending, missing, changed, out of order,
    /// ahead.
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
        point: String,
    },
    /// Take the newest revision back, and run it again.
    Redo {
        #[command(flatten)]
        place: PlaceArguments,
        #[command(flatten)]
        run: RunArguments,
    },
    /// Have the history say that the branch is at a point. Nothing is run.
    Stamp {
        #[command(flatten)]
        place: PlaceArguments,
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

#[derive(Debug, clap::Args)]
struct PlaceArguments {
    /// Whose revisions, and how far: services/{service}/versions/{version}.
    binding: String,
    /// On another branch than the binding's: its name, or branches/{id}.
    #[arg(long, value_name = "BRANCH")]
    branch: Option<String>,
}

/// How revisions are run.
#[derive(Debug, Default, clap::Args)]
struct RunArguments {
    /// The longest that a statement may take: 30s, 5m.
    #[arg(long, value_name = "DURATION", value_parser = ttl)]
    statement_timeout: Option<Duration>,
    /// Run what the binding's gate would refuse. Audited.
    #[arg(long)]
    force: bool,
    /// Print a script for psql instead of running anything.
    #[arg(long)]
    sql: bool,
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
    let output = arguments.output.output;
    let command = match arguments.command {
        Migrations::New(wished) => return files::new(&wished).map(|()| ExitCode::SUCCESS),
        command => command,
    };
    let mut api = Api::connect(&arguments.broker).await?;
    let (place, run, wish) = match command {
        Migrations::New(_) => return Ok(ExitCode::SUCCESS),
        Migrations::Autogenerate(wished) => return trial::autogenerate(&mut api, wished).await,
        Migrations::Lint(wished) => return trial::lint(&mut api, wished, output).await,
        Migrations::Rehearse(wished) => return trial::rehearse(&mut api, wished, output).await,
        Migrations::Verify(place) => return trial::verify(&mut api, place, output).await,
        Migrations::Status(place) => {
            let status = status(&mut api, place).await?;
            output.one(&status, status_table)?;
            return Ok(ExitCode::SUCCESS);
        }
        Migrations::History(place) => {
            let mut status = status(&mut api, place).await?;
            status.revisions.retain(is_applied);
            status.revisions.reverse();
            output.many(&status.revisions, table_of)?;
            return Ok(ExitCode::SUCCESS);
        }
        Migrations::Current(place) => {
            let mut status = status(&mut api, place).await?;
            status.revisions.retain(is_applied);
            let current = status.revisions.pop().unwrap_or_default();
            output.one(&current, |current| match current.version.as_str() {
                "" => "base\n".to_owned(),
                version => format!("{}\n", called(version, &current.name)),
            })?;
            return Ok(ExitCode::SUCCESS);
        }
        Migrations::Up { place, run, count } => {
            let count = count.unwrap_or_default();
            (place, run, Wish::Up(Up { count }))
        }
        Migrations::Down { place, run, count } => (place, run, Wish::Down(Down { count })),
        Migrations::To { place, run, point } => (place, run, Wish::To(point)),
        Migrations::Redo { place, run } => (place, run, Wish::Redo(Redo {})),
        Migrations::Stamp { place, point } => (place, RunArguments::default(), Wish::Stamp(point)),
    };
    match run.sql {
        true => script(&mut api, place, wish).await?,
        false => perform(&mut api, place, &run, wish, output).await?,
    }
    Ok(ExitCode::SUCCESS)
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

/// Prints it as a script.
async fn script(api: &mut Api, place: PlaceArguments, wish: Wish) -> Result<(), Error> {
    let (wish, from) = match wish {
        Wish::Up(up) => (OfflineWish::Up(up), String::new()),
        Wish::Down(down) => (OfflineWish::Down(down), String::new()),
        Wish::To(range) => match range.split_once(':') {
            Some((from, to)) => (OfflineWish::To(to.to_owned()), from.to_owned()),
            None => (OfflineWish::To(range), String::new()),
        },
        Wish::Redo(_) | Wish::Stamp(_) => {
            return Err(Error::Refused {
                message: "redo has no script: write one with `down --sql` and `up --sql`"
                    .to_owned(),
            });
        }
    };
    let (binding, branch) = named(api, place).await?;
    let request = pb::GetMigrationScriptRequest {
        binding,
        branch,
        from,
        wish: Some(wish),
    };
    let answer = api.migrations.get_migration_script(request).await;
    put(&answer.map_err(refused)?.into_inner().sql);
    Ok(())
}

/// Does it. How it goes on is told on stderr, what was done on stdout.
async fn perform(
    api: &mut Api,
    place: PlaceArguments,
    run: &RunArguments,
    wish: Wish,
    output: Output,
) -> Result<(), Error> {
    let (binding, branch) = named(api, place).await?;
    let request = pb::MigrateRequest {
        binding,
        branch,
        wish: Some(wish),
        statement_timeout: run.statement_timeout.map(wire),
        force: run.force,
    };
    let progress = api.migrations.migrate(request).await;
    let mut progress = progress.map_err(refused)?.into_inner();
    let mut done = Vec::new();
    while let Some(step) = progress.message().await.map_err(refused)? {
        eprintln!("{}", line(&step));
        if step.step() != pb::MigrationStep::Batch {
            done.push(step);
        }
    }
    output.many(&done, |done| {
        // One that is taken back and run again is one.
        let names: BTreeSet<&str> = done.iter().map(|step| step.version.as_str()).collect();
        match names.len() {
            0 => "nothing to do\n".to_owned(),
            1 => "1 revision\n".to_owned(),
            count => format!("{count} revisions\n"),
        }
    })?;
    Ok(())
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

fn line(step: &pb::MigrateResponse) -> String {
    let name = called(&step.version, &step.name);
    let took = step.duration.and_then(|took| Duration::try_from(took).ok());
    let took = took.unwrap_or_default().as_secs_f64() * 1e3;
    match step.step() {
        pb::MigrationStep::Reverted => format!("down {name} ({took:.0} ms)"),
        pb::MigrationStep::Recorded => format!("stamped {name}"),
        pb::MigrationStep::Forgotten => format!("forgotten {name}"),
        pb::MigrationStep::Batch => {
            format!(
                "batch of {name}: {} of about {} rows",
                step.rows, step.of_rows
            )
        }
        pb::MigrationStep::Run | pb::MigrationStep::Unspecified => {
            format!("up {name} ({took:.0} ms)")
        }
    }
}
