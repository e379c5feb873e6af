//! `broker migrate autogenerate`, `lint`, `rehearse` and `verify`.

use std::path::PathBuf;

use proto::broker::v1 as pb;
use proto::broker::v1::autogenerate_request::Wanted;

use super::each::Told;
use super::files::NewRevision;
use super::{PlaceArguments, called, named, report};
use crate::cli::api::Api;
use crate::cli::client::{Error, refused};
use crate::cli::output::put;
use crate::cli::progress::Waiting;

#[derive(Debug, clap::Args)]
pub(super) struct AutogenerateArguments {
    #[command(flatten)]
    pub(super) place: PlaceArguments,
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
    pub(super) place: PlaceArguments,
    /// Those that the branch has as well.
    #[arg(long)]
    pub(super) all: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct RehearseArguments {
    #[command(flatten)]
    pub(super) place: PlaceArguments,
    /// Up to that revision.
    #[arg(long, value_name = "REVISION")]
    to: Option<String>,
    /// As Markdown, for a pull request.
    #[arg(long)]
    markdown: bool,
}

pub(super) async fn autogenerate(
    api: &mut Api,
    wished: &AutogenerateArguments,
) -> Result<bool, Error> {
    let revision = NewRevision {
        folder: &wished.folder,
        words: &wished.name,
        in_transaction: true,
    };
    let name = revision.name()?;
    let (binding, branch) = named(api, wished.place.clone()).await?;
    let wanted = match (&wished.schema, &wished.wanted_branch) {
        (Some(file), _) => {
            let read = std::fs::read_to_string(file);
            Wanted::SchemaSql(read.map_err(|error| Error::Refused {
                message: format!("read {}: {error}", file.display()),
            })?)
        }
        (None, branch) => {
            let branch = branch.as_deref().unwrap_or_default();
            Wanted::WantedBranch(api.branch_name(branch).await?)
        }
    };
    let request = pb::AutogenerateRequest {
        binding,
        branch,
        renames: wished.renames.clone(),
        wanted: Some(wanted),
    };
    let waiting = Waiting::begin("compare the schemas");
    let written = api.migrations.autogenerate(request).await;
    drop(waiting);
    let written = written.map_err(refused)?.into_inner();
    if written.up_sql.is_empty() && written.down_sql.is_empty() {
        put("nothing to write: the schema is as wanted\n");
        return Ok(true);
    }
    revision.write(&name, &written.up_sql, &written.down_sql)?;
    Ok(true)
}

pub(super) async fn lint(
    api: &mut Api,
    place: PlaceArguments,
    all: bool,
    told: &mut Told,
) -> Result<bool, Error> {
    let (binding, branch) = named(api, place).await?;
    let request = pb::LintRevisionsRequest {
        binding,
        branch,
        all,
    };
    let answer = api.migrations.lint_revisions(request).await;
    let findings = answer.map_err(refused)?.into_inner().findings;
    told.many(&findings, |findings| {
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
    Ok(!findings.iter().any(is_error))
}

pub(super) async fn rehearse(
    api: &mut Api,
    place: PlaceArguments,
    wished: &RehearseArguments,
    told: &mut Told,
) -> Result<bool, Error> {
    let (binding, branch) = named(api, place).await?;
    let request = pb::RehearseRequest {
        binding,
        branch,
        to: wished.to.clone().unwrap_or_default(),
    };
    let waiting = Waiting::begin("rehearse on a throw-away branch");
    let answer = api.migrations.rehearse(request).await;
    drop(waiting);
    let answer = answer.map_err(refused)?.into_inner();
    match wished.markdown {
        true => told.text(&report::markdown(&answer)),
        false => told.one(&answer, report::text)?,
    }
    let is_nothing = answer.revisions.is_empty();
    Ok(is_nothing || answer.verdict() == pb::RehearsalVerdict::Pass)
}

pub(super) async fn verify(
    api: &mut Api,
    place: PlaceArguments,
    told: &mut Told,
) -> Result<bool, Error> {
    let (binding, branch) = named(api, place).await?;
    let request = pb::VerifySchemaRequest { binding, branch };
    let waiting = Waiting::begin("make the schema anew on a throw-away branch");
    let answer = api.migrations.verify_schema(request).await;
    drop(waiting);
    let answer = answer.map_err(refused)?.into_inner();
    told.one(&answer, |answer| match answer.drift.as_str() {
        "" => "the schema is what its revisions make\n".to_owned(),
        drift => drift.to_owned(),
    })?;
    Ok(answer.drift.is_empty())
}
