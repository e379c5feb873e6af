//! `broker operations …`, and waiting for what other commands begin.

use clap::Subcommand;
use prost::Message as _;
use proto::broker::v1 as pb;
use proto::google::longrunning as lro;
use proto::google::longrunning::operation::Result as Ended;

use super::api::Api;
use super::branches;
use super::client::{Arguments, Error, refused};
use super::output::{Output, OutputArguments};
use super::progress::Waiting;
use super::table;
use super::times::shown;

/// How long one wait for an operation lasts before it is asked for again, in
/// seconds.
const WAIT_SECONDS: i64 = 60;

#[derive(Debug, clap::Args)]
pub(super) struct OperationArguments {
    #[command(flatten)]
    broker: Arguments,
    #[command(flatten)]
    output: OutputArguments,
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

/// `broker operations …`.
pub(super) async fn operations(arguments: OperationArguments) -> Result<(), Error> {
    let mut api = Api::connect(&arguments.broker).await?;
    let output = arguments.output.output;
    match arguments.command {
        Operations::List { filter } => {
            output.many(&list(&mut api, &filter).await?, table_of)?;
        }
        Operations::Get { operation } => {
            let found = get(&mut api, operation).await?;
            output.one(&found, |found| table_of(std::slice::from_ref(found)))?;
        }
        Operations::Wait { operation } => {
            let found = get(&mut api, operation).await?;
            end(&mut api, found, output).await?;
        }
        Operations::Cancel { operation } => {
            let request = lro::CancelOperationRequest { name: operation };
            let cancelled = api.operations.cancel_operation(request).await;
            cancelled.map_err(refused)?;
        }
    }
    Ok(())
}

/// Waits for an operation and says how it ended.
pub(super) async fn end(
    api: &mut Api,
    operation: lro::Operation,
    output: Output,
) -> Result<(), Error> {
    match ended(api, operation).await?.result {
        Some(Ended::Error(status)) => Err(Error::Refused {
            message: status.message,
        }),
        Some(Ended::Response(any)) if any.type_url.ends_with("/broker.v1.Branch") => {
            let branch = pb::Branch::decode(&*any.value).unwrap_or_default();
            branches::show(output, &branch)
        }
        _ => Ok(output.one(&(), |()| "done\n".to_owned())?),
    }
}

/// Waits until an operation is done.
pub(super) async fn ended(
    api: &mut Api,
    mut operation: lro::Operation,
) -> Result<lro::Operation, Error> {
    let method = metadata(&operation).method;
    let _waiting = Waiting::begin(format!("{method}: {}", operation.name));
    while !operation.done {
        let request = lro::WaitOperationRequest {
            name: operation.name,
            timeout: Some(prost_types::Duration {
                seconds: WAIT_SECONDS,
                nanos: 0,
            }),
        };
        let waited = api.operations.wait_operation(request).await;
        operation = waited.map_err(refused)?.into_inner();
    }
    Ok(operation)
}

async fn list(api: &mut Api, filter: &str) -> Result<Vec<lro::Operation>, Error> {
    let mut all = Vec::new();
    let mut page_token = String::new();
    // Each page brings more, so there is a last one.
    loop {
        let request = lro::ListOperationsRequest {
            filter: filter.to_owned(),
            page_token,
            ..Default::default()
        };
        let page = api.operations.list_operations(request).await;
        let page = page.map_err(refused)?.into_inner();
        all.extend(page.operations);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(all);
        }
    }
}

async fn get(api: &mut Api, name: String) -> Result<lro::Operation, Error> {
    let request = lro::GetOperationRequest { name };
    let found = api.operations.get_operation(request).await;
    Ok(found.map_err(refused)?.into_inner())
}

fn table_of(operations: &[lro::Operation]) -> String {
    let rows = operations.iter().map(|operation| {
        let metadata = metadata(operation);
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

fn metadata(operation: &lro::Operation) -> pb::BranchOperationMetadata {
    let metadata = operation.metadata.as_ref();
    let read = metadata.and_then(|any| pb::BranchOperationMetadata::decode(&*any.value).ok());
    read.unwrap_or_default()
}
