//! `broker branches …`.

mod tree;

use clap::Subcommand;
use jiff::Timestamp;
use prost_types::FieldMask;
use proto::broker::v1 as pb;

use super::api::{Api, request_id};
use super::client::{Arguments, Error, refused};
use super::operations::end;
use super::output::{Output, OutputArguments};
use super::table;
use super::times::{shown, wire};

#[derive(Debug, clap::Args)]
pub(super) struct BranchArguments {
    #[command(flatten)]
    broker: Arguments,
    #[command(flatten)]
    output: OutputArguments,
    #[command(subcommand)]
    command: Branches,
}

/// Branches are named by their name in Neon, or as branches/{id}.
#[derive(Debug, Subcommand)]
enum Branches {
    /// List branches.
    List {
        /// As in `managed = true AND display_name = "pr-*"`.
        #[arg(long, default_value = "")]
        filter: String,
        /// As in `create_time desc`.
        #[arg(long, default_value = "")]
        order_by: String,
    },
    /// Show branches below their parents.
    Tree,
    /// Show one branch.
    Get { branch: String },
    /// Make a branch, or find the one that the same command made.
    Create {
        /// Its name.
        name: String,
        /// Its parent; without it: the project's default branch.
        #[arg(long)]
        parent: Option<String>,
        #[command(flatten)]
        point: Point,
        /// Without data.
        #[arg(long)]
        schema_only: bool,
        /// When Neon deletes it: 2026-12-31T00:00:00Z.
        #[arg(long, value_name = "TIME")]
        expires: Option<Timestamp>,
        /// Keep it from being deleted or reset.
        #[arg(long)]
        protected: bool,
        /// With a read-only endpoint as well.
        #[arg(long)]
        read_only_endpoint: bool,
    },
    /// Change a branch's name, protection or end.
    Update {
        branch: String,
        /// Its new name.
        #[arg(long)]
        name: Option<String>,
        /// Whether it is to be protected.
        #[arg(long, value_name = "BOOL")]
        protected: Option<bool>,
        /// When Neon deletes it: 2026-12-31T00:00:00Z.
        #[arg(long, value_name = "TIME", conflicts_with = "never_expires")]
        expires: Option<Timestamp>,
        /// Take its end away.
        #[arg(long)]
        never_expires: bool,
    },
    /// Delete a branch that the broker made.
    Delete { branch: String },
    /// Give a branch its parent's present data.
    Reset {
        branch: String,
        /// Keep the old data as a branch of this name.
        #[arg(long, value_name = "NAME", default_value = "")]
        preserve_under: String,
    },
    /// Give a branch other data: its own of the past, or another's.
    Restore {
        branch: String,
        /// Whose data; without it: its own.
        #[arg(long)]
        source: Option<String>,
        #[command(flatten)]
        point: Point,
        /// Keep the old data as a branch of this name.
        #[arg(long, value_name = "NAME", default_value = "")]
        preserve_under: String,
    },
    /// Make a branch the project's default one.
    SetDefault { branch: String },
    /// Print the schema of a database.
    Schema {
        branch: String,
        /// The database.
        #[arg(long)]
        database: String,
        #[command(flatten)]
        point: Point,
    },
    /// Print how a database's schema differs from that of its parent, or of
    /// another branch.
    Diff {
        branch: String,
        /// The branch to compare with; without it: the parent.
        #[arg(long)]
        base: Option<String>,
        /// The database.
        #[arg(long)]
        database: String,
    },
}

/// A point of the past.
#[derive(Debug, Clone, clap::Args)]
#[group(multiple = false)]
struct Point {
    /// A place in the log: 0/1A2B3C8.
    #[arg(long)]
    lsn: Option<String>,
    /// A time: 2026-12-11T08:00:00Z.
    #[arg(long)]
    time: Option<Timestamp>,
}

