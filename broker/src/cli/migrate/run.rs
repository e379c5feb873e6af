//! Revisions run, taken back and written down, or printed as a script.

use std::collections::BTreeSet;
use std::time::Duration;

use proto::broker::v1 as pb;
use proto::broker::v1::get_migration_script_request::Wish as OfflineWish;
use proto::broker::v1::migrate_request::Wish;

use super::each::Told;
use super::{PlaceArguments, RunArguments, called, named};
use crate::cli::api::Api;
use crate::cli::client::{Error, refused};
use crate::cli::wish::wire;

/// Does it, or prints it as a script.
pub(super) async fn run(
    api: &mut Api,
    place: PlaceArguments,
    run: &RunArguments,
    force: bool,
    wish: Wish,
    told: &mut Told,
) -> Result<bool, Error> {
    match run.sql {
        true if told.is_of_many() => Err(Error::Refused {
            message: "--sql prints the script of one binding: name one".to_owned(),
        }),
        true => script(api, place, wish, told).await.map(|()| true),
        false => {
            let done = perform(api, place, run, force, wish, told).await;
            done.map(|()| true)
        }
    }
}

/// Prints it as a script.
async fn script(
    api: &mut Api,
    place: PlaceArguments,
    wish: Wish,
    told: &Told,
) -> Result<(), Error> {
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
    told.text(&answer.map_err(refused)?.into_inner().sql);
    Ok(())
}

/// Does it. How it goes on is told on stderr, what was done on stdout.
async fn perform(
    api: &mut Api,
    place: PlaceArguments,
    run: &RunArguments,
    force: bool,
    wish: Wish,
    told: &mut Told,
) -> Result<(), Error> {
    let (binding, branch) = named(api, place).await?;
    let request = pb::MigrateRequest {
        binding,
        branch,
        wish: Some(wish),
        statement_timeout: run.statement_timeout.map(wire),
        force,
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
    told.many(&done, |done| {
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
