//! google.longrunning.Operations, and how calls begin operations.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use prost_types::Any;
use proto::broker::v1 as pb;
use proto::google::longrunning::operation::Result as Wire;
use proto::google::longrunning::operations_server::Operations;
use proto::google::longrunning::{
    CancelOperationRequest, DeleteOperationRequest, GetOperationRequest, ListOperationsRequest,
    ListOperationsResponse, Operation, WaitOperationRequest,
};
use rpc::status::{FieldViolation, Refusal};
use tonic::{Code, Request, Response, Status};

use super::branches::time;
use super::filter::{Field, Filter, Kind, Value};
use super::once::Key;
use super::request::{self, Page};
use super::rights::Rights;
use super::{Broker, Error};
use crate::branches;
use crate::names::OperationName;
use crate::operations::{Asked, Ended, Ends, Record, Work};
use crate::text::one_line;

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

/// A call that changes something.
pub(super) struct Call {
    asked: Asked,
    key: Option<Key>,
    /// What is worked on.
    metadata: String,
}

/// An encoded Any of that type.
pub(super) fn any(type_name: &str, message: &impl Message) -> Vec<u8> {
    any_of(type_name, message.encode_to_vec()).encode_to_vec()
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
        let key = |record: &Arc<Record>| Reverse((record.create_time, record.name.to_string()));
        let (records, next_page_token) = page.cut(&self.page_tokens, fitting, key);
        Ok(Response::new(ListOperationsResponse {
            operations: records.iter().map(|record| wire(record)).collect(),
            next_page_token,
            unreachable: Vec::new(),
        }))
    }

    async fn get_operation(
        &self,
        request: Request<GetOperationRequest>,
    ) -> Result<Response<Operation>, Status> {
        self.rights(&request)?.may_read()?;
        let record = self.operations.get(name(&request.into_inner().name)?);
        Ok(Response::new(wire(&*record.map_err(Error::from)?)))
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
        Ok(Response::new(wire(&*record.map_err(Error::from)?)))
    }

    async fn cancel_operation(
        &self,
        request: Request<CancelOperationRequest>,
    ) -> Result<Response<()>, Status> {
        self.rights(&request)?.may_administer()?;
        let cancelled = self.operations.cancel(name(&request.into_inner().name)?);
        Ok(Response::new(cancelled.map_err(Error::from)?))
    }

    async fn delete_operation(
        &self,
        request: Request<DeleteOperationRequest>,
    ) -> Result<Response<()>, Status> {
        self.rights(&request)?.may_administer()?;
        let forgotten = self.operations.forget(name(&request.into_inner().name)?);
        Ok(Response::new(forgotten.map_err(Error::from)?))
    }
}

impl Broker {
    /// A call of a method. `request`: encoded, without its id.
    pub(super) fn call(
        &self,
        rights: &Rights,
        method: &'static str,
        request_id: &str,
        request: Vec<u8>,
        metadata: String,
    ) -> Result<Call, Error> {
        let caller = rights.caller().name().map(str::to_owned);
        let id = request::request_id(request_id)?;
        let key = id.map(|id| Key {
            caller: caller.clone(),
            method,
            id,
        });
        let asked = Asked {
            caller,
            method,
            request,
        };
        Ok(Call {
            asked,
            key,
            metadata,
        })
    }

    /// Does what a call asks for and answers, once for each request id.
    pub(super) async fn answer<T: Message + Default>(
        &self,
        call: Call,
        work: impl Future<Output = Result<Vec<u8>, Error>> + Send,
    ) -> Result<Response<T>, Status> {
        let Call { asked, key, .. } = call;
        let work = async { Ok(work.await?) };
        let answer = self.answers.once(key, &asked.request, work).await?;
        let decoded = T::decode(&*answer);
        let lost = |_| rpc::status::internal("INTERNAL", "an answer that was kept cannot be read");
        Ok(Response::new(decoded.map_err(lost)?))
    }

    /// Begins an operation for a call, once for each request id, after `check`.
    pub(super) async fn operate<W>(
        &self,
        call: Call,
        check: impl Future<Output = Result<(), branches::Error>> + Send,
        work: impl FnOnce(Work) -> W + Send,
    ) -> Result<Response<Operation>, Status>
    where
        W: Future<Output = Result<Vec<u8>, branches::Error>> + Send + 'static,
    {
        let Call {
            asked,
            key,
            metadata,
        } = call;
        let request = asked.request.clone();
        let beginning = async {
            check.await.map_err(Error::from)?;
            let method = asked.method;
            let work = |handle| {
                let working = work(handle);
                async move { ended(method, working.await) }
            };
            let begun = self.operations.begin(asked, metadata, ends(), work);
            let record = begun.map_err(Error::from)?;
            Ok(record.name.to_string().into_bytes())
        };
        let kept = self.answers.once(key, &request, beginning).await?;
        let record = self.operations.get(name(&String::from_utf8_lossy(&kept))?);
        Ok(Response::new(wire(&*record.map_err(Error::from)?)))
    }
}

fn ended(method: &str, result: Result<Vec<u8>, branches::Error>) -> Ended {
    match result {
        Ok(response) => Ended::Response(response),
        Err(error) => {
            tracing::warn!(method, error = %one_line(&error), "an operation failed");
            refused(Error::from(error).into())
        }
    }
}

/// How an operation ends that was cancelled, or whose work broke.
fn ends() -> Ends {
    let lost = "the operation's work broke; look at what is there";
    Ends {
        cancelled: refused(Error::from(branches::Error::Cancelled).into()),
        lost: refused(Refusal::new(Code::Internal, "OPERATION_BROKEN", lost).into()),
    }
}

/// A refusal as the message that it is in an operation.
fn refused(status: Status) -> Ended {
    let encoded = match status.details() {
        [] => proto::google::rpc::Status {
            code: status.code().into(),
            message: status.message().to_owned(),
            details: Vec::new(),
        }
        .encode_to_vec(),
        // Details are sent as a whole google.rpc.Status.
        details => details.to_vec(),
    };
    Ended::Error(encoded)
}

fn wire(record: &Record) -> Operation {
    let metadata = pb::BranchOperationMetadata {
        method: record.method.clone(),
        branch: record.metadata.clone(),
        caller: record.caller.clone().unwrap_or_default(),
        create_time: Some(time(record.create_time)),
        end_time: record.end_time.map(time),
    };
    // What we have encoded ourselves can be read again.
    let result = record.result.as_ref().map(|ended| match ended {
        Ended::Response(any) => Wire::Response(Any::decode(&**any).unwrap_or_default()),
        Ended::Error(status) => {
            Wire::Error(proto::google::rpc::Status::decode(&**status).unwrap_or_default())
        }
    });
    Operation {
        name: record.name.to_string(),
        metadata: Some(any_of(METADATA, metadata.encode_to_vec())),
        done: result.is_some(),
        result,
    }
}

fn any_of(type_name: &str, value: Vec<u8>) -> Any {
    Any {
        type_url: format!("type.googleapis.com/{type_name}"),
        value,
    }
}

fn value(record: &Record, field: &str) -> Option<Value> {
    match field {
        "done" => Some(Value::Flag(record.result.is_some())),
        "method" => Some(Value::Text(record.method.clone())),
        "branch" => Some(Value::Text(record.metadata.clone())),
        _ => Some(Value::Time(record.create_time)),
    }
}

fn name(text: &str) -> Result<OperationName, Error> {
    Ok(request::name("name", text)?)
}
