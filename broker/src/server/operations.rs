//! google.longrunning.Operations, and how calls begin operations.

use std::cmp::Reverse;
use std::time::Duration;

use prost::Message;
use prost_types::Any;
use proto::broker::v1 as pb;
use proto::google::longrunning::operations_server::Operations;
use proto::google::longrunning::{
    CancelOperationRequest, DeleteOperationRequest, GetOperationRequest, ListOperationsRequest,
    ListOperationsResponse, Operation, WaitOperationRequest,
};
use rpc::filter::{Field, Filter, Kind, Value};
use rpc::status::{FieldViolation, Refusal};
use tonic::{Code, Request, Response, Status};

use super::branches::time;
use super::request::{self, Page, Repeatable};
use super::rights::Rights;
use super::{Broker, Error};
use crate::branches;
use crate::names::OperationName;
use crate::operations::{Asked, Ended, Ends, Record};

const LIST: &str = "google.longrunning.Operations/ListOperations";
/// What a list can be narrowed by.
const FIELDS: [Field; 4] = [
    ("done", Kind::Flag),
    ("method", Kind::Text),
    ("branch", Kind::Text),
    ("create_time", Kind::Time),
];
/// The longest wait for an operation, in seconds. Who wants to know more waits
/// again.
const WAIT_SECONDS_MAX: u64 = 600;

/// The types of what operations answer with.
pub(super) const BRANCH: &str = "broker.v1.Branch";
pub(super) const EMPTY: &str = "google.protobuf.Empty";
const METADATA: &str = "broker.v1.BranchOperationMetadata";

/// A message as an Any of that type.
pub(super) fn any(type_name: &str, message: &impl Message) -> Any {
    Any {
        type_url: format!("type.googleapis.com/{type_name}"),
        value: message.encode_to_vec(),
    }
}

#[tonic::async_trait]
impl Operations for Broker {
    async fn list_operations(
        &self,
        request: Request<ListOperationsRequest>,
    ) -> Result<Response<ListOperationsResponse>, Status> {
        self.rights(&request)?.may_read()?;
        let request = request.into_inner();
        if !matches!(request.name.as_str(), "" | "operations") {
            let wrong = FieldViolation::new("name", "must be empty, or `operations`");
            return Err(Error::from(wrong).into());
        }
        let filter = Filter::parse(&request.filter, &FIELDS).map_err(Error::from)?;
        let page = Page::of(
            &self.page_tokens,
            LIST,
            request.filter,
            request.page_size,
            &request.page_token,
        )?;
        let all = self.operations.list().into_iter();
        let fitting = all.filter(|record| filter.fits(|field| value(record, field)));
        let key = |record: &Record| Reverse((record.create_time, record.name.to_string()));
        let (records, next_page_token) = page.cut(&self.page_tokens, fitting, key);
        Ok(Response::new(ListOperationsResponse {
            operations: records.into_iter().map(wire).collect(),
            next_page_token,
            unreachable: Vec::new(),
        }))
    }

    async fn get_operation(
        &self,
        request: Request<GetOperationRequest>,
    ) -> Result<Response<Operation>, Status> {
        self.rights(&request)?.may_read()?;
        let name = name(&request.into_inner().name)?;
        let record = self.operations.find(name).await;
        Ok(Response::new(wire(record.map_err(Error::from)?)))
    }

    async fn wait_operation(
        &self,
        request: Request<WaitOperationRequest>,
    ) -> Result<Response<Operation>, Status> {
        self.rights(&request)?.may_read()?;
        let request = request.into_inner();
        let name = name(&request.name)?;
        let longest = Duration::from_secs(WAIT_SECONDS_MAX);
        let time = match request.timeout.map(Duration::try_from) {
            None => longest,
            Some(Ok(time)) => time.min(longest),
            Some(Err(_)) => {
                let wrong = FieldViolation::new("timeout", "must not be negative");
                return Err(Error::from(wrong).into());
            }
        };
        let record = self.operations.wait(name, time).await;
        Ok(Response::new(wire(record.map_err(Error::from)?)))
    }

    async fn cancel_operation(
        &self,
        request: Request<CancelOperationRequest>,
    ) -> Result<Response<()>, Status> {
        self.rights(&request)?.may_administer()?;
        let name = name(&request.into_inner().name)?;
        let cancelled = self.operations.cancel(name).await;
        Ok(Response::new(cancelled.map_err(Error::from)?))
    }

    async fn delete_operation(
        &self,
        request: Request<DeleteOperationRequest>,
    ) -> Result<Response<()>, Status> {
        self.rights(&request)?.may_administer()?;
        let name = name(&request.into_inner().name)?;
        let forgotten = self.operations.forget(name).await;
        Ok(Response::new(forgotten.map_err(Error::from)?))
    }
}

