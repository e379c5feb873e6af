//! `broker migrate autogenerate`, `lint`, `rehearse` and `verify`.

use std::path::PathBuf;
use std::process::ExitCode;

use proto::broker::v1 as pb;
use proto::broker::v1::autogenerate_request::Wanted;

use super::files::NewRevision;
use super::{PlaceArguments, called, named, report};
use crate::cli::api::Api;
use crate::cli::client::{Error, refused};
use crate::cli::output::{Output, put};
use crate::cli::progress::Waiting;

#[derive(Debug, clap::Args)]
pub(super) struct AutogenerateArguments {
    #[command(flatten)]
    place: PlaceArguments,
    /// The service's folder of revisions.
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
    /// What it does, in a few words: add_country.
    name: String,
    /// SQL that makes the wanted schema, with unqualified names.
    #[arg(long, value_name = "FILE", required_unless_present = "wanted_branch")]
    schema: Option<PathBuf>,
    /// Another branch that has the wanted schema: its name, or branches/{id}.
    #[arg(long, value_name = "BRANCH", conflicts_with = "schema")]
    wanted_branch: Option<String>,
    /// What was renamed: users=people, or users.name=full_name. May be given again.
    #[arg(long = "rename", value_name = "OLD=NEW")]
    renames: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct LintArguments {
    #[command(flatten)]
    place: PlaceArguments,
    /// Those that the branch has as well.
    #[arg(long)]
    all: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct RehearseArguments {
    #[command(flatten)]
    place: PlaceArguments,
    /// Up to that revision.
    #[arg(long, value_name = "REVISION")]
    to: Option<String>,
    /// As Markdown, for a pull request.
    #[arg(long)]
    markdown: bool,
}

pub(super) async fn autogenerate(
    api: &mut Api,
    wished: AutogenerateArguments,
) -> Result<ExitCode, Error> {
    let revision = NewRevision {
        folder: &wished.folder,
        words: &wished.name,
        in_transaction: true,
    };
    let name = revision.name()?;
    let (binding, branch) = named(api, wished.place).await?;
    let wanted = match (wished.schema, wished.wanted_branch) {
        (Some(file), _) => {
            let read = std::fs::read_to_string(&file);
            Wanted::SchemaSql(read.map_err(|error| Error::Refused {
                message: format!("read {}: {error}", file.display()),
            })?)
        }
        (None, branch) => Wanted::WantedBranch(api.branch_name(&branch.unwrap_or_default()).await?),
    };
    let request = pb::AutogenerateRequest {
        binding,
        branch,
        renames: wished.renames,
        wanted: Some(wanted),
    };
    let waiting = Waiting::begin("compare the schemas");
    let written = api.migrations.autogenerate(request).await;
    drop(waiting);
    let written = written.map_err(refused)?.into_inner();
    if written.up_sql.is_empty() && written.down_sql.is_empty() {
        put("nothing to write: the schema is as wanted\n");
        return Ok(ExitCode::SUCCESS);
    }
    revision.write(&name, &written.up_sql, &written.down_sql)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn lint(
    api: &mut Api,
    wished: LintArguments,
    output: Output,
) -> Result<ExitCode, Error> {
    let (binding, branch) = named(api, wished.place).await?;
    let request = pb::LintRevisionsRequest {
        binding,
        branch,
        all: wished.all,
    };
    let answer = api.migrations.lint_revisions(request).await;
    let findings = answer.map_err(refused)?.into_inner().findings;
    output.many(&findings, |findings| {
        if findings.is_empty() {
            return "nothing found\n".to_owned();
        }
        let line = |one: &pb::LintFinding| {
            let name = called("", &one.revision);
            format!("{name}/{}\n", report::finding_line(one))
        };
        findings.iter().map(line).collect()
    })?;
    let is_error = |one: &pb::LintFinding| one.level() == pb::LintLevel::Error;
    Ok(code(!findings.iter().any(is_error)))
}

pub(super) async fn rehearse(
    api: &mut Api,
    wished: RehearseArguments,
    output: Output,
) -> Result<ExitCode, Error> {
    let (binding, branch) = named(api, wished.place).await?;
    let request = pb::RehearseRequest {
        binding,
        branch,
        to: wished.to.unwrap_or_default(),
    };
    let waiting = Waiting::begin("rehearse on a throw-away branch");
    let answer = api.migrations.rehearse(request).await;
    drop(waiting);
    let answer = answer.map_err(refused)?.into_inner();
    match wished.markdown {
        true => put(&report::markdown(&answer)),
        false => output.one(&answer, report::text)?,
    }
    let is_nothing = answer.revisions.is_empty();
    Ok(code(
        is_nothing || answer.verdict() == pb::RehearsalVerdict::Pass,
    ))
}

pub(super) async fn verify(
    api: &mut Api,
    place: PlaceArguments,
    output: Output,
) -> Result<ExitCode, Error> {
    let (binding, branch) = named(api, place).await?;
    let request = pb::VerifySchemaRequest { binding, branch };
    let waiting = Waiting::begin("make the schema anew on a throw-away branch");
    let answer = api.migrations.verify_schema(request).await;
    drop(waiting);
    let answer = answer.map_err(refused)?.into_inner();
    output.one(&answer, |answer| match answer.drift.as_str() {
        "" => "the schema is what its revisions make\n".to_owned(),
        drift => drift.to_owned(),
    })?;
    Ok(code(answer.drift.is_empty()))
}

fn code(is_well: bool) -> ExitCode {
    match is_well {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}