/// `broker branches …`.
pub(super) async fn branches(arguments: BranchArguments) -> Result<(), Error> {
    let mut api = Api::connect(&arguments.broker).await?;
    let api = &mut api;
    let output = arguments.output.output;
    match arguments.command {
        Branches::List { filter, order_by } => {
            let all = api.branches_like(&filter, &order_by).await?;
            output.many(&all, table_of)?;
        }
        Branches::Tree => tree::print(&api.branches_like("", "").await?, output)?,
        Branches::Get { branch } => show(output, &api.branch(&branch).await?)?,
        Branches::Create {
            name,
            parent,
            point,
            schema_only,
            expires,
            protected,
            read_only_endpoint,
        } => {
            use pb::create_branch_request::Point as At;
            let request = pb::CreateBranchRequest {
                branch: Some(pb::Branch {
                    display_name: name,
                    parent: name_of(api, parent).await?,
                    expire_time: expires.map(wire),
                    protected,
                    ..Default::default()
                }),
                point: (point.lsn.map(At::Lsn)).or(point.time.map(|time| At::Time(wire(time)))),
                schema_only,
                read_only_endpoint,
                request_id: request_id(),
            };
            let begun = api.branches.create_branch(request).await;
            end(api, begun.map_err(refused)?.into_inner(), output).await?;
        }
        Branches::Update {
            branch,
            name,
            protected,
            expires,
            never_expires,
        } => {
            let masked = [
                ("display_name", name.is_some()),
                ("protected", protected.is_some()),
                ("expire_time", expires.is_some() || never_expires),
            ];
            let paths = masked.into_iter().filter(|(_, is_set)| *is_set);
            let paths: Vec<String> = paths.map(|(path, _)| path.to_owned()).collect();
            let found = api.branch(&branch).await?;
            let request = pb::UpdateBranchRequest {
                branch: Some(pb::Branch {
                    name: found.name,
                    etag: found.etag,
                    display_name: name.unwrap_or_default(),
                    protected: protected.unwrap_or_default(),
                    expire_time: expires.map(wire),
                    ..Default::default()
                }),
                update_mask: Some(FieldMask { paths }),
                request_id: request_id(),
            };
            let answer = api.branches.update_branch(request).await;
            let branch = answer.map_err(refused)?.into_inner().branch;
            show(output, &branch.unwrap_or_default())?;
        }
        Branches::Delete { branch } => {
            let request = pb::DeleteBranchRequest {
                name: api.branch_name(&branch).await?,
                request_id: request_id(),
                ..Default::default()
            };
            let begun = api.branches.delete_branch(request).await;
            end(api, begun.map_err(refused)?.into_inner(), output).await?;
        }
        Branches::Reset {
            branch,
            preserve_under,
        } => {
            let request = pb::ResetBranchRequest {
                name: api.branch_name(&branch).await?,
                preserve_under_name: preserve_under,
                request_id: request_id(),
                ..Default::default()
            };
            let begun = api.branches.reset_branch(request).await;
            end(api, begun.map_err(refused)?.into_inner(), output).await?;
        }
        Branches::Restore {
            branch,
            source,
            point,
            preserve_under,
        } => {
            use pb::restore_branch_request::Point as At;
            let request = pb::RestoreBranchRequest {
                name: api.branch_name(&branch).await?,
                source: name_of(api, source).await?,
                point: (point.lsn.map(At::Lsn)).or(point.time.map(|time| At::Time(wire(time)))),
                preserve_under_name: preserve_under,
                request_id: request_id(),
                ..Default::default()
            };
            let begun = api.branches.restore_branch(request).await;
            end(api, begun.map_err(refused)?.into_inner(), output).await?;
        }
        Branches::SetDefault { branch } => {
            let request = pb::SetDefaultBranchRequest {
                name: api.branch_name(&branch).await?,
                request_id: request_id(),
            };
            let answer = api.branches.set_default_branch(request).await;
            let branch = answer.map_err(refused)?.into_inner().branch;
            show(output, &branch.unwrap_or_default())?;
        }
        Branches::Schema {
            branch,
            database,
            point,
        } => {
            use pb::get_schema_request::Point as At;
            let request = pb::GetSchemaRequest {
                name: api.branch_name(&branch).await?,
                database,
                point: (point.lsn.map(At::Lsn)).or(point.time.map(|time| At::Time(wire(time)))),
            };
            let answer = api.branches.get_schema(request).await;
            let answer = answer.map_err(refused)?.into_inner();
            output.one(&answer, |answer| answer.schema.clone())?;
        }
        Branches::Diff {
            branch,
            base,
            database,
        } => {
            let request = pb::CompareSchemasRequest {
                name: api.branch_name(&branch).await?,
                base: name_of(api, base).await?,
                database,
                ..Default::default()
            };
            let answer = api.branches.compare_schemas(request).await;
            let answer = answer.map_err(refused)?.into_inner();
            output.one(&answer, |answer| answer.diff.clone())?;
        }
    }
    Ok(())
}

/// Prints one branch.
pub(super) fn show(output: Output, branch: &pb::Branch) -> Result<(), Error> {
    output.one(branch, |branch| table_of(std::slice::from_ref(branch)))?;
    Ok(())
}

async fn name_of(api: &mut Api, branch: Option<String>) -> Result<String, Error> {
    match branch {
        Some(branch) => api.branch_name(&branch).await,
        None => Ok(String::new()),
    }
}

fn table_of(branches: &[pb::Branch]) -> String {
    let rows = branches.iter().map(|branch| {
        vec![
            branch.display_name.clone(),
            branch.name.clone(),
            branch.parent.clone(),
            state(branch),
            marks(branch),
            branch.create_time.map(shown).unwrap_or_default(),
            branch.expire_time.map(shown).unwrap_or_default(),
            branch.bindings.join(","),
        ]
    });
    let head = [
        "NAME", "RESOURCE", "PARENT", "STATE", "MARKS", "CREATED", "EXPIRES", "BINDINGS",
    ];
    table::of(&head, rows)
}

fn state(branch: &pb::Branch) -> String {
    let state = branch.state().as_str_name();
    state.trim_start_matches("BRANCH_STATE_").to_owned()
}

fn marks(branch: &pb::Branch) -> String {
    let marks = [
        (branch.default, "default"),
        (branch.protected, "protected"),
        (branch.managed, "managed"),
    ];
    let marks = marks.into_iter().filter(|(is_so, _)| *is_so);
    let marks: Vec<_> = marks.map(|(_, mark)| mark).collect();
    marks.join(",")
}
