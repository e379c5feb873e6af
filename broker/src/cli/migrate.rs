//! `broker migrate …`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Subcommand;
use jiff::{Timestamp, Zoned};
use proto::broker::v1 as pb;
use proto::broker::v1::migrate_request::{Down, Redo, Up, Wish};
use rpc::clock::Clock;

use super::api::Api;
use super::client::{Arguments, Error, refused};
use super::output::{Output, OutputArguments, put};
use super::table;

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
        /// At most so many.
        #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(i32).range(1..))]
        count: Option<i32>,
    },
    /// Take revisions back, newest first.
    Down {
        #[command(flatten)]
        place: PlaceArguments,
        /// How many.
        #[arg(default_value_t = 1, value_parser = clap::value_parser!(i32).range(1..))]
        count: i32,
    },
    /// Go up or down to a point.
    To {
        #[command(flatten)]
        place: PlaceArguments,
        point: String,
    },
    /// Take the newest revision back, and run it again.
    Redo(PlaceArguments),
    /// Have the history say that the branch is at a point. Nothing is run.
    Stamp {
        #[command(flatten)]
        place: PlaceArguments,
        point: String,
    },
}

#[derive(Debug, clap::Args)]
struct PlaceArguments {
    /// Whose revisions, and how far: services/{service}/versions/{version}.
    binding: String,
    /// On another branch than the binding's: its name, or branches/{id}.
    #[arg(long, value_name = "BRANCH")]
    branch: Option<String>,
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
pub(super) async fn migrate(arguments: MigrateArguments) -> Result<(), Error> {
    let output = arguments.output.output;
    let command = match arguments.command {
        Migrations::New(wished) => return new(&wished),
        command => command,
    };
    let mut api = Api::connect(&arguments.broker).await?;
    let (place, wish) = match command {
        Migrations::New(_) => return Ok(()),
        Migrations::Status(place) => {
            let status = status(&mut api, place).await?;
            return Ok(output.one(&status, status_table)?);
        }
        Migrations::History(place) => {
            let mut status = status(&mut api, place).await?;
            status.revisions.retain(is_applied);
            status.revisions.reverse();
            return Ok(output.many(&status.revisions, table_of)?);
        }
        Migrations::Current(place) => {
            let mut status = status(&mut api, place).await?;
            status.revisions.retain(is_applied);
            let current = status.revisions.pop().unwrap_or_default();
            return Ok(
                output.one(&current, |current| match current.version.as_str() {
                    "" => "base\n".to_owned(),
                    _ => format!("{}\n", called(current)),
                })?,
            );
        }
        Migrations::Up { place, count } => {
            let count = count.unwrap_or_default();
            (place, Wish::Up(Up { count }))
        }
        Migrations::Down { place, count } => (place, Wish::Down(Down { count })),
        Migrations::To { place, point } => (place, Wish::To(point)),
        Migrations::Redo(place) => (place, Wish::Redo(Redo {})),
        Migrations::Stamp { place, point } => (place, Wish::Stamp(point)),
    };
    perform(&mut api, place, wish, output).await
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

/// Does it. How it goes on is told on stderr, what was done on stdout.
async fn perform(
    api: &mut Api,
    place: PlaceArguments,
    wish: Wish,
    output: Output,
) -> Result<(), Error> {
    let (binding, branch) = named(api, place).await?;
    let request = pb::MigrateRequest {
        binding,
        branch,
        wish: Some(wish),
    };
    let progress = api.migrations.migrate(request).await;
    let mut progress = progress.map_err(refused)?.into_inner();
    let mut done = Vec::new();
    while let Some(step) = progress.message().await.map_err(refused)? {
        eprintln!("{}", line(&step));
        done.push(step);
    }
    output.many(&done, |done| match done.len() {
        0 => "nothing to do\n".to_owned(),
        1 => "1 revision\n".to_owned(),
        count => format!("{count} revisions\n"),
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

fn new(wished: &NewArguments) -> Result<(), Error> {
    let failed = |path: &Path, source: std::io::Error| Error::Refused {
        message: format!("make {}: {source}", path.display()),
    };
    let words = wished.name.trim().replace([' ', '-'], "_");
    let is_plain = |one: char| one.is_ascii_alphanumeric() || one == '_';
    if words.is_empty() || !words.chars().all(is_plain) {
        return Err(Error::Refused {
            message: format!("{:?} is no name: letters, digits and _", wished.name),
        });
    }
    if !wished.folder.is_dir() {
        return Err(Error::Refused {
            message: format!("there is no folder {}", wished.folder.display()),
        });
    }
    let path = unused(&wished.folder, &words).map_err(|error| failed(&wished.folder, error))?;
    std::fs::create_dir(&path).map_err(|error| failed(&path, error))?;
    let mut files = vec![
        ("up.sql", "-- What takes the schema one step on.\n"),
        ("down.sql", "-- What takes it back.\n"),
    ];
    if wished.no_transaction {
        files.push(("metadata.toml", "run_in_transaction = false\n"));
    }
    for (name, text) in files {
        let file = path.join(name);
        std::fs::write(&file, text).map_err(|error| failed(&file, error))?;
        put(&format!("{}\n", file.display()));
    }
    Ok(())
}

/// The folder of a revision that is newer than all: no two are of one second.
fn unused(folder: &Path, words: &str) -> std::io::Result<PathBuf> {
    let names = std::fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name()));
    let names = names.collect::<std::io::Result<Vec<_>>>()?;
    let mut time = Clock::system().now();
    loop {
        let now = Timestamp::try_from(time).map_err(std::io::Error::other)?;
        let now = Zoned::new(now, jiff::tz::TimeZone::UTC);
        let version = now.strftime("%Y-%m-%d-%H%M%S").to_string();
        let is_taken = |name: &std::ffi::OsString| name.to_string_lossy().starts_with(&version);
        if !names.iter().any(is_taken) {
            return Ok(folder.join(format!("{version}_{words}")));
        }
        time += std::time::Duration::from_secs(1);
    }
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
            called(revision),
            state.to_owned(),
            at.unwrap_or_default(),
            remark.to_owned(),
        ]
    });
    table::of(&["REVISION", "STATE", "APPLIED", "REMARK"], rows)
}

fn called(revision: &pb::Revision) -> String {
    match revision.name.as_str() {
        "" => revision.version.clone(),
        name => name.to_owned(),
    }
}

fn line(step: &pb::MigrateResponse) -> String {
    let name = match step.name.as_str() {
        "" => &step.version,
        _ => &step.name,
    };
    let took = step.duration.and_then(|took| Duration::try_from(took).ok());
    let took = took.unwrap_or_default().as_secs_f64() * 1e3;
    match step.step() {
        pb::MigrationStep::Reverted => format!("down {name} ({took:.0} ms)"),
        pb::MigrationStep::Recorded => format!("stamped {name}"),
        pb::MigrationStep::Forgotten => format!("forgotten {name}"),
        pb::MigrationStep::Run | pb::MigrationStep::Unspecified => {
            format!("up {name} ({took:.0} ms)")
        }
    }
}