impl Broker {
    /// What a call asks for. `branch`: the name of the one that is worked on, where
    /// there is one.
    pub(super) fn asked<R: Repeatable>(
        rights: &Rights,
        request: &R,
        branch: String,
    ) -> Result<Asked, Error> {
        let id = request::id(request, rights.caller())?;
        let mut request = request.clone();
        request.request_id().clear();
        Ok(Asked {
            caller: rights.caller().name().unwrap_or_default().to_owned(),
            method: R::METHOD,
            request: request.encode_to_vec(),
            branch,
            id,
            is_waited_for: false,
        })
    }

    /// Begins an operation for a call, once for each request id, after `check`. What
    /// that refuses is not remembered.
    pub(super) async fn operate<E: Into<Error>>(
        &self,
        asked: Asked,
        check: impl Future<Output = Result<(), E>> + Send,
    ) -> Result<Response<Operation>, Status> {
        let record = Box::pin(self.begin(asked, check)).await?;
        Ok(Response::new(wire(record)))
    }

    /// Does what a call asks for and waits for it: the branch as it is then. Who
    /// does not wait so long cuts nothing off.
    pub(super) async fn answer(
        &self,
        asked: Asked,
        check: impl Future<Output = Result<(), branches::Error>> + Send,
    ) -> Result<Option<pb::Branch>, Status> {
        let asked = Asked {
            is_waited_for: true,
            ..asked
        };
        let record = Box::pin(self.begin(asked, check)).await?;
        let name = record.name;
        let mut result = record.result;
        while result.is_none() {
            let time = Duration::from_secs(WAIT_SECONDS_MAX);
            let waited = self.operations.wait(name, time).await;
            result = waited.map_err(Error::from)?.result;
        }
        match result {
            Some(Ended::Error(status)) => Err(refusal(&status)),
            Some(Ended::Response(any)) => {
                // Written by us.
                Ok(Some(pb::Branch::decode(&*any.value).unwrap_or_default()))
            }
            None => Ok(None),
        }
    }

    /// As [`Broker::operate`], as it is kept.
    pub(super) async fn begin<E: Into<Error>>(
        &self,
        asked: Asked,
        check: impl Future<Output = Result<(), E>> + Send,
    ) -> Result<Record, Error> {
        if let Some(before) = self.operations.repeated(&asked)? {
            return Ok(before);
        }
        if let Err(error) = check.await {
            // Another broker may have done it when this request came before.
            return match self.operations.repeated_anywhere(&asked).await? {
                Some(before) => Ok(before),
                None => Err(error.into()),
            };
        }
        let broker = self.clone();
        let perform = |record, work| async move { broker.perform(record, work).await };
        Ok(self.operations.begin(asked, perform).await?)
    }
}

/// How an operation ends that was cancelled, or whose work broke.
pub fn ends() -> Ends {
    let lost = "the operation's work broke; look at what is there";
    Ends {
        cancelled: refused(&Error::from(branches::Error::Cancelled).into()),
        lost: refused(&Refusal::new(Code::Internal, "OPERATION_BROKEN", lost).into()),
    }
}

/// A refusal as the message that it is in an operation.
pub(super) fn refused(status: &Status) -> Ended {
    let whole = proto::google::rpc::Status {
        code: status.code().into(),
        message: status.message().to_owned(),
        details: Vec::new(),
    };
    // Details are sent as a whole google.rpc.Status.
    let details = proto::google::rpc::Status::decode(status.details());
    Ended::Error(match status.details() {
        [] => whole,
        _ => details.unwrap_or(whole),
    })
}

/// The other way round.
pub(super) fn refusal(status: &proto::google::rpc::Status) -> Status {
    let details = status.encode_to_vec().into();
    Status::with_details(Code::from(status.code), status.message.clone(), details)
}

fn wire(record: Record) -> Operation {
    let metadata = pb::BranchOperationMetadata {
        method: record.method,
        branch: record.branch,
        caller: record.caller,
        create_time: Some(time(record.create_time)),
        end_time: record.end_time.map(time),
    };
    Operation {
        name: record.name.to_string(),
        metadata: Some(any(METADATA, &metadata)),
        done: record.result.is_some(),
        result: record.result,
    }
}

fn value(record: &Record, field: &str) -> Option<Value> {
    match field {
        "done" => Some(Value::Flag(record.result.is_some())),
        "method" => Some(Value::Text(record.method.clone())),
        "branch" => Some(Value::Text(record.branch.clone())),
        _ => Some(Value::Time(record.create_time)),
    }
}

fn name(text: &str) -> Result<OperationName, Error> {
    Ok(request::name("name", text)?)
}
