//! `broker branches …` and `broker operations …`.

use clap::Subcommand;
use jiff::Timestamp;
use prost::Message as _;
use prost_types::FieldMask;
use proto::broker::v1 as pb;
use proto::broker::v1::branch_service_client::BranchServiceClient;
use proto::google::longrunning as lro;
use proto::google::longrunning::operation::Result as Ended;
use proto::google::longrunning::operations_client::OperationsClient;
use rpc::client::Channel;

use super::client::{Arguments, Error, connect, refused};
use super::table;

/// How long one wait for an operation lasts before it is asked for again, in
/// seconds.
const WAIT_SECONDS: i64 = 60;

#[derive(Debug, clap::Args)]
pub(super) struct BranchArguments {
    #[command(flatten)]
    broker: Arguments,
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

#[derive(Debug, clap::Args)]
pub(super) struct OperationArguments {
    #[command(flatten)]
    broker: Arguments,
    #[command(subcommand)]
    command: Operations,
}

/// Operations are named as operations/{uuid}.
#[derive(Debug, Subcommand)]
enum Operations {
    /// List operations, newest first.
    List {
        /// As in `done = false AND method = DeleteBranch`.
        #[arg(long, default_value = "")]
        filter: String,
    },
    /// Show one operation.
    Get { operation: String },
    /// Wait until an operation is done.
    Wait { operation: String },
    /// Cancel an operation that has changed nothing yet.
    Cancel { operation: String },
}

/// `broker branches …`.
pub(super) async fn branches(arguments: BranchArguments) -> Result<(), Error> {
    let channel = connect(&arguments.broker).await?;
    let mut broker = Broker {
        branches: BranchServiceClient::new(channel.clone()),
        operations: OperationsClient::new(channel),
    };
    match arguments.command {
        Branches::List { filter, order_by } => {
            let mut all = Vec::new();
            let mut page_token = String::new();
            // Each page brings more, so there is a last one.
            loop {
                let request = pb::ListBranchesRequest {
                    page_token,
                    filter: filter.clone(),
                    order_by: order_by.clone(),
                    ..Default::default()
                };
                let page = broker.branches.list_branches(request).await;
                let page = page.map_err(refused)?.into_inner();
                all.extend(page.branches);
                page_token = page.next_page_token;
                if page_token.is_empty() {
                    break;
                }
            }
            print!("{}", branch_table(&all));
        }
        Branches::Get { branch } => show(&broker.find(&branch).await?),
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
                    parent: broker.name_of(parent).await?,
                    expire_time: expires.map(wire),
                    protected,
                    ..Default::default()
                }),
                point: (point.lsn.map(At::Lsn)).or(point.time.map(|time| At::Time(wire(time)))),
                schema_only,
                read_only_endpoint,
                request_id: request_id(),
            };
            let begun = broker.branches.create_branch(request).await;
            broker.end(begun.map_err(refused)?.into_inner()).await?;
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
            let found = broker.find(&branch).await?;
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
            let answer = broker.branches.update_branch(request).await;
            let branch = answer.map_err(refused)?.into_inner().branch;
            show(&branch.unwrap_or_default());
        }
        Branches::Delete { branch } => {
            let request = pb::DeleteBranchRequest {
                name: broker.find(&branch).await?.name,
                request_id: request_id(),
                ..Default::default()
            };
            let begun = broker.branches.delete_branch(request).await;
            broker.end(begun.map_err(refused)?.into_inner()).await?;
        }
        Branches::Reset {
            branch,
            preserve_under,
        } => {
            let request = pb::ResetBranchRequest {
                name: broker.find(&branch).await?.name,
                preserve_under_name: preserve_under,
                request_id: request_id(),
                ..Default::default()
            };
            let begun = broker.branches.reset_branch(request).await;
            broker.end(begun.map_err(refused)?.into_inner()).await?;
        }
        Branches::Restore {
            branch,
            source,
            point,
            preserve_under,
        } => {
            use pb::restore_branch_request::Point as At;
            let request = pb::RestoreBranchRequest {
                name: broker.find(&branch).await?.name,
                source: broker.name_of(source).await?,
                point: (point.lsn.map(At::Lsn)).or(point.time.map(|time| At::Time(wire(time)))),
                preserve_under_name: preserve_under,
                request_id: request_id(),
                ..Default::default()
            };
            let begun = broker.branches.restore_branch(request).await;
            broker.end(begun.map_err(refused)?.into_inner()).await?;
        }
        Branches::SetDefault { branch } => {
            let request = pb::SetDefaultBranchRequest {
                name: broker.find(&branch).await?.name,
                request_id: request_id(),
            };
            let answer = broker.branches.set_default_branch(request).await;
            let branch = answer.map_err(refused)?.into_inner().branch;
            show(&branch.unwrap_or_default());
        }
        Branches::Schema {
            branch,
            database,
            point,
        } => {
            use pb::get_schema_request::Point as At;
            let request = pb::GetSchemaRequest {
                name: broker.find(&branch).await?.name,
                database,
                point: (point.lsn.map(At::Lsn)).or(point.time.map(|time| At::Time(wire(time)))),
            };
            let answer = broker.branches.get_schema(request).await;
            print!("{}", answer.map_err(refused)?.into_inner().schema);
        }
        Branches::Diff {
            branch,
            base,
            database,
        } => {
            let request = pb::CompareSchemasRequest {
                name: broker.find(&branch).await?.name,
                base: broker.name_of(base).await?,
                database,
                ..Default::default()
            };
            let answer = broker.branches.compare_schemas(request).await;
            print!("{}", answer.map_err(refused)?.into_inner().diff);
        }
    }
    Ok(())
}

/// `broker operations …`.
pub(super) async fn operations(arguments: OperationArguments) -> Result<(), Error> {
    let channel = connect(&arguments.broker).await?;
    let mut broker = Broker {
        branches: BranchServiceClient::new(channel.clone()),
        operations: OperationsClient::new(channel),
    };
    match arguments.command {
        Operations::List { filter } => {
            let mut all = Vec::new();
            let mut page_token = String::new();
            loop {
                let request = lro::ListOperationsRequest {
                    filter: filter.clone(),
                    page_token,
                    ..Default::default()
                };
                let page = broker.operations.list_operations(request).await;
                let page = page.map_err(refused)?.into_inner();
                all.extend(page.operations);
                page_token = page.next_page_token;
                if page_token.is_empty() {
                    break;
                }
            }
            print!("{}", operation_table(&all));
            Ok(())
        }
        Operations::Get { operation } => {
            let request = lro::GetOperationRequest { name: operation };
            let found = broker.operations.get_operation(request).await;
            print!(
                "{}",
                operation_table(&[found.map_err(refused)?.into_inner()])
            );
            Ok(())
        }
        Operations::Wait { operation } => {
            let request = lro::GetOperationRequest { name: operation };
            let found = broker.operations.get_operation(request).await;
            broker.end(found.map_err(refused)?.into_inner()).await
        }
        Operations::Cancel { operation } => {
            let request = lro::CancelOperationRequest { name: operation };
            let cancelled = broker.operations.cancel_operation(request).await;
            cancelled.map(|_| ()).map_err(refused)
        }
    }
}

struct Broker {
    branches: BranchServiceClient<Channel>,
    operations: OperationsClient<Channel>,
}

impl Broker {
    /// The branch of that name in Neon, or that resource name.
    async fn find(&mut self, branch: &str) -> Result<pb::Branch, Error> {
        if branch.starts_with("branches/") {
            let request = pb::GetBranchRequest {
                name: branch.to_owned(),
            };
            let answer = self.branches.get_branch(request).await;
            let found = answer.map_err(refused)?.into_inner().branch;
            return Ok(found.unwrap_or_default());
        }
        let quoted = branch.replace('\\', "\\\\").replace('"', "\\\"");
        let request = pb::ListBranchesRequest {
            filter: format!("display_name : \"{quoted}\""),
            page_size: 1_000,
            ..Default::default()
        };
        let answer = self.branches.list_branches(request).await;
        let mut found = answer.map_err(refused)?.into_inner().branches.into_iter();
        found
            .find(|found| found.display_name == branch)
            .ok_or_else(|| Error::Refused {
                message: format!("the project has no branch {branch}"),
            })
    }

    async fn name_of(&mut self, branch: Option<String>) -> Result<String, Error> {
        match branch {
            Some(branch) => Ok(self.find(&branch).await?.name),
            None => Ok(String::new()),
        }
    }

    /// Waits for an operation and says how it ended.
    async fn end(&mut self, mut operation: lro::Operation) -> Result<(), Error> {
        while !operation.done {
            eprintln!("{} …", operation.name);
            let request = lro::WaitOperationRequest {
                name: operation.name,
                timeout: Some(prost_types::Duration {
                    seconds: WAIT_SECONDS,
                    nanos: 0,
                }),
            };
            let waited = self.operations.wait_operation(request).await;
            operation = waited.map_err(refused)?.into_inner();
        }
        match operation.result {
            Some(Ended::Error(status)) => Err(Error::Refused {
                message: status.message,
            }),
            Some(Ended::Response(any)) if any.type_url.ends_with("/broker.v1.Branch") => {
                show(&pb::Branch::decode(&*any.value).unwrap_or_default());
                Ok(())
            }
            _ => {
                println!("done");
                Ok(())
            }
        }
    }
}

fn show(branch: &pb::Branch) {
    print!("{}", branch_table(std::slice::from_ref(branch)));
}

fn branch_table(branches: &[pb::Branch]) -> String {
    let rows = branches.iter().map(|branch| {
        let marks = [
            (branch.default, "default"),
            (branch.protected, "protected"),
            (branch.managed, "managed"),
        ];
        let marks = marks.into_iter().filter(|(is_so, _)| *is_so);
        let marks: Vec<_> = marks.map(|(_, mark)| mark).collect();
        let state = branch.state().as_str_name();
        vec![
            branch.display_name.clone(),
            branch.name.clone(),
            branch.parent.clone(),
            state.trim_start_matches("BRANCH_STATE_").to_owned(),
            marks.join(","),
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

fn operation_table(operations: &[lro::Operation]) -> String {
    let rows = operations.iter().map(|operation| {
        let metadata = operation.metadata.as_ref();
        let metadata =
            metadata.and_then(|any| pb::BranchOperationMetadata::decode(&*any.value).ok());
        let metadata = metadata.unwrap_or_default();
        let state = match &operation.result {
            None => "RUNNING".to_owned(),
            Some(Ended::Response(_)) => "DONE".to_owned(),
            Some(Ended::Error(status)) => format!("FAILED: {}", status.message),
        };
        vec![
            operation.name.clone(),
            metadata.method,
            metadata.branch,
            metadata.create_time.map(shown).unwrap_or_default(),
            state,
        ]
    });
    let head = ["OPERATION", "METHOD", "BRANCH", "CREATED", "STATE"];
    table::of(&head, rows)
}

fn shown(time: prost_types::Timestamp) -> String {
    let time = Timestamp::new(time.seconds, 0);
    time.map(|time| time.to_string()).unwrap_or_default()
}

fn wire(time: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: time.as_second(),
        nanos: time.subsec_nanosecond(),
    }
}

/// So that a call whose answer is lost on the way may be sent again by what is
/// between.
fn request_id() -> String {
    uuid::Uuid::new_v4().to_string()
}
